/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/admit.h"
#include "gatewayd/edge/byaddr.h"
#include "libkm/base/prefixes.h"
#include <stdlib.h>

struct admit {
	struct byaddr *conns; /* uint32_t: open ones; NULL: not counted */
	uint32_t max;
	struct km_prefixes proxies;
};

struct admit *admit_new(const struct gw_settings *s, int64_t max_conns)
{
	const struct byaddr_opts o = {.max = (size_t)max_conns, .value = sizeof(uint32_t)};
	struct admit *a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->max = (uint32_t)s->max_connections_per_address;
	if ((a->max && !(a->conns = byaddr_new(&o))) ||
	    km_prefixes_of(&a->proxies, &s->proxy_protocol_from)) {
		admit_free(a);
		return NULL;
	}
	return a;
}

void admit_free(struct admit *a)
{
	if (!a)
		return;
	byaddr_free(a->conns);
	km_prefixes_free(&a->proxies);
	free(a);
}

bool admit_proxy(const struct admit *a, const struct km_addr *from)
{
	return km_prefixes_have(&a->proxies, from);
}

struct entering {
	uint32_t max;
	bool ok;
};

static bool enter(void *value, void *arg)
{
	uint32_t *n = value;
	struct entering *e = arg;
	e->ok = *n < e->max;
	*n += e->ok;
	return *n > 0;
}

static bool leave(void *value, void *arg)
{
	uint32_t *n = value;
	(void)arg;
	*n -= *n > 0;
	return *n > 0;
}

bool admit_enter(struct admit *a, const struct km_addr *who, bool *counted)
{
	struct entering e = {.max = a->max};
	*counted = false;
	if (!a->conns)
		return true;
	struct byaddr_key k = byaddr_key(who, NULL);
	/* Where there is no room to count (which max_conns makes unlikely) nobody is refused for it. */
	if (byaddr_use(a->conns, &k, enter, &e))
		return true;
	*counted = e.ok;
	return e.ok;
}

void admit_leave(struct admit *a, const struct km_addr *who)
{
	struct byaddr_key k = byaddr_key(who, NULL);
	if (byaddr_use(a->conns, &k, leave, NULL))
		return; /* it was counted, so it is there */
}
