/* SPDX-License-Identifier: MIT */
/* Private networks with real wardens and devices (the engine's, or the kernel's), in a network
 * namespace that stands for the host. Needs root; the second group of cases then runs as a user
 * without any capability.
 *
 *   a: 10.66.0.1 ══ UDP 127.0.0.1:51911 ── 127.0.0.1:51912 ══ b: 10.66.0.2
 */
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/privnet/privnet.h"
#include "libkm/privnet/wire.h"
#include "libkm/wg/netlink.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the standard headers */
#include <cmocka.h>

#define WAIT_MS 15000

struct side {
	char runtime[64], state[64];
	uint16_t port;
	struct km_addr ip;
	struct km_privnet *p;
};
struct world {
	char dir[32], warden[KM_WIRE_PATH_MAX];
	struct side a, b;
};

/* ---- the world ---- */

static struct km_addr addr(const char *s)
{
	struct km_addr a;

	assert_int_equal(km_addr_parse(&a, s), 0);
	return a;
}

static struct km_prefix prefix(const char *s)
{
	struct km_prefix p;

	assert_int_equal(km_prefix_parse(&p, s), 0);
	return p;
}

static struct km_privnet_opts opts_of(const struct world *w, const struct side *s)
{
	return (struct km_privnet_opts){.warden = w->warden,
					.runtime_dir = s->runtime,
					.state_dir = s->state,
					.wireguard = KM_WG_AUTO,
					.listen_port = s->port,
					.linger_ms = 5000};
}

static void side_init(struct world *w, struct side *s, char name, uint16_t port, const char *ip)
{
	snprintf(s->runtime, sizeof(s->runtime), "%s/%c/run", w->dir, name);
	snprintf(s->state, sizeof(s->state), "%s/%c/state", w->dir, name);
	s->port = port;
	s->ip = addr(ip);
}

/* The warden's program, and whether we are the user without privilege. */
static char program[KM_WIRE_PATH_MAX];
static bool rootless;

static void find_program(void)
{
	char self[512];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = 0; /* BUILD/tests/unit/privnet/test_privnet */
	for (int up = 0; up < 4 && strrchr(self, '/'); up++)
		*strrchr(self, '/') = 0;
	snprintf(program, sizeof(program), "%s/km-warden", self);
}

static int setup(void **state)
{
	struct world *w = km_xcalloc(1, sizeof(*w));

	memcpy(w->warden, program, sizeof(w->warden));
	strcpy(w->dir, "/tmp/kmnet-XXXXXX");
	if (!mkdtemp(w->dir))
		return -1;
	side_init(w, &w->a, 'a', 51911, "10.66.0.1");
	side_init(w, &w->b, 'b', 51912, "10.66.0.2");
	*state = w;
	return 0;
}

static void end_side(struct world *w, struct side *s)
{
	struct km_privnet_opts o = opts_of(w, s);
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", s->runtime, KM_WIRE_SOCKET);
	if (!s->p && !access(path, F_OK) && km_privnet_open(&s->p, &o, NULL, NULL))
		return;
	km_privnet_close(s->p, true);
	s->p = NULL;
}

static int teardown(void **state)
{
	struct world *w = *state;
	char command[64];

	end_side(w, &w->a);
	end_side(w, &w->b);
	snprintf(command, sizeof(command), "rm -rf %s", w->dir);
	if (system(command))
		return -1;
	free(w);
	return 0;
}

static void open_side(const struct world *w, struct side *s, bool want_reused)
{
	struct km_privnet_opts o = opts_of(w, s);
	struct km_errtext err = {""};
	bool reused = !want_reused;

	if (km_privnet_open(&s->p, &o, &reused, &err))
		fail_msg("open: %s", err.text);
	assert_int_equal(reused, want_reused);
}

static void set_address(struct side *s)
{
	struct km_prefix p = {s->ip, 24};
	struct km_errtext err = {""};

	if (km_privnet_addresses(s->p, &p, 1, &err))
		fail_msg("address: %s", err.text);
}

static struct km_wg_peer peer_of(const struct side *s, const uint8_t *key, uint16_t keepalive)
{
	struct km_wg_peer p = {.keepalive_s = keepalive, .n_allowed = 1, .has_endpoint = true};
	struct km_addr local = addr("127.0.0.1");

	memcpy(p.key, key, sizeof(p.key));
	km_addr_to_sa(&p.endpoint, &local, s->port);
	p.allowed[0] = (struct km_prefix){s->ip, 32};
	return p;
}

static struct km_wg_peer set_peer(struct side *s, const struct side *other, uint16_t keepalive)
{
	struct km_wg_peer p = peer_of(other, km_privnet_public_key(other->p), keepalive);
	struct km_errtext err = {""};

	if (km_privnet_peer_set(s->p, &p, &err))
		fail_msg("peer: %s", err.text);
	return p;
}

static void open_both(struct world *w)
{
	open_side(w, &w->a, false);
	open_side(w, &w->b, false);
	set_address(&w->a);
	set_address(&w->b);
	set_peer(&w->a, &w->b, 0);
	set_peer(&w->b, &w->a, 0);
}

/* ---- looking at the machine ---- */

static char *output_of(const char *command)
{
	FILE *f = popen(command, "r");
	char *out = km_xcalloc(1, 65536);
	size_t n;

	assert_non_null(f);
	n = fread(out, 1, 65535, f);
	out[n] = 0;
	pclose(f);
	return out;
}

/* Links, addresses and routes; without what changes by itself. */
static char *host_network(void)
{
	return output_of(
	    "ip -o link; ip -o addr; ip route show table all; ip -6 route show table all");
}

/* The process inside the private network: with privilege that is the warden itself. */
static pid_t inner_pid(pid_t warden)
{
	char command[64], *out;
	pid_t pid;

	if (!rootless)
		return warden;
	snprintf(command, sizeof(command), "pgrep -x -P %d km-inside", (int)warden);
	out = output_of(command);
	pid = atoi(out);
	free(out);
	assert_true(pid > 1);
	return pid;
}

static char *inside(pid_t warden, const char *command)
{
	char full[384];

	snprintf(full, sizeof(full), "nsenter -t %d %s -n %s", (int)inner_pid(warden),
		 rootless ? "-U --preserve-credentials" : "", command);
	return output_of(full);
}

/* The warden's pid: it is the listener's end of a fresh connection. */
static pid_t warden_pid(const struct side *s)
{
	struct km_privnet *p;
	struct ucred cred;
	socklen_t len = sizeof(cred);

	assert_int_equal(km_privnet_attach(&p, s->p, NULL), 0);
	assert_int_equal(getsockopt(km_privnet_fd(p), SOL_SOCKET, SO_PEERCRED, &cred, &len), 0);
	km_privnet_close(p, false);
	assert_true(cred.pid > 1);
	return cred.pid;
}

static bool readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) > 0;
}

static int pidfd_of(pid_t pid)
{
	int fd = pidfd_open(pid, 0);

	assert_true(fd >= 0);
	return fd;
}

static void assert_no_socket(const struct side *s)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", s->runtime, KM_WIRE_SOCKET);
	assert_int_equal(access(path, F_OK), -1);
}

/* Where wg(8), or km-warden --show, finds the engine's device of this side's warden. */
static void control_path(const struct side *s, char path[static 128])
{
	char *link, name[16];

	if (rootless) {
		snprintf(path, 128, "%s/wireguard.sock", s->runtime);
		return;
	}
	link = inside(warden_pid(s), "ip -o link | grep -o 'km[0-9a-f]\\{8\\}'");
	assert_int_equal(sscanf(link, "%15s", name), 1);
	snprintf(path, 128, "/var/run/wireguard/%s.sock", name);
	free(link);
}

static bool embedded(const struct side *s)
{
	return !strcmp(km_privnet_backend(s->p), "embedded");
}

/* ---- traffic ---- */

static int connect_through(struct side *from, const struct km_addr *to, uint16_t port)
{
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, to, port);
	struct pollfd p = {.events = POLLOUT};
	int fd, error = 0;

	assert_int_equal(km_privnet_sockets(from->p, AF_INET, SOCK_STREAM, 0, &fd, 1, NULL), 0);
	assert_true(connect(fd, (struct sockaddr *)&ss, len) == 0 || errno == EINPROGRESS);
	p.fd = fd;
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	len = sizeof(error);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len), 0);
	assert_int_equal(error, 0);
	return fd;
}

static int listen_on(struct side *s, uint16_t port)
{
	struct km_errtext err = {""};
	int fd;

	if (km_privnet_listen(s->p, &s->ip, port, 16, &fd, &err))
		fail_msg("listen: %s", err.text);
	return fd;
}

static int accept_one(int listener)
{
	int fd;

	assert_true(readable(listener, WAIT_MS));
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* Sends total bytes from one socket to the other and compares them. */
static void pump(int from, int to, size_t total)
{
	uint8_t out[4096], in[4096];
	size_t sent = 0, got = 0;
	struct pollfd p[2] = {{.fd = from}, {.fd = to, .events = POLLIN}};
	ssize_t n;

	while (got < total) {
		p[0].events = sent < total ? POLLOUT : 0;
		assert_true(poll(p, 2, WAIT_MS) > 0);
		if (p[0].revents & POLLOUT) {
			size_t want = total - sent < sizeof(out) ? total - sent : sizeof(out);

			for (size_t i = 0; i < want; i++)
				out[i] = (uint8_t)((sent + i) * 31 >> 3);
			n = send(from, out, want, MSG_NOSIGNAL);
			assert_true(n > 0);
			sent += (size_t)n;
		}
		if (p[1].revents) {
			n = recv(to, in, sizeof(in), 0);
			assert_true(n > 0);
			for (size_t i = 0; i < (size_t)n; i++)
				assert_int_equal(in[i], (uint8_t)((got + i) * 31 >> 3));
			got += (size_t)n;
		}
	}
}

static bool ping(struct side *from, const struct side *to, int tries, int ms)
{
	struct icmphdr echo = {.type = ICMP_ECHO, .un.echo.sequence = htons(1)};
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, &to->ip, 0);
	uint8_t reply[256];
	bool answered = false;
	int fd;

	assert_int_equal(
	    km_privnet_sockets(from->p, AF_INET, SOCK_DGRAM, IPPROTO_ICMP, &fd, 1, NULL), 0);
	while (!answered && tries--) {
		/* Before a device notices that it is up, packets are refused. */
		(void)sendto(fd, &echo, sizeof(echo), 0, (struct sockaddr *)&ss, len);
		answered = readable(fd, ms) && recv(fd, reply, sizeof(reply), 0) > 0;
	}
	close(fd);
	return answered;
}

static struct km_wg_peer_status status_of(struct side *s, size_t want_n)
{
	struct km_wg_peer_status *list, first = {.rx_bytes = 0};
	size_t n;

	assert_int_equal(km_privnet_peers(s->p, &list, &n, NULL), 0);
	assert_int_equal(n, want_n);
	if (n)
		first = list[0];
	free(list);
	return first;
}

/* ---- tests ---- */

static void test_tunnel(void **state)
{
	struct world *w = *state;
	char *before = host_network(), *during;
	int listener, client, server;

	open_both(w);
	during = host_network();
	assert_string_equal(before, during);
	listener = listen_on(&w->b, 80);
	client = connect_through(&w->a, &w->b.ip, 80);
	server = accept_one(listener);
	pump(client, server, 1 << 20);
	pump(server, client, 1 << 20);
	assert_true(ping(&w->a, &w->b, 1, WAIT_MS));
	assert_true(status_of(&w->a, 1).last_handshake_ms > km_wall_ms() - 60000);
	assert_true(status_of(&w->b, 1).rx_bytes > 1 << 20);
	close(client);
	close(server);
	close(listener);
	free(before);
	free(during);
}

static void test_peers(void **state)
{
	struct world *w = *state;
	uint8_t other[3][KM_WG_KEY_LEN];
	struct km_wg_peer extra, p;
	struct km_wg_peer_status s;
	struct km_addr a;
	uint16_t port;
	int64_t first;
	int listener, client, server;

	open_both(w);
	assert_true(ping(&w->a, &w->b, 20, 1000));
	listener = listen_on(&w->b, 80);
	client = connect_through(&w->a, &w->b.ip, 80);
	server = accept_one(listener);
	for (int i = 0; i < 3; i++) {
		km_wg_private_new(other[i]);
		extra = peer_of(&w->b, other[i], 25);
		extra.allowed[0] = prefix("10.77.0.0/24");
		extra.allowed[0].addr.ip[2] = (uint8_t)i;
		assert_int_equal(km_privnet_peer_set(w->a.p, &extra, NULL), 0);
	}
	status_of(&w->a, 4);
	assert_int_equal(km_privnet_peer_remove(w->a.p, other[2], NULL), 0);
	assert_int_equal(km_privnet_peer_remove(w->a.p, other[2], NULL), 0);
	status_of(&w->a, 3);
	memcpy(other[1], km_privnet_public_key(w->b.p), KM_WG_KEY_LEN);
	assert_int_equal(km_privnet_peers_keep(w->a.p, other + 1, 1, NULL), 0);
	first = status_of(&w->a, 1).last_handshake_ms;
	/* the same again changes nothing */
	p = set_peer(&w->a, &w->b, 0);
	assert_int_equal(status_of(&w->a, 1).last_handshake_ms, first);
	/* a kick without an endpoint keeps the one in use, and begins a new session */
	p.has_endpoint = false;
	p.keepalive_s = 25;
	assert_int_equal(km_privnet_peer_kick(w->a.p, &p, NULL), 0);
	assert_true(ping(&w->a, &w->b, 10, 1000));
	s = status_of(&w->a, 1);
	assert_true(s.last_handshake_ms > first);
	assert_true(s.has_endpoint);
	assert_int_equal(km_addr_from_sa(&a, &port, (struct sockaddr *)&s.endpoint), 0);
	assert_int_equal(port, w->b.port);
	/* what was open stays open */
	pump(client, server, 100000);
	/* an endpoint learned from the network survives a repeated push of an old one */
	p = peer_of(&w->a, km_privnet_public_key(w->a.p), 0);
	assert_int_equal(km_privnet_peer_set(w->b.p, &p, NULL), 0);
	assert_int_equal(km_privnet_peers_keep(w->a.p, NULL, 0, NULL), 0);
	status_of(&w->a, 0);
	close(client);
	close(server);
	close(listener);
}

/* As an operator does it: wg(8) speaks the control protocol to the engine, and netlink to the
 * kernel. Both ways of saying it are given. */
static void from_outside(const struct side *s, const uint8_t *key, const char *uapi, const char *wg)
{
	char path[128], hex[2 * KM_WG_KEY_LEN + 1], text[KM_WG_KEY_STRLEN], request[512];
	char command[256], *out;
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	ssize_t n;
	int fd;

	km_hex(key, KM_WG_KEY_LEN, hex);
	km_wg_key_str(key, text);
	if (!embedded(s)) {
		snprintf(command, sizeof(command),
			 "sh -c 'wg set $(wg show interfaces) peer %s %s && echo done'", text, wg);
		out = inside(warden_pid(s), command);
		assert_string_equal(out, "done\n");
		free(out);
		return;
	}
	control_path(s, path);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%.107s", path);
	snprintf(request, sizeof(request), "set=1\npublic_key=%s\n%s\n", hex, uapi);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(send(fd, request, strlen(request), 0), strlen(request));
	n = recv(fd, request, sizeof(request), 0);
	assert_int_equal(n, strlen("errno=0\n\n"));
	assert_memory_equal(request, "errno=0\n\n", (size_t)n);
	close(fd);
}

static int64_t mended(void)
{
	return atomic_load(
	    &km_metric(KM_METRIC_COUNTER, "kakuremichi_wireguard_peers_mended_total", "", "")
		 ->value);
}

/* What somebody does to the device with `wg set` is undone at the next look at the peers. */
static void test_changed_from_outside(void **state)
{
	struct world *w = *state;
	uint8_t b[KM_WG_KEY_LEN], other[KM_WG_KEY_LEN], priv[KM_WG_KEY_LEN];
	int64_t before = mended();
	struct km_wg_peer_status *list;
	size_t n;

	open_both(w);
	memcpy(b, km_privnet_public_key(w->b.p), sizeof(b));
	assert_true(ping(&w->a, &w->b, 20, 1000));
	status_of(&w->a, 1);
	assert_int_equal(mended(), before);
	/* removed: it comes back with the endpoint that it had */
	from_outside(&w->a, b, "remove=true\n", "remove");
	status_of(&w->a, 0);
	assert_memory_equal(status_of(&w->a, 1).key, b, sizeof(b));
	assert_true(ping(&w->a, &w->b, 10, 1000));
	assert_int_equal(mended(), before + 1);
	/* an unknown peer that takes its allowed IP */
	km_wg_private_new(priv);
	assert_int_equal(km_wg_public(other, priv), 0);
	from_outside(&w->a, other, "allowed_ip=10.66.0.2/32\n", "allowed-ips 10.66.0.2/32");
	assert_int_equal(km_privnet_peers_keep(w->a.p, (const uint8_t(*)[KM_WG_KEY_LEN])b, 1, NULL),
			 0);
	assert_memory_equal(status_of(&w->a, 1).key, b, sizeof(b));
	assert_true(ping(&w->a, &w->b, 10, 1000));
	/* its allowed IPs, and a preshared key that the other side has not */
	from_outside(
	    &w->a, b,
	    "replace_allowed_ips=true\nallowed_ip=10.99.0.0/16\n"
	    "preshared_key=0101010101010101010101010101010101010101010101010101010101010101\n"
	    "persistent_keepalive_interval=7\n",
	    "allowed-ips 10.99.0.0/16 persistent-keepalive 7");
	status_of(&w->a, 1);
	assert_true(ping(&w->a, &w->b, 10, 1000));
	/* what the daemon itself removes stays away */
	assert_int_equal(km_privnet_peer_remove(w->a.p, b, NULL), 0);
	status_of(&w->a, 0);
	assert_int_equal(km_privnet_peers(w->a.p, &list, &n, NULL), 0);
	assert_int_equal(n, 0);
	set_peer(&w->a, &w->b, 0);
	from_outside(&w->a, b, "remove=true\n", "remove");
	assert_int_equal(km_privnet_peers_keep(w->a.p, NULL, 0, NULL), 0);
	status_of(&w->a, 0);
	status_of(&w->a, 0);
	before = mended();
	status_of(&w->a, 0);
	assert_int_equal(mended(), before);
}

static void test_learned_endpoint(void **state)
{
	struct world *w = *state;
	struct km_addr nowhere = addr("127.0.0.1"), a;
	struct km_wg_peer p;
	struct km_wg_peer_status s;
	uint16_t port;

	open_both(w);
	p = peer_of(&w->a, km_privnet_public_key(w->a.p), 0);
	km_addr_to_sa(&p.endpoint, &nowhere, 9); /* wrong: b has to learn the right one from a */
	assert_int_equal(km_privnet_peer_set(w->b.p, &p, NULL), 0);
	assert_true(ping(&w->a, &w->b, 20, 1000));
	assert_int_equal(km_privnet_peer_set(w->b.p, &p, NULL), 0);
	s = status_of(&w->b, 1);
	assert_int_equal(km_addr_from_sa(&a, &port, (struct sockaddr *)&s.endpoint), 0);
	assert_int_equal(port, w->a.port);
	assert_true(ping(&w->b, &w->a, 5, 1000));
}

static void test_addresses_converge(void **state)
{
	struct world *w = *state;
	struct km_prefix set[3] = {prefix("10.66.0.1/24"), prefix("10.66.0.9/24"),
				   prefix("fd66::1/64")};
	struct km_prefix routes[3] = {prefix("10.0.0.0/8"), prefix("10.99.1.7/24"),
				      prefix("fd77::/48")};
	struct km_prefix many[257];
	char *out;
	pid_t pid;

	open_side(w, &w->a, false);
	pid = warden_pid(&w->a);
	assert_int_equal(km_privnet_routes(w->a.p, routes, 2, NULL), 0);
	assert_int_equal(km_privnet_addresses(w->a.p, set, 3, NULL), 0);
	assert_int_equal(km_privnet_routes(w->a.p, routes, 3, NULL), 0);
	out = inside(pid, "ip addr");
	assert_non_null(strstr(out, "inet 10.66.0.1/24"));
	assert_non_null(strstr(out, "inet 10.66.0.9/24"));
	assert_non_null(strstr(out, "inet6 fd66::1/64"));
	assert_non_null(strstr(out, "mtu 1420"));
	free(out);
	out = inside(pid, "ip route");
	assert_non_null(strstr(out, "10.0.0.0/8 dev km"));
	assert_non_null(strstr(out, "10.99.1.0/24 dev km"));
	free(out);
	/* the primary goes, the secondary and the routes stay; then another network altogether */
	assert_int_equal(km_privnet_addresses(w->a.p, set + 1, 2, NULL), 0);
	assert_int_equal(km_privnet_addresses(w->a.p, set + 1, 2, NULL), 0);
	out = inside(pid, "ip addr");
	assert_null(strstr(out, "inet 10.66.0.1/24"));
	assert_non_null(strstr(out, "inet 10.66.0.9/24"));
	free(out);
	set[0] = prefix("10.88.0.1/32");
	assert_int_equal(km_privnet_addresses(w->a.p, set, 1, NULL), 0);
	assert_int_equal(km_privnet_addresses(w->a.p, NULL, 0, NULL), 0);
	assert_int_equal(km_privnet_addresses(w->a.p, set, 1, NULL), 0);
	out = inside(pid, "ip route");
	assert_non_null(strstr(out, "10.0.0.0/8 dev km"));
	assert_non_null(strstr(out, "10.99.1.0/24 dev km"));
	free(out);
	assert_int_equal(km_privnet_routes(w->a.p, routes, 1, NULL), 0);
	out = inside(pid, "sh -c 'ip route; ip -6 route; cat /proc/sys/net/ipv4/ip_forward'");
	assert_null(strstr(out, "10.99.1.0/24"));
	assert_null(strstr(out, "fd77::"));
	assert_null(strstr(out, "10.66.0.0/24"));
	assert_non_null(strstr(out, "\n0\n"));
	free(out);
	for (size_t i = 0; i < 257; i++)
		many[i] = set[0];
	assert_int_equal(km_privnet_addresses(w->a.p, many, 257, NULL), KM_ETOOBIG);
}

/* Opens, shakes hands and says so; then waits to be killed. */
__attribute__((noreturn)) static void doomed_child(struct world *w, int tell)
{
	open_side(w, &w->a, false);
	set_address(&w->a);
	set_peer(&w->a, &w->b, 0);
	if (write(tell, km_privnet_public_key(w->a.p), KM_WG_KEY_LEN) != KM_WG_KEY_LEN)
		_exit(1);
	if (ping(&w->a, &w->b, 20, 1000) && write(tell, "!", 1) == 1)
		pause();
	_exit(1);
}

static void test_daemon_killed(void **state)
{
	struct world *w = *state;
	uint8_t key[KM_WG_KEY_LEN];
	struct km_wg_peer p;
	int tell[2], status;
	int64_t handshake;
	char mark = 0;
	pid_t pid;

	open_side(w, &w->b, false);
	set_address(&w->b);
	assert_int_equal(pipe2(tell, O_CLOEXEC), 0);
	pid = fork();
	if (!pid)
		doomed_child(w, tell[1]);
	assert_true(readable(tell[0], WAIT_MS));
	assert_int_equal(read(tell[0], key, sizeof(key)), sizeof(key));
	p = peer_of(&w->a, key, 0);
	p.has_endpoint = false;
	assert_int_equal(km_privnet_peer_set(w->b.p, &p, NULL), 0);
	assert_true(readable(tell[0], WAIT_MS));
	assert_int_equal(read(tell[0], &mark, 1), 1);
	assert_int_equal(mark, '!');
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	open_side(w, &w->a, true);
	assert_memory_equal(km_privnet_public_key(w->a.p), key, sizeof(key));
	handshake = status_of(&w->a, 1).last_handshake_ms;
	assert_true(handshake > 0);
	set_address(&w->a);
	set_peer(&w->a, &w->b, 0);
	assert_int_equal(status_of(&w->a, 1).last_handshake_ms, handshake);
	assert_true(ping(&w->a, &w->b, 1, 2000));
	assert_int_equal(status_of(&w->a, 1).last_handshake_ms, handshake);
	close(tell[0]);
	close(tell[1]);
}

static void test_linger(void **state)
{
	struct world *w = *state;
	struct km_privnet_opts o = opts_of(w, &w->a);
	struct km_privnet *p, *second;
	struct ucred cred;
	socklen_t len = sizeof(cred);
	int pidfd;

	o.linger_ms = 50;
	assert_int_equal(km_privnet_open(&p, &o, NULL, NULL), 0);
	assert_int_equal(km_privnet_attach(&second, p, NULL), 0);
	assert_int_equal(getsockopt(km_privnet_fd(second), SOL_SOCKET, SO_PEERCRED, &cred, &len),
			 0);
	pidfd = pidfd_of(cred.pid);
	km_privnet_close(p, false);
	assert_false(readable(pidfd, 200)); /* the other handle keeps it */
	km_privnet_close(second, false);
	assert_true(readable(pidfd, WAIT_MS));
	close(pidfd);
	assert_no_socket(&w->a);
}

static void test_stop_leaves_nothing(void **state)
{
	struct world *w = *state;
	int warden;
	char *before = host_network(), *after;
	struct stat st;
	char path[128], control[128];

	open_side(w, &w->a, false);
	warden = pidfd_of(warden_pid(&w->a));
	control_path(&w->a, control);
	assert_int_equal(access(control, F_OK), embedded(&w->a) ? 0 : -1);
	snprintf(path, sizeof(path), "%s/%s", w->a.runtime, KM_WIRE_SOCKET);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	snprintf(path, sizeof(path), "%s/wireguard.key", w->a.state);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	km_privnet_close(w->a.p, true);
	w->a.p = NULL;
	assert_true(readable(warden, WAIT_MS));
	assert_no_socket(&w->a);
	assert_int_equal(access(control, F_OK), -1);
	after = host_network();
	assert_string_equal(before, after);
	close(warden);
	free(before);
	free(after);
}

static void test_sigterm(void **state)
{
	struct world *w = *state;
	int warden;
	pid_t pid;

	open_side(w, &w->a, false);
	pid = warden_pid(&w->a);
	warden = pidfd_of(pid);
	kill(pid, SIGTERM);
	assert_true(readable(warden, WAIT_MS));
	assert_true(readable(km_privnet_fd(w->a.p), 0));
	assert_no_socket(&w->a);
	close(warden);
	km_privnet_close(w->a.p, true);
	w->a.p = NULL;
}

static void test_warden_killed(void **state)
{
	struct world *w = *state;
	char control[128];
	uint8_t key[KM_WG_KEY_LEN];
	struct km_wg_peer_status *list;
	size_t n;
	pid_t pid;

	open_side(w, &w->a, false);
	memcpy(key, km_privnet_public_key(w->a.p), sizeof(key));
	pid = warden_pid(&w->a);
	control_path(&w->a, control);
	kill(pid, SIGKILL);
	assert_true(readable(km_privnet_fd(w->a.p), WAIT_MS));
	assert_int_equal(km_privnet_peers(w->a.p, &list, &n, NULL), KM_ECLOSED);
	km_privnet_close(w->a.p, false);
	open_side(w, &w->a, false);
	assert_memory_equal(km_privnet_public_key(w->a.p), key, sizeof(key));
	/* what the killed one has left is gone, unless it has the same name, and is served again */
	assert_int_equal(access(control, F_OK), rootless ? 0 : -1);
}

/* km-warden --show knows what `wg show` would. */
static void test_show(void **state)
{
	struct world *w = *state;
	char command[KM_WIRE_PATH_MAX + 160], control[128], key[KM_WG_KEY_STRLEN], *out;

	open_both(w);
	if (!embedded(&w->a))
		skip(); /* wg(8) shows it */
	assert_true(ping(&w->a, &w->b, 20, 1000));
	control_path(&w->a, control);
	snprintf(command, sizeof(command), "%s --show %s", program,
		 rootless ? w->a.runtime : control);
	out = output_of(command);
	assert_non_null(strstr(out, control));
	km_wg_key_str(km_privnet_public_key(w->a.p), key);
	assert_non_null(strstr(out, key));
	km_wg_key_str(km_privnet_public_key(w->b.p), key);
	assert_non_null(strstr(out, key));
	assert_non_null(strstr(out, "listening port: 51911\n"));
	assert_non_null(strstr(out, "endpoint: 127.0.0.1:51912\n"));
	assert_non_null(strstr(out, "allowed ips: 10.66.0.2/32\n"));
	assert_non_null(strstr(out, "latest handshake: "));
	free(out);
	snprintf(command, sizeof(command), "%s --show %s/nowhere 2>&1 || echo status $?", program,
		 w->a.runtime);
	out = output_of(command);
	assert_non_null(strstr(out, "nowhere: No such file"));
	assert_non_null(strstr(out, "status 1\n"));
	free(out);
}

static void test_device_deleted(void **state)
{
	struct world *w = *state;
	int warden;
	pid_t pid;

	open_side(w, &w->a, false);
	if (!strcmp(km_privnet_backend(w->a.p), "kernel"))
		skip(); /* nothing of ours ends with it */
	pid = warden_pid(&w->a);
	warden = pidfd_of(pid);
	free(inside(pid, "sh -c 'ip link del $(ip -o link | grep -o \"km[0-9a-f]\\{8\\}\")'"));
	assert_true(readable(km_privnet_fd(w->a.p), WAIT_MS));
	assert_true(readable(warden, WAIT_MS));
	close(warden);
	km_privnet_close(w->a.p, false);
	w->a.p = NULL;
	open_side(w, &w->a, false);
}

/* The warden's socket was made so many seconds ago. */
static void age_socket(const struct side *s, int seconds)
{
	struct timespec t[2];
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", s->runtime, KM_WIRE_SOCKET);
	clock_gettime(CLOCK_REALTIME, &t[0]);
	t[0].tv_sec -= seconds;
	t[1] = t[0];
	assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
}

/* A warden that hangs is replaced. */
static void test_warden_hangs(void **state)
{
	struct world *w = *state;
	int warden;
	pid_t pid;

	open_side(w, &w->a, false);
	pid = warden_pid(&w->a);
	warden = pidfd_of(pid);
	kill(pid, SIGSTOP);
	age_socket(&w->a, 60);
	km_privnet_close(w->a.p, false);
	open_side(w, &w->a, false);
	assert_true(readable(warden, WAIT_MS));
	close(warden);
}

static void *wake_later(void *arg)
{
	usleep((KM_PRIVNET_TIMEOUT_MS + 500) *
	       1000); /* longer than the others may take to answer */
	kill(*(pid_t *)arg, SIGCONT);
	return NULL;
}

/* One that is still starting is waited for. */
static void test_warden_is_starting(void **state)
{
	struct world *w = *state;
	pthread_t waker;
	pid_t pid;

	open_side(w, &w->a, false);
	pid = warden_pid(&w->a);
	kill(pid, SIGSTOP);
	km_privnet_close(w->a.p, false);
	age_socket(&w->a, 1);
	assert_int_equal(pthread_create(&waker, NULL, wake_later, &pid), 0);
	open_side(w, &w->a, true);
	pthread_join(waker, NULL);
	assert_int_equal(warden_pid(&w->a), pid);
}

static void test_other_settings(void **state)
{
	struct world *w = *state;
	int warden;

	open_side(w, &w->a, false);
	warden = pidfd_of(warden_pid(&w->a));
	km_privnet_close(w->a.p, false);
	w->a.port = 51913;
	open_side(w, &w->a, false);
	assert_true(readable(warden, 0));
	close(warden);
	km_privnet_close(w->a.p, false);
	open_side(w, &w->a, true);
}

static void test_sockets(void **state)
{
	struct world *w = *state;
	int fds[KM_PRIVNET_SOCKETS_MAX + 1], fd;
	struct km_addr nowhere = addr("10.66.200.1"), v6 = addr("fd66::1");
	int64_t start;

	open_side(w, &w->a, false);
	start = km_now_ms();
	for (int round = 0; round < 20; round++) {
		assert_int_equal(km_privnet_sockets(w->a.p, AF_INET, SOCK_STREAM, 0, fds, 64, NULL),
				 0);
		for (int i = 0; i < 64; i++) {
			assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
			assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
			close(fds[i]);
		}
	}
	print_message("20 batches of 64 sockets, closing included: %lld ms\n",
		      (long long)(km_now_ms() - start));
	assert_int_equal(km_privnet_sockets(w->a.p, AF_INET, SOCK_STREAM, 0, fds, 65, NULL),
			 KM_EINVAL);
	assert_int_equal(km_privnet_sockets(w->a.p, AF_INET, SOCK_STREAM, 0, fds, 0, NULL),
			 KM_EINVAL);
	assert_int_equal(km_privnet_sockets(w->a.p, AF_UNIX, SOCK_STREAM, 0, fds, 1, NULL),
			 KM_EINVAL);
	assert_int_equal(km_privnet_sockets(w->a.p, AF_INET, SOCK_RAW, 1, fds, 1, NULL), KM_EINVAL);
	assert_int_equal(km_privnet_listen(w->a.p, &nowhere, 80, 1, &fd, NULL), 0);
	assert_int_equal(km_privnet_listen(w->a.p, &nowhere, 80, 1, &fds[0], NULL), KM_EEXIST);
	close(fd);
	assert_int_equal(km_privnet_listen(w->a.p, &v6, 80, 1, &fd, NULL), 0);
	close(fd);
}

static void *use_handle(void *arg)
{
	struct km_privnet *p = arg;
	int fds[8];
	intptr_t bad = 0;

	for (int round = 0; round < 200; round++) {
		bad |= km_privnet_sockets(p, AF_INET, SOCK_STREAM, 0, fds, 8, NULL) != 0;
		for (int i = 0; !bad && i < 8; i++)
			close(fds[i]);
	}
	return (void *)bad;
}

static void test_threads(void **state)
{
	struct world *w = *state;
	struct km_privnet *p[2];
	pthread_t t[2];
	void *bad;

	open_side(w, &w->a, false);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(km_privnet_attach(&p[i], w->a.p, NULL), 0);
		assert_int_equal(pthread_create(&t[i], NULL, use_handle, p[i]), 0);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &bad);
		assert_null(bad);
		km_privnet_close(p[i], false);
	}
}

/* As a killed warden leaves it. */
static void stale_socket(const struct side *s)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_int_equal(km_mkdirs(s->runtime, 0700), 0);
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/%s", s->runtime, KM_WIRE_SOCKET);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(fd);
}

static void *open_one(void *arg)
{
	struct km_privnet *p = NULL;

	return km_privnet_open(&p, arg, NULL, NULL) ? NULL : p;
}

/* However many start at once where a killed warden has left its socket, one warden serves. */
static void test_started_twice(void **state)
{
	enum { N = 3 };
	struct world *w = *state;
	struct km_privnet_opts o = opts_of(w, &w->a);
	struct km_privnet *p[N];
	pthread_t t[N];
	void *got;

	o.listen_port = 0; /* or that alone would part them */
	for (int round = 0; round < 8; round++) {
		int opened = 0;
		stale_socket(&w->a);
		for (int i = 0; i < N; i++)
			assert_int_equal(pthread_create(&t[i], NULL, open_one, &o), 0);
		for (int i = 0; i < N; i++) {
			pthread_join(t[i], &got);
			if (got)
				p[opened++] = got;
		}
		assert_true(opened > 0);
		km_privnet_close(p[0], true);
		for (int i = 1; i < opened; i++) {
			assert_true(readable(km_privnet_fd(p[i]), WAIT_MS));
			km_privnet_close(p[i], false);
		}
	}
}

static int raw_connect(const struct side *s)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s/%s", s->runtime, KM_WIRE_SOCKET);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

/* Sends one message and expects to be cut off without an answer. */
static void assert_refused(const struct side *s, const void *msg, size_t n)
{
	int fd = raw_connect(s);
	char c;

	assert_true(n == 0 || send(fd, msg, n, MSG_NOSIGNAL) == (ssize_t)n);
	assert_true(readable(fd, WAIT_MS));
	assert_true(recv(fd, &c, 1, 0) <= 0);
	close(fd);
}

static void test_garbage(void **state)
{
	struct world *w = *state;
	struct km_wire_request r;
	uint8_t noise[9000];
	int fd;

	open_side(w, &w->a, false);
	km_random(noise, sizeof(noise));
	assert_refused(&w->a, noise, 1);
	assert_refused(&w->a, noise, sizeof(noise));
	memset(&r, 0, sizeof(r));
	for (uint16_t op = 0; op < 20; op++) {
		r.head = (struct km_wire_head){KM_WIRE_MAGIC, KM_WIRE_VERSION, op, 1, 0, 1, 0};
		if (op == KM_WIRE_STOP || op == KM_WIRE_OPEN)
			continue;
		assert_refused(&w->a, &r, sizeof(r));
		if (km_wire_request_len(op))
			assert_refused(&w->a, &r, km_wire_request_len(op)); /* before OPEN */
	}
	r.head =
	    (struct km_wire_head){KM_WIRE_MAGIC, KM_WIRE_VERSION + 1, KM_WIRE_OPEN, 1, 0, 0, 0};
	assert_refused(&w->a, &r, km_wire_request_len(KM_WIRE_OPEN));
	fd = raw_connect(&w->a); /* says nothing and goes */
	close(fd);
	status_of(&w->a, 0);
}

/* Lists that are no lists, and values out of range, over a connection that is properly open. */
static void test_bad_values(void **state)
{
	struct world *w = *state;
	struct km_wire_request r;
	struct km_wire_reply reply;
	int p[2], list, in = km_privnet_fd((open_side(w, &w->a, false), w->a.p));
	uint8_t byte = 7;
	const struct {
		uint16_t op;
		uint32_t count;
		int *fd;
	} cases[] = {
	    {KM_WIRE_ADDRESSES, 1, NULL},     {KM_WIRE_ADDRESSES, 1, &p[0]},
	    {KM_WIRE_ADDRESSES, 1, &list},    {KM_WIRE_ADDRESSES, 257, &list},
	    {KM_WIRE_ROUTES, 1u << 31, NULL}, {KM_WIRE_PEERS_KEEP, 70000, &list},
	    {KM_WIRE_PEERS_KEEP, 1, &list},   {KM_WIRE_SOCKETS, 0, NULL},
	    {KM_WIRE_LISTEN, 0, NULL},        {KM_WIRE_PEER_SET, 0, NULL},
	};

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(km_wire_list_make(&byte, 1, &list), 0);
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		memset(&r, 0xee, sizeof(r));
		r.head = (struct km_wire_head){
		    KM_WIRE_MAGIC, KM_WIRE_VERSION, cases[i].op, 1000, 0, cases[i].count, 0};
		assert_int_equal(km_wire_send(in, &r, km_wire_request_len(cases[i].op), cases[i].fd,
					      cases[i].fd ? 1 : 0, 0),
				 0);
		assert_true(readable(in, WAIT_MS));
		assert_true(recv(in, &reply, sizeof(reply), 0) > (ssize_t)sizeof(reply.head));
		assert_int_equal(reply.head.op, cases[i].op);
		assert_true(reply.head.err < 0);
		assert_true(reply.u.error.text[0]);
	}
	status_of(&w->a, 0);
	close(p[0]);
	close(p[1]);
	close(list);
}

static void test_other_user(void **state)
{
	struct world *w = *state;
	char path[128];
	int status;
	pid_t pid;

	open_side(w, &w->a, false);
	snprintf(path, sizeof(path), "%s/%s", w->a.runtime, KM_WIRE_SOCKET);
	/* the second lock: even with every file mode open */
	assert_int_equal(chmod(path, 0666), 0);
	assert_int_equal(chmod(w->dir, 0755), 0);
	snprintf(path, sizeof(path), "chmod -R a+rX %s", w->dir);
	assert_int_equal(system(path), 0);
	snprintf(path, sizeof(path), "%s/%s", w->a.runtime, KM_WIRE_SOCKET);
	assert_int_equal(chmod(path, 0666), 0);
	pid = fork();
	if (!pid) {
		if (setgid(65534) || setuid(65534))
			_exit(1);
		assert_refused(&w->a, NULL, 0);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	status_of(&w->a, 0);
}

static void assert_open_fails(struct world *w, const struct km_privnet_opts *o, int want,
			      const char *part)
{
	struct km_errtext err = {""};
	struct km_privnet *p = NULL;

	assert_int_equal(km_privnet_open(&p, o, NULL, &err), want);
	assert_null(p);
	if (!strstr(err.text, part))
		fail_msg("\"%s\" lacks \"%s\"", err.text, part);
	assert_no_socket(&w->a);
}

static void test_errors(void **state)
{
	struct world *w = *state;
	struct km_privnet_opts o = opts_of(w, &w->a);
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(51911)};
	char path[128];
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_open_fails(w, &o, KM_EEXIST, "UDP port 51911 is taken");
	close(fd);
	o.warden = "/nowhere/km-warden";
	assert_open_fails(w, &o, KM_ENOTFOUND, "/nowhere/km-warden");
	o.warden = "/etc";
	for (int i = 0; i < 50; i++) /* whoever is quicker */
		assert_open_fails(w, &o, KM_EIO, "/etc cannot be executed");
	o.warden = "/bin/true";
	for (int i = 0; i < 20; i++)
		assert_open_fails(w, &o, KM_ECLOSED, "ended at its start");
	o = opts_of(w, &w->a);
	o.wireguard = KM_WG_KERNEL;
	if (access("/sys/module/wireguard", F_OK))
		assert_open_fails(w, &o, KM_EUNSUPPORTED, "this kernel has no WireGuard");
	o = opts_of(w, &w->a);
	o.state_dir = "state";
	assert_open_fails(w, &o, KM_EINVAL, "absolute");
	o = opts_of(w, &w->a);
	snprintf(path, sizeof(path), "%s/wireguard.key", w->a.state);
	assert_int_equal(km_mkdirs(w->a.state, 0700), 0);
	assert_int_equal(km_file_write(path, "nonsense\n", 9, 0600), 0);
	assert_open_fails(w, &o, KM_EINVAL, "holds no WireGuard key");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_open_fails(w, &o, KM_EINVAL, "wireguard.key is a directory");
	assert_int_equal(rmdir(path), 0);
}

/* ---- without privilege ---- */

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	_exit(1);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), path);
	close(fd);
}

/* In mounts of our own: the warden's program where everybody may execute it, and a /dev/net/tun with
 * this mode (0: none at all). What was on the machine stays as it is. */
static void private_mounts(mode_t mode)
{
	static const char dir[] = "/mnt", tun[] = "/mnt/net/tun", copy[] = "/mnt/km-warden";
	char command[KM_WIRE_PATH_MAX + 64];

	must(!unshare(CLONE_NEWNS) && !mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "mounts");
	must(!mount("tmpfs", dir, "tmpfs", 0, "mode=0755"), "tmpfs");
	snprintf(command, sizeof(command), "cp %s %s", program, copy);
	must(!system(command), command);
	must(!mkdir("/mnt/net", 0755), "mkdir");
	must(!mode || (!mknod(tun, S_IFCHR, makedev(10, 200)) && !chmod(tun, mode)), "mknod");
	must(!mount("/mnt/net", "/dev/net", NULL, MS_BIND, NULL), "bind");
	snprintf(program, sizeof(program), "%s", copy);
}

static void drop_privilege(void)
{
	for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		must(!prctl(PR_CAPBSET_DROP, cap, 0, 0, 0), "bounding set");
	must(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534), "setuid");
	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	must(!prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable"); /* for the leak check */
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct none[2];

	memset(none, 0, sizeof(none));
	must(!syscall(SYS_capset, &head, none), "capset");
}

/* Every set of every thread, as grep Cap /proc/PID/status has it. */
static void assert_no_capability(pid_t pid)
{
	char command[128], *out;

	snprintf(command, sizeof(command), "grep -h ^Cap /proc/%d/task/*/status | cut -f2 | sort -u",
		 (int)pid);
	out = output_of(command);
	assert_string_equal(out, "0000000000000000\n");
	free(out);
}

static void test_no_capability(void **state)
{
	struct world *w = *state;
	pid_t pid;

	open_side(w, &w->a, false);
	pid = warden_pid(&w->a);
	assert_no_capability(getpid());
	assert_no_capability(pid);
	assert_no_capability(inner_pid(pid));
	assert_string_equal(km_privnet_backend(w->a.p), "embedded");
	assert_non_null(strstr(km_privnet_backend_why(w->a.p), "CAP_NET_ADMIN"));
}

/* The process inside is killed: the warden ends as well, and the next one starts. */
static void test_inside_killed(void **state)
{
	struct world *w = *state;
	int warden;
	pid_t pid;

	open_side(w, &w->a, false);
	pid = warden_pid(&w->a);
	warden = pidfd_of(pid);
	kill(inner_pid(pid), SIGKILL);
	assert_true(readable(km_privnet_fd(w->a.p), WAIT_MS));
	assert_true(readable(warden, WAIT_MS));
	close(warden);
	km_privnet_close(w->a.p, false);
	w->a.p = NULL;
	open_side(w, &w->a, false);
}

/* A killed warden takes the process inside with it. */
static void test_inside_orphaned(void **state)
{
	struct world *w = *state;
	int inner;
	pid_t pid;

	open_side(w, &w->a, false);
	pid = warden_pid(&w->a);
	inner = pidfd_of(inner_pid(pid));
	kill(pid, SIGKILL);
	assert_true(readable(inner, WAIT_MS));
	close(inner);
	km_privnet_close(w->a.p, false);
	w->a.p = NULL;
}

static void test_kernel_refused(void **state)
{
	struct world *w = *state;
	struct km_privnet_opts o = opts_of(w, &w->a);

	o.wireguard = KM_WG_KERNEL;
	assert_open_fails(w, &o, KM_EPERM, "wireguard = kernel needs CAP_SYS_ADMIN");
}

static int run_child(void (*child)(struct world *), struct world *w)
{
	int status = -1;
	pid_t pid = fork();

	if (!pid) {
		child(w);
		_exit(0);
	}
	assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
	return status;
}

static void forbidden(struct world *w, int want, const char *const *parts)
{
	struct km_privnet_opts o = opts_of(w, &w->a);

	o.warden = program;
	for (; *parts; parts++)
		assert_open_fails(w, &o, want, *parts);
}

static void tun_forbidden(struct world *w)
{
	private_mounts(0600);
	drop_privilege();
	forbidden(w, KM_EPERM,
		  (const char *const[]){"/dev/net/tun cannot be used by uid 65534", "mode is 0600",
					"chmod 0666", "--device /dev/net/tun", NULL});
}

static void tun_missing(struct world *w)
{
	private_mounts(0);
	drop_privilege();
	forbidden(w, KM_EUNSUPPORTED,
		  (const char *const[]){"/dev/net/tun is missing", "modprobe tun", NULL});
}

/* In a user namespace of our own, whose limit may be set without touching the machine's. */
static void namespaces_forbidden(struct world *w)
{
	private_mounts(0666);
	drop_privilege();
	must(!unshare(CLONE_NEWUSER), "user namespace");
	write_text("/proc/self/setgroups", "deny");
	write_text("/proc/self/uid_map", "65534 65534 1");
	write_text("/proc/self/gid_map", "65534 65534 1");
	write_text("/proc/sys/user/max_user_namespaces", "0");
	drop_capabilities();
	forbidden(w, KM_EPERM,
		  (const char *const[]){"user.max_user_namespaces is 0",
					"sysctl user.max_user_namespaces=", "run as root",
					"network = host", NULL});
}

static void test_forbidden(void **state)
{
	struct world *w = *state;

	assert_int_equal(chown(w->dir, 65534, 65534), 0);
	assert_int_equal(run_child(tun_forbidden, w), 0);
	assert_int_equal(run_child(tun_missing, w), 0);
	assert_int_equal(run_child(namespaces_forbidden, w), 0);
}

static void test_stale_socket(void **state)
{
	struct world *w = *state;

	stale_socket(&w->a);
	open_side(w, &w->a, false);
	km_privnet_close(w->a.p, false);
	open_side(w, &w->a, true);
}

static void test_host_network(void **state)
{
	struct world *w = *state;
	struct km_privnet_opts o = opts_of(w, &w->a);
	char *before = host_network(), *now;

	o.host_network = true;
	assert_int_equal(km_privnet_open(&w->a.p, &o, NULL, NULL), 0);
	set_address(&w->a);
	now = host_network();
	assert_non_null(strstr(now, "10.66.0.1/24"));
	free(now);
	km_privnet_close(w->a.p, true);
	w->a.p = NULL;
	now = host_network();
	assert_string_equal(before, now);
	free(now);
	free(before);
}

static void test_none(void **state)
{
	struct world *w = *state;
	struct km_privnet_opts o = opts_of(w, &w->a);
	struct km_privnet *p, *second;
	struct km_wg_peer_status *list;
	struct km_addr local = addr("127.0.0.1");
	struct km_prefix pre = prefix("10.66.0.1/24");
	static const uint8_t zero[KM_WG_KEY_LEN];
	size_t n;
	int fds[2];

	o.wireguard = KM_WG_NONE;
	assert_int_equal(km_privnet_open(&p, &o, NULL, NULL), 0);
	assert_int_equal(km_privnet_attach(&second, p, NULL), 0);
	assert_int_equal(km_privnet_fd(p), -1);
	assert_string_equal(km_privnet_backend(p), "none");
	assert_memory_equal(km_privnet_public_key(p), zero, sizeof(zero));
	assert_int_equal(km_privnet_addresses(p, &pre, 1, NULL), 0);
	assert_int_equal(km_privnet_peers(p, &list, &n, NULL), 0);
	assert_int_equal(n, 0);
	assert_int_equal(km_privnet_sockets(second, AF_INET, SOCK_STREAM, 0, fds, 2, NULL), 0);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(km_privnet_listen(p, &local, 8099, 1, fds, NULL), 0);
	close(fds[0]);
	km_privnet_close(second, false);
	km_privnet_close(p, true);
	assert_no_socket(&w->a);
}

/* A namespace of our own stands for the host: nothing else on the machine disturbs the comparisons.
 */
static int become_host(void)
{
	struct km_nl *nl = NULL;
	int ifindex;
	int rc = unshare(CLONE_NEWNET) || km_nl_open(&nl) || km_nl_link(nl, "lo", &ifindex) ||
		 km_nl_link_up(nl, ifindex, 0);

	km_nl_close(nl);
	return rc;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_tunnel),
	    TEST(test_peers),
	    TEST(test_changed_from_outside),
	    TEST(test_learned_endpoint),
	    TEST(test_addresses_converge),
	    TEST(test_daemon_killed),
	    TEST(test_linger),
	    TEST(test_stop_leaves_nothing),
	    TEST(test_sigterm),
	    TEST(test_warden_killed),
	    TEST(test_show),
	    TEST(test_device_deleted),
	    TEST(test_warden_hangs),
	    TEST(test_warden_is_starting),
	    TEST(test_other_settings),
	    TEST(test_sockets),
	    TEST(test_threads),
	    TEST(test_started_twice),
	    TEST(test_garbage),
	    TEST(test_bad_values),
	    TEST(test_other_user),
	    TEST(test_errors),
	    TEST(test_forbidden),
	    TEST(test_stale_socket),
	    TEST(test_host_network),
	    TEST(test_none),
	};

	const struct CMUnitTest unprivileged[] = {
	    TEST(test_no_capability),
	    TEST(test_tunnel),
	    TEST(test_peers),
	    TEST(test_changed_from_outside),
	    TEST(test_learned_endpoint),
	    TEST(test_addresses_converge),
	    TEST(test_daemon_killed),
	    TEST(test_linger),
	    TEST(test_stop_leaves_nothing),
	    TEST(test_sigterm),
	    TEST(test_warden_killed),
	    TEST(test_show),
	    TEST(test_inside_killed),
	    TEST(test_inside_orphaned),
	    TEST(test_device_deleted),
	    TEST(test_warden_hangs),
	    TEST(test_other_settings),
	    TEST(test_sockets),
	    TEST(test_threads),
	    TEST(test_started_twice),
	    TEST(test_garbage),
	    TEST(test_bad_values),
	    TEST(test_kernel_refused),
	    TEST(test_stale_socket),
	};
	int failed, status;
	pid_t pid;

	find_program();
	if (geteuid() || access("/dev/net/tun", R_OK) || become_host()) {
		fprintf(stderr, "skipped: needs root and /dev/net/tun\n");
		return 0;
	}
	cmocka_set_test_filter(getenv("KM_TEST")); /* a pattern of names */
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	pid = fork();
	if (pid == 0) {
		private_mounts(0666);
		drop_privilege();
		rootless = true;
		return cmocka_run_group_tests_name("unprivileged", unprivileged, NULL, NULL);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		failed++;
	return failed;
}
