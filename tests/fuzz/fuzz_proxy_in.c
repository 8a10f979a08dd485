/* SPDX-License-Identifier: MIT */
/* A PROXY header, of either version, as a load balancer sends it. A verdict must not change when more bytes
 * follow, nor come later than the bytes that decide it; what is taken as version 1 says the same when it is
 * written anew. */
#include "gatewayd/edge/proxy_in.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void round_trip(const struct proxy_in *h)
{
	char src[KM_ADDR_STRLEN], dst[KM_ADDR_STRLEN], line[PROXY_IN_V1_MAX + 1];
	struct proxy_in again;
	size_t used;
	/* One of them may have been v4-mapped. */
	if (h->src.family != h->dst.family)
		return;
	int len = snprintf(line, sizeof(line), "PROXY TCP%c %s %s %u %u\r\n",
			   h->src.family == AF_INET ? '4' : '6', km_addr_str(&h->src, src),
			   km_addr_str(&h->dst, dst), h->src_port, h->dst_port);
	must(len > 0 && len <= PROXY_IN_V1_MAX);
	must(!proxy_in_parse(&again, line, (size_t)len, &used) && used == (size_t)len);
	must(again.known && km_addr_eq(&again.src, &h->src) && km_addr_eq(&again.dst, &h->dst));
	must(again.src_port == h->src_port && again.dst_port == h->dst_port);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct proxy_in h, cut;
	size_t used = 0, used_cut = 0;
	int rc = proxy_in_parse(&h, p, n, &used);
	if (rc == 0) {
		must(used && used <= n && used <= PROXY_IN_MAX);
		must(!proxy_in_parse(&cut, p, used, &used_cut) && used_cut == used);
		must(proxy_in_parse(&cut, p, used - 1, &used_cut) == KM_ETRUNC);
		if (h.known)
			round_trip(&h);
	} else if (rc == KM_ETRUNC) {
		must(n < PROXY_IN_MAX);
		for (size_t i = 0; i < n; i++)
			must(proxy_in_parse(&cut, p, i, &used_cut) == KM_ETRUNC);
	} else {
		must(rc == KM_EPROTO || rc == KM_ETOOBIG);
	}
	return 0;
}
