/* SPDX-License-Identifier: MIT */
/* certificate_alert: a program, run as PROGRAM EVENT DOMAIN TEXT, or a URL that gets
 * {"event", "domain", "text", "notAfter", "nextTry"} by POST. */
#include "gatewayd/acme/manager.h"
#include "gatewayd/acme/run.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define AT_ONCE 4
#define QUEUE_MAX 64
#define PROGRAM_MS 30000
#define DAY_MS 86400000LL

static const char *const event_names[] = {"failed", "expiring", "recovered"};

/* One that is to be told, or is being told. */
struct telling_people {
	struct alert *al;
	const char *event;
	char *domain, *text, *not_after, *next_try;
	struct run *run;
	struct acme_http_call *call;
	struct telling_people *prev, *next;
};

struct alert {
	struct acme *a;
	const char *to; /* NULL: nobody */
	struct acme_http *http; /* acme_ca_file is not for it */
	struct telling_people *all;
	size_t n, running;
	struct km_metric *m_failed;
	struct km_log_limit full;
};

int alert_new(struct alert **out, struct acme *a)
{
	struct alert *al = km_xcalloc(1, sizeof(*al));
	al->a = a;
	al->to = a->s->certificate_alert;
	al->m_failed = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_alert_failures_total", "",
				 "Alerts that certificate_alert did not take.");
	*out = al;
	return al->to && al->to[0] != '/' ? acme_http_new(&al->http, a->o.base, NULL, NULL) : 0;
}

static void drop(struct telling_people *p)
{
	struct alert *al = p->al;
	if (p->run)
		run_kill(p->run);
	if (p->call)
		acme_http_cancel(p->call);
	DL_DELETE(al->all, p);
	al->n--;
	free(p->domain);
	free(p->text);
	free(p->not_after);
	free(p->next_try);
	free(p);
}

void alert_free(struct alert *al)
{
	struct telling_people *p, *tmp;
	if (!al)
		return;
	DL_FOREACH_SAFE (al->all, p, tmp)
		drop(p);
	acme_http_free(al->http);
	free(al);
}

static void go_on(struct alert *al);

static void ended(struct telling_people *p, const char *failed)
{
	struct alert *al = p->al;
	if (failed) {
		km_warn("certificate_alert failed", km_ks("domain", p->domain), km_ks("why", failed));
		km_metric_add(al->m_failed, 1);
	}
	al->running--;
	drop(p);
	go_on(al);
}

static void on_run(void *arg, const char *failed)
{
	struct telling_people *p = arg;
	p->run = NULL;
	ended(p, failed);
}

static void on_answer(void *arg, const struct acme_answer *a)
{
	struct telling_people *p = arg;
	char text[64];
	p->call = NULL;
	snprintf(text, sizeof(text), "HTTP status %d", a->status);
	ended(p, !a->status ? a->failed : a->status / 100 == 2 ? NULL : text);
}

static void post(struct telling_people *p)
{
	static const char *const headers[] = {"Content-Type: application/json", NULL};
	json_t *o = json_pack("{ss ss ss ss* ss*}", "event", p->event, "domain", p->domain, "text", p->text,
			      "notAfter", p->not_after, "nextTry", p->next_try);
	char *body = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (body)
		p->call = acme_http_custom(p->al->http, "POST", p->al->to, headers, body, on_answer, p);
	json_decref(o);
	free(body);
}

static void go_on(struct alert *al)
{
	struct telling_people *p, *tmp;
	DL_FOREACH_SAFE (al->all, p, tmp) {
		if (al->running >= AT_ONCE)
			return;
		if (p->run || p->call)
			continue;
		if (al->to[0] == '/')
			p->run = run_start(al->a->o.base,
					   (const char *const[]){al->to, p->event, p->domain, p->text, NULL},
					   PROGRAM_MS, on_run, p);
		else
			post(p);
		if (p->run || p->call)
			al->running++;
		else
			drop(p);
	}
}

static char *time_text(int64_t wall_ms)
{
	char at[KM_ISO8601_LEN];
	return wall_ms > 0 ? km_xstrdup(km_iso8601(wall_ms, at)) : NULL;
}

void alert_tell(struct name *n, enum alert_event event, const char *text)
{
	struct alert *al = n->a->alert;
	struct ledger_entry *e = n->e;
	int64_t wall = km_wall_ms();
	uint32_t held;
	if (!al->to || !al->to[0])
		return;
	if (event == ALERT_RECOVERED ? !e->alerted_ms
				     : e->alerted_ms && e->alerted_ms <= wall && wall - e->alerted_ms < DAY_MS)
		return;
	if (al->n >= QUEUE_MAX) {
		if (km_log_allow(&al->full, km_now_ms(), 1, 60000, &held))
			km_warn("too many alerts at once, some are not told", km_ks("domain", n->domain));
		return;
	}
	e->alerted_ms = event == ALERT_RECOVERED ? 0 : wall;
	(void)ledger_save(n->a->ledger, e, false);
	struct telling_people *p = km_xcalloc(1, sizeof(*p));
	p->al = al;
	p->event = event_names[event];
	p->domain = km_xstrdup(n->domain);
	p->text = km_xstrdup(text);
	p->not_after = time_text(e->not_after_ms);
	p->next_try = event == ALERT_RECOVERED ? NULL : time_text(e->next_try_ms);
	DL_APPEND(al->all, p);
	al->n++;
	go_on(al);
}
