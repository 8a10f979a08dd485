/* SPDX-License-Identifier: MIT */
/* First byte even: a packet from the TUN, vnet header first, is cut. Odd: packets, each after two
 * bytes of its length, are merged. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/packet.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void cut(const uint8_t *p, size_t n)
{
	struct virtio_net_hdr vh;
	struct wg_cut c;
	size_t room, len, total = 0;
	unsigned pieces = 0;
	uint8_t *out;

	if (n < WG_VNET_LEN)
		return;
	memcpy(&vh, p, WG_VNET_LEN);
	if (wg_cut_begin(&c, &vh, p + WG_VNET_LEN, n - WG_VNET_LEN) < 0)
		return;
	room = wg_cut_len(&c);
	out = malloc(room);
	for (; (len = wg_cut_next(&c, out)) > 0; pieces++) {
		if (len > room)
			abort();
		total += len;
	}
	if (pieces != c.pieces || total < n - WG_VNET_LEN)
		abort();
	free(out);
}

static void end(struct wg_merge *m, size_t *in)
{
	int n = wg_merge_end(m);
	size_t out = 0;

	for (int i = 1; i < n; i++)
		out += m->iov[i].iov_len;
	if (out > *in || out > WG_SUPER_MAX)
		abort();
	*in = 0;
}

static void merge(const uint8_t *p, size_t n)
{
	struct wg_merge m = {.udp_too = true};
	uint8_t *kept[256];
	struct wg_ip ip;
	size_t k = 0, len, in = 0;

	for (; n > 2 && k < 256; p += len, n -= len) {
		len = (size_t)p[0] << 8 | p[1];
		p += 2;
		n -= 2;
		len = len < n ? len : n;
		if (!wg_ip_parse(&ip, p, len))
			continue;
		kept[k] = malloc(ip.total);
		memcpy(kept[k], p, ip.total);
		if (!wg_merge_add(&m, kept[k], ip.total)) {
			end(&m, &in);
			if (!wg_merge_add(&m, kept[k], ip.total))
				abort();
		}
		in += ip.total;
		k++;
	}
	end(&m, &in);
	while (k > 0)
		free(kept[--k]);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n > 0)
		(p[0] & 1 ? merge : cut)(p + 1, n - 1);
	return 0;
}
