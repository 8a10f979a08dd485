/* SPDX-License-Identifier: MIT */
/* A DNS server inside a test: answers from a list of records in zone-file form, by UDP and TCP, on
 * the loop of the test. Records may change while it runs. */
#ifndef TESTS_DNS_SCRIPT_H
#define TESTS_DNS_SCRIPT_H

#include <arpa/inet.h>
#include <event2/event.h>
#include <ldns/ldns.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SCRIPT_MAX 64

struct script {
	struct event_base *base;
	struct event *udp, *tcp;
	int udp_fd, tcp_fd;
	uint16_t port;
	const char *records[SCRIPT_MAX]; /* "a.example. 0 IN A 192.0.2.1"; borrowed */
	size_t n;
	const char *servfail, *silent; /* questions for this name; NULL: none */
	bool truncate;                 /* by UDP */
	unsigned asked, asked_tcp;
	struct script_conn *conns;
	void (*on_asked)(struct script *s); /* after each answer; may be NULL */
	void *arg;
};

static inline void script_add(struct script *s, const char *record)
{
	if (s->n == SCRIPT_MAX)
		abort();
	s->records[s->n++] = record;
}

static inline void script_drop(struct script *s, const char *record)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->records[i], record))
			s->records[i--] = s->records[--s->n];
}

static inline ldns_rr *script_rr(const char *text)
{
	ldns_rr *rr = NULL;
	if (ldns_rr_new_frm_str(&rr, text, 0, NULL, NULL) != LDNS_STATUS_OK) {
		fprintf(stderr, "not a record: %s\n", text);
		abort();
	}
	return rr;
}

/* Answers of one owner; a CNAME is given in place of other types, and followed one step at a time.
 */
static inline bool script_fill(struct script *s, ldns_pkt *out, ldns_rdf *name, ldns_rr_type type)
{
	bool exists = false;
	ldns_rdf *next = NULL;

	for (size_t i = 0; i < s->n; i++) {
		ldns_rr *rr = script_rr(s->records[i]);
		bool same = !ldns_dname_compare(ldns_rr_owner(rr), name);
		exists |= same || ldns_dname_is_subdomain(ldns_rr_owner(rr), name);
		if (same && ldns_rr_get_type(rr) == LDNS_RR_TYPE_CNAME &&
		    type != LDNS_RR_TYPE_CNAME)
			next = ldns_rdf_clone(ldns_rr_rdf(rr, 0));
		if (same && (ldns_rr_get_type(rr) == type || next))
			ldns_pkt_push_rr(out, LDNS_SECTION_ANSWER, rr);
		else
			ldns_rr_free(rr);
	}
	if (next && ldns_pkt_ancount(out) < 8)
		script_fill(s, out, next, type);
	ldns_rdf_deep_free(next);
	return exists;
}

static inline bool script_is(const char *name, ldns_rdf *question)
{
	char *text = name ? ldns_rdf2str(question) : NULL;
	bool same =
	    text && !strncasecmp(text, name, strlen(name)) && !strcmp(text + strlen(name), ".");
	free(text);
	return same;
}

/* The answer to a question, malloc'd by ldns; NULL: none is given. */
static inline uint8_t *script_answer(struct script *s, const uint8_t *p, size_t n, size_t *len,
				     bool udp)
{
	ldns_pkt *q = NULL, *a = ldns_pkt_new();
	uint8_t *wire = NULL;

	if (ldns_wire2pkt(&q, p, n) != LDNS_STATUS_OK)
		abort();
	ldns_rr *question = ldns_rr_list_rr(ldns_pkt_question(q), 0);
	ldns_rdf *name = ldns_rr_owner(question);
	if (!script_is(s->silent, name)) {
		ldns_pkt_set_id(a, ldns_pkt_id(q));
		ldns_pkt_set_qr(a, true);
		ldns_pkt_push_rr(a, LDNS_SECTION_QUESTION, ldns_rr_clone(question));
		if (script_is(s->servfail, name))
			ldns_pkt_set_rcode(a, LDNS_RCODE_SERVFAIL);
		else if (udp && s->truncate)
			ldns_pkt_set_tc(a, true);
		else if (!script_fill(s, a, name, ldns_rr_get_type(question)))
			ldns_pkt_set_rcode(a, LDNS_RCODE_NXDOMAIN);
		if (ldns_pkt2wire(&wire, a, len) != LDNS_STATUS_OK)
			abort();
	}
	ldns_pkt_free(a);
	ldns_pkt_free(q);
	return wire;
}

static inline void script_udp(evutil_socket_t fd, short what, void *arg)
{
	struct script *s = arg;
	struct sockaddr_storage from;
	socklen_t from_len = sizeof(from);
	uint8_t buf[4096];
	ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &from_len);
	size_t len;

	(void)what;
	if (n <= 0)
		return;
	s->asked++;
	uint8_t *wire = script_answer(s, buf, (size_t)n, &len, true);
	if (wire && sendto(fd, wire, len, 0, (struct sockaddr *)&from, from_len) != (ssize_t)len)
		abort();
	free(wire);
	if (s->on_asked)
		s->on_asked(s);
}

struct script_conn {
	struct script *s;
	struct event *event;
	struct script_conn *next;
	uint8_t buf[4096];
	size_t n;
	int fd;
};

static inline void script_hang_up(struct script_conn *c)
{
	for (struct script_conn **at = &c->s->conns; *at; at = &(*at)->next)
		if (*at == c) {
			*at = c->next;
			break;
		}
	event_free(c->event);
	close(c->fd);
	free(c);
}

static inline void script_tcp(evutil_socket_t fd, short what, void *arg)
{
	struct script_conn *c = arg;
	ssize_t got = read(fd, c->buf + c->n, sizeof(c->buf) - c->n);
	uint8_t head[2], *wire;
	size_t len = 0, n;

	(void)what;
	if (got <= 0) {
		script_hang_up(c);
		return;
	}
	c->n += (size_t)got;
	while (c->n >= 2 && c->n >= (n = 2u + (size_t)(c->buf[0] << 8 | c->buf[1]))) {
		c->s->asked_tcp++;
		wire = script_answer(c->s, c->buf + 2, n - 2, &len, false);
		head[0] = (uint8_t)(len >> 8);
		head[1] = (uint8_t)len;
		if (wire && (write(fd, head, 2) != 2 || write(fd, wire, len) != (ssize_t)len))
			abort();
		free(wire);
		memmove(c->buf, c->buf + n, c->n -= n);
	}
}

static inline void script_accept(evutil_socket_t fd, short what, void *arg)
{
	struct script *s = arg;
	struct script_conn *c = calloc(1, sizeof(*c));

	(void)what;
	c->s = s;
	c->fd = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (c->fd < 0) {
		free(c);
		return;
	}
	c->next = s->conns;
	s->conns = c;
	c->event = event_new(s->base, c->fd, EV_READ | EV_PERSIST, script_tcp, c);
	event_add(c->event, NULL);
}

/* On 127.0.0.1 or another loopback address; port 0: any. */
static inline void script_start(struct script *s, struct event_base *base, const char *address,
				uint16_t port)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
	socklen_t len = sizeof(sa);

	s->base = base;
	inet_pton(AF_INET, address, &sa.sin_addr);
	for (int tries = 0;; tries++) {
		s->tcp_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		s->udp_fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		setsockopt(s->tcp_fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
		if (!bind(s->tcp_fd, (struct sockaddr *)&sa, sizeof(sa)) && !listen(s->tcp_fd, 8) &&
		    !getsockname(s->tcp_fd, (struct sockaddr *)&sa, &len) &&
		    !bind(s->udp_fd, (struct sockaddr *)&sa, sizeof(sa)))
			break;
		if (tries == 20) {
			perror("a DNS server for the test");
			abort();
		}
		close(s->tcp_fd);
		close(s->udp_fd);
		sa.sin_port = htons(port);
	}
	s->port = ntohs(sa.sin_port);
	s->udp = event_new(base, s->udp_fd, EV_READ | EV_PERSIST, script_udp, s);
	s->tcp = event_new(base, s->tcp_fd, EV_READ | EV_PERSIST, script_accept, s);
	event_add(s->udp, NULL);
	event_add(s->tcp, NULL);
}

static inline void script_stop(struct script *s)
{
	if (!s->udp)
		return;
	while (s->conns)
		script_hang_up(s->conns);
	event_free(s->udp);
	event_free(s->tcp);
	close(s->udp_fd);
	close(s->tcp_fd);
	s->udp = NULL;
}

#endif
