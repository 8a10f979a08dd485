/* SPDX-License-Identifier: MIT */
#include "controld/store/store.h"
#include "tests/unit/controld/fixture.h"
#include <glob.h>
#include <signal.h>

#define UUID_A "11111111-1111-4111-8111-111111111111"
#define UUID_B "22222222-2222-4222-8222-222222222222"

/* What came back of one request: the error, or the first value of the last result. */
struct answer {
	int calls;
	struct store_error error;
	size_t n;
	char value[256];
};

static struct fix fix;
static PGconn *db; /* blocking, to look at the truth */

static void on_answer(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct answer *a = arg;

	a->calls++;
	a->n = n;
	a->error = error ? *error : (struct store_error){0};
	if (!error && PQntuples(res[n - 1]) && PQnfields(res[n - 1]))
		snprintf(a->value, sizeof(a->value), "%s", PQgetvalue(res[n - 1], 0, 0));
}

static struct store *open_store(const struct store_opts *given)
{
	struct store_opts o = given ? *given : (struct store_opts){0};
	struct store *s;
	struct km_errtext err = {""};

	o.conninfo = embedded_conninfo(fix.db);
	if (store_open(&s, fix.base, &o, &err))
		fail_msg("%s", err.text);
	fix_until(fix.base, store_ready(s));
	return s;
}

static struct answer ask(struct store *s, const struct store_stmt *stmts, size_t n)
{
	struct answer a = {0};

	assert_int_equal(store_run(s, stmts, n, on_answer, &a, NULL), 0);
	assert_int_equal(a.calls, 0); /* never from within */
	fix_until(fix.base, a.calls);
	assert_int_equal(a.calls, 1);
	return a;
}

static struct answer ask1(struct store *s, const char *sql)
{
	const struct store_stmt stmt = {.sql = sql};

	return ask(s, &stmt, 1);
}

static int group_setup(void **state)
{
	(void)state;
	return fix_group_begin(&fix, &db);
}

static int group_teardown(void **state)
{
	(void)state;
	return fix_group_end(&fix, db);
}

/* An empty installation before each test. */
static int setup(void **state)
{
	(void)state;
	if (PQstatus(db) != CONNECTION_OK)
		PQreset(db);
	fix_value(
	    db,
	    "DELETE FROM tunnels; DELETE FROM agents; DELETE FROM gateways; DELETE FROM changes;"
	    "UPDATE revision SET value = 0;"
	    "ALTER SEQUENCE agent_numbers RESTART");
	return 0;
}

#define NEW_AGENT(id, name)                                                                        \
	"INSERT INTO agents (id, name, api_key_hash, api_key_prefix) VALUES ('" id "', '" name     \
	"', sha256('" id "'), 'agt_abcd')"
#define NEW_GATEWAY(name)                                                                          \
	"INSERT INTO gateways (name, api_key_hash, api_key_prefix) VALUES ('" name                 \
	"', sha256('" name "'), 'gtw_abcd')"

/* ---- migrations ---- */

static void migrations_run_once(void **state)
{
	struct km_errtext err = {""};
	int from = -1, to = -1;

	(void)state;
	assert_true(migrate_known() >= 1);
	assert_int_equal(migrate_run(db, &from, &to, &err), 0);
	assert_int_equal(from, migrate_known());
	assert_int_equal(to, migrate_known());
	assert_int_equal(atoi(fix_value(db, "SELECT count(*) FROM schema_migrations")),
			 migrate_known());
}

static void newer_schema_is_refused(void **state)
{
	struct km_errtext err = {""};
	int rc;

	(void)state;
	fix_value(db, "INSERT INTO schema_migrations (version, name) VALUES (9999, 'later')");
	rc = migrate_run(db, NULL, NULL, &err);
	fix_value(db, "DELETE FROM schema_migrations WHERE version = 9999");
	assert_int_equal(rc, KM_EUNSUPPORTED);
	assert_non_null(strstr(err.text, "9999"));
}

/* A database of its own as a program left it that knew the migrations up to a version. */
static PGconn *older_schema(int version)
{
	char name[16], file[64], sql[128], *text, *conninfo;
	glob_t g;
	size_t n;

	snprintf(name, sizeof(name), "older%d", version);
	snprintf(sql, sizeof(sql), "CREATE DATABASE %s", name);
	fix_value(db, sql);
	conninfo = strdup(embedded_conninfo(fix.db));
	const char *keys[] = {"dbname", "dbname", NULL}, *values[] = {conninfo, name, NULL};
	PGconn *old = PQconnectdbParams(keys, values, 1);
	assert_int_equal(PQstatus(old), CONNECTION_OK);
	assert_string_equal(PQdb(old), name);
	fix_value(old, "SET client_min_messages = warning");
	fix_value(
	    old, "CREATE TABLE schema_migrations (version integer PRIMARY KEY, name text NOT NULL, "
		 "applied_at timestamptz NOT NULL DEFAULT now())");
	for (int v = 1; v <= version; v++) {
		snprintf(file, sizeof(file), "controld/migrations/%04d_*.sql", v);
		assert_int_equal(glob(file, 0, NULL, &g), 0);
		assert_int_equal(km_file_read(g.gl_pathv[0], 1 << 20, &text, &n), 0);
		fix_value(old, text);
		free(text);
		globfree(&g);
		snprintf(sql, sizeof(sql), "INSERT INTO schema_migrations VALUES (%d, 'x')", v);
		fix_value(old, sql);
	}
	free(conninfo);
	return old;
}

/* What an older version has stored is what gateways are told by this one, and can be changed. */
static void older_schemas_are_brought_forward(void **state)
{
	static const char tunnel[] = "00000000-0000-4000-8000-00000000000a";
	char sql[128];

	(void)state;
	for (int v = 1; v < migrate_known(); v++) {
		struct km_errtext err = {""};
		PGconn *old = older_schema(v);
		int from, to;

		fix_value(old, NEW_AGENT(UUID_A, "a"));
		snprintf(sql, sizeof(sql), "INSERT INTO tunnels (id, domain) VALUES ('%s', 'a.b')",
			 tunnel);
		fix_value(old, sql);
		fix_value(old,
			  "INSERT INTO targets (id, tunnel_id, agent_id, address) SELECT '" UUID_B
			  "', id, '" UUID_A "', 'x:1' FROM tunnels");
		if (migrate_run(old, &from, &to, &err))
			fail_msg("from %d: %s", v, err.text);
		assert_int_equal(from, v);
		assert_int_equal(to, migrate_known());
		assert_string_equal(
		    fix_value(old, "SELECT km_tunnel_json(id) - 'agentVirtualIp' FROM tunnels"),
		    "{\"id\": \"00000000-0000-4000-8000-00000000000a\", \"tls\": \"auto\", "
		    "\"domain\": \"a.b\", "
		    "\"target\": \"x:1\", \"agentId\": \"" UUID_A "\", \"enabled\": true, "
		    "\"protocol\": \"http\", \"targetId\": \"" UUID_B "\"}");
		assert_string_equal(fix_value(old, "SELECT km_options_view(options) FROM tunnels"),
				    "{}");
		fix_value(old, "UPDATE tunnels SET path = '/p', options = '{\"maxBody\": 5}'; "
			       "UPDATE targets SET protocol = 'h2c'");
		assert_string_equal(fix_value(old,
					      "SELECT (j->>'path') || (j->>'targetProtocol') || "
					      "(j->'options') FROM (SELECT km_tunnel_json(id) AS j "
					      "FROM tunnels) t"),
				    "/ph2c{\"maxBody\": 5}");
		PQfinish(old);
	}
}

/* ---- requests ---- */

static void results_come_in_order(void **state)
{
	struct store *s = open_store(NULL);
	const struct store_stmt stmts[] = {
	    {.sql = "CREATE TEMP TABLE t (a int, b text)"},
	    {.sql = "INSERT INTO t VALUES ($1, $2), (2, 'two')", .n = 2, .params = {"1", NULL}},
	    {.sql =
		 "SELECT count(*) || ' ' || count(b) || ' ' || current_setting('TimeZone') FROM t"},
	};
	struct answer a = ask(s, stmts, 3);

	(void)state;
	assert_int_equal(a.error.err, 0);
	assert_int_equal(a.n, 3);
	assert_string_equal(a.value, "2 1 UTC");
	store_free(s);
}

static void bad_requests_are_refused(void **state)
{
	struct store *s = open_store(NULL);
	struct store_stmt many[STORE_STMTS + 1];
	const struct store_stmt wide = {.sql = "SELECT 1", .n = STORE_PARAMS + 1};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(many); i++)
		many[i] = (struct store_stmt){.sql = "SELECT 1"};
	assert_int_equal(store_run(s, many, 0, on_answer, NULL, NULL), KM_EINVAL);
	assert_int_equal(store_run(s, many, STORE_STMTS + 1, on_answer, NULL, NULL), KM_EINVAL);
	assert_int_equal(store_run(s, &wide, 1, on_answer, NULL, NULL), KM_EINVAL);
	store_free(s);
}

static void all_or_nothing(void **state)
{
	struct store *s = open_store(NULL);
	const struct store_stmt stmts[] = {
	    {.sql = NEW_AGENT(UUID_A, "one")},
	    {.sql = "SELECT km_change('agent', 'create', '" UUID_A "')"},
	    {.sql = "SELECT 1 / 0"},
	    {.sql = NEW_AGENT(UUID_B, "two")},
	};
	struct answer a = ask(s, stmts, 4);

	(void)state;
	assert_int_equal(a.error.err, KM_EINVAL);
	assert_string_equal(a.error.sqlstate, "22012");
	assert_string_equal(fix_value(db, "SELECT count(*) FROM agents"), "0");
	assert_string_equal(fix_value(db, "SELECT value FROM revision"), "0");
	assert_string_equal(fix_value(db, "SELECT count(*) FROM changes"), "0");
	a = ask(s, stmts, 2); /* the connection is well */
	assert_int_equal(a.error.err, 0);
	assert_string_equal(a.value, "1");
	store_free(s);
}

#define RAISE(state) "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '" state "'; END $$"

static void errors_name_their_constraint(void **state)
{
	static const struct {
		const char *sql;
		int err;
		const char *sqlstate, *constraint;
	} cases[] = {
	    {NEW_AGENT(UUID_B, "one"), KM_EEXIST, "23505", "agents_name_key"},
	    {NEW_AGENT(UUID_B, "no spaces"), KM_EINVAL, "23514", "agents_name_check"},
	    {"INSERT INTO tunnels (domain) VALUES ('a.test')", KM_EEXIST, "23505",
	     "tunnels_domain_path_key"},
	    {"INSERT INTO tunnels (port, protocol) VALUES (22, 'tls')", KM_EEXIST, "23505",
	     "tunnels_port_key"},
	    {"INSERT INTO tunnels (protocol) VALUES ('tcp')", KM_EINVAL, "23514",
	     "tunnels_match_check"},
	    {"INSERT INTO targets (tunnel_id, agent_id, address) SELECT id, gen_random_uuid(), "
	     "'x:1' "
	     "FROM tunnels LIMIT 1",
	     KM_ENOTFOUND, "23503", "targets_agent_id_fkey"},
	    {"DELETE FROM agents", KM_ENOTFOUND, "23503", "targets_agent_id_fkey"},
	    {"SELECT km_before('tunnel', '" UUID_B "')", KM_ENOTFOUND, "KM404", ""},
	    {"SELECT 'x'::uuid", KM_EINVAL, "22P02", ""},
	    {"SELECT nonsense", KM_EIO, "42703", ""},
	    {RAISE("53100"), KM_EAGAIN, "53100", ""}, /* disk full */
	    {RAISE("53200"), KM_EAGAIN, "53200", ""}, /* out of memory */
	    {RAISE("58030"), KM_EAGAIN, "58030", ""}, /* the disk fails */
	    {RAISE("40P01"), KM_EAGAIN, "40P01", ""}, /* deadlock */
	    {"SET default_transaction_read_only = on", 0, "", ""},
	    {"DELETE FROM targets", KM_EAGAIN, "25006", ""},
	    {"RESET default_transaction_read_only", 0, "", ""},
	};
	struct store *s = open_store(&(struct store_opts){.connections = 1});

	(void)state;
	fix_value(
	    db, NEW_AGENT(
		    UUID_A,
		    "one") ";"
			   "INSERT INTO tunnels (domain) VALUES ('a.test');"
			   "INSERT INTO tunnels (domain, path) VALUES ('a.test', '/b');"
			   "INSERT INTO tunnels (port, protocol) VALUES (22, 'tcp'), (22, 'udp');"
			   "INSERT INTO targets (tunnel_id, agent_id, address) SELECT id, '" UUID_A
			   "', 'x:1' "
			   "FROM tunnels WHERE path IS NULL AND port IS NULL");
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct answer a = ask1(s, cases[i].sql);

		assert_int_equal(a.error.err, cases[i].err);
		assert_string_equal(a.error.sqlstate, cases[i].sqlstate);
		assert_string_equal(a.error.constraint, cases[i].constraint);
		assert_int_equal(*a.error.message != '\0', cases[i].err != 0);
		assert_int_equal(store_error_passes(&a.error), cases[i].err == KM_EAGAIN);
	}
	store_free(s);
}

static void readers_see_one_state(void **state)
{
	struct store *s = open_store(&(struct store_opts){.connections = 1});
	const struct store_stmt look[] = {
	    {.sql = "SELECT value FROM revision"},
	    {.sql = "SELECT current_setting('transaction_isolation') || ' ' "
		    "|| current_setting('transaction_read_only')"}};
	const struct store_stmt bad = {.sql = "SELECT 1 / 0"};
	struct answer a = {0}, b = {0};

	(void)state;
	assert_int_equal(store_read(s, look, 2, on_answer, &a, NULL), 0);
	assert_int_equal(store_read(s, &bad, 1, on_answer, &b, NULL), 0);
	fix_until(fix.base, a.calls && b.calls);
	assert_int_equal(a.n, 2);
	assert_string_equal(a.value, "repeatable read on");
	assert_string_equal(b.error.sqlstate, "22012");
	/* the same connection is free of that transaction */
	a = ask1(s, "SELECT current_setting('transaction_isolation')");
	assert_string_equal(a.value, "read committed");
	store_free(s);
}

static void queue_is_bounded_and_cancelled(void **state)
{
	struct store *s = open_store(&(struct store_opts){.connections = 1, .max_queue = 2});
	const struct store_stmt one = {.sql = "SELECT 1"};
	struct answer a = {0}, b = {0}, c = {0};
	struct store_req *running, *waiting;

	(void)state;
	assert_int_equal(store_run(s, &one, 1, on_answer, &a, &running), 0);
	event_base_loop(fix.base, EVLOOP_NONBLOCK);
	assert_int_equal(store_run(s, &one, 1, on_answer, &b, &waiting), 0);
	if (!a.calls)
		store_cancel(running);
	store_cancel(waiting);
	assert_int_equal(store_run(s, &one, 1, on_answer, &c, NULL), 0);
	assert_int_equal(store_run(s, &one, 1, on_answer, &c, NULL), 0);
	assert_int_equal(store_run(s, &one, 1, on_answer, &c, NULL), KM_EFULL);
	fix_until(fix.base, c.calls == 2);
	assert_int_equal(b.calls, 0);
	assert_string_equal(c.value, "1");
	store_free(s);
}

static void pending_requests_end_silently_with_the_store(void **state)
{
	struct store *s = open_store(&(struct store_opts){.connections = 1});
	const struct store_stmt one = {.sql = "SELECT pg_sleep(1)"};
	struct answer a = {0};

	(void)state;
	assert_int_equal(store_run(s, &one, 1, on_answer, &a, NULL), 0);
	assert_int_equal(store_run(s, &one, 1, on_answer, &a, NULL), 0);
	event_base_loop(fix.base, EVLOOP_NONBLOCK);
	store_free(s);
	event_base_loop(fix.base, EVLOOP_NONBLOCK);
	assert_int_equal(a.calls, 0);
}

static void slow_statement_is_undone(void **state)
{
	struct store *s = open_store(&(struct store_opts){.timeout_ms = 2000});
	const struct store_stmt stmts[] = {{.sql = NEW_AGENT(UUID_A, "one")},
					   {.sql = "SELECT pg_sleep(60)"}};
	struct answer a = ask(s, stmts, 2);

	(void)state;
	assert_int_equal(a.error.err, KM_ETIMEOUT);
	assert_string_equal(a.error.sqlstate, "57014");
	assert_string_equal(fix_value(db, "SELECT count(*) FROM agents"), "0");
	store_free(s);
}

static void silent_server_is_given_up(void **state)
{
	struct store *s = open_store(&(struct store_opts){.timeout_ms = 2000, .connections = 1});
	struct answer a = ask1(s, "SELECT pg_backend_pid()");
	pid_t backend = (pid_t)atoi(a.value);

	(void)state;
	assert_true(backend > 1);
	kill(backend, SIGSTOP);
	a = ask1(s, "SELECT 1");
	kill(backend, SIGCONT);
	assert_int_equal(a.error.err, KM_ETIMEOUT);
	assert_string_equal(a.error.sqlstate, "");
	fix_until(fix.base, store_ready(s));
	a = ask1(s, "SELECT pg_backend_pid()");
	assert_int_equal(a.error.err, 0);
	assert_int_not_equal(atoi(a.value), backend);
	store_free(s);
}

/* ---- numbers and addresses ---- */

static void numbers_and_addresses(void **state)
{
	(void)state;
	fix_value(db, NEW_AGENT(UUID_A, "a"));
	assert_string_equal(
	    fix_value(db, "SELECT number || ' ' || subnet || ' ' || host(virtual_ip) FROM agents"),
	    "256 10.1.0.0/24 10.1.0.100");
	fix_value(db, "DELETE FROM agents; " NEW_AGENT(UUID_B, "a"));
	/* the number of the deleted one is not given again */
	assert_string_equal(fix_value(db, "SELECT host(virtual_ip) FROM agents"), "10.1.1.100");
	fix_value(db, NEW_GATEWAY("g1") ";" NEW_GATEWAY("g2") ";" NEW_GATEWAY(
			  "g3") ";"
				"DELETE FROM gateways WHERE number = 2;" NEW_GATEWAY("g4"));
	/* A gateway's number is given again, but not in the seconds after it was told. */
	fix_value(db, "DELETE FROM retired_numbers;" NEW_GATEWAY("g5"));
	assert_string_equal(
	    fix_value(db, "SELECT string_agg(name || '=' || host(virtual_ip), ' ' ORDER BY name) "
			  "FROM gateways"),
	    "g1=10.0.0.1 g3=10.0.0.3 g4=10.0.0.4 g5=10.0.0.2");
}

static void full_network_says_so(void **state)
{
	struct store *s = open_store(NULL);
	struct answer a;

	(void)state;
	fix_value(db, "ALTER SEQUENCE agent_numbers RESTART WITH 65535");
	a = ask1(s, NEW_AGENT(UUID_A, "a"));
	assert_int_equal(a.error.err, 0);
	assert_string_equal(fix_value(db, "SELECT host(virtual_ip) FROM agents"), "10.255.255.100");
	a = ask1(s, NEW_AGENT(UUID_B, "b"));
	assert_int_equal(a.error.err, KM_EFULL);
	assert_string_equal(a.error.sqlstate, "KM507");
	store_free(s);
}

/* ---- changes ---- */

static void changes_hold_before_and_after(void **state)
{
	struct store *s = open_store(NULL);
	const struct store_stmt create[] = {
	    {.sql = "INSERT INTO tunnels (id, domain) VALUES ('" UUID_A "', 'a.test')"},
	    {.sql = "INSERT INTO targets (tunnel_id, agent_id, address) VALUES ('" UUID_A
		    "', '" UUID_A "', 'x:1')"},
	    {.sql = "SELECT km_change('tunnel', 'create', $1)", .n = 1, .params = {UUID_A}}};
	const struct store_stmt move[] = {
	    {.sql = "SELECT km_before('tunnel', $1)", .n = 1, .params = {UUID_A}},
	    {.sql = "UPDATE targets SET agent_id = '" UUID_B "'"},
	    {.sql = "SELECT km_change('tunnel', 'update', $1)", .n = 1, .params = {UUID_A}}};
	const struct store_stmt describe[] = {
	    {.sql = "SELECT km_before('tunnel', $1)", .n = 1, .params = {UUID_A}},
	    {.sql = "UPDATE tunnels SET description = 'x'"},
	    {.sql = "SELECT km_change('tunnel', 'update', $1)", .n = 1, .params = {UUID_A}}};
	const struct store_stmt drop[] = {
	    {.sql = "SELECT km_before('tunnel', $1)", .n = 1, .params = {UUID_A}},
	    {.sql = "DELETE FROM tunnels WHERE id = $1", .n = 1, .params = {UUID_A}},
	    {.sql = "SELECT km_change('tunnel', 'delete', $1)", .n = 1, .params = {UUID_A}}};

	(void)state;
	fix_value(db, NEW_AGENT(UUID_A, "a") ";" NEW_AGENT(UUID_B, "b"));
	assert_string_equal(ask(s, create, 3).value, "1");
	assert_string_equal(ask(s, move, 3).value, "2");
	assert_string_equal(ask(s, describe, 3).value, "2"); /* clients would see nothing new */
	assert_string_equal(ask(s, drop, 3).value, "3");
	assert_string_equal(fix_value(db,
				      "SELECT string_agg(format('%s %s %s>%s %s', revision, verb,"
				      " left(old->>'agentId', 1), left(payload->>'agentId', 1), "
				      "cardinality(agents)), ', '"
				      " ORDER BY revision) FROM changes"),
			    "1 create >1 1, 2 update 1>2 2, 3 delete 2> 1");
	store_free(s);
}

struct wake {
	int calls;
	int64_t revision;
	bool gap; /* at a wake-up, some revision below was not visible */
	char epoch[64];
};

static void on_wake(void *arg, const char *epoch, int64_t revision)
{
	struct wake *w = arg;
	char sql[128];

	w->calls++;
	w->revision = revision;
	snprintf(w->epoch, sizeof(w->epoch), "%s", epoch);
	snprintf(sql, sizeof(sql), "SELECT count(*) FROM changes WHERE revision <= %lld",
		 (long long)revision);
	if (atoll(fix_value(db, sql)) != revision)
		w->gap = true;
}

/* While the database may be away. */
static void on_wake_only(void *arg, const char *epoch, int64_t revision)
{
	struct wake *w = arg;

	(void)epoch;
	w->calls++;
	w->revision = revision;
}

/* Two controld write at once, a third of the transactions fail after taking a revision. */
static void revisions_are_gapless(void **state)
{
	enum { N = 150 };
	struct store *s[2] = {open_store(NULL), open_store(NULL)};
	struct answer a[N] = {{0}};
	struct wake w = {0};
	struct store_watch *watch = store_listen(s[1], on_wake, &w);
	int done = 0, good = 0;

	(void)state;
	fix_value(db, NEW_GATEWAY("g"));
	for (int i = 0; i < N; i++) {
		const struct store_stmt stmts[] = {
		    {.sql = "INSERT INTO tunnels (domain) VALUES (gen_random_uuid() || '.test')"},
		    {.sql = "SELECT km_change('gateway', 'create', id) FROM gateways"},
		    {.sql = i % 3 ? "SELECT 1" : "SELECT 1 / 0"}};

		assert_int_equal(store_run(s[i % 2], stmts, 3, on_answer, &a[i], NULL), 0);
		good += i % 3 != 0;
	}
	for (int i = 0; i < N; i++) {
		fix_until(fix.base, a[i].calls);
		done += !a[i].error.err;
	}
	assert_int_equal(done, good);
	fix_until(fix.base, w.revision == good);
	assert_false(w.gap);
	assert_int_equal(atoi(fix_value(db, "SELECT count(*) FROM tunnels")), good);
	assert_int_equal(atoi(fix_value(db, "SELECT count(*) FROM changes")), good);
	assert_int_equal(atoi(fix_value(db, "SELECT max(revision) FROM changes")), good);
	assert_int_equal(atoi(fix_value(db, "SELECT value FROM revision")), good);
	store_unlisten(watch);
	store_free(s[0]);
	store_free(s[1]);
}

/* ---- waking ---- */

static void notify_wakes(void **state)
{
	/* a poll would come after a minute only */
	struct store *s = open_store(&(struct store_opts){.poll_ms = 60000});
	struct wake w = {0}, late = {0};
	struct store_watch *watch = store_listen(s, on_wake, &w), *second;
	int64_t began;

	(void)state;
	fix_until(fix.base, w.calls == 1);
	assert_int_equal(w.revision, 0);
	assert_string_equal(w.epoch, store_epoch(s));
	assert_string_equal(w.epoch, fix_value(db, "SELECT id FROM epoch"));
	began = km_now_ms();
	fix_value(db, NEW_GATEWAY("g") ";SELECT km_change('gateway', 'create', id) FROM gateways");
	fix_until(fix.base, w.revision == 1);
	assert_true(km_now_ms() - began < 30000);
	second = store_listen(s, on_wake, &late); /* one who comes later is told what is known */
	fix_until(fix.base, late.calls == 1);
	assert_int_equal(late.revision, 1);
	store_unlisten(second);
	store_unlisten(watch);
	store_free(s);
}

static void poll_finds_what_no_notify_told(void **state)
{
	struct store *s = open_store(&(struct store_opts){.poll_ms = 100});
	struct wake w = {0};
	struct store_watch *watch = store_listen(s, on_wake, &w);

	(void)state;
	fix_until(fix.base, w.calls);
	fix_value(db, "INSERT INTO changes (revision, entity, verb, id) VALUES (1, 'agent', "
		      "'create', '" UUID_A "'); UPDATE revision SET value = 1");
	fix_until(fix.base, w.revision == 1);
	store_unlisten(watch);
	store_free(s);
}

static void moved_database_is_another_epoch(void **state)
{
	struct store *s = open_store(&(struct store_opts){.poll_ms = 100});
	struct wake w = {0};
	struct store_watch *watch = store_listen(s, on_wake, &w);
	char before[64];

	(void)state;
	fix_until(fix.base, w.calls);
	snprintf(before, sizeof(before), "%s", w.epoch);
	fix_value(db, "UPDATE epoch SET timeline = '0000FFFF'"); /* as after a promotion */
	fix_until(fix.base, strcmp(w.epoch, before) != 0);
	assert_string_equal(w.epoch, fix_value(db, "SELECT km_epoch()"));
	snprintf(before, sizeof(before), "%s", w.epoch);
	fix_value(db,
		  "UPDATE epoch SET system_identifier = '1'"); /* as after a restore elsewhere */
	assert_string_not_equal(fix_value(db, "SELECT km_epoch()"), before);
	store_unlisten(watch);
	store_free(s);
}

static void recovers_from_the_databases_death(void **state)
{
	struct store *s = open_store(&(struct store_opts){.poll_ms = 60000});
	const struct store_stmt slow = {.sql = "SELECT pg_sleep(60)"}, one = {.sql = "SELECT 1"};
	struct wake w = {0};
	struct store_watch *watch = store_listen(s, on_wake_only, &w);
	struct answer a = {0}, b;
	unsigned ready = fix.ready;
	int calls;

	(void)state;
	fix_until(fix.base, w.calls);
	assert_int_equal(store_run(s, &slow, 1, on_answer, &a, NULL), 0);
	event_base_loop(fix.base, EVLOOP_NONBLOCK);
	kill(embedded_pid(fix.db), SIGQUIT);
	fix_until(fix.base, a.calls);
	assert_int_equal(a.error.err, KM_ECLOSED);
	fix_until(fix.base, !store_ready(s));
	assert_int_equal(store_run(s, &one, 1, on_answer, &a, NULL), KM_ECLOSED);
	calls = w.calls;
	fix_until(fix.base, fix.ready > ready);
	PQreset(db);
	fix_until(fix.base, store_ready(s));
	b = ask1(s, "SELECT 1");
	assert_string_equal(b.value, "1");
	fix_until(fix.base,
		  w.calls > calls); /* who listens is told, since a change may have been missed */
	store_unlisten(watch);
	store_free(s);
}

static void bad_address_is_refused(void **state)
{
	struct store_opts o = {.conninfo = "postgresql://%zz/"};
	struct store *s;
	struct km_errtext err = {""};

	(void)state;
	assert_int_equal(store_open(&s, fix.base, &o, &err), KM_EINVAL);
	assert_null(s);
	assert_true(*err.text);
}

#define T(f) cmocka_unit_test_setup(f, setup)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(migrations_run_once),
	    T(newer_schema_is_refused),
	    T(older_schemas_are_brought_forward),
	    T(results_come_in_order),
	    T(bad_requests_are_refused),
	    T(all_or_nothing),
	    T(errors_name_their_constraint),
	    T(readers_see_one_state),
	    T(queue_is_bounded_and_cancelled),
	    T(pending_requests_end_silently_with_the_store),
	    T(slow_statement_is_undone),
	    T(silent_server_is_given_up),
	    T(numbers_and_addresses),
	    T(full_network_says_so),
	    T(changes_hold_before_and_after),
	    T(revisions_are_gapless),
	    T(notify_wakes),
	    T(poll_finds_what_no_notify_told),
	    T(moved_database_is_another_epoch),
	    T(recovers_from_the_databases_death),
	    T(bad_address_is_refused),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
