/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/rules_parts.h"
#include "libkm/base/buf.h"
#include <string.h>

#define PAGE_MAX (64 * 1024)

static int add_escaped(struct km_buf *b, const char *s)
{
	int rc = 0;
	for (; *s && !rc; s++)
		rc = *s == '&'   ? km_buf_adds(b, "&amp;")
		     : *s == '<' ? km_buf_adds(b, "&lt;")
		     : *s == '>' ? km_buf_adds(b, "&gt;")
				 : km_buf_add(b, s, 1);
	return rc;
}

static int page_html(struct km_buf *b, const char *title, const char *text)
{
	int rc;
	if ((rc = km_buf_adds(b,
			      "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">"
			      "<meta name=\"viewport\" content=\"width=device-width\"><title>")) ||
	    (rc = add_escaped(b, title)) || (rc = km_buf_adds(b, "</title>\n<h1>")) ||
	    (rc = add_escaped(b, title)) ||
	    (rc = km_buf_adds(b, "</h1>\n<p style=\"white-space: pre-line\">")) ||
	    (rc = add_escaped(b, text)))
		return rc;
	return km_buf_adds(b, "</p>\n</html>\n");
}

static int keep_page(struct route_rules *r, struct http_str *out, struct km_buf *b)
{
	int rc = rules_keep_str(r, out, (const char *)km_buf_head(b), b->len);
	km_buf_clear(b);
	return rc;
}

int rules_maintenance(struct route_rules *r, const struct km_msg_maintenance *m)
{
	struct km_buf b;
	int rc;
	if (!m)
		return 0;
	const char *title = m->title && m->title[0] ? m->title : "Maintenance";
	const char *text = m->text && m->text[0] ? m->text : "This service will be back soon.";
	km_buf_init(&b, PAGE_MAX);
	r->maintenance = true;
	r->retry_after = m->retry_after;
	if (!(rc = page_html(&b, title, text)) && !(rc = keep_page(r, &r->page_html, &b)) &&
	    !(rc = km_buf_addf(&b, "%s\n\n%s\n", title, text)))
		rc = keep_page(r, &r->page_text, &b);
	km_buf_free(&b);
	return rc;
}
