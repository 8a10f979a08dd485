/* SPDX-License-Identifier: MIT */
/* What thousands of peers cost: memory, lookups, the timers' round, one request that sets or shows
 * them all, and the storms of handshakes when they begin at once (simulated network and clock; the
 * gateway answers 5,000 a second). usage: bench-peers FILE.json [PEERS] */
#include "libkm/base/buf.h"
#include "libkm/wg/engine/uapi_text.h"
#include "tests/unit/wg/storm.h"
#include <err.h>
#include <fcntl.h>
#include <jansson.h>
#include <malloc.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
/* For a look at the trie's nodes. */
#include "libkm/wg/engine/allowed.c"

static json_t *rows;

static void row(const char *metric, double value, const char *unit)
{
	printf("%-34s %12.1f %s\n", metric, value, unit);
	json_array_append_new(rows, json_pack("{s:s, s:s, s:s, s:f, s:s}", "bench", "peers",
					      "system", "embedded", "metric", metric, "value",
					      value, "unit", unit));
}

static double cpu_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- memory, lookups, timers ---- */

/* The nodes that the lookup of addr passes. */
static unsigned levels(const struct wg_allowed *t, const uint8_t *addr)
{
	const struct wg_allowed_node *n = follow(&t->root4);
	unsigned depth = 0;

	while (n != NULL && common(n->addr, addr, n->bits) == n->bits) {
		depth++;
		if (n->bits == 32)
			break;
		n = follow(&n->child[bit_at(addr, n->bits)]);
	}
	return depth;
}

static void address(uint8_t a[4], unsigned i)
{
	const uint8_t x[4] = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};

	memcpy(a, x, 4);
}

static void tables(struct host *h, unsigned n)
{
	const struct wg_endpoint at = {.ip = {[10] = 0xff, [11] = 0xff, [12] = 192}, .port = 1};
	uint8_t key[WG_KEY], a[4];
	struct wg_peer *p;
	struct wg_clock t;
	size_t before = mallinfo2().uordblks;
	unsigned sum = 0, most = 0, depth;
	char name[64];
	double cpu;

	for (unsigned i = 0; i < n; i++) {
		km_random(key, sizeof(key));
		p = wg_core_peer_new(h->core, key);
		address(a, i);
		if (p == NULL || wg_peer_allow(p, a, 4, 32))
			errx(1, "no memory");
		wg_peer_set_endpoint(p, &at);
		wg_peer_set_keepalive(p, 25);
		atomic_store(&p->traffic_ms, many_clock(h).ms);
	}
	if (n == 10000)
		row("bytes_per_idle_peer", (double)(mallinfo2().uordblks - before) / n, "bytes");
	for (unsigned i = 0; i < n; i++) {
		address(a, i);
		depth = levels(&h->core->allowed, a);
		sum += depth;
		most = depth > most ? depth : most;
	}
	snprintf(name, sizeof(name), "nodes_per_lookup_of_%u", n);
	row(name, (double)sum / n, "nodes");
	snprintf(name, sizeof(name), "nodes_at_most_of_%u", n);
	row(name, most, "nodes");
	t = many_clock(h);
	cpu = cpu_ms();
	for (int i = 0; i < 100; i++)
		wg_core_tick(h->core, &t);
	snprintf(name, sizeof(name), "timers_round_of_%u", n);
	row(name, (cpu_ms() - cpu) * 10, "us");
}

/* ---- one request ---- */

static void request(unsigned n)
{
	struct wg_engine *e;
	struct km_buf text, reply;
	char hex[2 * WG_KEY + 1];
	uint8_t key[WG_KEY], a[4];
	int fds[2], udp, rc;
	double cpu;

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) || wg_udp_open(&udp, 0) ||
	    wg_engine_start(&e, fds[0], false, udp))
		errx(1, "no engine");
	wg_x25519_private(key);
	wg_engine_set_key(e, key);
	km_buf_init(&text, 64 << 20);
	km_buf_init(&reply, 64 << 20);
	rc = km_buf_adds(&text, "set=1\n");
	for (unsigned i = 0; !rc && i < n; i++) {
		km_random(key, sizeof(key));
		address(a, i);
		rc = km_buf_addf(&text,
				 "public_key=%s\nendpoint=192.0.2.1:9\nallowed_ip=%u.%u.%u.%u/32\n",
				 km_hex(key, WG_KEY, hex), a[0], a[1], a[2], a[3]);
	}
	if (rc || km_buf_adds(&text, "\n"))
		errx(1, "no memory");
	cpu = cpu_ms();
	if (!wg_uapi_answer(e, (const char *)km_buf_head(&text), text.len, &reply))
		errx(1, "set is refused");
	row("set_all_cpu", cpu_ms() - cpu, "ms");
	row("set_all_text", (double)text.len / 1e6, "MB");
	km_buf_clear(&reply);
	cpu = cpu_ms();
	if (!wg_uapi_answer(e, "get=1\n\n", 7, &reply))
		errx(1, "get is refused");
	row("get_all_cpu", cpu_ms() - cpu, "ms");
	row("get_all_text", (double)reply.len / 1e6, "MB");
	cpu = cpu_ms();
	km_buf_clear(&reply);
	wg_uapi_answer(e, "set=1\nreplace_peers=true\n\n", 26, &reply);
	row("remove_all_cpu", cpu_ms() - cpu, "ms");
	wg_engine_stop(e);
	km_buf_free(&text);
	km_buf_free(&reply);
	close(fds[1]);
}

/* ---- storms ---- */

static void told(const char *what, const struct storm *s, int64_t took)
{
	char name[64];

	if (took < 0)
		errx(1, "%s: they do not settle", what);
	snprintf(name, sizeof(name), "%s_settled", what);
	row(name, (double)took / 1000, "s");
	snprintf(name, sizeof(name), "%s_gateway_most_100ms", what);
	row(name, s->gateway_100ms.most, "initiations");
	snprintf(name, sizeof(name), "%s_agents_most_100ms", what);
	row(name, s->agents_100ms.most, "initiations");
	snprintf(name, sizeof(name), "%s_queue_longest", what);
	row(name, s->gateway->longest, "messages");
	snprintf(name, sizeof(name), "%s_dropped", what);
	row(name, s->gateway->dropped, "messages");
}

static void storms(unsigned n)
{
	struct storm *s = storm_new(n);
	size_t chain = 0, sessions = 0;

	told("power_back", s, storm_settle(s, 120000));
	storm_mark(s);
	many_run(s->net, 300000);
	row("after_most_1s", s->all_1s.most, "initiations");
	row("after_mean_1s", s->initiations / 300.0, "initiations");
	row("bytes_per_session",
	    (double)malloc_usable_size(atomic_load(&s->gateway->core->peers->current)) + 8,
	    "bytes");
	for (size_t i = 0; i < WG_INDEX_BUCKETS; i++) {
		size_t length = 0;

		for (struct wg_index *x = atomic_load(&s->gateway->core->index[i]); x != NULL;
		     x = atomic_load(&x->next))
			length++;
		sessions += length;
		chain += length * (length + 1) / 2;
	}
	row("sessions_per_peer", (double)sessions / n, "");
	row("entries_per_index_lookup", (double)chain / (double)sessions, "entries");
	storm_restart(s, true);
	told("gateway_start", s, storm_settle(s, 120000));
	s->probing = true;
	many_run(s->net, 10000);
	storm_restart(s, false);
	told("gateway_forgot", s, storm_settle(s, 120000));
	storm_free(s);
}

int main(int argc, char **argv)
{
	const unsigned n = argc > 2 ? (unsigned)atoi(argv[2]) : 10000;
	struct net *net = many_new(1);

	if (argc < 2 || n == 0)
		errx(2, "usage: bench-peers FILE.json [PEERS]");
	rows = json_array();
	row("peers", n, "");
	tables(many_host(net), 100);
	tables(many_host(net), 1000);
	tables(many_host(net), 10000);
	many_free(net);
	request(n);
	storms(n);
	if (json_dump_file(rows, argv[1], JSON_INDENT(1)))
		err(1, "%s", argv[1]);
	json_decref(rows);
	return 0;
}
