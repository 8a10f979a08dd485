/* SPDX-License-Identifier: MIT */
#include "agentd/health/probe.h"
#include "libkm/base/log.h"
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct probe {
	struct probes *ps;
	uint8_t id[16];
	struct tunnel *tunnel;
	enum tunnel_health health;
	char error[256];
	struct dial *dial;
	struct event timer;
	int64_t retry_ms; /* the last wait while unhealthy; 0: it was healthy */
	bool told;
	UT_hash_handle hh;
};

struct probes {
	const struct dial_env *env;
	int64_t timeout_ms;
	void (*changed)(void *arg);
	void *arg;
	size_t n_dials;
	struct probe *by_id;
};

struct probes *probes_new(const struct dial_env *env, int64_t timeout_ms,
			  void (*changed)(void *arg), void *arg)
{
	struct probes *ps = calloc(1, sizeof(*ps));

	if (!ps)
		return NULL;
	ps->env = env;
	ps->timeout_ms = timeout_ms;
	ps->changed = changed;
	ps->arg = arg;
	return ps;
}

static void hang_up(struct probe *p)
{
	if (!p->dial)
		return;
	dial_cancel(p->dial);
	p->dial = NULL;
	p->ps->n_dials--;
}

static void probe_free(struct probe *p)
{
	hang_up(p);
	event_del(&p->timer);
	tunnel_unref(p->tunnel);
	HASH_DEL(p->ps->by_id, p);
	free(p);
}

void probes_free(struct probes *ps)
{
	struct probe *p, *tmp;

	if (!ps)
		return;
	HASH_ITER (hh, ps->by_id, p, tmp) {
		probe_free(p);
	}
	free(ps);
}

/* ---- one probe ---- */

static bool probed(const struct tunnel *t)
{
	return t->enabled && !t->datagram && !t->refused;
}

/* Between 3/4 and 5/4, so that many tunnels do not probe in step. */
static int64_t jittered(int64_t ms)
{
	return ms - ms / 4 + km_random_below((uint32_t)(ms / 2));
}

static void wait_for(struct probe *p, int64_t ms)
{
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

	event_add(&p->timer, &tv);
}

static void wait_next(struct probe *p)
{
	if (p->health != TUNNEL_UNHEALTHY) {
		p->retry_ms = 0;
		wait_for(p, jittered(PROBE_INTERVAL_MS));
		return;
	}
	p->retry_ms = p->retry_ms ? 2 * p->retry_ms : PROBE_RETRY_MIN_MS;
	if (p->retry_ms > PROBE_RETRY_MAX_MS)
		p->retry_ms = PROBE_RETRY_MAX_MS;
	wait_for(p, jittered(p->retry_ms));
}

static void log_change(const struct probe *p)
{
	if (p->health == TUNNEL_HEALTHY)
		km_info("target is healthy", km_ks("domain", p->tunnel->domain),
			km_ks("target", p->tunnel->target_text));
	else if (p->health == TUNNEL_UNHEALTHY)
		km_warn("target is unhealthy", km_ks("domain", p->tunnel->domain),
			km_ks("target", p->tunnel->target_text), km_ks("error", p->error));
}

static void set_health(struct probe *p, enum tunnel_health is, const char *why)
{
	bool same = p->health == is;

	atomic_store(&p->tunnel->health, (int)is);
	if (same && (is != TUNNEL_UNHEALTHY || strcmp(why, p->error) == 0))
		return;
	p->health = is;
	snprintf(p->error, sizeof(p->error), "%s", why);
	p->told = false;
	if (!same)
		log_change(p);
	p->ps->changed(p->ps->arg);
}

static void on_dialled(void *arg, int fd, int err, const char *why)
{
	struct probe *p = arg;

	p->dial = NULL;
	p->ps->n_dials--;
	if (fd >= 0)
		close(fd);
	set_health(p, err ? TUNNEL_UNHEALTHY : TUNNEL_HEALTHY, err ? why : "");
	wait_next(p);
}

static void on_due(evutil_socket_t none, short what, void *arg)
{
	struct probe *p = arg;

	(void)none;
	(void)what;
	if (p->ps->n_dials >= PROBES_AT_ONCE) {
		wait_for(p, jittered(100));
		return;
	}
	p->dial = dial_start(p->ps->env, &p->tunnel->target, p->ps->timeout_ms, on_dialled, p);
	if (p->dial)
		p->ps->n_dials++;
	else
		wait_next(p);
}

/* ---- the tunnels ---- */

static struct probe *probe_get(struct probes *ps, const uint8_t id[static 16])
{
	struct probe *p;

	HASH_FIND(hh, ps->by_id, id, 16, p);
	if (p)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->ps = ps;
	memcpy(p->id, id, 16);
	event_assign(&p->timer, ps->env->base, -1, EV_TIMEOUT, on_due, p);
	HASH_ADD(hh, ps->by_id, id, sizeof(p->id), p);
	return p;
}

/* The same target as before, so that what is known of it still holds. */
static bool same_target(const struct tunnel *a, const struct tunnel *b)
{
	return a && strcmp(a->target_text, b->target_text) == 0 && probed(a) && probed(b);
}

int probes_set(struct probes *ps, struct tunnel *t)
{
	struct probe *p = probe_get(ps, t->id);
	bool same;

	if (!p)
		return KM_ENOMEM;
	same = same_target(p->tunnel, t);
	hang_up(p); /* it borrows the old target */
	tunnel_unref(p->tunnel);
	p->tunnel = tunnel_ref(t);
	p->told = false;
	event_del(&p->timer);
	if (same) {
		atomic_store(&t->health, (int)p->health);
	} else {
		p->health = TUNNEL_UNKNOWN;
		p->error[0] = '\0';
		p->retry_ms = 0;
	}
	if (probed(t))
		wait_for(p, 0);
	else if (t->enabled && t->refused)
		set_health(p, TUNNEL_UNHEALTHY, "the target is not in the agent's allow_targets");
	ps->changed(ps->arg);
	return 0;
}

void probes_remove(struct probes *ps, const uint8_t id[static 16])
{
	struct probe *p;

	HASH_FIND(hh, ps->by_id, id, 16, p);
	if (p)
		probe_free(p);
}

void probes_seen(struct probes *ps, const struct tunnel *t, bool healthy, const char *why)
{
	struct probe *p;

	HASH_FIND(hh, ps->by_id, t->id, 16, p);
	if (!p || p->tunnel != t || !probed(t))
		return; /* an entry that has been replaced meanwhile */
	set_health(p, healthy ? TUNNEL_HEALTHY : TUNNEL_UNHEALTHY, healthy ? "" : why);
	if (!p->dial) {
		p->retry_ms = 0;
		wait_next(p);
	}
}

/* ---- the status ---- */

size_t probes_status(struct probes *ps, struct km_msg_tunnel_status *out, size_t max)
{
	static char *const names[] = {"unknown", "healthy", "unhealthy"};
	size_t n = 0;

	for (struct probe *p = ps->by_id; p && n < max; p = p->hh.next) {
		if (p->told)
			continue;
		p->told = true;
		out[n++] = (struct km_msg_tunnel_status){
		    .id = p->tunnel->id_text,
		    .domain = p->tunnel->domain,
		    .target_id = p->tunnel->target_id_text,
		    .status = names[p->health],
		    .error = p->error[0] ? p->error : NULL,
		};
	}
	return n;
}

void probes_untold(struct probes *ps)
{
	for (struct probe *p = ps->by_id; p; p = p->hh.next)
		p->told = false;
}
