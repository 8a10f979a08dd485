/* SPDX-License-Identifier: MIT */
#include "libkm/replica/saver.h"

#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdlib.h>

struct km_saver {
	struct km_replica *r;
	struct event *timer; /* pending while something is missing on disk */
	struct timeval every;
	km_saver_cb *saved;
	void *arg;
	bool missing;
};

static void show(bool missing)
{
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_configuration_unsaved", "",
				"Whether the applied configuration is not wholly on disk."),
		      missing);
}

static void ended(struct km_saver *s)
{
	if (!s->missing)
		return;
	s->missing = false;
	event_del(s->timer);
	show(false);
	km_info("configuration is on disk again", km_ki("revision", km_replica_revision(s->r)));
}

static void on_timer(evutil_socket_t none, short what, void *arg)
{
	struct km_saver *s = arg;
	struct km_errtext err = {""};
	json_t *ack = NULL;
	int rc = km_replica_retry(s->r, &ack, &err);

	(void)none;
	(void)what;
	if (rc) {
		km_debug("configuration still not on disk", km_ks("why", err.text));
		event_add(s->timer, &s->every);
		return;
	}
	ended(s);
	if (ack)
		s->saved(s->arg, ack);
}

struct km_saver *km_saver_new(struct event_base *base, struct km_replica *r, int every_ms,
			      km_saver_cb *saved, void *arg)
{
	struct km_saver *s = calloc(1, sizeof *s);

	if (!s)
		return NULL;
	s->r = r;
	s->every = (struct timeval){every_ms / 1000, every_ms % 1000 * 1000L};
	s->saved = saved;
	s->arg = arg;
	s->timer = evtimer_new(base, on_timer, s);
	if (!s->timer) {
		free(s);
		return NULL;
	}
	show(false);
	return s;
}

bool km_saver_taken(struct km_saver *s, int rc, const struct km_errtext *err)
{
	if (!rc)
		ended(s);
	if (rc != KM_EIO)
		return false;
	if (!s->missing) {
		s->missing = true;
		show(true);
		km_error("configuration not on disk, not acknowledged, trying again",
			 km_ks("why", err->text));
		event_add(s->timer, &s->every);
	}
	return true;
}

void km_saver_free(struct km_saver *s)
{
	if (!s)
		return;
	event_free(s->timer);
	free(s);
}
