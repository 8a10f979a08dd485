/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/query.h"
#include "libkm/base/util.h"
#include <ares.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <utlist.h>

#define TRY_MS 2000
#define TRIES 2
#define EDNS_SIZE 1232
#define SYSTEM_CONF "/etc/resolv.conf"

struct sock {
	struct event *event;
	ares_socket_t fd;
	struct sock *prev, *next;
};

struct dns {
	struct event_base *base;
	ares_channel channel;
	struct ares_addr_port_node *servers; /* NULL: the system's */
	struct timespec conf_time;           /* of SYSTEM_CONF as it was read */
	struct event *timer;                 /* c-ares wants to be called */
	struct event *deliver;               /* something is in `finished` */
	struct sock *socks;
	struct dns_query *waiting, *running, *finished;
	struct dns_orphan *orphans;
	unsigned n_running;
	bool ending;
};

struct dns_query {
	struct dns *d;
	struct dns_query **list, *prev, *next;
	void (*done)(void *arg,
		     const struct dns_reply *r); /* NULL: cancelled while c-ares has it */
	void *arg;
	uint16_t type;
	int status; /* of c-ares */
	uint8_t *reply;
	size_t n;
	char name[DNS_NAME_STRLEN];
};

static void begin(struct dns *d);
static void on_deliver(evutil_socket_t fd, short what, void *arg);

struct event_base *dns_base(struct dns *d)
{
	return d->base;
}

void dns_orphan_add(struct dns *d, struct dns_orphan *o)
{
	DL_APPEND(d->orphans, o);
}

void dns_orphan_drop(struct dns *d, struct dns_orphan *o)
{
	DL_DELETE(d->orphans, o);
}

/* ---- c-ares on the loop ---- */
static void set_timer(struct dns *d)
{
	struct timeval tv;

	if (d->n_running && ares_timeout(d->channel, NULL, &tv))
		evtimer_add(d->timer, &tv);
	else
		evtimer_del(d->timer);
}

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
	struct dns *d = arg;

	ares_process_fd(d->channel, what & EV_READ ? fd : ARES_SOCKET_BAD,
			what & EV_WRITE ? fd : ARES_SOCKET_BAD);
	begin(d);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct dns *d = arg;

	(void)fd;
	(void)what;
	ares_process_fd(d->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	begin(d);
}

static void sock_free(struct dns *d, struct sock *s)
{
	DL_DELETE(d->socks, s);
	if (s->event)
		event_free(s->event);
	free(s);
}

/* What c-ares wants to know of a socket has changed; neither: it is about to be closed. */
static void on_sock_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct dns *d = arg;
	struct sock *s = NULL;

	DL_SEARCH_SCALAR(d->socks, s, fd, fd);
	if (s)
		sock_free(d, s);
	if (!readable && !writable)
		return;
	s = km_xcalloc(1, sizeof(*s));
	s->fd = fd;
	s->event = event_new(
	    d->base, fd, (short)((readable ? EV_READ : 0) | (writable ? EV_WRITE : 0) | EV_PERSIST),
	    on_ready, d);
	DL_APPEND(d->socks, s);
	if (s->event)
		event_add(s->event, NULL);
}

static int open_channel(struct dns *d, struct km_errtext *err)
{
	struct ares_options o = {.flags = ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES | ARES_FLAG_EDNS,
				 .timeout = TRY_MS,
				 .tries = TRIES,
				 .ednspsz = EDNS_SIZE,
				 .sock_state_cb = on_sock_state,
				 .sock_state_cb_data = d};
	struct stat st;

	if (!stat(SYSTEM_CONF, &st))
		d->conf_time = st.st_mtim;
	int e = ares_init_options(&d->channel, &o,
				  ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES |
				      ARES_OPT_EDNSPSZ | ARES_OPT_SOCK_STATE_CB);
	if (e != ARES_SUCCESS) {
		d->channel = NULL;
		return km_errtext_set(err, KM_EIO, "c-ares did not start: %s", ares_strerror(e));
	}
	if (d->servers)
		e = ares_set_servers_ports(d->channel, d->servers);
	return e == ARES_SUCCESS
		   ? 0
		   : km_errtext_set(err, KM_EINVAL, "c-ares refuses the DNS servers: %s",
				    ares_strerror(e));
}

/* The system's servers may have changed while nobody asked. */
static void follow_system(struct dns *d)
{
	struct stat st;
	ares_channel before = d->channel;
	struct timespec had = d->conf_time;

	if (d->servers || d->n_running || stat(SYSTEM_CONF, &st) ||
	    (st.st_mtim.tv_sec == had.tv_sec && st.st_mtim.tv_nsec == had.tv_nsec))
		return;
	if (open_channel(d, NULL) == 0)
		ares_destroy(before);
	else
		d->channel = before;
}

static int add_server(struct ares_addr_port_node ***end, const char *text, struct km_errtext *err)
{
	struct km_addr a;
	struct km_hostport hp;
	uint16_t port = 53;

	if (km_addr_parse(&a, text)) {
		if (km_hostport_parse(&hp, text, NULL) || !hp.is_addr)
			return km_errtext_set(
			    err, KM_EINVAL,
			    "dns_resolvers: \"%s\" is not an address or address:port", text);
		a = hp.addr;
		port = hp.port;
	}
	struct ares_addr_port_node *s = km_xcalloc(1, sizeof(*s));
	s->family = a.family;
	memcpy(&s->addr, a.ip, a.family == AF_INET ? 4 : 16);
	s->udp_port = s->tcp_port = port;
	**end = s;
	*end = &s->next;
	return 0;
}

int dns_new(struct dns **out, struct event_base *base, const struct km_strlist *servers,
	    struct km_errtext *err)
{
	struct dns *d = km_xcalloc(1, sizeof(*d));
	struct ares_addr_port_node **end = &d->servers;
	int e = 0;

	d->base = base;
	if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS) {
		free(d);
		return km_errtext_set(err, KM_ENOMEM, "c-ares did not start");
	}
	for (size_t i = 0; !e && servers && i < servers->n; i++)
		e = add_server(&end, servers->items[i], err);
	d->timer = evtimer_new(base, on_timer, d);
	d->deliver = event_new(base, -1, 0, on_deliver, d);
	if (!e && (!d->timer || !d->deliver))
		e = km_errtext_set(err, KM_ENOMEM, "no memory for the resolver");
	if (!e)
		e = open_channel(d, err);
	if (e) {
		dns_free(d);
		return e;
	}
	*out = d;
	return 0;
}

/* ---- questions ---- */
static void move(struct dns_query *q, struct dns_query **to)
{
	if (q->list)
		DL_DELETE(*q->list, q);
	q->list = to;
	if (to)
		DL_APPEND(*to, q);
}

static void query_free(struct dns_query *q)
{
	move(q, NULL);
	free(q->reply);
	free(q);
}

static const char *failure(int status)
{
	switch (status) {
	case ARES_ETIMEOUT:
		return "no DNS server answered in time";
	case ARES_ECONNREFUSED: /* also when each said SERVFAIL or REFUSED: c-ares does not tell
				   them apart */
	case ARES_ESERVFAIL:
	case ARES_EREFUSED:
		return "the DNS servers failed or cannot be reached";
	case ARES_EBADNAME:
		return "it is not a name that the DNS takes";
	case ARES_EBADRESP:
		return "the DNS server's answer is malformed";
	default:
		return ares_strerror(status);
	}
}

static void tell(struct dns_query *q)
{
	struct dns_reply r = {.status = DNS_FAILED};

	if (q->status == ARES_ENODATA)
		r.status = DNS_NO_DATA;
	else if (q->status == ARES_ENOTFOUND)
		r.status = DNS_NO_NAME;
	else if (q->status != ARES_SUCCESS)
		r.failed = failure(q->status);
	else if (!q->reply || dns_msg_parse(&r.msg, q->reply, q->n))
		r.failed = failure(ARES_EBADRESP);
	else
		r.status = DNS_FOUND;
	q->done(q->arg, &r);
}

/* One at a time: whoever is told may free the whole resolver. */
static void on_deliver(evutil_socket_t fd, short what, void *arg)
{
	struct dns *d = arg;
	struct dns_query *q = d->finished;

	(void)fd;
	(void)what;
	if (!q)
		return;
	move(q, NULL);
	if (d->finished)
		event_active(d->deliver, 0, 0);
	tell(q);
	query_free(q);
}

static void on_answer(void *arg, int status, int timeouts, unsigned char *p, int n)
{
	struct dns_query *q = arg;
	struct dns *d = q->d;

	(void)timeouts;
	d->n_running--;
	if (d->ending || !q->done) {
		query_free(q);
		return;
	}
	q->status = status;
	if (p && n > 0 && n <= DNS_MESSAGE_MAX && (q->reply = malloc((size_t)n))) {
		memcpy(q->reply, p, (size_t)n);
		q->n = (size_t)n;
	}
	move(q, &d->finished);
	event_active(d->deliver, 0, 0);
}

/* Starts what may start. */
static void begin(struct dns *d)
{
	struct dns_query *q;

	while ((q = d->waiting) && d->n_running < DNS_QUERIES_MAX) {
		follow_system(d);
		move(q, &d->running);
		d->n_running++;
		ares_query(d->channel, q->name, 1, q->type, on_answer, q);
	}
	set_timer(d);
}

struct dns_query *dns_query(struct dns *d, const char *name, uint16_t type,
			    void (*done)(void *arg, const struct dns_reply *r), void *arg)
{
	struct dns_query *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->d = d;
	q->done = done;
	q->arg = arg;
	q->type = type;
	if (strlen(name) < sizeof(q->name)) {
		strcpy(q->name, name);
		move(q, &d->waiting);
	} else {
		q->status = ARES_EBADNAME;
		move(q, &d->finished);
		event_active(d->deliver, 0, 0);
	}
	begin(d);
	return q;
}

void dns_query_cancel(struct dns_query *q)
{
	if (!q)
		return;
	q->done = NULL;
	if (q->list != &q->d->running)
		query_free(q);
}

void dns_free(struct dns *d)
{
	struct dns_query *q, *tmp;
	struct dns_orphan *o;
	struct ares_addr_port_node *s;

	if (!d)
		return;
	while ((o = d->orphans)) {
		DL_DELETE(d->orphans, o);
		o->free(o);
	}
	d->ending = true;
	if (d->channel)
		ares_destroy(d->channel); /* on_answer frees what runs */
	DL_FOREACH_SAFE (d->waiting, q, tmp)
		query_free(q);
	DL_FOREACH_SAFE (d->finished, q, tmp)
		query_free(q);
	while (d->socks)
		sock_free(d, d->socks);
	while ((s = d->servers)) {
		d->servers = s->next;
		free(s);
	}
	if (d->timer)
		event_free(d->timer);
	if (d->deliver)
		event_free(d->deliver);
	ares_library_cleanup();
	free(d);
}
