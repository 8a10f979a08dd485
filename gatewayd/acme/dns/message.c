/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/message.h"
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <string.h>
#include <strings.h>

#define LABEL_MAX 63
#define JUMPS_MAX 32
#define FLAG_QR 0x8000
#define FLAG_TC 0x0200
#define FLAG_RD 0x0100
#define EDNS_SIZE 1232

static struct km_cur cursor(const struct dns_msg *m, size_t at)
{
	return at <= m->n ? km_cur_of(m->p + at, m->n - at) : (struct km_cur){.bad = true};
}

static size_t place(const struct dns_msg *m, const struct km_cur *c)
{
	return m->n - c->left;
}

/* One label's bytes as text. What would need escapes does not occur in names that we follow. */
static int add_label(char out[static DNS_NAME_STRLEN], size_t *len, const uint8_t *p, size_t n)
{
	if (*len + n + 1 >= DNS_NAME_STRLEN)
		return KM_EPROTO;
	if (*len)
		out[(*len)++] = '.';
	for (size_t i = 0; i < n; i++) {
		if (p[i] <= ' ' || p[i] > '~' || p[i] == '.' || p[i] == '\\')
			return KM_EPROTO;
		out[(*len)++] = (char)tolower(p[i]);
	}
	return 0;
}

/* Reads a possibly compressed name; c ends behind it. Pointers must lead backwards, so they end. */
static int read_name(const struct dns_msg *m, struct km_cur *c, char out[static DNS_NAME_STRLEN])
{
	struct km_cur jumped, *at = c;
	size_t len = 0, limit = place(m, c);

	for (unsigned jumps = 0; jumps < JUMPS_MAX;) {
		uint8_t l = km_cur_u8(at);
		if (at->bad)
			return KM_EPROTO;
		if (!l) {
			out[len] = '\0';
			return 0;
		}
		if ((l & 0xc0) == 0xc0) {
			size_t to = (size_t)(l & 0x3f) << 8 | km_cur_u8(at);
			if (at->bad || to >= limit)
				return KM_EPROTO;
			limit = to;
			jumped = cursor(m, to);
			at = &jumped;
			jumps++;
			continue;
		}
		const uint8_t *p = l <= LABEL_MAX ? km_cur_take(at, l) : NULL;
		if (!p || add_label(out, &len, p, l))
			return KM_EPROTO;
	}
	return KM_EPROTO;
}

int dns_msg_parse(struct dns_msg *m, const void *p, size_t n)
{
	*m = (struct dns_msg){.p = p, .n = n};
	struct km_cur c = cursor(m, 0);
	m->id = km_cur_be16(&c);
	m->flags = km_cur_be16(&c);
	uint16_t questions = km_cur_be16(&c);
	for (int i = 0; i < 3; i++)
		m->count[i] = km_cur_be16(&c);
	if (c.bad || questions > 1)
		return KM_EPROTO;
	if (questions) {
		if (read_name(m, &c, m->qname))
			return KM_EPROTO;
		m->qtype = km_cur_be16(&c);
		km_cur_be16(&c);
	}
	m->records = place(m, &c);
	return c.bad ? KM_EPROTO : 0;
}

bool dns_msg_is_answer(const struct dns_msg *m)
{
	return m->flags & FLAG_QR;
}

bool dns_msg_truncated(const struct dns_msg *m)
{
	return m->flags & FLAG_TC;
}

int dns_msg_rcode(const struct dns_msg *m)
{
	return m->flags & 0xf;
}

const char *dns_rcode_str(int rcode)
{
	static const char *const names[] = {"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN",
					    "NOTIMP",  "REFUSED", "YXDOMAIN", "YXRRSET",
					    "NXRRSET", "NOTAUTH", "NOTZONE"};
	return rcode >= 0 && rcode < (int)KM_ARRAY_LEN(names) ? names[rcode] : "an unknown error";
}

struct dns_rrs dns_msg_rrs(const struct dns_msg *m)
{
	return (struct dns_rrs){m, m->records, {m->count[0], m->count[1], m->count[2]}};
}

bool dns_rr_next(struct dns_rrs *it, struct dns_rr *rr)
{
	int section = 0;
	while (section < 3 && !it->left[section])
		section++;
	if (section == 3)
		return false;
	it->left[section]--;

	struct km_cur c = cursor(it->m, it->at);
	if (c.bad || read_name(it->m, &c, rr->name))
		goto broken;
	rr->type = km_cur_be16(&c);
	rr->klass = km_cur_be16(&c);
	rr->ttl = km_cur_be32(&c);
	rr->n = km_cur_be16(&c);
	rr->data = km_cur_take(&c, rr->n);
	rr->section = section;
	if (c.bad)
		goto broken;
	it->at = place(it->m, &c);
	return true;
broken:
	memset(it->left, 0, sizeof(it->left));
	return false;
}

int dns_rr_name(const struct dns_msg *m, const struct dns_rr *rr, char out[static DNS_NAME_STRLEN])
{
	size_t at = (size_t)(rr->data - m->p);
	struct km_cur c = cursor(m, at);

	if (read_name(m, &c, out))
		return KM_EPROTO;
	return place(m, &c) > at + rr->n ? KM_EPROTO : 0;
}

bool dns_msg_cname(const struct dns_msg *m, const char *name, char to[static DNS_NAME_STRLEN])
{
	struct dns_rrs it = dns_msg_rrs(m);
	struct dns_rr rr;

	while (dns_rr_next(&it, &rr) && rr.section == 0)
		if (rr.type == DNS_TYPE_CNAME && dns_name_eq(rr.name, name))
			return dns_rr_name(m, &rr, to) == 0;
	return false;
}

bool dns_rr_txt_is(const struct dns_rr *rr, const char *text)
{
	struct km_cur c = km_cur_of(rr->data, rr->n);
	size_t left = strlen(text);

	while (c.left) {
		size_t n = km_cur_u8(&c);
		const uint8_t *p = km_cur_take(&c, n);
		if (c.bad || n > left || memcmp(p, text, n))
			return false;
		text += n;
		left -= n;
	}
	return !left;
}

void dns_rr_txt(const struct dns_rr *rr, char *out, size_t size)
{
	struct km_cur c = km_cur_of(rr->data, rr->n);
	size_t len = 0;

	while (c.left && !c.bad) {
		size_t n = km_cur_u8(&c);
		const uint8_t *p = km_cur_take(&c, n);
		for (size_t i = 0; p && i < n && len + 1 < size; i++)
			out[len++] = p[i] >= ' ' && p[i] <= '~' ? (char)p[i] : '?';
	}
	out[len] = '\0';
}

static int put(uint8_t *out, size_t *at, const void *p, size_t n)
{
	if (*at + n > DNS_QUERY_MAX)
		return KM_EINVAL;
	memcpy(out + *at, p, n);
	*at += n;
	return 0;
}

static int put_name(uint8_t *out, size_t *at, const char *name)
{
	if (strlen(name) >= DNS_NAME_STRLEN)
		return KM_EINVAL;
	while (*name) {
		size_t n = strcspn(name, ".");
		uint8_t len = (uint8_t)n;
		if (!n || n > LABEL_MAX || put(out, at, &len, 1) || put(out, at, name, n))
			return KM_EINVAL;
		name += n;
		if (*name == '.')
			name++;
	}
	return put(out, at, "", 1);
}

int dns_query_make(uint8_t out[static DNS_QUERY_MAX], size_t *n, uint16_t id, const char *name,
		   uint16_t type, bool recurse)
{
	uint8_t head[12] = {(uint8_t)(id >> 8), (uint8_t)id, recurse ? FLAG_RD >> 8 : 0, 0, 0, 1};
	uint8_t tail[4] = {(uint8_t)(type >> 8), (uint8_t)type, 0, 1};
	static const uint8_t edns[11] = {0, 0, DNS_TYPE_OPT, EDNS_SIZE >> 8, EDNS_SIZE & 0xff};

	head[11] = 1;
	*n = 0;
	if (put(out, n, head, sizeof(head)) || put_name(out, n, name) ||
	    put(out, n, tail, sizeof(tail)) || put(out, n, edns, sizeof(edns)))
		return KM_EINVAL;
	return 0;
}

bool dns_name_eq(const char *a, const char *b)
{
	return !strcasecmp(a, b);
}

const char *dns_name_parent(const char *name)
{
	const char *dot = strchr(name, '.');
	return dot ? dot + 1 : name + strlen(name);
}

bool dns_name_below(const char *name, const char *parent)
{
	size_t n = strlen(name), k = strlen(parent);
	if (!k)
		return true;
	return n >= k && !strcasecmp(name + n - k, parent) && (n == k || name[n - k - 1] == '.');
}
