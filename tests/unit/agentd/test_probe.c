/* SPDX-License-Identifier: MIT */
/* The path's verdicts, and the health of targets as probes and real connections see it. */
#include "agentd/health/path.h"
#include "agentd/health/probe.h"
#include "libkm/base/log.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- the path ---- */

struct step {
	int64_t at;
	bool reply; /* a reply comes, else the clock ticks */
	enum path_act act;
	bool turns; /* goes down, or comes up */
	int64_t due;
};

static void follow(const struct step *steps, size_t n)
{
	struct path p;

	path_init(&p, 3000, 0);
	for (size_t i = 0; i < n; i++) {
		const struct step *s = &steps[i];
		enum path_act act = PATH_NOTHING;
		bool turns;

		if (s->reply)
			turns = path_reply(&p, s->at);
		else
			act = path_tick(&p, s->at, 500, &turns);
		if (act != s->act || turns != s->turns || p.due_ms != s->due)
			fail_msg("step %zu: act %d, turns %d, due %lld", i, act, turns,
				 (long long)p.due_ms);
	}
}

static void path_that_works(void **state)
{
	static const struct step steps[] = {
	    {0, false, PATH_SEND, false, 1000},       {20, true, PATH_NOTHING, true, 3000},
	    {2999, false, PATH_NOTHING, false, 3000}, {3000, false, PATH_SEND, false, 4000},
	    {3020, true, PATH_NOTHING, false, 6000},
	};

	(void)state;
	follow(steps, KM_ARRAY_LEN(steps));
}

static void path_that_dies_and_comes_back(void **state)
{
	static const struct step steps[] = {
	    {0, false, PATH_SEND, false, 1000},
	    {20, true, PATH_NOTHING, true, 3000},
	    {3000, false, PATH_SEND, false, 4000},
	    {4000, false, PATH_SEND, false, 5000}, /* one miss */
	    {5000, false, PATH_KICK, true, 6000},  /* two: down, five seconds at most */
	    {6000, false, PATH_SEND, false, 7000},
	    {7000, false, PATH_SEND, false, 8000},
	    {8000, false, PATH_SEND, false, 9000},
	    {9000, false, PATH_SEND, false, 10000},
	    {10000, false, PATH_SEND, false, 11000},
	    {11000, false, PATH_KICK, false, 12000}, /* 5 s and the jitter later */
	    {11300, true, PATH_NOTHING, true, 14000},
	    {14000, false, PATH_SEND, false, 15000},
	    {15000, false, PATH_SEND, false, 16000},
	    {16000, false, PATH_KICK, true, 17000}, /* a new outage is answered at once */
	};

	(void)state;
	follow(steps, KM_ARRAY_LEN(steps));
}

static void path_that_never_worked(void **state)
{
	static const struct step steps[] = {
	    {0, false, PATH_SEND, false, 1000},
	    {1000, false, PATH_SEND, false, 2000},
	    {2000, false, PATH_KICK, true, 3000},
	    {3000, false, PATH_SEND, false, 4000},
	};

	(void)state;
	follow(steps, KM_ARRAY_LEN(steps));
}

static void one_lost_reply_is_nothing(void **state)
{
	static const struct step steps[] = {
	    {0, false, PATH_SEND, false, 1000},      {20, true, PATH_NOTHING, true, 3000},
	    {3000, false, PATH_SEND, false, 4000},   {4000, false, PATH_SEND, false, 5000},
	    {4020, true, PATH_NOTHING, false, 7000},
	};

	(void)state;
	follow(steps, KM_ARRAY_LEN(steps));
}

static void spared_kick_comes_with_the_next_miss(void **state)
{
	struct path p;
	bool turns;

	(void)state;
	path_init(&p, 3000, 0);
	assert_int_equal(path_tick(&p, 0, 0, &turns), PATH_SEND);
	assert_int_equal(path_tick(&p, 1000, 0, &turns), PATH_SEND);
	assert_int_equal(path_tick(&p, 2000, 0, &turns), PATH_KICK);
	path_spare(&p, 2000);
	assert_int_equal(path_tick(&p, 3000, 0, &turns), PATH_KICK);
	assert_int_equal(p.kicks, 1);
}

/* ---- targets ---- */

#define TUNNEL "11111111-1111-4111-8111-111111111111"
#define TARGET "22222222-2222-4222-8222-222222222222"

struct world {
	struct event_base *base;
	struct allow *allow;
	struct km_resolver *resolver;
	struct km_resolver_port *port;
	struct dial_env env;
	struct probes *probes;
	unsigned changes;
};

static void on_changed(void *arg)
{
	((struct world *)arg)->changes++;
}

static int setup(void **state)
{
	static const char *const allowed[] = {"127.0.0.0/8:*", "no-such-name.invalid:80"};
	struct world *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->base = event_base_new();
	assert_int_equal(allow_new(&w->allow, allowed, 2, NULL), 0);
	assert_int_equal(km_resolver_start(&w->resolver), 0);
	w->port = km_resolver_port_new(w->resolver, w->base);
	w->env = (struct dial_env){w->base, w->port, w->allow};
	w->probes = probes_new(&w->env, 3000, on_changed, w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	probes_free(w->probes);
	km_resolver_port_free(w->port);
	km_resolver_free(w->resolver);
	allow_free(w->allow);
	event_base_free(w->base);
	free(w);
	return 0;
}

static struct tunnel *make_tunnel(struct world *w, const char *target, bool enabled)
{
	struct km_msg_tunnel m = {.id = (char *)TUNNEL,
				  .domain = (char *)"hello.test",
				  .target_id = (char *)TARGET,
				  .target = (char *)target,
				  .enabled = enabled,
				  .has_enabled = true};
	struct km_errtext err = {0};
	struct tunnel *t;

	if (tunnel_new(&t, &m, w->allow, &err) != 0)
		fail_msg("%s", err.text);
	return t;
}

static int listener(uint16_t *port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(*port)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	*port = ntohs(sa.sin_port);
	return fd;
}

/* Turns the loop until there is news with this status. */
static void wait_status(struct world *w, const char *want, const char *error)
{
	int64_t end = km_now_ms() + 20000;
	struct km_msg_tunnel_status s[4];

	for (;;) {
		size_t n = probes_status(w->probes, s, 4);

		if (n == 1 && strcmp(s[0].status, want) == 0) {
			assert_string_equal(s[0].id, TUNNEL);
			assert_string_equal(s[0].target_id, TARGET);
			assert_string_equal(s[0].domain, "hello.test");
			if (error && !strstr(s[0].error ? s[0].error : "", error))
				fail_msg("error is %s", s[0].error);
			return;
		}
		assert_true(km_now_ms() < end);
		event_base_loop(w->base, EVLOOP_ONCE);
	}
}

static void target_comes_up(void **state)
{
	struct world *w = *state;
	uint16_t port = 0;
	int fd = listener(&port);
	struct km_msg_tunnel_status s;
	char target[32];
	struct tunnel *t;

	snprintf(target, sizeof(target), "127.0.0.1:%u", port);
	close(fd);
	t = make_tunnel(w, target, true);
	assert_int_equal(probes_set(w->probes, t), 0);
	wait_status(w, "unhealthy", "Connection refused");
	fd = listener(&port);
	wait_status(w, "healthy", NULL); /* within two seconds or so, not ten */
	assert_int_equal(atomic_load(&t->health), TUNNEL_HEALTHY);
	assert_int_equal(probes_status(w->probes, &s, 1), 0);
	probes_untold(w->probes);
	assert_int_equal(probes_status(w->probes, &s, 1), 1);
	close(fd);
	tunnel_unref(t);
}

static void real_connections_count_at_once(void **state)
{
	struct world *w = *state;
	uint16_t port = 0;
	int fd = listener(&port);
	char target[32];
	struct tunnel *t;

	snprintf(target, sizeof(target), "127.0.0.1:%u", port);
	t = make_tunnel(w, target, true);
	assert_int_equal(probes_set(w->probes, t), 0);
	wait_status(w, "healthy", NULL);
	probes_seen(w->probes, t, false, "it said no");
	wait_status(w, "unhealthy", "it said no");
	probes_seen(w->probes, t, true, "");
	wait_status(w, "healthy", NULL);
	close(fd);
	tunnel_unref(t);
}

static void what_is_not_probed(void **state)
{
	struct world *w = *state;
	struct tunnel *off = make_tunnel(w, "127.0.0.1:9", false);
	struct tunnel *outside = make_tunnel(w, "192.0.2.1:22", true);

	assert_int_equal(probes_set(w->probes, off), 0);
	wait_status(w, "unknown", NULL);
	assert_int_equal(probes_set(w->probes, outside), 0);
	wait_status(w, "unhealthy", "allow_targets");
	probes_remove(w->probes, outside->id);
	assert_int_equal(event_base_loop(w->base, EVLOOP_NONBLOCK), 0);
	tunnel_unref(off);
	tunnel_unref(outside);
}

static void name_without_address(void **state)
{
	struct world *w = *state;
	struct tunnel *t = make_tunnel(w, "no-such-name.invalid:80", true);

	assert_int_equal(probes_set(w->probes, t), 0);
	wait_status(w, "unhealthy", "no-such-name.invalid");
	tunnel_unref(t);
}

static void removed_while_it_is_dialled(void **state)
{
	struct world *w = *state;
	struct tunnel *t = make_tunnel(w, "no-such-name.invalid:80", true);

	assert_int_equal(probes_set(w->probes, t), 0);
	event_base_loop(w->base, EVLOOP_ONCE);
	probes_remove(w->probes, t->id);
	tunnel_unref(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(path_that_works),
	    cmocka_unit_test(path_that_dies_and_comes_back),
	    cmocka_unit_test(path_that_never_worked),
	    cmocka_unit_test(one_lost_reply_is_nothing),
	    cmocka_unit_test(spared_kick_comes_with_the_next_miss),
	    cmocka_unit_test_setup_teardown(target_comes_up, setup, teardown),
	    cmocka_unit_test_setup_teardown(real_connections_count_at_once, setup, teardown),
	    cmocka_unit_test_setup_teardown(what_is_not_probed, setup, teardown),
	    cmocka_unit_test_setup_teardown(name_without_address, setup, teardown),
	    cmocka_unit_test_setup_teardown(removed_while_it_is_dialled, setup, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
