/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/api.h"
#include "gatewayd/acme/dns/provider.h"
#include "gatewayd/acme/dns/query.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

#define PAUSE_MAX_S 60
#define HEADERS_MAX 8

struct dns_api {
	struct dns_api_opts o;
	char *method, *url, *body;
	char **headers;
	struct acme_http_call *call;
	struct event *timer;
	unsigned tries;
};

void dns_api_cancel(struct dns_api *a)
{
	if (!a)
		return;
	acme_http_cancel(a->call);
	if (a->timer)
		event_free(a->timer);
	for (char **h = a->headers; h && *h; h++)
		km_wipe(*h, strlen(*h));
	dns_list_free(a->headers);
	free(a->method);
	free(a->url);
	free(a->body);
	free(a);
}

int64_t dns_api_pause_ms(const char *retry_after, unsigned tries)
{
	char *end;
	long s = retry_after ? strtol(retry_after, &end, 10) : 0;

	if (!retry_after || end == retry_after || *end || s < 0)
		s = 1L << (tries < 6 ? tries : 6);
	return (s > PAUSE_MAX_S ? PAUSE_MAX_S : s) * 1000;
}

static void conclude(struct dns_api *a, const struct acme_answer *answer)
{
	void (*done)(void *arg, const struct acme_answer *a) = a->o.done;
	void *arg = a->o.arg;

	dns_api_cancel(a);
	done(arg, answer);
}

static void fail(struct dns_api *a, const char *why)
{
	conclude(a, &(struct acme_answer){.failed = why});
}

static bool worth_another(const struct dns_api *a, const struct acme_answer *answer)
{
	if (a->tries >= DNS_API_TRIES)
		return false;
	return !answer->status || answer->status == 429 || answer->status >= 500 ||
	       (a->o.busy && a->o.busy(answer));
}

static void on_answer(void *arg, const struct acme_answer *answer)
{
	struct dns_api *a = arg;

	a->call = NULL;
	if (!worth_another(a, answer)) {
		conclude(a, answer);
		return;
	}
	int64_t ms = dns_api_pause_ms(answer->retry_after, a->tries - 1);
	struct timeval tv = {ms / 1000, 0};
	evtimer_add(a->timer, &tv);
}

/* The first time at once. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct dns_api *a = arg;
	const char *headers[HEADERS_MAX + DNS_API_SIGNED + 1];
	char *extra[DNS_API_SIGNED] = {NULL};
	size_t n = 0;

	(void)fd;
	(void)what;
	a->tries++;
	for (; n < HEADERS_MAX && a->headers && a->headers[n]; n++)
		headers[n] = a->headers[n];
	int e = a->o.sign ? a->o.sign(a->o.arg, extra) : 0;
	for (int i = 0; i < DNS_API_SIGNED && extra[i]; i++)
		headers[n++] = extra[i];
	headers[n] = NULL;
	if (!e)
		a->call =
		    acme_http_custom(a->o.http, a->method, a->url, headers, a->body, on_answer, a);
	for (int i = 0; i < DNS_API_SIGNED; i++)
		dns_secret_free(&extra[i]);
	if (!a->call)
		fail(a, e ? "the request could not be signed" : "no memory");
}

struct dns_api *dns_api_send(const struct dns_api_opts *o)
{
	struct dns_api *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->o = *o;
	a->method = strdup(o->method);
	a->url = strdup(o->url);
	a->body = o->body ? strdup(o->body) : NULL;
	a->headers = dns_list_copy(o->headers);
	a->timer = evtimer_new(o->base, on_timer, a);
	if (!a->method || !a->url || (o->body && !a->body) || !a->timer) {
		dns_api_cancel(a);
		return NULL;
	}
	event_active(a->timer, 0, 0);
	return a;
}
