/* SPDX-License-Identifier: MIT */
/* Rendezvous hashing (Thaler and Ravishankar, 1998): when a gateway comes or goes, only the names
 * move that go to it or were with it. */
#include "gatewayd/mesh/mesh.h"
#include "libkm/base/util.h"
#include <string.h>

#define NAME_MAX_ 255

size_t mesh_winner(const uint8_t (*ids)[16], size_t n, const char *name)
{
	uint8_t text[16 + NAME_MAX_], weight[32], best[32];
	size_t len = strnlen(name, NAME_MAX_), winner = 0;
	memcpy(text + 16, name, len);
	for (size_t i = 0; i < n; i++) {
		memcpy(text, ids[i], 16);
		km_sha256(weight, text, 16 + len);
		if (i && memcmp(weight, best, sizeof(best)) <= 0)
			continue;
		memcpy(best, weight, sizeof(best));
		winner = i;
	}
	return winner;
}
