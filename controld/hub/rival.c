/* SPDX-License-Identifier: MIT */
/* The same id at another controld on this database. Each authenticated link is announced there by
 * NOTIFY, with a number that the database gives in ascending order: who has a lower one for the id
 * closes it; who has a higher one says so again. So it settles in whatever order the notes come,
 * and a note that was lost is made good when links are announced again. */
#include "controld/hub/client.h"
#include "libkm/base/buf.h"
#include "libkm/base/log.h"
#include <stdio.h>
#include <stdlib.h>

#define TEXTS_MAX (64 * 1024 * 1024) /* some 600,000 links */

static void note_text(const struct client *c, char out[static RIVAL_NOTE_LEN])
{
	snprintf(out, RIVAL_NOTE_LEN, "%s %s %llu", c->hub->instance, c->id,
		 (unsigned long long)c->number);
}

static void announced(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct hub *hub = arg;
	(void)res, (void)n;
	hub->announcing = NULL;
	if (error)
		hub->announce_due = true;
}

/* Notes as a PostgreSQL array. */
static void announce(struct hub *hub, const char *array)
{
	struct store_stmt s = {.sql = "SELECT pg_notify('km_links', x) FROM unnest($1::text[]) x",
			       .n = 1,
			       .params = {array}};
	if (hub->announcing || store_run(hub->store, &s, 1, announced, hub, &hub->announcing) < 0)
		hub->announce_due = true;
}

void rival_announce_due(struct hub *hub)
{
	char note[RIVAL_NOTE_LEN];
	struct km_buf all;
	int rc = 0;
	if (!hub->announce_due || hub->announcing || !store_ready(hub->store))
		return;
	hub->announce_due = false;
	km_buf_init(&all, TEXTS_MAX);
	for (const struct client *c = hub->by_id; c && rc == 0; c = c->hh_id.next) {
		if (!c->number)
			continue;
		note_text(c, note);
		rc = km_buf_addf(&all, "%s\"%s\"", all.len ? "," : "{", note);
	}
	if (rc == 0 && all.len) {
		rc = km_buf_add(&all, "}", 2);
		if (rc == 0)
			announce(hub, (const char *)km_buf_head(&all));
	}
	km_buf_free(&all);
	if (rc)
		km_warn("links not announced to other controlds", km_ke(rc));
}

void rival_bind(const struct client *c, struct store_stmt *s)
{
	*s = (struct store_stmt){.sql =
				     "SELECT x, pg_notify('km_links', $1 || ' ' || $2 || ' ' || x) "
				     "FROM (SELECT pg_current_xact_id()::text) AS q(x)",
				 .n = 2,
				 .params = {c->hub->instance, c->id}};
}

static void lost(struct client *c)
{
	km_info("newer link at another controld takes over", km_ks("type", client_kind(c)),
		km_ks("id", c->id), km_ks("name", c->name));
	limit_failed(c->hub->lost, c->id, km_now_ms());
	client_replaced(c);
}

void rival_note(void *arg, const char *text)
{
	struct hub *hub = arg;
	char instance[KM_UUID_STRLEN], id[KM_UUID_STRLEN], note[RIVAL_NOTE_LEN];
	unsigned long long number;
	if (!text) { /* some may have been missed */
		hub->announce_due = true;
		rival_announce_due(hub);
		return;
	}
	if (sscanf(text, "%36s %36s %20llu", instance, id, &number) != 3 || !km_uuid_ok(id) ||
	    strcmp(instance, hub->instance) == 0)
		return;
	/* Whoever is gone here is there. */
	json_object_del(hub->gone_agents, id);
	json_object_del(hub->gone_gateways, id);
	struct client *c = client_by_id(hub, id);
	if (!c || !c->number) /* or its number comes soon, and is announced then */
		return;
	if (number > c->number) {
		lost(c);
	} else if (number < c->number) {
		char array[RIVAL_NOTE_LEN + 5];
		note_text(c, note);
		snprintf(array, sizeof(array), "{\"%s\"}", note);
		announce(hub, array);
	}
}

bool rival_fights(struct hub *hub, const char *id)
{
	return limit_wait_ms(hub->lost, id, km_now_ms()) > 0;
}
