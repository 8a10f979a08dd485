/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/rules.h"
#include "libkm/base/util.h"
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

const struct route_rules *route_rules_ref(const struct route_rules *r)
{
	atomic_fetch_add_explicit(&((struct route_rules *)(uintptr_t)r)->refs, 1,
				  memory_order_relaxed);
	return r;
}

void route_rules_put(const struct route_rules *r)
{
	struct route_rules *own = (struct route_rules *)(uintptr_t)r;
	if (!r || atomic_fetch_sub_explicit(&own->refs, 1, memory_order_acq_rel) != 1)
		return;
	free((char *)(uintptr_t)own->tls_name);
	X509_STORE_free(own->tls_store);
	free(own);
}
