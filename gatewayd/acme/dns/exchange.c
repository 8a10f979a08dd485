/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/exchange.h"
#include "gatewayd/acme/dns/message.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UDP_TRIES 3
#define UDP_MAX 1232
#define TCP_SECONDS 4

struct dns_exchange {
	struct event_base *base;
	struct km_addr to;
	uint16_t port;
	void (*done)(void *arg, const uint8_t *p, size_t len, const char *failed);
	void *arg;
	struct event *timer, *udp;
	struct bufferevent *tcp;
	int fd;
	unsigned tries;
	uint8_t *answer;
	size_t n;
	uint8_t msg[];
};

void dns_exchange_cancel(struct dns_exchange *x)
{
	if (!x)
		return;
	if (x->timer)
		event_free(x->timer);
	if (x->udp)
		event_free(x->udp);
	if (x->fd >= 0)
		close(x->fd);
	if (x->tcp)
		bufferevent_free(x->tcp);
	free(x->answer);
	free(x);
}

static void conclude(struct dns_exchange *x, size_t len, const char *failed)
{
	void (*done)(void *arg, const uint8_t *p, size_t len, const char *failed) = x->done;
	void *arg = x->arg;
	uint8_t *answer = x->answer;

	x->answer = NULL;
	dns_exchange_cancel(x);
	done(arg, failed ? NULL : answer, failed ? 0 : len, failed);
	free(answer);
}

static bool set_timer(struct dns_exchange *x, time_t seconds)
{
	struct timeval tv = {seconds, 0};
	return !evtimer_add(x->timer, &tv);
}

static bool is_answer(const struct dns_exchange *x, size_t len, bool *truncated)
{
	struct dns_msg m;

	if (dns_msg_parse(&m, x->answer, len) || !dns_msg_is_answer(&m))
		return false;
	*truncated = dns_msg_truncated(&m);
	return m.id == (uint16_t)(x->msg[0] << 8 | x->msg[1]);
}

/* ---- by TCP ---- */
static void on_tcp_read(struct bufferevent *bev, void *arg)
{
	struct dns_exchange *x = arg;
	struct evbuffer *in = bufferevent_get_input(bev);
	uint8_t head[2];
	bool truncated;

	if (evbuffer_copyout(in, head, 2) < 2)
		return;
	size_t len = (size_t)(head[0] << 8 | head[1]);
	if (evbuffer_get_length(in) < len + 2)
		return;
	evbuffer_drain(in, 2);
	evbuffer_remove(in, x->answer, len);
	conclude(x, len, is_answer(x, len, &truncated) ? NULL : "its answer is malformed");
}

static void on_tcp_event(struct bufferevent *bev, short what, void *arg)
{
	struct dns_exchange *x = arg;

	(void)bev;
	if (what & BEV_EVENT_ERROR)
		conclude(x, 0, strerror(EVUTIL_SOCKET_ERROR()));
	else if (what & BEV_EVENT_EOF)
		conclude(x, 0, "it closed the connection");
}

static void by_tcp(struct dns_exchange *x)
{
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, &x->to, x->port);
	uint8_t head[2] = {(uint8_t)(x->n >> 8), (uint8_t)x->n};

	if (x->udp)
		event_del(x->udp);
	x->tries = UDP_TRIES;
	x->tcp =
	    bufferevent_socket_new(x->base, -1, BEV_OPT_CLOSE_ON_FREE | BEV_OPT_DEFER_CALLBACKS);
	if (!x->tcp || !set_timer(x, TCP_SECONDS)) {
		conclude(x, 0, "no memory");
		return;
	}
	bufferevent_setcb(x->tcp, on_tcp_read, NULL, on_tcp_event, x);
	bufferevent_setwatermark(x->tcp, EV_READ, 0, DNS_MESSAGE_MAX + 2);
	if (bufferevent_write(x->tcp, head, 2) || bufferevent_write(x->tcp, x->msg, x->n) ||
	    bufferevent_enable(x->tcp, EV_READ | EV_WRITE) ||
	    bufferevent_socket_connect(x->tcp, (struct sockaddr *)&ss, (int)len))
		conclude(x, 0, "no connection could be begun");
}

/* ---- by UDP ---- */
static void on_udp(evutil_socket_t fd, short what, void *arg)
{
	struct dns_exchange *x = arg;
	ssize_t n = recv(fd, x->answer, DNS_MESSAGE_MAX, 0);
	bool truncated;

	(void)what;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		conclude(x, 0, strerror(errno));
	else if (!is_answer(x, (size_t)n, &truncated))
		return; /* not for us; the timer runs on */
	else if (truncated)
		by_tcp(x);
	else
		conclude(x, (size_t)n, NULL);
}

/* A socket of its own for each exchange, so that its port is hard to guess. */
static bool open_udp(struct dns_exchange *x)
{
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, &x->to, x->port);

	x->fd = socket(x->to.family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (x->fd < 0 || connect(x->fd, (struct sockaddr *)&ss, len))
		return false;
	x->udp = event_new(x->base, x->fd, EV_READ | EV_PERSIST, on_udp, x);
	return x->udp && !event_add(x->udp, NULL);
}

/* The first time at once; later because nothing came. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct dns_exchange *x = arg;

	(void)fd;
	(void)what;
	if (x->tries == UDP_TRIES)
		conclude(x, 0, "it does not answer");
	else if (!x->tries && x->n > UDP_MAX)
		by_tcp(x);
	else if ((!x->tries && !open_udp(x)) || send(x->fd, x->msg, x->n, 0) < 0)
		conclude(x, 0, strerror(errno));
	else if (!set_timer(x, 1 << x->tries++))
		conclude(x, 0, "no memory");
}

struct dns_exchange *
dns_exchange(struct event_base *base, const struct km_addr *to, uint16_t port, const void *msg,
	     size_t n, void (*done)(void *arg, const uint8_t *p, size_t len, const char *failed),
	     void *arg)
{
	struct dns_exchange *x = n < 2 || n > DNS_MESSAGE_MAX ? NULL : calloc(1, sizeof(*x) + n);

	if (!x)
		return NULL;
	x->base = base;
	x->to = *to;
	x->port = port;
	x->done = done;
	x->arg = arg;
	x->fd = -1;
	x->n = n;
	memcpy(x->msg, msg, n);
	x->answer = malloc(DNS_MESSAGE_MAX);
	x->timer = evtimer_new(base, on_timer, x);
	if (!x->answer || !x->timer || !set_timer(x, 0)) {
		dns_exchange_cancel(x);
		return NULL;
	}
	return x;
}
