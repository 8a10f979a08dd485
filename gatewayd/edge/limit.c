/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/limit.h"
#include "gatewayd/settings.h"

#define NS_PER_MS INT64_C(1000000)
#define NS_PER_S INT64_C(1000000000)

int64_t limit_take(_Atomic int64_t *full_at, const struct route_rate *rate, int64_t now_ns)
{
	int64_t was = atomic_load_explicit(full_at, memory_order_relaxed), from, wait;
	do {
		from = was > now_ns ? was : now_ns;
		wait = from - now_ns - (rate->burst - 1) * rate->interval_ns;
		if (wait > 0)
			return wait;
	} while (!atomic_compare_exchange_weak_explicit(
	    full_at, &was, from + rate->interval_ns, memory_order_relaxed, memory_order_relaxed));
	return 0;
}

int limit_parse(struct route_rate *out, const char *s)
{
	int64_t n, ms;
	*out = (struct route_rate){0};
	if (!s || !*s)
		return 0;
	if (gw_rate_parse(&n, &ms, s))
		return KM_EINVAL;
	*out = route_rate_of(n, ms, n);
	return 0;
}

struct taking {
	const struct route_rate *rate;
	int64_t now_ns, wait;
};

static bool take_address(void *value, void *arg)
{
	struct taking *t = arg;
	t->wait = limit_take(value, t->rate, t->now_ns);
	return true;
}

static int64_t address_wait(struct limits *l, const struct route *route,
			    const struct route_rate *rate, const struct km_addr *from,
			    int64_t now_ns)
{
	struct byaddr_key key = byaddr_key(from, route->tunnel);
	struct taking t = {.rate = rate, .now_ns = now_ns};
	return l->addresses && !byaddr_use(l->addresses, &key, take_address, &t) ? t.wait : 0;
}

int64_t limits_wait(struct limits *l, const struct route *route, const struct km_addr *from,
		    int64_t now_ms)
{
	const struct route_rules *own = route->rules;
	const struct route_rate *rate = own && own->rate.interval_ns ? &own->rate : &l->rate;
	const struct route_rate *address =
	    own && own->address_rate.interval_ns ? &own->address_rate : &l->address_rate;
	int64_t now_ns = now_ms * NS_PER_MS, wait = 0;
	if (address->interval_ns)
		wait = address_wait(l, route, address, from, now_ns);
	if (!wait && rate->interval_ns)
		wait = limit_take(&route->state->full_at, rate, now_ns);
	return (wait + NS_PER_S - 1) / NS_PER_S;
}
