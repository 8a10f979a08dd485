/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/edge.h"
#include "gatewayd/edge/access_log.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/front_h2.h"
#include "gatewayd/edge/listen.h"
#include "gatewayd/edge/worker.h"
#include "gatewayd/upstream/tls.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* How long handshakes that had begun may take to reach the accept queue when draining. */
#define SETTLE_MS 300
#define SPARE_FDS 512

struct edge {
	struct edge_shared sh;
	struct event_base *base;
	struct listener *listeners;
	size_t n_listeners;
	struct worker_thread **workers;
	size_t n_workers, unlistened, drained;
	struct event *notes, *settled, *late;
	bool draining;
	bool (*asked)(void *arg, const char *domain);
	void *asked_arg;
	_Atomic uint32_t asks; /* in to_main, where other notes must find room */
	void (*done)(void *arg);
	void *done_arg;
};

static void listeners_close(struct edge *e)
{
	for (size_t i = 0; i < e->n_listeners; i++)
		close(e->listeners[i].fd);
	e->n_listeners = 0;
}

/* ---- handshakes that wait for a certificate ---- */

/* On a worker's thread. */
static bool ask_main(void *arg, const char *domain)
{
	struct edge *e = arg;
	size_t size = strlen(domain) + 1;
	struct worker_ask *a = atomic_load(&e->asks) < WAITS_MAX ? malloc(sizeof(*a) + size) : NULL;
	if (!a)
		return false;
	a->note.event = WORKER_ASKS;
	memcpy(a->domain, domain, size);
	atomic_fetch_add(&e->asks, 1);
	if (!km_mailbox_put(e->sh.to_main, a))
		return true;
	atomic_fetch_sub(&e->asks, 1);
	free(a);
	return false;
}

static void note_drop(void *item)
{
	struct worker_note *n = item;
	if (n->event == WORKER_ASKS)
		free(n);
}

static void on_asked(struct edge *e, struct worker_ask *a)
{
	atomic_fetch_sub(&e->asks, 1);
	if (!e->asked(e->asked_arg, a->domain))
		edge_certificate_settled(e, a->domain, false);
	free(a);
}

void edge_certificate_settled(struct edge *e, const char *domain, bool ok)
{
	if (!e->sh.waits || !waits_settle(e->sh.waits, domain, ok, km_now_ms()))
		return;
	for (size_t i = 0; i < e->n_workers; i++)
		worker_wake(e->workers[i]);
}

/* ---- draining ---- */

static void on_note(evutil_socket_t fd, short what, void *arg)
{
	struct edge *e = arg;
	struct worker_note *n;
	(void)fd, (void)what;
	while ((n = km_mailbox_take(e->sh.to_main))) {
		if (n->event == WORKER_ASKS) {
			on_asked(e, (struct worker_ask *)n);
			continue;
		}
		if (n->event == WORKER_UNLISTENED && ++e->unlistened == e->n_workers)
			listeners_close(e);
		if (n->event == WORKER_DRAINED && ++e->drained == e->n_workers && e->done)
			e->done(e->done_arg);
	}
}

static void on_settled(evutil_socket_t fd, short what, void *arg)
{
	struct edge *e = arg;
	(void)fd, (void)what;
	for (size_t i = 0; i < e->n_workers; i++)
		worker_unlisten(e->workers[i]);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
	struct edge *e = arg;
	(void)fd, (void)what;
	km_warn("draining took too long, cutting", km_ki("connections", atomic_load(&e->sh.conns)));
	edge_cut(e);
}

static struct timeval tv_of(int64_t ms)
{
	return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (ms % 1000) * 1000};
}

void edge_drain(struct edge *e, void (*done)(void *arg), void *arg)
{
	struct timeval settle = tv_of(SETTLE_MS);
	struct timeval late = tv_of(e->sh.settings->drain_timeout + SETTLE_MS);
	if (e->draining)
		return;
	e->draining = true;
	e->done = done;
	e->done_arg = arg;
	for (size_t i = 0; i < e->n_listeners; i++)
		listen_refuse(e->listeners[i].fd);
	for (size_t i = 0; i < e->n_workers; i++)
		worker_drain(e->workers[i]);
	(void)event_add(e->settled, &settle);
	(void)event_add(e->late, &late);
}

void edge_cut(struct edge *e)
{
	for (size_t i = 0; i < e->n_workers; i++)
		worker_cut(e->workers[i]);
}

/* ---- what is seen from outside ---- */

void edge_reopen_logs(struct edge *e)
{
	if (e)
		access_log_reopen(e->sh.access);
}

/* The sums over all workers. */
static int metrics_print(void *arg, struct km_buf *out)
{
	static const char took[] = "kakuremichi_request_duration_seconds",
			  first[] = "kakuremichi_first_byte_seconds",
			  waited[] = "kakuremichi_upstream_wait_seconds";
	struct edge *e = arg;
	struct counts_sum all = {0}, to_first = {0}, in_queue = {0};
	for (size_t i = 0; i < e->sh.stats_taken; i++) {
		counts_sum_add(&all, &e->sh.stats[i].requests);
		counts_sum_add(&to_first, &e->sh.stats[i].first);
		counts_sum_add(&in_queue, &e->sh.stats[i].waited);
	}
	int rc = counts_print_head(out, "kakuremichi_responses_total", "counter",
				   "Requests answered, by class of status; 4xx has those whose clients had gone.");
	if (!rc)
		rc = counts_print_classes(out, "kakuremichi_responses_total", "", &all, true);
	if (!rc)
		rc = counts_print_head(out, took, "histogram",
				       "From a request's head to the end of its answer, but for upgraded ones.");
	if (!rc)
		rc = counts_print_histogram(out, took, "", &all);
	if (!rc)
		rc = counts_print_head(out, first, "histogram",
				       "From a request's head to the first byte of its target's answer.");
	if (!rc)
		rc = counts_print_histogram(out, first, "", &to_first);
	if (!rc)
		rc = counts_print_head(out, waited, "histogram",
				       "For how long requests that got a connection to their target had waited for it.");
	return rc ? rc : counts_print_histogram(out, waited, "", &in_queue);
}

/* ---- start ---- */

/* On each of these addresses, like l. */
static int listeners_of(struct edge *e, const struct km_strlist *where, struct listener l,
			struct km_errtext *err)
{
	for (size_t i = 0; i < where->n; i++) {
		uint16_t port;
		int rc = listen_open(&l.fd, &port, where->items[i], err);
		if (rc)
			return rc;
		/* Behind a load balancer strangers see its port. */
		if (e->n_listeners == 0 && l.secure && !l.proxied)
			e->sh.https_port = port;
		e->listeners[e->n_listeners++] = l;
	}
	return 0;
}

static int listeners_open(struct edge *e, struct km_errtext *err)
{
	const struct gw_settings *s = e->sh.settings;
	const struct {
		const struct km_strlist *where;
		bool secure, proxied;
	} kinds[] = {{&s->https_listen, true, false},
		     {&s->proxy_https_listen, true, true},
		     {&s->http_listen, false, false},
		     {&s->proxy_http_listen, false, true}};
	size_t n = 0;
	for (size_t k = 0; k < KM_ARRAY_LEN(kinds); k++)
		n += kinds[k].where->n;
	e->listeners = calloc(n ? n : 1, sizeof(*e->listeners));
	if (!e->listeners)
		return KM_ENOMEM;
	for (size_t k = 0; k < KM_ARRAY_LEN(kinds); k++) {
		const struct listener l = {.secure = kinds[k].secure, .proxied = kinds[k].proxied};
		int rc = listeners_of(e, kinds[k].where, l, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* How many connections the limit of descriptors bears; raises it first. Each may need two, but most wait for
 * a request and need one: of a limit that cannot be raised a third is left for targets. */
static int64_t connections_bearable(int64_t wanted)
{
	struct rlimit r;
	rlim_t want = (rlim_t)wanted * 2 + SPARE_FDS;
	if (getrlimit(RLIMIT_NOFILE, &r) || r.rlim_cur >= want)
		return wanted;
	struct rlimit more = {want, r.rlim_max < want ? want : r.rlim_max};
	if (!setrlimit(RLIMIT_NOFILE, &more))
		return wanted;
	r.rlim_cur = r.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &r);
	int64_t bears =
	    r.rlim_cur > 2 * SPARE_FDS ? (int64_t)(r.rlim_cur - SPARE_FDS) / 3 * 2 : SPARE_FDS;
	km_warn("max_connections is more than the limit of descriptors bears",
		km_ki("wanted", wanted), km_ki("used", bears));
	return bears;
}

static void metrics_make(struct edge_shared *sh)
{
#define COUNTER(name, help) km_metric(KM_METRIC_COUNTER, "kakuremichi_" name, "", help)
#define REFUSED(why)                                                                               \
	km_metric(KM_METRIC_COUNTER, "kakuremichi_connections_refused_total", "reason=\"" why "\"",  \
		  "Connections closed at once: too many of an address, or no proper PROXY header.")
#define SLOW(what)                                                                                 \
	km_metric(KM_METRIC_COUNTER, "kakuremichi_slow_clients_total", "what=\"" what "\"",           \
		  "Requests ended because the client sent or read too slowly.")
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_connections_max", "",
				"So many there may be: max_connections, or what the limit of "
				"descriptors bears."),
		      sh->max_conns);
	sh->m_conns = km_metric(KM_METRIC_GAUGE, "kakuremichi_connections", "",
				"Open connections of strangers.");
	sh->m_accepted = COUNTER("connections_total", "Connections accepted from strangers.");
	sh->m_requests = COUNTER("requests_total", "Heads of requests received.");
	sh->m_bad = COUNTER("bad_requests_total", "Requests refused as malformed or too large.");
	sh->m_bytes_in = COUNTER("request_bytes_total", "Bytes of request bodies passed on.");
	sh->m_bytes_out = COUNTER("response_bytes_total", "Bytes of response bodies passed on.");
	static const char *const failures[UP_FAILURES] = {
	    [UP_QUEUE] = "reason=\"queue\"",       [UP_CONNECT] = "reason=\"connect\"",
	    [UP_SILENT] = "reason=\"silent\"",     [UP_TIMEOUT] = "reason=\"timeout\"",
	    [UP_PROTOCOL] = "reason=\"protocol\"", [UP_BROKEN] = "reason=\"broken\"",
	    [UP_LOST] = "reason=\"lost\""};
	for (size_t i = 0; i < UP_FAILURES; i++)
		sh->m_upstream_errors[i] =
		    km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_errors_total", failures[i],
			      "Requests to which the target gave no whole answer, by reason.");
	sh->m_repeated = COUNTER("upstream_repeated_total",
				 "Requests sent once more because the target had not processed them, or "
				 "may process them twice.");
	sh->m_handshake_errors = COUNTER("tls_handshake_errors_total", "Failed TLS handshakes.");
	sh->m_paused =
	    COUNTER("accept_paused_total", "Times that accepting was paused for lack of room.");
	sh->m_refused[REFUSED_ADDRESS] = REFUSED("address");
	sh->m_refused[REFUSED_PROXY] = REFUSED("proxy");
	sh->m_limited =
	    COUNTER("requests_limited_total", "Requests refused because a rate was reached (429).");
	sh->m_looped = COUNTER("requests_looped_total",
			       "Requests refused because they came round again (508).");
	sh->m_shed = COUNTER("connections_shed_total",
			     "Idle connections closed early, so that others have room.");
	sh->m_slow[0] = SLOW("sending");
	sh->m_slow[1] = SLOW("reading");
	sh->m_passed = km_metric(KM_METRIC_COUNTER, "kakuremichi_passthrough_total", "",
				 "Connections whose TLS the target ends itself.");
	sh->m_gathering = km_metric(KM_METRIC_GAUGE, "kakuremichi_requests_gathering", "",
				    "Requests whose body is awaited before their target is asked.");
	sh->m_waiting = km_metric(KM_METRIC_GAUGE, "kakuremichi_tls_waiting", "",
				  "Handshakes that wait for a certificate.");
	sh->m_challenged =
	    km_metric(KM_METRIC_COUNTER, "kakuremichi_acme_challenges_answered_total",
		      "type=\"http-01\"", "Challenges of CAs answered.");
#undef SLOW
#undef REFUSED
#undef COUNTER
}

static int access_start(struct edge *e, size_t lanes)
{
	const struct gw_settings *s = e->sh.settings;
	bool journal = s->access_log && !strcmp(s->access_log, "journald");
	struct access_log_opts o = {.format = journal ? ACCESS_JOURNAL
						      : (enum access_format)s->access_log_format,
				    .path = journal ? ACCESS_JOURNAL_SOCKET : s->access_log,
				    .of_2_32 = 1ULL << 32,
				    .query = s->access_log_query,
				    .lanes = lanes};
	if (!s->access_log || !strcmp(s->access_log, "off"))
		return 0;
	if (s->access_log_sample && access_sample_parse(&o.of_2_32, s->access_log_sample))
		return KM_EINVAL;
	return access_log_start(&e->sh.access, &o);
}

/* What is asked of every request, as the settings have it. */
static int policy_make(struct edge_shared *sh, struct km_errtext *err)
{
	const struct gw_settings *s = sh->settings;
	const struct byaddr_opts addresses = {
	    .max = LIMIT_ADDRESSES, .value = sizeof(int64_t), .evict = true};
	int rc = client_trust_parse(&sh->trust, s->trusted_proxies.items, s->trusted_proxies.n);
	if (!rc)
		rc = limit_parse(&sh->rates.rate, s->rate_limit);
	if (!rc)
		rc = limit_parse(&sh->rates.address_rate, s->address_rate_limit);
	if (!rc && !(sh->rates.addresses = byaddr_new(&addresses)))
		rc = KM_ENOMEM;
	return rc ? km_errtext_set(err, rc, "trusted_proxies, rate limits: %s", km_strerror(rc))
		  : 0;
}

static size_t workers_wanted(const struct gw_settings *s)
{
	long cores = s->workers ? s->workers : sysconf(_SC_NPROCESSORS_ONLN);
	return cores > 0 ? (size_t)cores : 1;
}

static int workers_start(struct edge *e, const struct km_privnet *net, struct km_errtext *err)
{
	size_t n = workers_wanted(e->sh.settings);
	if (!(e->workers = calloc(n, sizeof(*e->workers))) ||
	    !(e->sh.stats = calloc(n, sizeof(*e->sh.stats))) ||
	    !(e->sh.slots = slots_hub_new(n)) || access_start(e, n))
		return KM_ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct km_privnet *own;
		int rc = km_privnet_attach(&own, net, err);
		if (rc)
			return rc;
		rc = worker_start(&e->workers[i], &e->sh, e->listeners, e->n_listeners, own);
		if (rc) {
			km_privnet_close(own, false);
			return rc;
		}
		e->n_workers++;
	}
	return 0;
}

int edge_start(struct edge **out, const struct edge_opts *o, struct km_errtext *err)
{
	const struct gw_settings *s = o->settings;
	struct event_base *base = o->base;
	struct edge *e = calloc(1, sizeof(*e));
	int rc = KM_ENOMEM;
	*err = (struct km_errtext){"no memory"};
	if (!e)
		return KM_ENOMEM;
	e->base = base;
	e->sh.settings = s;
	e->sh.routes = o->routes;
	e->sh.challenges = o->challenges;
	e->sh.https_port = 443;
	e->sh.limits =
	    (struct http_limits){(size_t)s->max_header_size, (size_t)s->max_header_fields};
	/* A head, what the gateway adds to it, and what was read together with it. */
	e->sh.buf_max = 2 * (size_t)s->max_header_size + 2 * CONN_HIGH;
	e->sh.max_conns = connections_bearable(s->max_connections);
	metrics_make(&e->sh);
	e->sh.pace = (struct pace_rule){s->body_timeout, s->body_min_rate};
	e->asked = o->asked;
	e->asked_arg = o->arg;
	if ((rc = policy_make(&e->sh, err)))
		goto fail;
	rc = KM_ENOMEM;
	if (!(e->sh.admit = admit_new(s, e->sh.max_conns)))
		goto fail;
	if (s->http2 && !(e->sh.h2 = h2_shared_new(s)))
		goto fail;
	if (o->asked && s->acme_wait && !(e->sh.waits = waits_new()))
		goto fail;
	const struct tls_opts tls = {.routes = o->routes,
				     .certs = o->certs,
				     .challenges = o->challenges,
				     .waits = e->sh.waits,
				     .ask = ask_main,
				     .http2 = s->http2,
				     .records = s->tls_record_layer == GW_RECORDS_OWN,
				     .arg = e};
	if (!(e->sh.to_main = km_mailbox_new(2 * WAITS_MAX)) || !(e->sh.tls = tls_new(&tls)) ||
	    !(e->sh.up_tls = up_tls_new()) ||
	    !(e->notes = event_new(base, km_mailbox_fd(e->sh.to_main), EV_READ | EV_PERSIST,
				   on_note, e)) ||
	    !(e->settled = event_new(base, -1, 0, on_settled, e)) ||
	    !(e->late = event_new(base, -1, 0, on_late, e)) || event_add(e->notes, NULL))
		goto fail;
	if ((rc = listeners_open(e, err)) || (rc = workers_start(e, o->net, err)))
		goto fail;
	km_metrics_also(metrics_print, e);
	*out = e;
	return 0;
fail:
	edge_free(e);
	return rc;
}

int edge_net(struct edge *e, const struct km_privnet *net, struct km_errtext *err)
{
	for (size_t i = 0; i < e->n_workers; i++) {
		struct km_privnet *own;
		int rc = km_privnet_attach(&own, net, err);
		if (rc)
			return rc;
		if ((rc = worker_net(e->workers[i], own))) {
			km_privnet_close(own, false);
			return km_errtext_set(err, rc, "worker: %s", km_strerror(rc));
		}
	}
	return 0;
}

void edge_agent_gone(struct edge *e, const struct km_addr *agent)
{
	for (size_t i = 0; i < e->n_workers; i++)
		worker_agent_gone(e->workers[i], agent);
}

void edge_free(struct edge *e)
{
	if (!e)
		return;
	km_metrics_also(NULL, e);
	for (size_t i = 0; i < e->n_workers; i++)
		worker_free(e->workers[i]);
	free(e->workers);
	access_log_free(e->sh.access);
	free(e->sh.stats);
	listeners_close(e);
	free(e->listeners);
	if (e->notes)
		event_free(e->notes);
	if (e->settled)
		event_free(e->settled);
	if (e->late)
		event_free(e->late);
	tls_free(e->sh.tls);
	up_tls_free(e->sh.up_tls);
	slots_hub_free(e->sh.slots);
	h2_shared_free(e->sh.h2);
	waits_free(e->sh.waits);
	admit_free(e->sh.admit);
	byaddr_free(e->sh.rates.addresses);
	free(e->sh.trust.proxies);
	km_mailbox_free(e->sh.to_main, note_drop);
	free(e);
}
