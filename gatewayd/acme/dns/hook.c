/* SPDX-License-Identifier: MIT */
/* A program of the operator's: PROGRAM present|cleanup NAME VALUE. */
#include "gatewayd/acme/dns/provider.h"
#include "gatewayd/acme/run.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <utlist.h>

struct hook {
	struct dns_provider provider;
	struct event_base *base;
	char *program;
	int64_t timeout_ms;
	struct call *calls;
};

struct call {
	struct hook *h;
	struct run *run;
	void (*done)(void *arg, const char *failed);
	void *arg;
	struct call *prev, *next;
};

static void on_ended(void *arg, const char *failed)
{
	struct call *c = arg;
	void (*done)(void *arg, const char *failed) = c->done;
	void *done_arg = c->arg;

	DL_DELETE(c->h->calls, c);
	free(c);
	done(done_arg, failed);
}

static void change(struct dns_provider *p, bool add, const char *fqdn, const char *value,
		   void (*done)(void *arg, const char *failed), void *arg)
{
	struct hook *h = (struct hook *)p;
	struct call *c = km_xcalloc(1, sizeof(*c));

	*c = (struct call){.h = h, .done = done, .arg = arg};
	const char *const argv[] = {h->program, add ? "present" : "cleanup", fqdn, value, NULL};
	c->run = run_start(h->base, argv, h->timeout_ms, on_ended, c);
	if (!c->run)
		abort(); /* no memory, as km_xcalloc would */
	DL_APPEND(h->calls, c);
}

static void hook_free(struct dns_provider *p)
{
	struct hook *h = (struct hook *)p;
	struct call *c, *tmp;

	DL_FOREACH_SAFE (h->calls, c, tmp) {
		run_kill(c->run);
		free(c);
	}
	free(h->program);
	free(h);
}

static const struct dns_provider_ops ops = {"hook", change, hook_free};

int dns_hook_new(struct dns_provider **out, const struct dns_provider_opts *o,
		 struct km_errtext *err)
{
	if (!o->hook)
		return km_errtext_set(err, KM_EINVAL,
				      "dns_provider = hook needs dns_hook, a program");
	int e = run_check("dns_hook", o->hook, err);
	if (e)
		return e;
	struct hook *h = km_xcalloc(1, sizeof(*h));
	h->provider.ops = &ops;
	h->base = o->base;
	h->program = km_xstrdup(o->hook);
	h->timeout_ms = o->timeout_ms;
	*out = &h->provider;
	return 0;
}
