/* SPDX-License-Identifier: MIT */
/* What proxies, and through them strangers, say about who a client is: lines of X-Forwarded-For
 * ("x"), Forwarded ("f"), X-Forwarded-Proto ("p") and -Host ("h"). Whatever they say, only trusted
 * proxies are looked past, and what is written for the target is a head that says it once. */
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/heads.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const struct http_limits limits = {1 << 20, HTTP_FIELDS_MAX};
static struct http_request r, again;
static struct km_prefix ten = {{AF_INET, {10}}, 8};
static const struct client_trust trust = {&ten, 1};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static struct http_str str(const char *s)
{
	return (struct http_str){s, strlen(s)};
}

static void field_add(const char *line, size_t n)
{
	static const char *const names[] = {"X-Forwarded-For", "Forwarded", "X-Forwarded-Proto",
					    "X-Forwarded-Host"};
	static const char kinds[] = "xfph";
	const char *kind = n ? memchr(kinds, line[0], sizeof(kinds) - 1) : NULL;
	if (!kind || r.n_fields == HTTP_FIELDS_MAX)
		return;
	struct http_field *f = &r.fields[r.n_fields++];
	*f = (struct http_field){.name = str(names[kind - kinds]), .value = {line + 1, n - 1}};
	http_field_know(f);
	must(f->id == HTTP_FORWARDED && f->hop);
}

static void check(const struct km_addr *peer, bool trusted)
{
	struct client c;
	struct km_buf out;
	const char *why;
	client_find(&c, &trust, peer, false, &r);
	must(c.n_hops >= 1 && c.n_hops <= CLIENT_HOPS_MAX && km_addr_eq(&c.addr, &c.hops[0]));
	must(km_addr_eq(&c.hops[c.n_hops - 1], peer));
	must(trusted || (c.n_hops == 1 && !c.secure && http_str_is(c.host, "a.test")));
	for (size_t i = 1; i < c.n_hops; i++)
		must(client_trusted(&trust, &c.hops[i]));
	km_buf_init(&out, 1 << 20);
	must(!heads_request(&out, &r, &c));
	must(!h1_request_parse(&again, (char *)km_buf_head(&out), out.len, &limits, &why));
	must(again.n_fields == 6 && http_str_is(again.authority, "a.test"));
	km_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const struct km_addr in = {AF_INET, {10, 1}}, outside = {AF_INET, {192, 0, 2, 1}};
	const char *at = (const char *)p, *end = at + n;
	if (n > 8192)
		return 0;
	r = (struct http_request){
	    .method = str("GET"), .target = str("/"), .authority = str("a.test")};
	while (at < end) {
		const char *nl = memchr(at, '\n', (size_t)(end - at));
		size_t len = (size_t)((nl ? nl : end) - at);
		field_add(at, len);
		at += len + (nl != NULL);
	}
	check(&in, true);
	check(&outside, false);
	return 0;
}
