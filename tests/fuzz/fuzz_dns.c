/* SPDX-License-Identifier: MIT */
/* What a DNS server or a company's API sends: messages, CAA and dns-persist-01 records, XML.
 * Bounded texts come out, and what is told of a CAA record is printable. */
#include "gatewayd/acme/dns/caa.h"
#include "gatewayd/acme/dns/message.h"
#include "gatewayd/acme/dns/xml.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static const char *const issuers[] = {"ca.test", NULL}, *const methods[] = {"dns-01", NULL};

static void message(const uint8_t *p, size_t n)
{
	char name[DNS_NAME_STRLEN], text[300];
	struct dns_msg m;
	struct dns_rr rr;
	unsigned seen = 0;

	if (dns_msg_parse(&m, p, n))
		return;
	must(strlen(m.qname) < DNS_NAME_STRLEN && m.records <= n);
	struct dns_rrs it = dns_msg_rrs(&m);
	while (dns_rr_next(&it, &rr)) {
		must(++seen <= 3 * 65535 && strlen(rr.name) < DNS_NAME_STRLEN);
		must(rr.data >= p && rr.data + rr.n <= p + n);
		if (!dns_rr_name(&m, &rr, name))
			must(strlen(name) < DNS_NAME_STRLEN);
		dns_rr_txt(&rr, text, sizeof(text));
		if (strlen(text) < sizeof(text) - 1 && rr.n && dns_rr_txt_is(&rr, text))
			must(strlen(text) < rr.n);
	}
}

static void caa(const uint8_t *p, size_t n)
{
	struct caa_question q = {n & 1, issuers, "https://ca.test/1", methods};
	struct persist_question pq = {n & 1, issuers, "https://ca.test/1", 1000};
	struct caa_record set[2] = {{p, n / 2}, {p + n / 2, n - n / 2}};
	char why[200];

	if (!caa_allows(set, 2, &q, why, sizeof(why)))
		must(*why);
	for (const char *c = why; *c; c++)
		must(*c >= ' ' && *c <= '~');
	persist_allows((const char *)p, n, &pq);
}

static void xml(const uint8_t *p, size_t n)
{
	struct xml x = {(const char *)p, n}, in;
	char text[64], again[400];

	while (xml_next(&x, "Name", &in)) {
		must(in.p >= (const char *)p && in.p + in.n <= (const char *)p + n && x.n < n);
		if (xml_plain(in, text, sizeof(text)))
			must(xml_escape(text, again, sizeof(again)));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (!n)
		return 0;
	switch (p[0] % 3) {
	case 0:
		message(p + 1, n - 1);
		break;
	case 1:
		caa(p + 1, n - 1);
		break;
	default:
		xml(p + 1, n - 1);
		break;
	}
	return 0;
}
