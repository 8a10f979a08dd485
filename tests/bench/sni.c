/* SPDX-License-Identifier: MIT */
/* Strangers at an edge: handshakes for names that nobody serves, so many a second, and beside them
 * whole handshakes for a name that is served, whose time is taken from when each was due. Prints one
 * line of JSON. usage: bench-sni PORT NAME SECONDS UNKNOWN/s KNOWN/s */
#include "libkm/base/util.h"
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OPEN_MAX_NOW 2000
#define MARK "00000000"
#define STUCK_US 10000000

static uint16_t port;
static const char *name;
static double seconds, unknown_rate, known_rate;

static int64_t now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static struct sockaddr_in edge(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

/* ---- times ---- */

struct times {
	uint32_t *us;
	size_t n, max, failed;
};

static void times_add(struct times *t, int64_t us)
{
	if (t->n < t->max)
		t->us[t->n++] = (uint32_t)us;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static json_t *times_json(struct times *t)
{
	qsort(t->us, t->n, sizeof(*t->us), by_size);
#define AT(part) (t->n ? t->us[(size_t)((double)(t->n - 1) * (part))] / 1000.0 : 0.0)
	return json_pack("{s:I, s:I, s:f, s:f, s:f}", "n", (json_int_t)t->n, "failed",
			 (json_int_t)t->failed, "p50_ms", AT(0.5), "p99_ms", AT(0.99), "max_ms", AT(1.0));
}

static void times_make(struct times *t, double rate)
{
	t->max = (size_t)(rate * seconds) + 1000;
	if (!(t->us = calloc(t->max, sizeof(*t->us))))
		errx(1, "no memory");
}

/* ---- the known ---- */

static bool shake(SSL_CTX *ctx)
{
	struct sockaddr_in to = edge();
	SSL *ssl = SSL_new(ctx);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool ok = ssl && fd >= 0 && !connect(fd, (struct sockaddr *)&to, sizeof(to)) &&
		  SSL_set_fd(ssl, fd) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1 &&
		  SSL_connect(ssl) == 1;
	SSL_free(ssl);
	close(fd);
	return ok;
}

static void *known(void *arg)
{
	struct times *t = arg;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	int64_t begin = now_us();
	for (size_t i = 0; (double)i < known_rate * seconds; i++) {
		int64_t due = begin + (int64_t)((double)i * 1e6 / known_rate), left = due - now_us();
		if (left > 0)
			usleep((useconds_t)left);
		if (shake(ctx))
			times_add(t, now_us() - due);
		else
			t->failed++;
	}
	SSL_CTX_free(ctx);
	return NULL;
}

/* ---- the unknown ---- */

struct flood {
	int epoll;
	uint8_t hello[1024];
	size_t len, mark; /* where the name is changed */
	size_t made, open;
	struct times times;
};
struct one {
	int fd;
	bool sent;
	int64_t began;
};

static void hello_make(struct flood *f)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	SSL_set_tlsext_host_name(ssl, MARK ".nobody.test");
	SSL_set_bio(ssl, in, out);
	SSL_connect(ssl);
	f->len = (size_t)BIO_read(out, f->hello, sizeof(f->hello));
	const uint8_t *at = memmem(f->hello, f->len, MARK ".nobody", strlen(MARK ".nobody"));
	if (!at)
		errx(1, "no ClientHello");
	f->mark = (size_t)(at - f->hello);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
}

static void one_end(struct flood *f, struct one *o, bool refused)
{
	struct linger reset = {1, 0}; /* leaves no TIME_WAIT, of which there would be 100,000 */
	if (refused)
		times_add(&f->times, now_us() - o->began);
	else
		f->times.failed++;
	setsockopt(o->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(o->fd);
	free(o);
	f->open--;
}

static void one_begin(struct flood *f)
{
	struct sockaddr_in to = edge(), from = {.sin_family = AF_INET};
	struct one *o = calloc(1, sizeof(*o));
	int one = 1;
	if (!o || (o->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
		err(1, "socket");
	/* Many sources, so that no port is used again soon. */
	from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 256 + (uint32_t)(f->made % 250));
	setsockopt(o->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	if (bind(o->fd, (struct sockaddr *)&from, sizeof(from)))
		err(1, "bind");
	o->began = now_us();
	f->made++;
	f->open++;
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = o};
	if (epoll_ctl(f->epoll, EPOLL_CTL_ADD, o->fd, &e))
		err(1, "epoll_ctl");
	if (connect(o->fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS)
		err(1, "connect");
}

static void one_go_on(struct flood *f, struct one *o, uint32_t events)
{
	static const uint8_t alert[] = {0x15, 0x03, 0x03, 0x00, 0x02, 0x02, SSL_AD_UNRECOGNIZED_NAME};
	uint8_t got[64], hex[9];
	if ((events & EPOLLOUT) && !o->sent) {
		snprintf((char *)hex, sizeof(hex), "%08x", (unsigned)f->made);
		memcpy(f->hello + f->mark, hex, 8);
		o->sent = send(o->fd, f->hello, f->len, MSG_NOSIGNAL) == (ssize_t)f->len;
	}
	ssize_t n = recv(o->fd, got, sizeof(got), 0);
	if (n < 0 && errno == EAGAIN && !(events & (EPOLLERR | EPOLLHUP)))
		return;
	one_end(f, o, n >= (ssize_t)sizeof(alert) && !memcmp(got, alert, sizeof(alert)));
}

static void flood(struct flood *f)
{
	struct epoll_event events[256];
	int64_t begin = now_us(), end = begin + (int64_t)(seconds * 1e6);
	while (now_us() < end || (f->open && now_us() < end + STUCK_US)) {
		size_t due = (size_t)((double)(now_us() - begin) * unknown_rate / 1e6);
		while (now_us() < end && f->made < due && f->open < OPEN_MAX_NOW)
			one_begin(f);
		int n = epoll_wait(f->epoll, events, 256, 1);
		for (int i = 0; i < n; i++)
			one_go_on(f, events[i].data.ptr, events[i].events);
	}
	f->times.failed += f->open;
}

int main(int argc, char **argv)
{
	struct flood f = {.epoll = epoll_create1(EPOLL_CLOEXEC)};
	struct times k = {0};
	pthread_t thread;
	if (argc != 6)
		errx(2, "usage: bench-sni PORT NAME SECONDS UNKNOWN/s KNOWN/s");
	signal(SIGPIPE, SIG_IGN);
	port = (uint16_t)atoi(argv[1]);
	name = argv[2];
	seconds = atof(argv[3]);
	unknown_rate = atof(argv[4]);
	known_rate = atof(argv[5]);
	times_make(&k, known_rate);
	times_make(&f.times, unknown_rate);
	hello_make(&f);
	if (pthread_create(&thread, NULL, known, &k))
		errx(1, "no thread");
	if (unknown_rate > 0)
		flood(&f);
	pthread_join(thread, NULL);
	json_t *all = json_pack("{s:o, s:o}", "known", times_json(&k), "unknown", times_json(&f.times));
	json_dumpf(all, stdout, 0);
	puts("");
	json_decref(all);
	free(k.us);
	free(f.times.us);
	return 0;
}
