/* SPDX-License-Identifier: MIT */
/* As much XML as Route 53's answers need: elements found by name, in order, bounded, nothing built.
 */
#ifndef GATEWAYD_ACME_DNS_XML_H
#define GATEWAYD_ACME_DNS_XML_H

#include <stdbool.h>
#include <stddef.h>

struct xml {
	const char *p;
	size_t n;
};
/* The inside of the next element <tag>…</tag> in *in, wherever it is nested; *in then begins behind
 * it. Elements of one name inside each other are not expected. False: there is none. */
bool xml_next(struct xml *in, const char *tag, struct xml *inside);
/* The text of the first element of this name inside x, with the five named entities and numeric
 * ones below 128 undone. False when it is absent, holds elements or is longer than size - 1 bytes.
 */
bool xml_text(struct xml x, const char *tag, char *out, size_t size);
/* The same of what xml_next gave. */
bool xml_plain(struct xml inside, char *out, size_t size);
/* Text with <, >, & and quotes as entities. False when it does not fit. */
bool xml_escape(const char *text, char *out, size_t size);

#endif
