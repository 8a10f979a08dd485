/* SPDX-License-Identifier: MIT */
#include "agentd/health/pinger.h"
#include "libkm/base/util.h"
#include <arpa/inet.h>
#include <netinet/ip_icmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NONCE_LEN 8
#define IP_HEADER 20

struct pinger {
	int fd;
	struct event *event;
	uint16_t sequence;
	uint8_t nonce[NONCE_LEN]; /* only who got a request can answer */
	void (*reply)(void *arg, const struct km_addr *from, size_t size);
	void *arg;
};

struct echo {
	struct icmphdr head;
	uint8_t nonce[NONCE_LEN];
	uint8_t padding[PINGER_MOST - IP_HEADER - NONCE_LEN - sizeof(struct icmphdr)];
};
#define ECHO_LEN offsetof(struct echo, padding)

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
	struct pinger *p = arg;

	(void)what;
	for (;;) {
		struct sockaddr_storage ss;
		socklen_t len = sizeof(ss);
		struct km_addr from;
		struct echo e;
		ssize_t n = recvfrom(fd, &e, sizeof(e), MSG_DONTWAIT, (struct sockaddr *)&ss, &len);

		if (n < 0)
			return;
		if (n >= (ssize_t)ECHO_LEN && e.head.type == ICMP_ECHOREPLY &&
		    memcmp(e.nonce, p->nonce, NONCE_LEN) == 0 &&
		    km_addr_from_sa(&from, NULL, (struct sockaddr *)&ss) == 0)
			p->reply(p->arg, &from, (size_t)n + IP_HEADER);
	}
}

struct pinger *pinger_new(struct event_base *base, int fd,
			  void (*reply)(void *arg, const struct km_addr *from, size_t size),
			  void *arg)
{
	struct pinger *p = calloc(1, sizeof(*p));
	const int probe = IP_PMTUDISC_PROBE;

	if (!p) {
		close(fd);
		return NULL;
	}
	p->fd = fd;
	(void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &probe, sizeof(probe));
	p->reply = reply;
	p->arg = arg;
	km_random(p->nonce, sizeof(p->nonce));
	p->event = event_new(base, fd, EV_READ | EV_PERSIST, on_readable, p);
	if (!p->event || event_add(p->event, NULL) != 0) {
		pinger_free(p);
		return NULL;
	}
	return p;
}

void pinger_free(struct pinger *p)
{
	if (!p)
		return;
	if (p->event)
		event_free(p->event);
	close(p->fd);
	free(p);
}

void pinger_send(struct pinger *p, const struct km_addr *to, size_t size)
{
	struct echo e = {.head = {.type = ICMP_ECHO}};
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, to, 0);
	size_t n = size > IP_HEADER + ECHO_LEN ? size - IP_HEADER : ECHO_LEN;

	if (to->family != AF_INET)
		return;
	e.head.un.echo.sequence = htons(++p->sequence);
	memcpy(e.nonce, p->nonce, NONCE_LEN);
	/* No route, a full queue: the reply that does not come tells it. */
	if (sendto(p->fd, &e, n < sizeof(e) ? n : sizeof(e), MSG_DONTWAIT | MSG_NOSIGNAL,
		   (struct sockaddr *)&ss, len) < 0)
		return;
}
