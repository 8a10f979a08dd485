/* SPDX-License-Identifier: MIT */
/* The forwarder over loopback: the test is the gateway and the target. */
#include "agentd/forward/forward.h"
#include "libkm/base/proxy2.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#define TUNNEL "11111111-1111-4111-8111-111111111111"
#define TARGET "22222222-2222-4222-8222-222222222222"
#define MANY 1200

struct world {
	struct allow *allow;
	struct km_resolver *resolver;
	struct forward *forward;
	int target; /* listens */
	uint16_t port, target_port;
};

static int listen_on_loopback(uint16_t *port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 4096), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	*port = ntohs(sa.sin_port);
	return fd;
}

static void add_tunnel(struct world *w, const char *id, const char *target, bool enabled)
{
	struct km_msg_tunnel m = {.id = (char *)id,
				  .domain = (char *)"hello.test",
				  .target_id = (char *)TARGET,
				  .target = (char *)target,
				  .enabled = enabled,
				  .has_enabled = true};
	struct km_errtext err = {0};
	struct tunnel *t;

	if (tunnel_new(&t, &m, w->allow, &err) != 0)
		fail_msg("%s", err.text);
	tunnel_table_set(forward_tunnels(w->forward), t);
	forward_sweep(w->forward);
}

static struct world *world_new(unsigned max_connections, int64_t idle_timeout_ms)
{
	static const char *const allowed[] = {"127.0.0.0/8:*", "[::1]:*"};
	static const struct km_addr me = {AF_INET, {127, 0, 0, 1}};
	struct world *w = calloc(1, sizeof(*w));
	struct forward_opts opts = {.workers = 2,
				    .max_connections = max_connections,
				    .header_timeout_ms = 5000,
				    .connect_timeout_ms = 2000,
				    .idle_timeout_ms = idle_timeout_ms};
	char target[32];
	int fd;

	assert_non_null(w);
	assert_int_equal(allow_new(&w->allow, allowed, 2, NULL), 0);
	assert_int_equal(km_resolver_start(&w->resolver), 0);
	opts.allow = w->allow;
	opts.resolver = w->resolver;
	assert_int_equal(forward_start(&w->forward, NULL, &opts, NULL, NULL), 0);
	assert_int_equal(forward_gateways(w->forward, &me, 1), 0);
	w->target = listen_on_loopback(&w->target_port);
	fd = listen_on_loopback(&w->port);
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(forward_listen(w->forward, fd), 0);
	snprintf(target, sizeof(target), "127.0.0.1:%u", w->target_port);
	add_tunnel(w, TUNNEL, target, true);
	return w;
}

static void world_free(struct world *w)
{
	forward_free(w->forward);
	km_resolver_free(w->resolver);
	allow_free(w->allow);
	close(w->target);
	free(w);
}

static int setup(void **state)
{
	*state = world_new(8192, 3600000);
	return 0;
}

static int teardown(void **state)
{
	world_free(*state);
	return 0;
}

/* ---- the gateway's part ---- */

static void bound_time(int fd)
{
	struct timeval tv = {20, 0};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static int dial_forwarder(const struct world *w)
{
	struct sockaddr_in sa = {.sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(w->port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	bound_time(fd);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return fd;
}

static int open_tunnel(const struct world *w, const char *id)
{
	struct km_proxy2 h = {.has_tunnel = true, .has_target = true};
	uint8_t buf[KM_PROXY2_WRITE_MAX];
	int fd = dial_forwarder(w);
	size_t n;

	assert_int_equal(km_uuid_parse(h.tunnel, id), 0);
	assert_int_equal(km_uuid_parse(h.target, TARGET), 0);
	n = km_proxy2_write(buf, &h);
	assert_int_equal(send(fd, buf, n, MSG_NOSIGNAL), n);
	return fd;
}

static int accept_target(const struct world *w)
{
	struct pollfd p = {w->target, POLLIN, 0};
	int fd;

	assert_int_equal(poll(&p, 1, 20000), 1);
	fd = accept4(w->target, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	bound_time(fd);
	return fd;
}

static bool was_cut(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, 0);

	return n == 0 || (n < 0 && errno == ECONNRESET);
}

static void reset(int fd)
{
	struct linger at_once = {1, 0};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(fd);
}

static void read_exactly(int fd, void *p, size_t n)
{
	for (size_t got = 0; got < n;) {
		ssize_t r = recv(fd, (uint8_t *)p + got, n - got, 0);

		assert_true(r > 0);
		got += (size_t)r;
	}
}

/* A byte that depends on where it stands in the stream. */
static uint8_t byte_at(size_t i, unsigned salt)
{
	return (uint8_t)((i * 2654435761u >> 13) + salt);
}

static void make(uint8_t *p, size_t off, size_t n, unsigned salt)
{
	for (size_t i = 0; i < n; i++)
		p[i] = byte_at(off + i, salt);
}

/* Both directions at once on non-blocking sockets: what `from` sends must reach `to`. */
struct stream {
	int from, to;
	size_t sent, got, total;
	unsigned salt;
};

static void push(struct stream *s)
{
	uint8_t buf[32768];
	size_t n = s->total - s->sent < sizeof(buf) ? s->total - s->sent : sizeof(buf);
	ssize_t r;

	if (!n)
		return;
	make(buf, s->sent, n, s->salt);
	r = send(s->from, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	assert_true(r > 0 || errno == EAGAIN);
	s->sent += r > 0 ? (size_t)r : 0;
}

static bool pull(struct stream *s)
{
	uint8_t buf[32768];
	ssize_t r = recv(s->to, buf, sizeof(buf), MSG_DONTWAIT);

	if (r < 0) {
		assert_int_equal(errno, EAGAIN);
		return false;
	}
	assert_true(r > 0);
	for (ssize_t i = 0; i < r; i++) {
		if (buf[i] != byte_at(s->got + (size_t)i, s->salt))
			fail_msg("byte %zu differs", s->got + (size_t)i);
	}
	s->got += (size_t)r;
	return true;
}

static void run_streams(struct stream *s, size_t n)
{
	int64_t end = km_now_ms() + 60000;
	size_t done = 0;

	while (done < n) {
		assert_true(km_now_ms() < end);
		done = 0;
		for (size_t i = 0; i < n; i++) {
			struct pollfd p = {s[i].to, POLLIN, 0};

			push(&s[i]);
			if (s[i].got < s[i].total && poll(&p, 1, n == 1 ? 100 : 0) > 0)
				pull(&s[i]);
			done += s[i].got == s[i].total;
		}
	}
}

/* ---- tests ---- */

static void both_ways(void **state)
{
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	struct stream s[2] = {{.from = gw, .to = t, .total = 8 << 20, .salt = 1},
			      {.from = t, .to = gw, .total = 8 << 20, .salt = 2}};

	run_streams(s, 2);
	close(gw);
	close(t);
}

static void half_close_both_ways(void **state)
{
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	char buf[4];

	assert_int_equal(send(gw, "ask", 3, 0), 3);
	shutdown(gw, SHUT_WR);
	read_exactly(t, buf, 3);
	assert_int_equal(recv(t, buf, 1, 0), 0);
	assert_int_equal(send(t, "answ", 4, 0), 4);
	shutdown(t, SHUT_WR);
	read_exactly(gw, buf, 4);
	assert_int_equal(recv(gw, buf, 1, 0), 0);
	close(gw);
	close(t);
}

static void resets_are_passed_on(void **state)
{
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	char c;

	reset(t);
	assert_int_equal(recv(gw, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	close(gw);
	gw = open_tunnel(w, TUNNEL);
	t = accept_target(w);
	reset(gw);
	assert_int_equal(recv(t, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	close(t);
}

/* The reset of a side that is not being read, because the other side does not take its bytes. */
static void reset_behind_a_stall(void **state)
{
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	struct pollfd p = {t, POLLIN, 0};
	static uint8_t buf[65536];
	int64_t quiet = km_now_ms();

	while (km_now_ms() - quiet < 300) {
		if (send(gw, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			quiet = km_now_ms();
	}
	reset(gw);
	assert_int_equal(poll(&p, 1, 20000), 1);
	while (recv(t, buf, sizeof(buf), 0) > 0)
		;
	assert_int_equal(errno, ECONNRESET);
	close(t);
}

static void not_introduced(void **state)
{
	struct world *w = *state;
	int fd = dial_forwarder(w);

	assert_int_equal(send(fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
	assert_true(was_cut(fd));
	close(fd);
}

static void not_forwarded(void **state)
{
	static const char *const id = "33333333-3333-4333-8333-333333333333";
	struct world *w = *state;
	uint16_t port;
	char target[32];
	int fd;

	fd = open_tunnel(w, id); /* unknown */
	assert_true(was_cut(fd));
	close(fd);
	add_tunnel(w, id, "192.0.2.1:80", true); /* outside the list */
	fd = open_tunnel(w, id);
	assert_true(was_cut(fd));
	close(fd);
	close(listen_on_loopback(&port)); /* nobody listens there any more */
	snprintf(target, sizeof(target), "127.0.0.1:%u", port);
	add_tunnel(w, id, target, true);
	fd = open_tunnel(w, id);
	assert_true(was_cut(fd));
	close(fd);
	add_tunnel(w, id, target, false);
	fd = open_tunnel(w, id);
	assert_true(was_cut(fd));
	close(fd);
}

static void strangers_address(void **state)
{
	static const struct km_addr other = {AF_INET, {127, 0, 0, 2}};
	struct world *w = *state;
	int fd;

	assert_int_equal(forward_gateways(w->forward, &other, 1), 0);
	fd = dial_forwarder(w);
	assert_true(was_cut(fd));
	close(fd);
}

static void gateway_goes(void **state)
{
	static const struct km_addr both[] = {{AF_INET, {127, 0, 0, 1}}, {AF_INET, {127, 0, 0, 2}}};
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	char c;

	/* As long as it is in the list, whatever comes and goes beside it. */
	assert_int_equal(forward_gateways(w->forward, both, 2), 0);
	assert_int_equal(forward_gateways(w->forward, both, 1), 0);
	assert_int_equal(send(t, "x", 1, 0), 1);
	assert_int_equal(recv(gw, &c, 1, 0), 1);
	assert_int_equal(forward_gateways(w->forward, both + 1, 1), 0);
	assert_true(was_cut(gw));
	assert_true(was_cut(t));
	close(gw);
	close(t);
}

static void connection_before_its_tunnel(void **state)
{
	static const char *const id = "44444444-4444-4444-8444-444444444444";
	struct world *w = *state;
	int gw = open_tunnel(w, id), t;
	char target[32];
	char c;

	snprintf(target, sizeof(target), "localhost:%u", w->target_port);
	add_tunnel(w, id, target, true);
	t = accept_target(w);
	assert_int_equal(send(t, "x", 1, 0), 1);
	assert_int_equal(recv(gw, &c, 1, 0), 1);
	close(gw);
	close(t);
}

static void deleted_tunnel_ends_its_connections(void **state)
{
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	uint8_t id[16];

	assert_int_equal(km_uuid_parse(id, TUNNEL), 0);
	tunnel_table_remove(forward_tunnels(w->forward), id);
	forward_sweep(w->forward);
	assert_true(was_cut(gw));
	assert_true(was_cut(t));
	close(gw);
	close(t);
}

static void changed_tunnel_keeps_its_connections(void **state)
{
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w), next;
	char c;

	add_tunnel(w, TUNNEL, "127.0.0.1:1", true);
	next = open_tunnel(w, TUNNEL);
	assert_true(was_cut(next));
	assert_int_equal(send(gw, "x", 1, 0), 1);
	assert_int_equal(recv(t, &c, 1, 0), 1);
	close(next);
	close(gw);
	close(t);
}

static long resident_kib(void)
{
	long pages = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%ld %ld", &pages, &resident), 2);
	fclose(f);
	return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void slow_reader_holds_back_the_sender(void **state)
{
	struct world *w = *state;
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	struct stream s = {.from = gw, .to = t, .total = SIZE_MAX, .salt = 3};
	long before = resident_kib();
	int64_t quiet = km_now_ms();

	while (km_now_ms() - quiet < 500) {
		size_t had = s.sent;

		push(&s);
		if (s.sent != had)
			quiet = km_now_ms();
	}
	assert_true(s.sent < 64 << 20);
	assert_true(resident_kib() - before < 4096);
	s.total = s.sent;
	run_streams(&s, 1);
	close(gw);
	close(t);
}

/* More connections at once than one user gets pipes for, all with bytes in flight that nobody reads
 * yet; then everything arrives. */
static void many_at_once(void **state)
{
	struct world *w = *state;
	struct stream *s = calloc(MANY, sizeof(*s));
	int64_t end = km_now_ms() + 60000;

	assert_non_null(s);
	for (size_t i = 0; i < MANY; i++) {
		int small = 4096;

		s[i].from = open_tunnel(w, TUNNEL);
		s[i].to = accept_target(w); /* one after the other, so they belong together */
		s[i].total = 48 << 10;
		s[i].salt = (unsigned)i;
		setsockopt(s[i].to, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	}
	for (size_t i = 0; i < MANY; i++) {
		while (s[i].sent < s[i].total) {
			assert_true(km_now_ms() < end);
			push(&s[i]);
		}
	}
	assert_int_equal(forward_active(w->forward), MANY);
	run_streams(s, MANY);
	for (size_t i = 0; i < MANY; i++) {
		close(s[i].from);
		close(s[i].to);
	}
	free(s);
}

static void full_house_waits(void **state)
{
	struct world *w = world_new(2, 3600000);
	int gw[3], t[3];
	struct pollfd p;
	char c;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		gw[i] = open_tunnel(w, TUNNEL);
		t[i] = accept_target(w);
	}
	gw[2] = open_tunnel(w, TUNNEL);
	p = (struct pollfd){w->target, POLLIN, 0};
	assert_int_equal(poll(&p, 1, 400), 0);
	assert_int_equal(forward_active(w->forward), 2);
	close(gw[0]);
	close(t[0]);
	t[2] = accept_target(w);
	assert_int_equal(send(t[2], "x", 1, 0), 1);
	assert_int_equal(recv(gw[2], &c, 1, 0), 1);
	for (size_t i = 1; i < 3; i++) {
		close(gw[i]);
		close(t[i]);
	}
	world_free(w);
}

static void silence_is_cut(void **state)
{
	struct world *w = world_new(16, 300);
	int gw = open_tunnel(w, TUNNEL), t = accept_target(w);
	char c;

	(void)state;
	for (int i = 0; i < 4; i++) { /* bytes put it off */
		struct pollfd p = {gw, POLLIN, 0};

		assert_int_equal(poll(&p, 1, 150), 0);
		assert_int_equal(send(gw, "x", 1, 0), 1);
		assert_int_equal(recv(t, &c, 1, 0), 1);
	}
	assert_true(was_cut(gw));
	assert_true(was_cut(t));
	close(gw);
	close(t);
	world_free(w);
}

static void drain_lets_the_busy_finish(void **state)
{
	struct world *w = *state;
	int pausing = open_tunnel(w, TUNNEL), pausing_t = accept_target(w);
	int busy = open_tunnel(w, TUNNEL), busy_t = accept_target(w);
	char c;

	assert_int_equal(send(pausing_t, "x", 1, 0), 1); /* perhaps the answer's end, perhaps not */
	assert_int_equal(recv(pausing, &c, 1, 0), 1);
	assert_int_equal(send(busy, "x", 1, 0), 1);
	assert_int_equal(recv(busy_t, &c, 1, 0), 1);
	forward_drain(w->forward);
	assert_int_equal(poll(&(struct pollfd){pausing, POLLIN, 0}, 1, 2500), 0);
	assert_int_equal(send(pausing_t, "y", 1, 0), 1);
	assert_int_equal(recv(pausing, &c, 1, 0), 1);
	close(pausing); /* its gateway is done with it */
	assert_true(was_cut(pausing_t));
	assert_int_equal(send(busy_t, "y", 1, 0), 1);
	assert_int_equal(recv(busy, &c, 1, 0), 1);
	close(pausing_t);
	close(busy);
	close(busy_t);
}

/* As an ordinary user, for whom the kernel bounds the pages in pipes; and with enough descriptors.
 */
static void become_ordinary(void)
{
	struct rlimit files;

	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	signal(SIGPIPE, SIG_IGN);
	if (geteuid() != 0)
		return;
	if (setgroups(0, NULL) || setresgid(65534, 65534, 65534) ||
	    setresuid(65534, 65534, 65534)) {
		perror("setresuid");
		exit(1);
	}
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* the leak check attaches to the process */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(both_ways, setup, teardown),
	    cmocka_unit_test_setup_teardown(half_close_both_ways, setup, teardown),
	    cmocka_unit_test_setup_teardown(resets_are_passed_on, setup, teardown),
	    cmocka_unit_test_setup_teardown(reset_behind_a_stall, setup, teardown),
	    cmocka_unit_test_setup_teardown(not_introduced, setup, teardown),
	    cmocka_unit_test_setup_teardown(not_forwarded, setup, teardown),
	    cmocka_unit_test_setup_teardown(strangers_address, setup, teardown),
	    cmocka_unit_test_setup_teardown(gateway_goes, setup, teardown),
	    cmocka_unit_test_setup_teardown(connection_before_its_tunnel, setup, teardown),
	    cmocka_unit_test_setup_teardown(deleted_tunnel_ends_its_connections, setup, teardown),
	    cmocka_unit_test_setup_teardown(changed_tunnel_keeps_its_connections, setup, teardown),
	    cmocka_unit_test_setup_teardown(slow_reader_holds_back_the_sender, setup, teardown),
	    cmocka_unit_test_setup_teardown(many_at_once, setup, teardown),
	    cmocka_unit_test(full_house_waits),
	    cmocka_unit_test(silence_is_cut),
	    cmocka_unit_test_setup_teardown(drain_lets_the_busy_finish, setup, teardown),
	};

	become_ordinary();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
