/* SPDX-License-Identifier: MIT */
/* The body of a frame between gateways. What is taken must survive being written and read again
 * unchanged. */
#include "gatewayd/mesh/codec.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static bool same_pem(const struct mesh_msg *a, const struct mesh_msg *b)
{
	if (!a->pem || !b->pem)
		return a->pem == b->pem;
	return a->pem_len == b->pem_len && memcmp(a->pem, b->pem, a->pem_len) == 0 &&
	       a->pem[a->pem_len] == 0 && b->pem[b->pem_len] == 0;
}

static void same(const struct mesh_msg *a, const struct mesh_msg *b)
{
	struct mesh_msg x = *a, y = *b;

	must(same_pem(a, b));
	x.pem = y.pem = NULL;
	must(memcmp(&x, &y, sizeof(x)) == 0);
}

static void round_trip(const struct mesh_msg *m)
{
	struct mesh_msg again;
	uint8_t *frame, *body;
	size_t n, size;

	must(mesh_encode(m, &frame, &n) == 0);
	must(mesh_decode_head(frame, &size) == 0 && size == n - MESH_HEAD);
	body = malloc(size + 1);
	must(body != NULL);
	memcpy(body, frame + MESH_HEAD, size);
	must(mesh_decode(&again, body, size) == 0);
	same(m, &again);
	free(body);
	free(frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static struct mesh_msg m;
	uint8_t *body = malloc(n + 1);

	must(body != NULL);
	memcpy(body, p, n);
	if (n <= MESH_BODY_MAX && mesh_decode(&m, body, n) == 0)
		round_trip(&m);
	free(body);
	return 0;
}
