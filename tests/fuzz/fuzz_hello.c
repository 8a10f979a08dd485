/* SPDX-License-Identifier: MIT */
/* A stranger's first bytes, as they are peeked at for passthrough. A name that was found must not
 * change when more bytes follow, nor a verdict; and a name is one that the route table may be asked
 * for. */
#include "gatewayd/edge/hello.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static int peek(const uint8_t *p, size_t n, char sni[static HTTP_HOST_MAX + 1])
{
	uint8_t *copy = malloc(n ? n : 1);
	must(copy != NULL);
	memcpy(copy, p, n);
	int rc = hello_peek(copy, n, sni);
	free(copy);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	char sni[HTTP_HOST_MAX + 1], part[HTTP_HOST_MAX + 1];
	uint32_t port;
	int rc = peek(p, n, sni);
	must(rc == 0 || rc == KM_ETRUNC || rc == KM_EPROTO || rc == KM_ETOOBIG);
	must(!rc || !sni[0]);
	if (sni[0]) {
		must(http_host_normal((struct http_str){sni, strlen(sni)}, part, &port));
		must(!strcmp(sni, part));
	}
	int early = peek(p, n / 2, part);
	must(early == KM_ETRUNC || (early == rc && !strcmp(part, sni)));
	return 0;
}
