/* SPDX-License-Identifier: MIT */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/replica/replica.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define E1 "epoch-1"
#define E2 "epoch-2"
#define THINGS 16

/* The state of one test: a folder, a replica, and a data plane that the hooks keep. */
struct plane {
	char dir[64];
	struct km_replica *r;
	struct km_errtext err;
	char log[8192];           /* what the hooks were told, in order */
	char tunnel[THINGS][64];  /* target; "": none */
	char agent[THINGS][64];   /* name */
	char gateway[THINGS][64]; /* name */
	char self[64];
	int settled;
	int refuse; /* hooks about the thing with this number fail */
	bool refuse_settled, refuse_all;
};

/* ---- ids, things, messages ---- */

static const char *id(int n)
{
	static char ring[8][KM_UUID_STRLEN];
	static int at;
	char *s = ring[at++ % 8];

	snprintf(s, KM_UUID_STRLEN, "00000000-0000-4000-8000-%012d", n);
	return s;
}

static int number(const char *uuid)
{
	return atoi(uuid + 24);
}

static json_t *tunnel(int n, const char *target)
{
	json_t *v = json_pack("{s:s, s:s, s:b, s:s, s:s}", "id", id(n), "domain", "a.example",
			      "enabled", 1, "targetId", id(1000 + n), "target", target);

	assert_non_null(v);
	return v;
}

static json_t *agent(int n, const char *name)
{
	return json_pack("{s:s, s:s, s:s, s:s}", "id", id(n), "name", name, "virtualIp",
			 "10.1.0.100", "subnet", "10.1.0.0/24");
}

static json_t *gateway(int n, const char *name)
{
	return json_pack("{s:s, s:s, s:[s]}", "id", id(n), "name", name, "virtualIps", "10.0.0.1");
}

static json_t *array(json_t *a, json_t *b)
{
	json_t *v = json_array();

	if (a)
		json_array_append_new(v, a);
	if (b)
		json_array_append_new(v, b);
	return v;
}

/* Arrays are taken; NULL: left out. */
static json_t *config(const char *epoch, int revision, const char *self, json_t *gateways,
		      json_t *agents, json_t *tunnels)
{
	json_t *v = json_pack("{s:s, s:i, s:o, s:o*, s:o*, s:o*}", "epoch", epoch, "revision",
			      revision, "agent", agent(999, self), "gateways", gateways, "agents",
			      agents, "tunnels", tunnels);

	assert_non_null(v);
	return v;
}

static json_t *change(const char *epoch, int previous, int revision, const char *kind,
		      json_t *thing)
{
	json_t *v = json_pack("{s:s, s:i, s:i}", "epoch", epoch, "previous", previous, "revision",
			      revision);

	json_object_set_new(v, kind, thing);
	return v;
}

static json_t *tunnel_change(int previous, int revision, int n, const char *target)
{
	return change(E1, previous, revision, "tunnel", tunnel(n, target));
}

static json_t *gone(int previous, int revision, int n)
{
	return change(E1, previous, revision, "id", json_string(id(n)));
}

/* ---- the hooks ---- */

static int note(struct plane *p, const char *what, const char *thing, char *slot, const char *was,
		const char *is, struct km_errtext *err)
{
	size_t n = strlen(p->log);

	if (p->refuse_all)
		return km_errtext_set(err, KM_EPERM, "no");
	snprintf(p->log + n, sizeof p->log - n, "%s%d%s ", what, number(thing),
		 !was  ? "+"
		 : !is ? "-"
		       : "*");
	if (p->refuse && p->refuse == number(thing))
		return km_errtext_set(err, KM_EPERM, "not on the list");
	if (was)
		assert_string_equal(slot, was);
	else
		assert_string_equal(slot, "");
	snprintf(slot, 64, "%s", is ? is : "");
	return 0;
}

static int on_self(void *arg, const struct km_msg_agent_self *was,
		   const struct km_msg_agent_self *is, struct km_errtext *err)
{
	struct plane *p = arg;

	return note(p, "s", (is ? is : was)->id, p->self, was ? was->name : NULL,
		    is ? is->name : NULL, err);
}

static int on_tunnel(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		     struct km_errtext *err)
{
	struct plane *p = arg;
	const char *i = (is ? is : was)->id;

	return note(p, "t", i, p->tunnel[number(i)], was ? was->target : NULL,
		    is ? is->target : NULL, err);
}

static int on_agent(void *arg, const struct km_msg_agent *was, const struct km_msg_agent *is,
		    struct km_errtext *err)
{
	struct plane *p = arg;
	const char *i = (is ? is : was)->id;

	return note(p, "a", i, p->agent[number(i)], was ? was->name : NULL, is ? is->name : NULL,
		    err);
}

static int on_gateway(void *arg, const struct km_msg_gateway *was, const struct km_msg_gateway *is,
		      struct km_errtext *err)
{
	struct plane *p = arg;
	const char *i = (is ? is : was)->id;

	return note(p, "g", i, p->gateway[number(i)], was ? was->name : NULL, is ? is->name : NULL,
		    err);
}

static int on_settled(void *arg, struct km_errtext *err)
{
	struct plane *p = arg;
	size_t n = strlen(p->log);

	snprintf(p->log + n, sizeof p->log - n, ".");
	p->settled++;
	return p->refuse_settled ? km_errtext_set(err, KM_EIO, "cannot publish") : 0;
}

static const struct km_replica_hooks hooks = {.agent_self = on_self,
					      .gateway = on_gateway,
					      .agent = on_agent,
					      .tunnel = on_tunnel,
					      .settled = on_settled};

/* ---- the plane ---- */

static void plane_clear(struct plane *p)
{
	p->log[0] = p->self[0] = 0;
	memset(p->tunnel, 0, sizeof p->tunnel);
	memset(p->agent, 0, sizeof p->agent);
	memset(p->gateway, 0, sizeof p->gateway);
	p->settled = 0;
}

static void plane_open(struct plane *p)
{
	int e = km_replica_open(&p->r, p->dir, &hooks, p, &p->err);

	if (e)
		fail_msg("open: %s", p->err.text);
}

/* As after a restart of the program. */
static void plane_reopen(struct plane *p)
{
	km_replica_free(p->r);
	p->r = NULL;
	plane_clear(p);
	plane_open(p);
}

static int setup(void **state)
{
	struct plane *p = calloc(1, sizeof *p);

	*state = p;
	/* In memory where there is such a file system: each change is synced. */
	strcpy(p->dir,
	       access("/dev/shm", W_OK) ? "/tmp/km-replica-XXXXXX" : "/dev/shm/km-replica-XXXXXX");
	if (!mkdtemp(p->dir))
		return -1;
	plane_open(p);
	return 0;
}

static const char *path(const struct plane *p, const char *name)
{
	static char ring[4][128];
	static int at;
	char *s = ring[at++ % 4];

	snprintf(s, sizeof ring[0], "%s/%s", p->dir, name);
	return s;
}

static const char *const files[] = {"config.json", "config.journal", "config.json.broken",
				    "config.journal.broken"};

static void remove_files(const struct plane *p)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(files); i++)
		unlink(path(p, files[i]));
}

static int teardown(void **state)
{
	struct plane *p = *state;

	km_replica_free(p->r);
	remove_files(p);
	rmdir(p->dir);
	free(p);
	return 0;
}

static bool exists(const struct plane *p, const char *name)
{
	return !access(path(p, name), F_OK);
}

/* Takes a message (its reference) and returns the error; *ack as text is compared where given. */
static int take(struct plane *p, const char *type, json_t *data, json_t **ack)
{
	json_t *a;
	int e;

	p->err.text[0] = 0;
	e = km_replica_take(p->r, type, data, &a, &p->err);
	json_decref(data);
	assert_true(!a == !!e);
	if (ack)
		*ack = a;
	else
		json_decref(a);
	return e;
}

static void take_ok(struct plane *p, const char *type, json_t *data)
{
	json_t *ack;
	int e = take(p, type, data, &ack);

	if (e)
		fail_msg("%s: %s %s", type, km_strerror(e), p->err.text);
	assert_string_equal(json_string_value(json_object_get(ack, "epoch")),
			    km_replica_epoch(p->r));
	assert_int_equal(json_integer_value(json_object_get(ack, "revision")),
			 km_replica_revision(p->r));
	assert_true(json_is_true(json_object_get(ack, "success")));
	assert_null(json_object_get(ack, "error"));
	json_decref(ack);
}

static void saw(struct plane *p, const char *log)
{
	assert_string_equal(p->log, log);
	p->log[0] = 0;
}

/* ---- whole configurations ---- */

static void empty_at_first(void **state)
{
	struct plane *p = *state;

	assert_string_equal(km_replica_epoch(p->r), "");
	assert_int_equal(km_replica_revision(p->r), 0);
	assert_null(km_replica_agent_self(p->r));
	assert_null(km_replica_tunnel(p->r, id(1)));
	saw(p, "");
}

static void order_and_differences(void **state)
{
	struct plane *p = *state;

	take_ok(p, "config",
		config(E1, 5, "me", array(gateway(1, "g1"), gateway(2, "g2")),
		       array(agent(3, "a3"), NULL), array(tunnel(4, "h:1"), tunnel(5, "h:2"))));
	saw(p, "s999+ g1+ g2+ a3+ t4+ t5+ .");
	assert_string_equal(km_replica_agent_self(p->r)->name, "me");
	assert_string_equal(km_replica_gateway(p->r, id(2))->name, "g2");
	assert_null(km_replica_gateway(p->r, id(3)));

	take_ok(p, "config",
		config(E1, 9, "me too", array(gateway(2, "g2"), gateway(6, "g6")),
		       array(agent(7, "a7"), NULL), array(tunnel(5, "h:3"), tunnel(8, "h:4"))));
	saw(p, "t4- a3- g1- s999* g6+ a7+ t5* t8+ .");

	/* Nothing new: nothing but the publication is asked, nothing is written. */
	unlink(path(p, "config.json"));
	take_ok(p, "config",
		config(E1, 9, "me too", array(gateway(6, "g6"), gateway(2, "g2")),
		       array(agent(7, "a7"), NULL), array(tunnel(8, "h:4"), tunnel(5, "h:3"))));
	saw(p, ".");
	assert_false(exists(p, "config.json"));
}

static void reopen_gives_all(void **state)
{
	struct plane *p = *state;
	struct stat st;

	take_ok(p, "config",
		config(E1, 5, "me", array(gateway(1, "g1"), NULL), array(agent(3, "a3"), NULL),
		       array(tunnel(4, "h:1"), NULL)));
	take_ok(p, "tunnel_create", tunnel_change(5, 6, 5, "h:2"));
	take_ok(p, "tunnel_delete", gone(6, 8, 4));
	assert_int_equal(stat(path(p, "config.json"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(stat(path(p, "config.journal"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	plane_reopen(p);
	saw(p, "s999+ g1+ a3+ t5+ .");
	assert_string_equal(km_replica_epoch(p->r), E1);
	assert_int_equal(km_replica_revision(p->r), 8);
	assert_string_equal(p->tunnel[5], "h:2");
	take_ok(p, "tunnel_update", tunnel_change(8, 9, 5, "h:9"));
	plane_reopen(p);
	assert_string_equal(p->tunnel[5], "h:9");
	assert_int_equal(km_replica_revision(p->r), 9);
}

static void gateway_self_and_no_hooks(void **state)
{
	struct plane *p = *state;
	json_t *data =
	    json_pack("{s:s, s:i, s:o}", "epoch", E1, "revision", 1, "gateway", gateway(1, "me"));

	km_replica_free(p->r);
	assert_int_equal(km_replica_open(&p->r, p->dir, NULL, NULL, &p->err), 0);
	take_ok(p, "config", data);
	assert_string_equal(km_replica_gateway_self(p->r)->name, "me");
	assert_null(km_replica_agent_self(p->r));
	take_ok(p, "agent_create", change(E1, 1, 2, "agent", agent(1, "x")));
	km_replica_free(p->r);
	assert_int_equal(km_replica_open(&p->r, p->dir, NULL, NULL, &p->err), 0);
	assert_string_equal(km_replica_gateway_self(p->r)->name, "me");
	assert_string_equal(km_replica_agent(p->r, id(1))->name, "x");
}

static void another_epoch(void **state)
{
	struct plane *p = *state;

	take_ok(p, "config", config(E1, 50, "me", NULL, NULL, array(tunnel(1, "h:1"), NULL)));
	take_ok(p, "tunnel_create", tunnel_change(50, 51, 2, "h:2"));
	p->log[0] = 0;
	assert_int_equal(
	    take(p, "tunnel_create", change(E2, 51, 52, "tunnel", tunnel(3, "h:3")), NULL),
	    KM_EGAP);
	saw(p, "");
	take_ok(p, "config", config(E2, 7, "me", NULL, NULL, array(tunnel(2, "h:2"), NULL)));
	saw(p, "t1- .");
	assert_string_equal(km_replica_epoch(p->r), E2);
	assert_int_equal(km_replica_revision(p->r), 7);
	plane_reopen(p);
	saw(p, "s999+ t2+ .");
	assert_int_equal(km_replica_revision(p->r), 7);
}

/* ---- changes ---- */

static void gap_and_repetition(void **state)
{
	struct plane *p = *state;

	assert_int_equal(take(p, "tunnel_create", tunnel_change(0, 1, 1, "h:1"), NULL), KM_EGAP);
	take_ok(p, "config", config(E1, 5, "me", NULL, NULL, NULL));
	p->log[0] = 0;
	assert_int_equal(take(p, "tunnel_create", tunnel_change(6, 7, 1, "h:1"), NULL), KM_EGAP);
	assert_string_equal(p->err.text, "revision 7 follows 6, ours is 5");
	saw(p, "");
	take_ok(p, "tunnel_create", tunnel_change(5, 9, 1, "h:1"));
	saw(p, "t1+ .");
	take_ok(p, "tunnel_create", tunnel_change(5, 9, 1, "h:1"));
	take_ok(p, "tunnel_create", tunnel_change(3, 4, 1, "h:0"));
	saw(p, "");
	/* Sent up to 7 only, but we know more from elsewhere: what lies between concerned others.
	 */
	take_ok(p, "tunnel_update", tunnel_change(7, 10, 1, "h:2"));
	saw(p, "t1* .");
	assert_int_equal(km_replica_revision(p->r), 10);
}

static void all_verbs(void **state)
{
	struct plane *p = *state;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	take_ok(p, "agent_create", change(E1, 1, 2, "agent", agent(1, "a")));
	take_ok(p, "agent_update", change(E1, 2, 3, "agent", agent(1, "b")));
	take_ok(p, "gateway_create", change(E1, 3, 4, "gateway", gateway(2, "c")));
	take_ok(p, "gateway_update", change(E1, 4, 5, "gateway", gateway(2, "d")));
	assert_string_equal(p->agent[1], "b");
	assert_string_equal(p->gateway[2], "d");
	take_ok(p, "agent_delete", gone(5, 6, 1));
	take_ok(p, "gateway_delete", gone(6, 7, 2));
	take_ok(p, "gateway_delete", gone(7, 8, 2));                  /* not there: gone is gone */
	take_ok(p, "tunnel_update", tunnel_change(8, 9, 3, "h:1"));   /* not there: new */
	take_ok(p, "tunnel_create", tunnel_change(9, 10, 3, "h:2"));  /* there: changed */
	take_ok(p, "tunnel_create", tunnel_change(10, 11, 3, "h:2")); /* the same: nothing */
	saw(p, "s999+ .a1+ .a1* .g2+ .g2* .a1- .g2- ..t3+ .t3* ..");
	assert_int_equal(km_replica_revision(p->r), 11);
}

static void malformed(void **state)
{
	static const struct {
		const char *type, *json, *why;
	} t[] = {
	    {"config", "[]", "data: not an object"},
	    {"config", "{\"epoch\": \"\", \"revision\": 1}", "epoch: empty"},
	    {"config", "{\"epoch\": \"e\", \"revision\": 1}",
	     "names neither agent and gateway, it must name one of them"},
	    {"config", "{\"epoch\": \"e\", \"revision\": -1}",
	     "revision: -1 is not in 0 to 9223372036854775807"},
	    {"tunnel_delete",
	     "{\"epoch\": \"epoch-1\", \"revision\": 2, \"previous\": 2, \"id\": "
	     "\"00000000-0000-4000-8000-000000000001\"}",
	     "revision: 2 does not follow the previous 2"},
	};
	struct plane *p = *state;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	p->log[0] = 0;
	for (size_t i = 0; i < KM_ARRAY_LEN(t); i++) {
		json_t *v = json_loads(t[i].json, 0, NULL);

		assert_non_null(v);
		assert_int_equal(take(p, t[i].type, v, NULL), KM_EINVAL);
		assert_string_equal(p->err.text, t[i].why);
	}
	assert_int_equal(
	    take(p, "config",
		 config(E1, 2, "me", NULL, NULL, array(tunnel(1, "h:1"), tunnel(1, "h:2"))), NULL),
	    KM_EINVAL);
	assert_int_equal(take(p, "status", json_object(), NULL), KM_ENOTFOUND);
	saw(p, "");
	assert_int_equal(km_replica_revision(p->r), 1);
}

static void too_many_gateways(void **state)
{
	struct plane *p = *state;
	json_t *all = json_array();

	km_replica_free(p->r);
	assert_int_equal(km_replica_open(&p->r, p->dir, NULL, NULL, &p->err), 0);
	for (int i = 0; i < 1024; i++)
		json_array_append_new(all, gateway(i, "g"));
	take_ok(p, "config", config(E1, 1, "me", all, NULL, NULL));
	assert_int_equal(
	    take(p, "gateway_create", change(E1, 1, 2, "gateway", gateway(5000, "g")), NULL),
	    KM_EFULL);
	take_ok(p, "gateway_delete", gone(1, 2, 7));
	take_ok(p, "gateway_create", change(E1, 2, 3, "gateway", gateway(5000, "g")));
	km_replica_free(p->r);
	assert_int_equal(km_replica_open(&p->r, p->dir, NULL, NULL, &p->err), 0);
	assert_int_equal(km_replica_revision(p->r), 3);
}

/* ---- hooks that refuse ---- */

static void refused(struct plane *p, const char *type, json_t *data, const char *why)
{
	json_t *ack;

	assert_int_equal(take(p, type, data, &ack), 0);
	assert_true(json_is_false(json_object_get(ack, "success")));
	assert_string_equal(json_string_value(json_object_get(ack, "error")), why);
	json_decref(ack);
}

static void refusing_hooks(void **state)
{
	struct plane *p = *state;

	p->refuse = 2;
	refused(p, "config",
		config(E1, 1, "me", NULL, NULL, array(tunnel(1, "h:1"), tunnel(2, "h:2"))),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	saw(p, "s999+ t1+ t2+ .");
	assert_string_equal(km_replica_tunnel(p->r, id(2))->target, "h:2");
	/* The same configuration asks once more, for that one only, still as new. */
	p->refuse = 0;
	take_ok(p, "config",
		config(E1, 1, "me", NULL, NULL, array(tunnel(1, "h:1"), tunnel(2, "h:2"))));
	saw(p, "t2+ .");
	/* A refused change: the next one starts from what the hook has. */
	p->refuse = 2;
	refused(p, "tunnel_update", tunnel_change(1, 2, 2, "h:3"),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	assert_string_equal(km_replica_tunnel(p->r, id(2))->target, "h:3");
	p->refuse = 0;
	take_ok(p, "tunnel_update", tunnel_change(2, 3, 2, "h:4"));
	saw(p, "t2* .t2* .");
	assert_string_equal(p->tunnel[2], "h:4");
	/* A refused end: gone from the configuration, asked again by the next one. */
	p->refuse = 2;
	refused(p, "tunnel_delete", gone(3, 4, 2),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	assert_null(km_replica_tunnel(p->r, id(2)));
	refused(p, "config", config(E1, 5, "me", NULL, NULL, array(tunnel(1, "h:1"), NULL)),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	saw(p, "t2- .t2- .");
	refused(p, "config", config(E1, 6, "me", NULL, NULL, NULL),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	p->refuse = 0;
	p->log[0] = 0;
	take_ok(p, "config", config(E1, 6, "me", NULL, NULL, NULL));
	saw(p, "t2- .");
	assert_string_equal(p->tunnel[2], "");
	p->refuse_settled = true;
	refused(p, "tunnel_create", tunnel_change(6, 7, 3, "h:1"), "cannot publish");
}

/* An ack speaks of all that stands refused, not only of its own message. */
static void an_older_refusal_is_named_again(void **state)
{
	struct plane *p = *state;
	static const char two[] = "tunnel 00000000-0000-4000-8000-000000000002: not on the list";
	json_t *odd = tunnel(4, "h:1");
	char both[256];

	p->refuse = 2;
	refused(p, "config", config(E1, 1, "me", NULL, NULL, array(tunnel(2, "h:1"), NULL)), two);
	refused(p, "tunnel_create", tunnel_change(1, 2, 3, "h:1"), two);
	refused(p, "tunnel_create", tunnel_change(1, 2, 3, "h:1"), two); /* applied already */
	json_object_set_new(odd, "protocol", json_string("quic"));
	snprintf(both, sizeof both,
		 "tunnel_create: tunnel.protocol: not one of http|tcp|udp|tls; %s", two);
	refused(p, "tunnel_create", change(E1, 2, 3, "tunnel", odd), both);
	refused(p, "agent_create", change(E1, 3, 4, "agent", agent(5, "a")), both);
	refused(p, "tunnel_update", tunnel_change(4, 5, 4, "h:1"), two);
	plane_reopen(p);
	refused(p, "agent_update", change(E1, 5, 6, "agent", agent(5, "b")), two);
	p->refuse = 0;
	take_ok(p, "tunnel_update", tunnel_change(6, 7, 2, "h:2"));
	take_ok(p, "agent_update", change(E1, 7, 8, "agent", agent(5, "c")));
	/* what goes takes its refusal with it */
	p->refuse = 6;
	refused(p, "tunnel_create", tunnel_change(8, 9, 6, "h:1"),
		"tunnel 00000000-0000-4000-8000-000000000006: not on the list");
	p->refuse = 0;
	strcpy(p->tunnel[6], "h:1"); /* the hook noted it all the same */
	take_ok(p, "tunnel_delete", gone(9, 10, 6));
}

static void many_refusals_are_counted(void **state)
{
	struct plane *p = *state;
	json_t *g = json_array(), *a = json_array(), *t = json_array(), *ack;
	const char *text, *more;
	int named = 1;

	p->refuse_all = true;
	for (int i = 0; i < THINGS; i++) {
		json_array_append_new(g, gateway(i, "g"));
		json_array_append_new(a, agent(i, "a"));
		json_array_append_new(t, tunnel(i, "h:1"));
	}
	assert_int_equal(take(p, "config", config(E1, 1, "me", g, a, t), &ack), 0);
	text = json_string_value(json_object_get(ack, "error"));
	assert_non_null(text);
	assert_in_range(strlen(text), 1900, 2048);
	assert_non_null(strstr(text, "; gateway 00000000-0000-4000-8000-000000000001: no; "));
	more = strstr(text, "; and ");
	assert_non_null(more);
	for (const char *s = text; (s = strstr(s, "; ")) && s < more; s++)
		named++;
	assert_int_equal(named + atoi(more + 6), 1 + 3 * THINGS);
	json_decref(ack);
}

static void what_was_refused_goes_too(void **state)
{
	struct plane *p = *state;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	p->refuse = 2;
	refused(p, "tunnel_create", tunnel_change(1, 2, 2, "h:1"),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	refused(p, "tunnel_update", tunnel_change(2, 3, 2, "h:2"),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	p->refuse = 0;
	p->log[0] = 0;
	strcpy(p->tunnel[2], "h:2"); /* the hook noted it all the same */
	take_ok(p, "tunnel_delete", gone(3, 4, 2));
	saw(p, "t2- .");
	take_ok(p, "config", config(E1, 5, "me", NULL, NULL, NULL));
	saw(p, ".");
}

static void back_before_it_went(void **state)
{
	struct plane *p = *state;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, array(tunnel(2, "h:1"), NULL)));
	p->refuse = 2;
	refused(p, "tunnel_delete", gone(1, 2, 2),
		"tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	p->refuse = 0;
	p->log[0] = 0;
	take_ok(p, "tunnel_create", tunnel_change(2, 3, 2, "h:5"));
	saw(p, "t2* .");
}

static void replay(void **state)
{
	struct plane *p = *state;

	p->refuse = 2;
	refused(
	    p, "config",
	    config(E1, 1, "me", array(gateway(1, "g"), NULL), NULL, array(tunnel(2, "h:1"), NULL)),
	    "tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	plane_clear(p);
	assert_int_equal(km_replica_replay(p->r, &p->err), KM_EPERM);
	assert_string_equal(p->err.text,
			    "tunnel 00000000-0000-4000-8000-000000000002: not on the list");
	p->refuse = 0;
	plane_clear(p);
	assert_int_equal(km_replica_replay(p->r, &p->err), 0);
	saw(p, "s999+ g1+ t2+ .");
}

/* Each says where it belongs and what is wrong with it: counted, refused, and those after it fit.
 */
static void malformed_changes_are_skipped(void **state)
{
	static const struct {
		const char *type, *json, *why;
	} t[] = {
	    {"tunnel_create", "{\"epoch\": \"epoch-1\", \"revision\": 2, \"previous\": 1}",
	     "tunnel: missing"},
	    {"tunnel_delete", "{\"epoch\": \"epoch-1\", \"revision\": 2, \"previous\": 1}",
	     "id: missing"},
	    {"tunnel_create",
	     "{\"epoch\": \"epoch-1\", \"revision\": 2, \"previous\": 1, \"agent\": {\"id\": "
	     "\"00000000-0000-4000-8000-000000000001\", \"name\": \"n\", \"virtualIp\": "
	     "\"10.1.0.100\", \"subnet\": \"10.1.0.0/24\"}}",
	     "names another thing than the tunnel of its type"},
	    {"agent_create",
	     "{\"epoch\": \"epoch-1\", \"revision\": 2, \"previous\": 1, \"id\": "
	     "\"00000000-0000-4000-8000-000000000002\", \"agent\": {\"id\": "
	     "\"00000000-0000-4000-8000-000000000001\", \"name\": \"n\", \"virtualIp\": "
	     "\"10.1.0.100\", \"subnet\": \"10.1.0.0/24\"}}",
	     "id: another than that of the agent"},
	    {"tunnel_update",
	     "{\"epoch\": \"epoch-1\", \"revision\": 2, \"previous\": 1, \"tunnel\": {\"id\": "
	     "\"00000000-0000-4000-8000-000000000003\", \"domain\": \"d\", \"protocol\": "
	     "\"quic\"}}",
	     "tunnel.protocol: not one of http|tcp|udp|tls"},
	};
	struct plane *p = *state;

	for (size_t i = 0; i < KM_ARRAY_LEN(t); i++) {
		json_t *v = json_loads(t[i].json, 0, NULL);
		char why[256];

		take_ok(p, "config",
			config(E1, 1, "me", NULL, NULL, array(tunnel(3, "h:1"), NULL)));
		p->log[0] = 0;
		assert_non_null(v);
		snprintf(why, sizeof why, "%s: %s", t[i].type, t[i].why);
		refused(p, t[i].type, v, why);
		saw(p, "");
		assert_int_equal(km_replica_revision(p->r), 2);
		plane_reopen(p);
		assert_int_equal(km_replica_revision(p->r), 2);
		assert_string_equal(p->tunnel[3], "h:1");
		take_ok(p, "tunnel_update", tunnel_change(2, 3, 3, "h:2"));
		assert_string_equal(p->tunnel[3], "h:2");
	}
	assert_int_equal(
	    take(p, "tunnel_update",
		 json_pack("{s:s, s:i, s:i}", "epoch", E1, "revision", 9, "previous", 8), NULL),
	    KM_EGAP);
}

static void malformed_things_stay_as_they_were(void **state)
{
	struct plane *p = *state;
	json_t *bad = tunnel(1, "h:9"), *fresh = tunnel(2, "h:9");

	take_ok(p, "config",
		config(E1, 1, "me", array(gateway(5, "g"), NULL), NULL,
		       array(tunnel(1, "h:1"), tunnel(3, "h:3"))));
	p->log[0] = 0;
	json_object_set_new(bad, "protocol", json_string("quic"));
	json_object_del(fresh, "domain");
	refused(p, "config",
		config(E1, 2, "me", array(gateway(5, "g"), json_integer(7)), NULL,
		       array(array(bad, fresh), NULL)),
		"tunnels[0].data: not an object; gateways[1].data: not an object");
	saw(p, "t1- t3- .");
	take_ok(p, "config",
		config(E1, 3, "me", NULL, NULL, array(tunnel(1, "h:1"), tunnel(3, "h:3"))));
	p->log[0] = 0;
	bad = tunnel(1, "h:9");
	fresh = tunnel(2, "h:9");
	json_object_set_new(bad, "protocol", json_string("quic"));
	json_object_del(fresh, "domain");
	refused(p, "config", config(E1, 4, "me", NULL, NULL, array(bad, fresh)),
		"tunnels[0].protocol: not one of http|tcp|udp|tls; tunnels[1].domain: missing");
	saw(p, "t3- .");
	assert_string_equal(p->tunnel[1], "h:1");
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), 4);
	assert_string_equal(p->tunnel[1], "h:1");
}

/* ---- disk ---- */

static char *slurp(const char *name, size_t *n)
{
	char *text;

	assert_int_equal(km_file_read(name, 64 << 20, &text, n), 0);
	return text;
}

static void spill(const char *name, const void *text, size_t n)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), n);
	close(fd);
}

/* As if another version had written the last line of a file: its form is another one. */
static void by_another_version(const struct plane *p, const char *name, bool checked)
{
	size_t n, line;
	char *text = slurp(path(p, name), &n), *form;
	uint8_t digest[32];

	for (line = checked ? n - 1 : 0; line && text[line - 1] != '\n'; line--)
		;
	form = memmem(text + line, n - line, "\"form\":", 7);
	assert_non_null(form);
	form += 10;
	*form = *form == '0' ? '1' : '0';
	if (checked) {
		km_sha256(digest, text + line + 17, n - line - 18);
		km_hex(digest, 8, text + line);
		text[line + 16] = ' ';
	}
	spill(path(p, name), text, n);
	free(text);
}

/* A program that understood less has left out what this one would understand: its content is
 * applied, and all is asked for until a `config` has come, whatever else comes before that. */
static void another_versions_files(void **state)
{
	struct plane *p = *state;

	assert_false(km_replica_partial(p->r));
	for (int journal = 0; journal < 2; journal++) {
		take_ok(p, "config",
			config(E1, 1, "me", NULL, NULL, array(tunnel(4, "h:1"), NULL)));
		take_ok(p, "tunnel_update", tunnel_change(1, 2, 4, "h:2"));
		plane_reopen(p);
		assert_false(km_replica_partial(p->r));
		by_another_version(p, journal ? "config.journal" : "config.json", journal);
		plane_reopen(p);
		assert_true(km_replica_partial(p->r));
		assert_int_equal(km_replica_revision(p->r), 2);
		assert_string_equal(p->tunnel[4], "h:2");
		for (int i = 3; i < 1100; i++) /* long enough for a snapshot of ours */
			take_ok(p, "tunnel_update",
				tunnel_change(i - 1, i, 4, i % 2 ? "h:3" : "h:4"));
		plane_reopen(p);
		assert_true(km_replica_partial(p->r));
		take_ok(p, "config",
			config(E1, 1099, "me", NULL, NULL, array(tunnel(4, "h:3"), NULL)));
		assert_false(km_replica_partial(p->r));
		plane_reopen(p);
		assert_false(km_replica_partial(p->r));
		assert_string_equal(p->tunnel[4], "h:3");
	}
}

/* Cut at every byte: always a state that was once acknowledged, and one that goes on. */
static void torn_journal(void **state)
{
	struct plane *p = *state;
	size_t n, snap_n, ends[4], lines = 0;
	char *journal, *snap;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	for (int i = 2; i < 5; i++)
		take_ok(p, "tunnel_create", tunnel_change(i - 1, i, i, "h:1"));
	journal = slurp(path(p, "config.journal"), &n);
	snap = slurp(path(p, "config.json"), &snap_n);
	for (size_t i = 0; i < n; i++) {
		if (journal[i] == '\n')
			ends[lines++] = i + 1;
	}
	assert_int_equal(lines, 4); /* the snapshot's name and three changes */
	for (size_t cut = 0; cut <= n; cut++) {
		int expect = 1;

		for (size_t i = 1; i < lines; i++)
			expect += cut >= ends[i];
		spill(path(p, "config.journal"), journal, cut);
		spill(path(p, "config.json"), snap, snap_n);
		plane_reopen(p);
		assert_int_equal(km_replica_revision(p->r), expect);
		take_ok(p, "tunnel_create", tunnel_change(expect, 10, 9, "h:9"));
		plane_reopen(p);
		assert_int_equal(km_replica_revision(p->r), 10);
		assert_string_equal(p->tunnel[9], "h:9");
		assert_false(exists(p, "config.journal.broken"));
	}
	/* A tail of zeros, as some file systems leave it. */
	spill(path(p, "config.json"), snap, snap_n);
	memset(journal + ends[2] + 5, 0, n - ends[2] - 5);
	spill(path(p, "config.journal"), journal, n);
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), 3);
	free(journal);
	free(snap);
}

/* A flipped bit anywhere: the good lines before it count, nothing crashes, it goes on. */
static void damaged_journal(void **state)
{
	struct plane *p = *state;
	size_t n, snap_n;
	char *journal, *snap;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	for (int i = 2; i < 5; i++)
		take_ok(p, "tunnel_create", tunnel_change(i - 1, i, i, "h:1"));
	journal = slurp(path(p, "config.journal"), &n);
	snap = slurp(path(p, "config.json"), &snap_n);
	for (size_t at = 0; at < n; at += 3) {
		int64_t got;

		journal[at] ^= 1 << (at % 8);
		remove_files(p);
		spill(path(p, "config.journal"), journal, n);
		spill(path(p, "config.json"), snap, snap_n);
		plane_reopen(p);
		got = km_replica_revision(p->r);
		assert_in_range(got, 1, 3);
		take_ok(p, "tunnel_create", tunnel_change((int)got, 10, 9, "h:9"));
		plane_reopen(p);
		assert_int_equal(km_replica_revision(p->r), 10);
		journal[at] ^= 1 << (at % 8);
	}
	journal[20] ^= 1;
	spill(path(p, "config.json"), snap, snap_n);
	spill(path(p, "config.journal"), journal, n);
	plane_reopen(p);
	assert_true(exists(p, "config.journal.broken"));
	free(journal);
	free(snap);
}

static void broken_snapshot(void **state)
{
	static const char *const bad[] = {
	    "",
	    "{",
	    "[]",
	    "\0\0\0\0",
	    "{\"snapshot\": 1}",
	    "{\"snapshot\": \"00000000-0000-4000-8000-000000000000\"}"};
	struct plane *p = *state;

	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
		take_ok(p, "tunnel_create", tunnel_change(1, 2, 1, "h:1"));
		spill(path(p, "config.json"), bad[i], i == 3 ? 4 : strlen(bad[i]));
		plane_reopen(p);
		saw(p, "");
		assert_string_equal(km_replica_epoch(p->r), "");
		assert_int_equal(km_replica_revision(p->r), 0);
		assert_true(exists(p, "config.json.broken"));
		assert_false(exists(p, "config.json"));
		remove_files(p);
	}
}

/* Died between the new snapshot and the emptying of the journal. */
static void leftover_journal(void **state)
{
	struct plane *p = *state;
	size_t n;
	char *journal;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	take_ok(p, "tunnel_create", tunnel_change(1, 5, 1, "h:1"));
	journal = slurp(path(p, "config.journal"), &n);
	take_ok(p, "config", config(E1, 3, "me", NULL, NULL, array(tunnel(2, "h:2"), NULL)));
	spill(path(p, "config.journal"), journal, n);
	plane_reopen(p);
	saw(p, "s999+ t2+ .");
	assert_int_equal(km_replica_revision(p->r), 3);
	take_ok(p, "tunnel_create", tunnel_change(3, 4, 3, "h:3"));
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), 4);
	assert_string_equal(p->tunnel[1], "");
	free(journal);
}

static void long_journal(void **state)
{
	struct plane *p = *state;
	struct stat st;
	int shrunk = 0;
	off_t size = 0;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	for (int i = 2; i < 2300; i++) {
		char target[32];

		snprintf(target, sizeof target, "h:%d", i);
		take_ok(p, "tunnel_update", tunnel_change(i - 1, i, i % THINGS, target));
		assert_int_equal(stat(path(p, "config.journal"), &st), 0);
		shrunk += st.st_size < size;
		size = st.st_size;
	}
	assert_int_equal(shrunk, 2);
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), 2299);
	assert_string_equal(p->tunnel[2299 % THINGS], "h:2299");
}

static void folder_gone(void **state)
{
	struct plane *p = *state;
	json_t *ack;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	take_ok(p, "tunnel_create", tunnel_change(1, 2, 1, "h:1"));
	remove_files(p);
	assert_int_equal(rmdir(p->dir), 0);
	assert_int_equal(take(p, "tunnel_create", tunnel_change(2, 3, 2, "h:2"), &ack), KM_EIO);
	assert_non_null(strstr(p->err.text, "No such file"));
	assert_string_equal(p->tunnel[2], "h:2"); /* applied all the same */
	assert_int_equal(take(p, "tunnel_create", tunnel_change(2, 3, 2, "h:2"), &ack), KM_EIO);
	assert_int_equal(mkdir(p->dir, 0700), 0);
	take_ok(p, "tunnel_create", tunnel_change(2, 3, 2, "h:2")); /* known, but now on disk */
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), 3);
	assert_string_equal(p->tunnel[1], "h:1");
	assert_string_equal(p->tunnel[2], "h:2");
	/* Only the journal vanished: noticed, and written anew as a whole. */
	take_ok(p, "tunnel_create", tunnel_change(3, 4, 3, "h:3"));
	unlink(path(p, "config.journal"));
	assert_int_equal(take(p, "tunnel_create", tunnel_change(4, 5, 4, "h:4"), &ack), KM_EIO);
	take_ok(p, "tunnel_create", tunnel_change(4, 5, 4, "h:4"));
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), 5);
	assert_string_equal(p->tunnel[3], "h:3");
	km_replica_free(p->r);
	assert_int_equal(km_replica_open(&p->r, "/nonexistent", &hooks, p, &p->err), KM_EIO);
	assert_null(p->r);
}

static void fill(const char *name)
{
	static char block[4096];
	int fd = open(name, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	while (write(fd, block, sizeof block) > 0)
		;
	while (write(fd, block, 1) > 0)
		;
	close(fd);
}

/* Takes changes until the tiny file system is full, makes room, and finds all that was
 * acknowledged. */
static void disk_full(void **state)
{
	struct plane *p = *state;
	int revision = 1, acked;

	if (mount("tmpfs", p->dir, "tmpfs", 0, "size=64k"))
		skip(); /* no right to mount here */
	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	fill(path(p, "filler"));
	while (!take(p, "tunnel_create", tunnel_change(revision, revision + 1, 1, "h:1"), NULL))
		revision++;
	acked = revision;
	assert_non_null(strstr(p->err.text, "No space left"));
	assert_int_equal(km_replica_revision(p->r), revision + 1);
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), acked);
	assert_int_equal(
	    take(p, "tunnel_create", tunnel_change(revision, revision + 1, 1, "h:2"), NULL),
	    KM_EIO);
	unlink(path(p, "filler"));
	take_ok(p, "tunnel_update", tunnel_change(revision + 1, revision + 2, 2, "h:3"));
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), revision + 2);
	assert_string_equal(p->tunnel[1], "h:2");
	assert_string_equal(p->tunnel[2], "h:3");
}

static int teardown_mount(void **state)
{
	struct plane *p = *state;

	umount2(p->dir, MNT_DETACH);
	return teardown(state);
}

/* What could not be written is written when there is room, without another message. */
static void disk_full_and_retry(void **state)
{
	struct plane *p = *state;
	int revision = 1;
	json_t *ack = NULL;

	if (mount("tmpfs", p->dir, "tmpfs", 0, "size=64k"))
		skip();                                             /* no right to mount here */
	assert_int_equal(km_replica_retry(p->r, &ack, &p->err), 0); /* nothing is known yet */
	assert_null(ack);
	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	assert_int_equal(km_replica_retry(p->r, &ack, &p->err), 0);
	assert_null(ack);
	fill(path(p, "filler"));
	while (!take(p, "tunnel_create", tunnel_change(revision, revision + 1, 1, "h:1"), NULL))
		revision++;
	assert_int_equal(km_replica_retry(p->r, &ack, &p->err), KM_EIO);
	assert_non_null(strstr(p->err.text, "No space left"));
	assert_null(ack);
	unlink(path(p, "filler"));
	assert_int_equal(km_replica_retry(p->r, &ack, &p->err), 0);
	assert_non_null(ack);
	assert_int_equal(json_integer_value(json_object_get(ack, "revision")), revision + 1);
	assert_true(json_is_true(json_object_get(ack, "success")));
	json_decref(ack);
	assert_int_equal(km_replica_retry(p->r, &ack, &p->err), 0);
	assert_null(ack);
	plane_reopen(p);
	assert_int_equal(km_replica_revision(p->r), revision + 1);
}

/* ---- a random life against a simple model ---- */

struct model {
	int revision;
	char tunnel[THINGS][64], agent[THINGS][64], gateway[THINGS][64];
};

static json_t *model_array(char things[THINGS][64], json_t *(*make)(int, const char *))
{
	json_t *v = json_array();

	for (int i = 0; i < THINGS; i++) {
		if (things[i][0])
			json_array_append_new(v, make(i, things[i]));
	}
	return v;
}

static void compare(const struct plane *p, const struct model *m)
{
	assert_int_equal(km_replica_revision(p->r), m->revision);
	assert_memory_equal(p->tunnel, m->tunnel, sizeof m->tunnel);
	assert_memory_equal(p->agent, m->agent, sizeof m->agent);
	assert_memory_equal(p->gateway, m->gateway, sizeof m->gateway);
	for (int i = 0; i < THINGS; i++)
		assert_true(!m->tunnel[i][0] == !km_replica_tunnel(p->r, id(i)));
}

static void wipe(struct plane *p)
{
	/* Old bytes behind the NUL would differ from the model's. */
	for (int i = 0; i < THINGS; i++) {
		char *all[] = {p->tunnel[i], p->agent[i], p->gateway[i]};

		for (int k = 0; k < 3; k++)
			memset(all[k] + strlen(all[k]), 0, 64 - strlen(all[k]));
	}
}

static void random_change(struct plane *p, struct model *m, unsigned *seed)
{
	static const char *const kinds[] = {"tunnel", "agent", "gateway"};
	char(*things[])[64] = {m->tunnel, m->agent, m->gateway};
	int k = rand_r(seed) % 3, n = rand_r(seed) % THINGS,
	    next = m->revision + 1 + rand_r(seed) % 3;
	char *slot = things[k][n], type[32], value[64] = "";
	bool there = slot[0];
	json_t *thing;

	if (rand_r(seed) % 3)
		snprintf(value, sizeof value, "h:%d", 1 + rand_r(seed) % 5);
	snprintf(type, sizeof type, "%s_%s", kinds[k],
		 !value[0] ? "delete"
		 : there   ? "update"
			   : "create");
	thing = k == 0 ? tunnel(n, value) : k == 1 ? agent(n, value) : gateway(n, value);
	if (!value[0]) {
		json_decref(thing);
		take_ok(p, type, gone(m->revision, next, n));
	} else {
		take_ok(p, type, change(E1, m->revision, next, kinds[k], thing));
	}
	memset(slot, 0, 64);
	strcpy(slot, value);
	m->revision = next;
}

static void random_config(struct plane *p, struct model *m, unsigned *seed)
{
	m->revision += rand_r(seed) % 3;
	for (int i = 0; i < THINGS; i++) {
		memset(m->tunnel[i], 0, 64);
		if (rand_r(seed) % 2)
			snprintf(m->tunnel[i], 64, "h:%d", 1 + rand_r(seed) % 2);
	}
	take_ok(p, "config",
		config(E1, m->revision, "me", model_array(m->gateway, gateway),
		       model_array(m->agent, agent), model_array(m->tunnel, tunnel)));
}

static void random_life(void **state)
{
	struct plane *p = *state;
	struct model m = {.revision = 1};
	unsigned seed = 7;

	take_ok(p, "config", config(E1, 1, "me", NULL, NULL, NULL));
	for (int i = 0; i < 3000; i++) {
		int what = rand_r(&seed) % 40;

		p->log[0] = 0;
		if (what == 0)
			random_config(p, &m, &seed);
		else if (what == 1)
			plane_reopen(p);
		else
			random_change(p, &m, &seed);
		wipe(p);
		compare(p, &m);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(empty_at_first),
	    T(order_and_differences),
	    T(reopen_gives_all),
	    T(gateway_self_and_no_hooks),
	    T(another_epoch),
	    T(gap_and_repetition),
	    T(all_verbs),
	    T(malformed),
	    T(too_many_gateways),
	    T(refusing_hooks),
	    T(an_older_refusal_is_named_again),
	    T(many_refusals_are_counted),
	    T(what_was_refused_goes_too),
	    T(back_before_it_went),
	    T(replay),
	    T(malformed_changes_are_skipped),
	    T(malformed_things_stay_as_they_were),
	    T(another_versions_files),
	    T(torn_journal),
	    T(damaged_journal),
	    T(broken_snapshot),
	    T(leftover_journal),
	    T(long_journal),
	    T(folder_gone),
	    cmocka_unit_test_setup_teardown(disk_full, setup, teardown_mount),
	    cmocka_unit_test_setup_teardown(disk_full_and_retry, setup, teardown_mount),
	    T(random_life),
	};

	km_log_init("test", KM_LOG_ERROR, KM_LOG_TEXT);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
