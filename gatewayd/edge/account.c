/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/account.h"
#include "gatewayd/edge/access_log.h"
#include "gatewayd/edge/conn.h"
#include <stdlib.h>
#include <string.h>

#define STATUS_GONE 499 /* no status of HTTP: the client was gone before there was one */

/* What the log will say of a request whose head is no more when it ends. */
struct access_note {
	uint8_t major, minor;
	struct http_str method, host, path, agent, referer; /* in bytes */
	char bytes[];
};

const char *account_reason(int status)
{
	switch (status) {
	case 200:
		return "challenge";
	case 400:
		return "bad request";
	case 404:
		return "no tunnel";
	case 408:
		return "timeout";
	case 413:
		return "body too large";
	case 421:
		return "misdirected";
	case 429:
		return "rate limit";
	case 503:
		return "unavailable";
	case 508:
		return "loop";
	default:
		return status >= 300 && status < 400 ? "redirect" : "refused";
	}
}

/* ---- begin ---- */

static struct http_str field_value(const struct http_request *r, const char *name)
{
	for (size_t i = 0; i < r->n_fields; i++)
		if (http_str_is(r->fields[i].name, name))
			return r->fields[i].value;
	return (struct http_str){0};
}

/* One byte more than the log shows lets it see that there was more. */
static struct http_str bound(struct http_str s, size_t max)
{
	return (struct http_str){s.p, s.n > max ? max + 1 : s.n};
}

static struct http_str keep(char **p, struct http_str s)
{
	struct http_str kept = {*p, s.n};
	if (s.n)
		memcpy(*p, s.p, s.n);
	*p += s.n;
	return kept;
}

static struct access_note *note_new(const struct http_request *r)
{
	struct http_str method = bound(r->method, HTTP_METHOD_MAX);
	struct http_str host = {r->host, strlen(r->host)};
	struct http_str path = bound(r->target, ACCESS_PATH_MAX);
	struct http_str agent = bound(field_value(r, "user-agent"), ACCESS_AGENT_MAX);
	struct http_str referer = bound(field_value(r, "referer"), ACCESS_REFERER_MAX);
	struct access_note *n =
	    malloc(sizeof(*n) + method.n + host.n + 1 + path.n + agent.n + referer.n);
	if (!n)
		return NULL;
	char *p = n->bytes;
	n->major = r->major ? r->major : 1;
	n->minor = r->minor;
	n->method = keep(&p, method);
	n->host = keep(&p, host);
	n->path = (struct http_str){p, path.n};
	if (r->target_query || !path.n) {
		*p++ = '/';
		n->path.n++;
	}
	keep(&p, path);
	n->agent = keep(&p, agent);
	n->referer = keep(&p, referer);
	return n;
}

void account_begin(struct exchange *x, const struct http_request *r)
{
	if (!x->began)
		x->began = x->c->w->now;
	if (x->c->w->lane && r && !x->note)
		x->note = note_new(r);
}

void account_pass(struct exchange *x, const char *sni)
{
	size_t n = strlen(sni);
	struct access_note *note;
	x->passes = true;
	x->began = x->c->w->now;
	if (!x->c->w->lane || !(note = calloc(1, sizeof(*note) + n)))
		return;
	char *p = note->bytes;
	note->host = keep(&p, (struct http_str){sni, n});
	x->note = note;
}

/* ---- end ---- */

static void log_it(struct exchange *x, int status)
{
	struct conn *c = x->c;
	int64_t took = c->w->now - x->began;
	struct access_entry e = {
	    .wall_ms = c->w->wall_ahead + x->began,
	    .client = *exchange_client(x),
	    .status = status,
	    .bytes_in = x->bytes_in,
	    .bytes_out = x->bytes_out,
	    .duration_ms = took,
	    .first_byte_ms = x->first_byte ? x->first_byte - x->began : -1,
	    .tunnel = x->active ? x->route.tunnel : NULL,
	    .upstream = x->upstream,
	    .tls = x->passes ? "passthrough" : io_version(&c->io),
	    .error = x->error,
	};
	const struct access_note *n = x->note;
	if (n) {
		e.major = n->major;
		e.minor = n->minor;
		e.method = n->method;
		e.host = n->host;
		e.path = n->path;
		e.agent = n->agent;
		e.referer = n->referer;
	}
	access_put(c->w->lane, &e);
}

static void count(struct exchange *x, int status)
{
	struct account_stats *all = x->c->w->stats;
	struct counts *tunnel = x->active ? &x->route.state->counts : NULL;
	int64_t took = x->c->w->now - x->began;
	counts_status(&all->requests, status);
	if (tunnel)
		counts_status(tunnel, status);
	if (status != 101) { /* an upgraded one lasts as long as people stay */
		counts_took(&all->requests, took);
		if (tunnel)
			counts_took(tunnel, took);
	}
	if (x->first_byte)
		counts_took(&all->first, x->first_byte - x->began);
	if (tunnel && status == 429 && x->error)
		counts_bump(&x->route.state->limited, 1);
}

void account_end(struct exchange *x)
{
	if (!x->began)
		return;
	if (!x->whole && !x->error)
		x->error = x->c->w->cutting ? "gateway ends" : "client gone";
	int status = x->status >= 100 && x->status < 600 ? x->status : STATUS_GONE;
	if (x->passes)
		counts_bump(&x->route.state->passed, 1);
	else
		count(x, status);
	if (x->c->w->lane)
		log_it(x, status);
	free(x->note);
	x->note = NULL;
}
