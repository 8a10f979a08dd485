/* SPDX-License-Identifier: MIT */
/* A PROXY v2 header as it comes from the wire. What is taken must survive writing and parsing
 * again; a verdict must not change when more bytes follow, nor come later than the bytes that
 * decide it. */
#include "libkm/base/proxy2.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void round_trip(const struct km_proxy2 *h)
{
	uint8_t buf[KM_PROXY2_WRITE_MAX];
	struct km_proxy2 again;
	size_t len = km_proxy2_write(buf, h), used;

	must(!km_proxy2_parse(&again, buf, len, &used) && used == len);
	must(again.proxied == h->proxied && again.has_addrs == h->has_addrs);
	if (h->has_addrs)
		must(km_addr_eq(&again.src, &h->src) && km_addr_eq(&again.dst, &h->dst) &&
		     again.src_port == h->src_port && again.dst_port == h->dst_port);
	must(again.has_tunnel == h->has_tunnel && again.has_target == h->has_target);
	must(!memcmp(again.tunnel, h->tunnel, 16) && !memcmp(again.target, h->target, 16));
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct km_proxy2 h, cut;
	size_t used, used_cut;
	int rc = km_proxy2_parse(&h, p, n, &used);

	if (rc == 0) {
		must(used >= 16 && used <= n && used <= KM_PROXY2_PARSE_MAX);
		round_trip(&h);
		must(km_proxy2_parse(&cut, p, used, &used_cut) == 0 && used_cut == used);
		must(km_proxy2_parse(&cut, p, used - 1, &used_cut) == KM_ETRUNC);
	} else if (rc == KM_ETRUNC) {
		must(used > n);
	} else {
		must(rc == KM_EPROTO || rc == KM_ETOOBIG);
	}
	return 0;
}
