/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/proxy_in.h"
#include <string.h>

static const char v1_begin[] = "PROXY ";
#define V1_BEGIN (sizeof(v1_begin) - 1)

/* What is left of a line, without its CRLF. */
struct words {
	const char *p;
	size_t n;
};

/* Takes what stands before the next space (the last word: before the end), at least one byte. */
static bool word(struct words *w, char out[static KM_ADDR_STRLEN], bool last)
{
	const char *space = memchr(w->p, ' ', w->n);
	size_t n = space ? (size_t)(space - w->p) : w->n;
	if (!n || n >= KM_ADDR_STRLEN || memchr(w->p, '\0', n) || last != !space)
		return false;
	memcpy(out, w->p, n);
	out[n] = '\0';
	w->p += n + !last;
	w->n -= n + !last;
	return true;
}

static bool read_addr(struct words *w, struct km_addr *a, uint8_t family)
{
	char text[KM_ADDR_STRLEN];
	return word(w, text, false) && !km_addr_parse(a, text) && a->family == family;
}

static bool read_port(struct words *w, uint16_t *port, bool last)
{
	char text[KM_ADDR_STRLEN];
	unsigned v = 0;
	if (!word(w, text, last) || strlen(text) > 5 || (text[0] == '0' && text[1]))
		return false;
	for (const char *s = text; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		v = v * 10 + (unsigned)(*s - '0');
	}
	*port = (uint16_t)v;
	return v <= UINT16_MAX;
}

static bool v1_words(struct proxy_in *h, struct words *w)
{
	char kind[KM_ADDR_STRLEN];
	static const char unknown[] = "UNKNOWN";
	size_t n = sizeof(unknown) - 1;
	/* Whatever else stands there then is to be ignored. */
	if (w->n >= n && !memcmp(w->p, unknown, n) && (w->n == n || w->p[n] == ' '))
		return true;
	if (!word(w, kind, false) || (strcmp(kind, "TCP4") != 0 && strcmp(kind, "TCP6") != 0))
		return false;
	uint8_t family = kind[3] == '4' ? AF_INET : AF_INET6;
	h->known = read_addr(w, &h->src, family) && read_addr(w, &h->dst, family) &&
		   read_port(w, &h->src_port, false) && read_port(w, &h->dst_port, true);
	return h->known;
}

static int v1_parse(struct proxy_in *h, const char *p, size_t n, size_t *used)
{
	size_t match = n < V1_BEGIN ? n : V1_BEGIN;
	size_t most = n < PROXY_IN_V1_MAX ? n : PROXY_IN_V1_MAX;
	if (memcmp(p, v1_begin, match) != 0)
		return KM_EPROTO;
	const char *end = memchr(p, '\r', most);
	/* A line feed comes behind the carriage return and nowhere else. */
	const char *feed = memchr(p, '\n', most);
	if (feed && (!end || feed < end))
		return KM_EPROTO;
	if (!end || end + 1 == p + most)
		return n >= PROXY_IN_V1_MAX ? KM_ETOOBIG : KM_ETRUNC;
	struct words w = {p + V1_BEGIN, (size_t)(end - p) - V1_BEGIN};
	if (end[1] != '\n' || !v1_words(h, &w))
		return KM_EPROTO;
	*used = (size_t)(end + 2 - p);
	return 0;
}

static int v2_parse(struct proxy_in *h, const void *p, size_t n, size_t *used)
{
	struct km_proxy2 v2;
	int rc = km_proxy2_parse(&v2, p, n, used);
	if (!rc && v2.has_addrs && v2.datagram)
		rc = KM_EPROTO;
	if (rc)
		return rc;
	h->known = v2.has_addrs;
	h->src = v2.src;
	h->dst = v2.dst;
	h->src_port = v2.src_port;
	h->dst_port = v2.dst_port;
	return 0;
}

static int unmap(struct km_addr *a)
{
	struct sockaddr_storage ss;
	km_addr_to_sa(&ss, a, 0);
	return km_addr_from_sa(a, NULL, (struct sockaddr *)&ss);
}

int proxy_in_parse(struct proxy_in *h, const void *p, size_t n, size_t *used)
{
	memset(h, 0, sizeof(*h));
	if (!n)
		return KM_ETRUNC;
	int rc = *(const char *)p == v1_begin[0] ? v1_parse(h, p, n, used) : v2_parse(h, p, n, used);
	if (rc || !h->known) {
		memset(h, 0, sizeof(*h));
		return rc;
	}
	return unmap(&h->src) || unmap(&h->dst) ? KM_EPROTO : 0;
}
