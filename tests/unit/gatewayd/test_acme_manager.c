/* SPDX-License-Identifier: MIT */
/* The manager of certificates with the true client, a CA of the test's own (acme_ca.h) and gateways that are
 * played by the test; time is the test's. */
#include "gatewayd/acme/acme.h"
#include "gatewayd/acme/cache.h"
#include "gatewayd/acme/dns/query.h"
#include "gatewayd/acme/http.h"
#include "gatewayd/mesh/mesh.h"
#include "libkm/base/log.h"
#include "tests/unit/gatewayd/acme_ca.h"
#include <dirent.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define S 1000LL
#define MIN (60 * S)
#define HOUR (60 * MIN)
#define DAY (24 * HOUR)

/* ---- time: both clocks move by the test's hand ---- */

static int64_t mono_ms = 1000 * S, wall_ms = 1800000000 * S;

int clock_gettime(clockid_t id, struct timespec *ts)
{
	int64_t ms = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE ? wall_ms : mono_ms;
	*ts = (struct timespec){ms / 1000, ms % 1000 * 1000000};
	return 0;
}

time_t time(time_t *t)
{
	if (t)
		*t = wall_ms / 1000;
	return wall_ms / 1000;
}

/* ---- the transport ---- */

static struct event_base *base;
static struct ca ca;
static bool away; /* the CA does not answer */
static int sent;
static const char *quiet_at; /* the end is near when this is asked for */
static int quiet;

static void on_quiet(void *arg)
{
	(void)arg;
	quiet++;
}
static void quiet_begin(void);

struct acme_http_call {
	struct event *ev;
	struct acme_request r;
	void (*done)(void *arg, const struct acme_answer *a);
	void *arg;
};

static void call_drop(struct acme_http_call *c)
{
	event_free(c->ev);
	free(c->r.url);
	free(c->r.body);
	free(c);
}

static void on_call(evutil_socket_t fd, short what, void *arg)
{
	struct acme_http_call *c = arg;
	static const struct acme_answer none = {.failed = "nobody there"};
	(void)fd, (void)what;
	sent++;
	if (quiet_at && strstr(c->r.url, quiet_at))
		quiet_begin();
	const struct acme_answer *a = away ? &none : ca_ask(&ca, &c->r);
	void (*done)(void *, const struct acme_answer *) = c->done;
	void *done_arg = c->arg;
	call_drop(c);
	done(done_arg, a);
}

int acme_http_new(struct acme_http **out, struct event_base *b, const char *file, struct km_errtext *err)
{
	(void)b, (void)file, (void)err;
	*out = NULL;
	return 0;
}
void acme_http_free(struct acme_http *h)
{
	(void)h;
}
struct acme_http_call *acme_http_send(struct acme_http *h, const struct acme_request *r,
				      void (*done)(void *arg, const struct acme_answer *a), void *arg)
{
	struct acme_http_call *c = km_xcalloc(1, sizeof(*c));
	(void)h;
	c->r = (struct acme_request){.method = r->method, .url = km_xstrdup(r->url),
				     .body = r->body ? km_xstrdup(r->body) : NULL};
	c->done = done;
	c->arg = arg;
	c->ev = evtimer_new(base, on_call, c);
	event_active(c->ev, 0, 0);
	return c;
}
struct acme_http_call *acme_http_custom(struct acme_http *h, const char *method, const char *url,
					const char *const *headers, const char *body,
					void (*done)(void *arg, const struct acme_answer *a), void *arg)
{
	(void)h, (void)method, (void)url, (void)headers, (void)body, (void)done, (void)arg;
	return NULL;
}
void acme_http_cancel(struct acme_http_call *c)
{
	call_drop(c);
}

/* ---- the other gateway ---- */

static struct {
	bool there, mine, denies;
	int64_t awaited; /* until then it may still come, wall clock */
	int claims, announced, opened, closed, failed;
	char *pem; /* that it gives */
	struct event *ev;
	void (*claimed)(void *arg, bool granted);
	void (*told)(void *arg);
	void (*fetched)(void *arg, const char *pem);
	void *claim_arg, *told_arg, *fetch_arg;
	struct challenge ch; /* opened last */
} other;
static const uint8_t other_id[16] = {7};

static void on_other(evutil_socket_t fd, short what, void *arg)
{
	void (*claimed)(void *, bool) = other.claimed;
	void (*told)(void *) = other.told;
	void (*fetched)(void *, const char *) = other.fetched;
	(void)fd, (void)what, (void)arg;
	other.claimed = NULL;
	other.told = NULL;
	other.fetched = NULL;
	if (claimed)
		claimed(other.claim_arg, !other.denies);
	if (told)
		told(other.told_arg);
	if (fetched)
		fetched(other.fetch_arg, other.pem);
}

size_t mesh_alive(const struct mesh *m)
{
	(void)m;
	return other.there;
}
int64_t mesh_awaits(const struct mesh *m)
{
	(void)m;
	return other.awaited > wall_ms ? other.awaited - wall_ms : 0;
}
bool mesh_is_alive(const struct mesh *m, const uint8_t id[static 16])
{
	(void)m, (void)id;
	return other.there;
}
bool mesh_mine(const struct mesh *m, const char *domain)
{
	(void)m, (void)domain;
	return other.mine;
}
void mesh_challenge(struct mesh *m, const struct challenge *ch, bool open, void (*done)(void *arg), void *arg)
{
	(void)m;
	if (open)
		other.ch = *ch;
	other.opened += open;
	other.closed += !open;
	if (!done)
		return;
	other.told = done;
	other.told_arg = arg;
	event_active(other.ev, 0, 0);
}
void mesh_challenge_to(struct mesh *m, const uint8_t gateway[static 16], const struct challenge *ch)
{
	(void)m, (void)gateway, (void)ch;
}
void mesh_claim(struct mesh *m, const char *domain, void (*done)(void *arg, bool granted), void *arg)
{
	(void)m, (void)domain;
	other.claims++;
	other.claimed = done;
	other.claim_arg = arg;
	event_active(other.ev, 0, 0);
}
void mesh_announce(struct mesh *m, const struct mesh_fact *f)
{
	(void)m, (void)f;
	other.announced++;
}
void mesh_announce_to(struct mesh *m, const uint8_t gateway[static 16], const struct mesh_fact *f)
{
	(void)m, (void)gateway, (void)f;
	other.announced++;
}
void mesh_failed(struct mesh *m, const char *domain, const char *why, int64_t next_try_ms)
{
	(void)m, (void)domain, (void)why, (void)next_try_ms;
	other.failed++;
}
void mesh_fetch(struct mesh *m, const uint8_t gateway[static 16], const char *domain, bool rsa,
		void (*done)(void *arg, const char *pem), void *arg)
{
	(void)m, (void)domain, (void)rsa;
	assert_memory_equal(gateway, other_id, 16);
	other.fetched = done;
	other.fetch_arg = arg;
	event_active(other.ev, 0, 0);
}

/* ---- the DNS: "*.nowhere.test" is found to lead elsewhere, after five seconds ---- */

struct asking {
	struct dns_ask ask;
	struct event *ev;
	void (*done)(void *arg, enum dns_verdict v, const char *text);
	void *arg;
	bool fine;
};
static int asked_dns;

static void asking_free(struct dns_ask *ask)
{
	struct asking *q = (struct asking *)ask;
	event_free(q->ev);
	free(q);
}

static void on_asking(evutil_socket_t fd, short what, void *arg)
{
	struct asking q = *(struct asking *)arg;
	(void)fd, (void)what;
	asking_free(arg);
	q.done(q.arg, q.fine ? DNS_FINE : DNS_ELSEWHERE, NULL);
}

struct dns_ask *dns_preflight(struct dns *d, const struct dns_preflight_opts *o,
			      void (*done)(void *arg, enum dns_verdict v, const char *text), void *arg)
{
	struct asking *q = km_xcalloc(1, sizeof(*q));
	(void)d;
	q->fine = !strstr(o->name, ".nowhere.test");
	q->ask.cancel = asking_free;
	q->done = done;
	q->arg = arg;
	q->ev = evtimer_new(base, on_asking, q);
	event_add(q->ev, &(struct timeval){q->fine ? 0 : 5, 0});
	asked_dns += !q->fine;
	return &q->ask;
}

/* ---- one gateway ---- */

static char dir[64];
static struct gw_settings settings;
static struct certs *certs;
static struct challenges *challenges;
static struct acme *a;
static int settled_ok, settled_not, obtained;
static char obtained_chain[65536];

static void quiet_begin(void)
{
	quiet_at = NULL;
	acme_quiet(a, on_quiet, NULL);
	assert_int_equal(quiet, 0); /* the CA has not answered yet */
}

static void on_settled(void *arg, const char *domain, bool ok)
{
	(void)arg, (void)domain;
	settled_ok += ok;
	settled_not += !ok;
}

static void on_obtained(void *arg, const char *domain, const char *chain, int64_t not_after_ms)
{
	(void)arg, (void)domain, (void)not_after_ms;
	obtained++;
	snprintf(obtained_chain, sizeof(obtained_chain), "%s", chain);
}

static char *at(const char *fmt, const char *name)
{
	static char path[256];
	size_t n = (size_t)snprintf(path, sizeof(path), "%s/", dir);
	snprintf(path + n, sizeof(path) - n, fmt, name); /* NOLINT */
	return path;
}

static void start(void)
{
	struct km_errtext err = {""};
	char *acme_dir = gw_acme_dir(&settings);
	const struct certs_opts co = {.own_dir = settings.certificate_dir, .acme_dir = acme_dir};
	certs = certs_new(&co);
	free(acme_dir);
	challenges = challenges_new(NULL, NULL);
	const struct acme_opts o = {.settings = &settings,
				    .base = base,
				    .certs = certs,
				    .challenges = challenges,
				    .mesh = other.there ? (struct mesh *)&other : NULL,
				    .settled = on_settled,
				    .obtained = on_obtained};
	if (acme_start(&a, &o, &err))
		fail_msg("%s", err.text);
}

static void stop(void)
{
	acme_free(a);
	challenges_free(challenges);
	certs_free(certs);
	a = NULL;
}

static void begin(const char *more)
{
	strcpy(dir, "/tmp/km-manager-XXXXXX");
	assert_non_null(mkdtemp(dir));
	FILE *f = fopen(at("%s", "conf"), "w");
	fprintf(f,
		"state_dir = %s\ncertificate_dir = %s/own\nacme_directory = " CA
		"/dir\n%s%s%s",
		dir, dir, strstr(more, "acme_preflight") ? "" : "acme_preflight = off\n", strstr(more, "acme_challenges") ? "" : "acme_challenges = http-01\n", more);
	fclose(f);
	assert_int_equal(km_conf_load(&gw_settings_spec, at("%s", "conf"), &settings, stderr), 0);
	base = event_base_new();
	memset(&other, 0, sizeof(other));
	other.ev = event_new(base, -1, 0, on_other, NULL);
	ca_init(&ca);
	away = false;
	sent = settled_ok = settled_not = obtained = 0;
	start();
}

static void remove_all(const char *path)
{
	DIR *d = opendir(path);
	char one[600];
	for (struct dirent *e; d && (e = readdir(d));) {
		snprintf(one, sizeof(one), "%s/%s", path, e->d_name);
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlink(one))
			remove_all(one);
	}
	if (d)
		closedir(d);
	rmdir(path);
}

static void end(void)
{
	if (a)
		stop();
	event_free(other.ev);
	free(other.pem);
	event_base_free(base);
	ca_free(&ca);
	km_conf_free(&gw_settings_spec, &settings);
	remove_all(dir);
}

/* Time passes, in steps that grow, so that what follows from one thing happens soon after it. */
static void pass(int64_t ms)
{
	for (int64_t step = 1, gone = 0; gone < ms; gone += step) {
		step = gone < 2000 ? 1 : gone < MIN ? 100 : gone < 10 * MIN ? 1000 : 10000;
		mono_ms += step;
		wall_ms += step;
		event_base_loop(base, EVLOOP_NONBLOCK);
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
}

struct look {
	const char *domain;
	struct acme_status s;
	char error[500];
	bool found;
};

static void on_status(void *arg, const struct acme_status *s)
{
	struct look *l = arg;
	if (strcmp(s->domain, l->domain))
		return;
	l->found = true;
	l->s = *s;
	snprintf(l->error, sizeof(l->error), "%s", s->error ? s->error : "");
}

static struct look status(const char *domain)
{
	struct look l = {.domain = domain};
	acme_each(a, 0, on_status, &l);
	return l;
}

static bool there(const char *name)
{
	return !access(at("%s", name), F_OK);
}

/* ---- the tests ---- */

static void from_tunnel_to_certificate(void **state)
{
	(void)state;
	begin("");
	pass(MIN);
	assert_int_equal(sent, 0); /* nobody wants anything */
	acme_want(a, "app.test");
	pass(MIN);
	assert_int_equal(sent, 0); /* not yet */
	acme_settled(a);
	assert_true(acme_asked(a, "app.test"));
	assert_false(acme_asked(a, "stranger.test"));
	pass(3 * S);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(settled_ok, 1);
	assert_int_equal(obtained, 1);
	assert_non_null(strstr(obtained_chain, "BEGIN CERTIFICATE"));
	assert_null(strstr(obtained_chain, "PRIVATE"));
	assert_int_equal(status("app.test").s.state, ACME_READY);
	assert_true(acme_manages(a, "app.test"));
	assert_true(there("acme/app.test"));
	assert_false(there("acme/app.test+order"));
	struct stat st;
	assert_int_equal(stat(at("%s", "certificates.log"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	acme_want(a, "app.test");
	acme_unwant(a, "app.test");
	pass(HOUR);
	assert_true(acme_manages(a, "app.test"));
	/* A restart orders nothing. */
	stop();
	start();
	acme_want(a, "app.test");
	acme_settled(a);
	pass(HOUR);
	assert_int_equal(ca.n_orders, 1);
	acme_unwant(a, "app.test");
	assert_false(acme_manages(a, "app.test"));
	pass(2 * DAY);
	assert_int_equal(ca.n_orders, 1);
	end();
}

static void renewal(void **state)
{
	(void)state;
	begin("acme_name_rate = 1000/1h\nacme_domain_rate = 1000/1h\n");
	ca.no_ari = true;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(11 * HOUR - 30 * MIN);
	assert_int_equal(ca.n_orders, 1);
	pass(2 * HOUR); /* half of a day, less up to a tenth of that */
	assert_int_equal(ca.n_orders, 2);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	pass(2 * DAY);
	assert_in_range(ca.n_orders, 5, 8);
	end();
}

static void renewal_information(void **state)
{
	(void)state;
	begin("acme_name_rate = 1/7d\n"); /* does not count for what ARI knows */
	ca.ari_start = wall_ms + 3 * HOUR;
	ca.ari_end = wall_ms + 4 * HOUR;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(2 * HOUR + 59 * MIN);
	assert_int_equal(ca.n_orders, 1);
	ca.ari_start = wall_ms + 20 * HOUR; /* of the next one */
	ca.ari_end = wall_ms + 21 * HOUR;
	pass(62 * MIN);
	assert_int_equal(ca.n_orders, 2);
	assert_non_null(strstr(ca.last_order_payload, "replaces"));
	pass(15 * HOUR);
	assert_int_equal(ca.n_orders, 2);
	end();
}

static void failures_are_remembered(void **state)
{
	(void)state;
	begin("");
	ca.fail_types = " http-01 ";
	ca.fail_error = "connection";
	acme_want(a, "app.test");
	acme_settled(a);
	acme_asked(a, "app.test");
	pass(10 * S);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(settled_not, 1);
	assert_int_equal(status("app.test").s.state, ACME_ERROR);
	assert_true(status("app.test").s.next_try_ms > wall_ms);
	assert_non_null(strstr(status("app.test").error, "no luck"));
	assert_false(acme_asked(a, "app.test"));
	stop();
	start();
	acme_want(a, "app.test");
	acme_settled(a);
	pass(40 * S);
	assert_int_equal(ca.n_orders, 1);
	pass(40 * S);
	assert_int_equal(ca.n_orders, 2);
	pass(8 * MIN);
	assert_int_equal(ca.n_orders, 2);
	pass(4 * MIN);
	assert_int_equal(ca.n_orders, 3);
	pass(80 * MIN);
	assert_int_equal(ca.n_orders, 3);
	pass(40 * MIN);
	assert_int_equal(ca.n_orders, 4);
	pass(20 * HOUR);
	assert_int_equal(ca.n_orders, 4);
	ca.fail_types = NULL;
	pass(8 * HOUR);
	assert_int_equal(ca.n_orders, 5);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	end();
}

static void ca_away(void **state)
{
	char name[32];
	(void)state;
	begin("");
	away = true;
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		acme_want(a, name);
	}
	acme_settled(a);
	pass(DAY);
	print_message("%d requests in a day without a CA\n", sent);
	assert_in_range(sent, 20, 400); /* one probe at a time, each half an hour in the end */
	assert_int_equal(status("n3.test").s.state == ACME_READY, 0);
	away = false;
	pass(2 * HOUR);
	assert_int_equal(ca.n_orders, 10);
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		assert_int_equal(status(name).s.state, ACME_READY);
	}
	end();
}

static void restart_in_the_middle(void **state)
{
	(void)state;
	begin("");
	ca.slow = 1000;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(10 * S);
	assert_int_equal(ca.n_orders, 1);
	assert_true(there("acme/app.test+order"));
	assert_int_equal(status("app.test").s.state, ACME_ISSUING);
	stop();
	ca.slow = 0;
	start();
	acme_want(a, "app.test");
	acme_settled(a);
	pass(MIN);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	assert_false(there("acme/app.test+order"));
	end();
}

/* What was asked for is remembered before the end; nothing more is asked for. */
static void the_end_waits_for_an_order(void **state)
{
	(void)state;
	begin("");
	quiet = 0;
	ca.slow = 1000;
	quiet_at = CA "/order";
	acme_want(a, "app.test");
	acme_settled(a);
	pass(10 * S);
	assert_null(quiet_at);
	assert_int_equal(quiet, 1);
	assert_int_equal(ca.n_orders, 1);
	acme_want(a, "other.test");
	acme_settled(a);
	pass(10 * S);
	assert_int_equal(ca.n_orders, 1);
	stop();
	ca.slow = 0;
	start();
	acme_want(a, "app.test");
	acme_settled(a);
	pass(MIN);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	end();
	acme_quiet(NULL, on_quiet, NULL);
	assert_int_equal(quiet, 2);
}

static void throttled(void **state)
{
	char name[32];
	(void)state;
	begin("acme_order_rate = 2/1h\n");
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		acme_want(a, name);
	}
	acme_settled(a);
	pass(10 * MIN);
	assert_int_equal(ca.n_orders, 2);
	int waits = 0;
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		struct look l = status(name);
		if (l.s.state == ACME_PENDING && strstr(l.error, "waits until") &&
		    strstr(l.error, "2 orders in 1h"))
			waits++;
	}
	assert_int_equal(waits, 2);
	stop(); /* what was used is not forgotten */
	start();
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		acme_want(a, name);
	}
	acme_settled(a);
	pass(10 * MIN);
	assert_int_equal(ca.n_orders, 2);
	pass(HOUR);
	assert_int_equal(ca.n_orders, 4);
	end();
}

/* An attempt that goes through the kinds of challenges makes an order for each. */
static void all_orders_count(void **state)
{
	(void)state;
	begin("acme_order_rate = 2/1h\nacme_challenges = tls-alpn-01, http-01\n");
	ca.fail_types = " tls-alpn-01 ";
	acme_want(a, "app.test");
	acme_settled(a);
	pass(S);
	assert_int_equal(ca.n_orders, 2);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	ca.fail_types = NULL;
	acme_want(a, "two.test");
	pass(10 * MIN);
	assert_int_equal(ca.n_orders, 2);
	assert_non_null(strstr(status("two.test").error, "2 orders in 1h"));
	pass(HOUR);
	assert_int_equal(status("two.test").s.state, ACME_READY);
	end();
}

/* Names that the CA refuses, and says that it will for long, are no others' affair. */
static void limits_of_some(void **state)
{
	static const struct fault faults[] = {
	    {"/order", .times = 3, .status = 429, .type = "rateLimited", .retry_after = "604800"}, {0}};
	char name[32];
	(void)state;
	begin("");
	ca.faults = faults;
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		acme_want(a, name);
	}
	acme_settled(a);
	pass(MIN);
	assert_int_equal(ca.n_orders, 0);
	acme_want(a, "app.test");
	pass(MIN);
	assert_int_equal(ca.n_orders, 0); /* it may be everybody's */
	pass(15 * MIN);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	acme_want(a, "two.test");
	pass(S);
	assert_int_equal(ca.n_orders, 2);
	end();
}

static void count_lines(int *out, const char *word)
{
	FILE *f = fopen(at("%s", "certificates.log"), "r");
	char line[4096];
	*out = 0;
	while (f && fgets(line, sizeof(line), f))
		*out += strstr(line, word) != NULL;
	if (f)
		fclose(f);
}

/* Tunnels that come and go leave nothing behind, if the CA was not asked. */
static void comings_and_goings(void **state)
{
	char name[64];
	int n;
	(void)state;
	begin("");
	acme_settled(a);
	for (int i = 0; i < 1500; i++) {
		snprintf(name, sizeof(name), "*.n%d.test", i); /* no dns-01 here */
		acme_want(a, name);
		pass(2);
		assert_int_equal(status(name).s.state, ACME_ERROR);
		acme_unwant(a, name);
	}
	count_lines(&n, "n");
	assert_in_range(n, 1, 1200); /* it has been written anew */
	stop();
	start();
	acme_want(a, "*.n7.test");
	assert_int_equal(status("*.n7.test").s.state, ACME_PENDING);
	assert_string_equal(status("*.n7.test").error, "");
	end();
}

static void a_month_both_ways(void **state)
{
	char name[32];
	(void)state;
	begin("");
	ca.no_ari = true;
	for (int i = 0; i < 6; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		acme_want(a, name);
	}
	acme_settled(a);
	pass(MIN);
	assert_int_equal(ca.n_orders, 6);
	wall_ms += 30 * DAY;
	pass(MIN);
	assert_true(ca.n_orders < 9); /* spread over an hour: three in a minute are one run in ten thousand */
	assert_true(there("acme/n0.test"));
	pass(2 * HOUR);
	assert_int_equal(ca.n_orders, 12);
	wall_ms -= 30 * DAY;
	pass(2 * HOUR);
	assert_int_equal(ca.n_orders, 12);
	assert_int_equal(status("n0.test").s.state, ACME_READY);
	end();
}

/* A CA is asked when to renew though the clock was ahead when it was asked last. */
static void asked_again_after_a_jump(void **state)
{
	(void)state;
	begin("");
	acme_want(a, "app.test");
	acme_settled(a);
	pass(MIN);
	wall_ms += 30 * DAY;
	pass(2 * HOUR);
	wall_ms -= 30 * DAY;
	pass(MIN);
	int before = ca.n_requests, orders = ca.n_orders;
	pass(8 * HOUR);
	assert_true(ca.n_requests > before);
	assert_int_equal(ca.n_orders, orders);
	end();
}

/* Strangers come all the time for many names that lead nowhere: a renewal waits for none of them. */
static void names_that_lead_nowhere(void **state)
{
	char name[32];
	(void)state;
	begin("acme_preflight = on\n");
	ca.no_ari = true;
	acme_want(a, "app.test");
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "n%d.nowhere.test", i);
		acme_want(a, name);
	}
	acme_settled(a);
	pass(10 * MIN);
	assert_int_equal(ca.n_orders, 1);
	pass(10 * HOUR); /* it lives for a day */
	assert_int_equal(ca.n_orders, 1);
	asked_dns = 0;
	for (int64_t ms = 0; ms < 3 * HOUR && ca.n_orders < 2; ms += 250) {
		for (int i = 0; i < 200; i += 10) {
			snprintf(name, sizeof(name), "n%d.nowhere.test", (int)(ms / 250 % 10) + i);
			acme_asked(a, name);
		}
		mono_ms += 250;
		wall_ms += 250;
		event_base_loop(base, EVLOOP_NONBLOCK);
		event_base_loop(base, EVLOOP_NONBLOCK);
	}
	assert_true(asked_dns > 10000); /* they were looked for as fast as could be */
	assert_int_equal(ca.n_orders, 2);
	end();
}

static void nowhere_to_write(void **state)
{
	char away_dir[128];
	(void)state;
	begin("");
	ca.slow = 4;
	acme_want(a, "app.test");
	acme_settled(a);
	for (int i = 0; i < 1000 && !ca.n_orders; i++)
		pass(1);
	pass(5); /* the order has its key by now */
	snprintf(away_dir, sizeof(away_dir), "%s/away", dir);
	assert_int_equal(rename(at("%s", "acme"), away_dir), 0);
	fclose(fopen(at("%s", "acme"), "w")); /* a file in its place: nothing can be written there */
	pass(MIN);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(settled_ok, 0);
	assert_non_null(strstr(status("app.test").error, "acme"));
	unlink(at("%s", "acme"));
	assert_int_equal(rename(away_dir, at("%s", "acme")), 0);
	pass(MIN);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(settled_ok, 1);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	end();
}

/* One that cannot be written, for a reason of its own, and another. */
static void one_in_the_way(void **state)
{
	char name[32], away_dir[128];
	(void)state;
	begin("");
	ca.slow = 4;
	for (int i = 0; i < 3; i++) {
		snprintf(name, sizeof(name), "n%d.test", i);
		acme_want(a, name);
	}
	acme_settled(a);
	for (int i = 0; i < 1000 && ca.n_orders < 3; i++)
		pass(1);
	pass(5);
	snprintf(away_dir, sizeof(away_dir), "%s/away", dir);
	assert_int_equal(rename(at("%s", "acme"), away_dir), 0);
	fclose(fopen(at("%s", "acme"), "w"));
	pass(MIN);
	unlink(at("%s", "acme"));
	assert_int_equal(rename(away_dir, at("%s", "acme")), 0);
	assert_int_equal(mkdir(at("%s", "acme/n0.test"), 0700), 0);
	pass(MIN);
	assert_true(there("acme/n1.test"));
	assert_true(there("acme/n2.test"));
	assert_int_equal(status("n1.test").s.state, ACME_READY);
	assert_non_null(strstr(status("n0.test").error, "n0.test"));
	assert_int_equal(rmdir(at("%s", "acme/n0.test")), 0);
	pass(MIN);
	assert_int_equal(status("n0.test").s.state, ACME_READY);
	assert_int_equal(ca.n_orders, 3);
	end();
}

static void own_file(void **state)
{
	(void)state;
	begin("");
	assert_int_equal(mkdir(at("%s", "own"), 0755), 0);
	fclose(fopen(at("%s", "own/app.test.pem"), "w"));
	fclose(fopen(at("%s", "own/*.wild.test"), "w"));
	acme_want(a, "app.test");
	acme_want(a, "x.wild.test");
	acme_want(a, "x.y.wild.test");
	acme_settled(a);
	pass(MIN);
	assert_false(acme_manages(a, "app.test"));
	assert_false(acme_manages(a, "x.wild.test"));
	assert_int_equal(ca.n_orders, 1);
	unlink(at("%s", "own/app.test.pem"));
	pass(11 * MIN);
	assert_int_equal(ca.n_orders, 2);
	end();
}

static void two_kinds_of_key(void **state)
{
	(void)state;
	begin("certificate_key = both\n");
	acme_want(a, "app.test");
	acme_settled(a);
	pass(MIN);
	assert_int_equal(ca.n_orders, 2);
	assert_true(there("acme/app.test"));
	assert_true(there("acme/app.test+rsa"));
	end();
}

static void other_gateway(const char *more)
{
	begin(more);
	stop();
	other.there = true;
	start();
}

static void one_kind_after_the_other(void **state)
{
	size_t most = 0;
	(void)state;
	begin("certificate_key = both\n");
	ca.slow = 4;
	acme_want(a, "app.test");
	acme_settled(a);
	for (int i = 0; i < 10000; i++) {
		pass(1);
		if (challenges_count(challenges) > most)
			most = challenges_count(challenges);
	}
	pass(MIN);
	assert_int_equal(most, 1);
	assert_true(there("acme/app.test"));
	assert_true(there("acme/app.test+rsa"));
	end();
}

static void another_one_orders(void **state)
{
	struct km_errtext err = {""};
	const struct mesh_hooks *h = acme_mesh_hooks();
	(void)state;
	other_gateway("");
	acme_want(a, "app.test");
	acme_settled(a);
	assert_true(acme_asked(a, "app.test"));
	pass(20 * S);
	assert_int_equal(ca.n_orders, 0); /* it is the other's */
	assert_int_equal(status("app.test").s.state, ACME_PENDING);
	pass(15 * S);
	assert_int_equal(other.claims, 1); /* it has not done it */
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(other.opened, 1);
	assert_int_equal(other.closed, 1);
	assert_int_equal(other.announced, 1);
	assert_int_equal(settled_ok, 1);
	assert_true(h->yields(a, "other.test"));

	/* What it gave away it knows to have given. */
	char *pem = h->give(a, other_id, "app.test", false);
	assert_non_null(strstr(pem, "PRIVATE KEY"));
	assert_null(h->give(a, other_id, "stranger.test", false));

	/* The other is revoked: another key, then the old one is revoked. */
	struct look before = status("app.test");
	acme_gateway_revoked(a, (const uint8_t[16]){99});
	pass(MIN);
	assert_int_equal(ca.n_orders, 1);
	other.there = false;
	stop(); /* over a restart too */
	start();
	acme_want(a, "app.test");
	acme_settled(a);
	acme_gateway_revoked(a, other_id);
	pass(MIN);
	assert_int_equal(ca.n_orders, 2);
	assert_int_equal(ca.n_revoked, 1);
	char *now = NULL;
	assert_int_equal(cache_get(at("%s", "acme"), "app.test", false, &now, NULL, &err), 0);
	assert_string_not_equal(now, pem);
	(void)before;
	free(now);
	free(pem);
	end();
}

static void one_comes_from_another(void **state)
{
	struct km_errtext err = {""};
	const struct mesh_hooks *h = acme_mesh_hooks();
	struct mesh_fact f = {.domain = "app.test", .not_after_ms = wall_ms + DAY};
	(void)state;
	other_gateway("");
	other.mine = true;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(MIN);
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(cache_get(at("%s", "acme"), "app.test", false, &other.pem, NULL, &err), 0);
	stop();
	unlink(at("%s", "acme/app.test"));
	unlink(at("%s", "certificates.log"));
	other.mine = false;
	start();
	memset(f.fingerprint, 'a', 64);
	h->announced(a, other_id, &f); /* before the tunnel has come */
	acme_want(a, "app.test");
	acme_settled(a);
	acme_asked(a, "app.test");
	settled_ok = 0;
	pass(S);
	assert_int_equal(settled_ok, 1);
	assert_int_equal(ca.n_orders, 1);
	assert_true(there("acme/app.test"));
	/* Of two that last equally long all gateways take the same one. */
	f.not_after_ms = status("app.test").s.not_after_ms;
	memset(f.fingerprint, '0', 64);
	h->announced(a, other_id, &f);
	assert_null(other.fetched);
	memset(f.fingerprint, 'f', 64);
	h->announced(a, other_id, &f);
	assert_non_null(other.fetched);
	pass(S);
	/* Anybody may know it now, for all that we know. */
	other.there = false;
	acme_gateway_revoked(a, (const uint8_t[16]){99});
	acme_mesh(a, NULL);
	pass(MIN);
	assert_int_equal(ca.n_orders, 2);
	assert_int_equal(ca.n_revoked, 1);
	/* What no tunnel wants any more is revoked, and not obtained anew. */
	h->give(a, other_id, "nobody.test", false);
	free(h->give(a, other_id, "app.test", false));
	acme_unwant(a, "app.test");
	acme_gateway_revoked(a, other_id);
	pass(MIN);
	assert_int_equal(ca.n_orders, 2);
	assert_int_equal(ca.n_revoked, 2);
	assert_false(there("acme/app.test"));
	end();
}

static void nonsense_from_another(void **state)
{
	const struct mesh_hooks *h = acme_mesh_hooks();
	struct mesh_fact f = {.domain = "app.test", .not_after_ms = wall_ms + DAY};
	(void)state;
	other_gateway("");
	other.pem = km_xstrdup("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n");
	acme_want(a, "app.test");
	acme_settled(a);
	pass(S);
	memset(f.fingerprint, 'a', 64);
	h->announced(a, other_id, &f);
	pass(S);
	assert_false(there("acme/app.test"));
	pass(MIN); /* it is obtained all the same */
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	end();
}

/* A gateway that has been captured, and is not revoked yet, keeps nobody from a certificate. */
static void a_gateway_that_lies(void **state)
{
	const struct mesh_hooks *h = acme_mesh_hooks();
	struct mesh_fact f = {.domain = "app.test", .not_after_ms = wall_ms + DAY};
	struct challenge ch = {0};
	(void)state;
	/* It says again and again that it has one. */
	other_gateway("");
	memset(f.fingerprint, 'a', 64);
	acme_want(a, "app.test");
	acme_settled(a);
	for (int i = 0; i < 600; i++) {
		h->announced(a, other_id, &f);
		pass(100);
	}
	assert_int_equal(ca.n_orders, 1);
	assert_int_equal(status("app.test").s.state, ACME_READY);

	/* It closes the challenge that it has been told of, or opens another in its place. */
	other.mine = true;
	ca.slow = 4;
	acme_want(a, "two.test");
	for (int i = 0; i < 2000 && other.opened < 2; i++)
		pass(1);
	assert_int_equal(other.opened, 2);
	ch = other.ch;
	h->challenge(a, &ch, false);
	char out[CHALLENGE_KEY_AUTH_MAX + 1];
	assert_true(challenges_http(challenges, "two.test", ch.token, strlen(ch.token), out));
	assert_string_equal(out, ch.key_auth);
	snprintf(ch.key_auth, sizeof(ch.key_auth), "%s.other", ch.token);
	h->challenge(a, &ch, true);
	assert_true(challenges_http(challenges, "two.test", ch.token, strlen(ch.token), out));
	assert_string_not_equal(out, ch.key_auth);
	pass(MIN);
	assert_int_equal(status("two.test").s.state, ACME_READY);

	/* It says that it has another, and gives what is here: that is not written again and again. */
	struct km_errtext err = {""};
	free(other.pem);
	assert_int_equal(cache_get(at("%s", "acme"), "two.test", false, &other.pem, NULL, &err), 0);
	struct mesh_fact same = {.domain = "two.test", .not_after_ms = status("two.test").s.not_after_ms};
	memset(same.fingerprint, 'f', 64);
	int announced = other.announced;
	for (int i = 0; i < 20; i++) {
		h->announced(a, other_id, &same);
		pass(100);
	}
	assert_int_equal(other.announced, announced);

	/* It opens more than there is room for. */
	for (int i = 0; i < CHALLENGES_MAX; i++) {
		snprintf(ch.token, sizeof(ch.token), "t%d", i);
		snprintf(ch.key_auth, sizeof(ch.key_auth), "t%d.other", i);
		h->challenge(a, &ch, true);
	}
	acme_want(a, "four.test");
	pass(10 * S);
	assert_int_equal(status("four.test").s.state, ACME_READY);

	/* Its numbers are any. */
	other.mine = false;
	acme_want(a, "three.test");
	pass(S);
	h->failed(a, "three.test", "alas", INT64_MIN);
	pass(S);
	h->failed(a, "three.test", "alas", INT64_MAX);
	assert_int_equal(status("three.test").s.state, ACME_PENDING);
	end();
}

/* Whether the other one orders it already, and could answer the CA, is known when it has been met. */
static void not_before_they_have_met(void **state)
{
	const struct mesh_hooks *h = acme_mesh_hooks();
	(void)state;
	other_gateway("");
	other.there = false;
	other.mine = true;
	other.awaited = wall_ms + 5 * S;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(3 * S);
	assert_int_equal(ca.n_orders, 0);
	assert_int_equal(status("app.test").s.state, ACME_PENDING);
	pass(4 * S); /* it does not come */
	assert_int_equal(ca.n_orders, 1);
	end();

	other_gateway("");
	other.there = other.mine = false;
	other.awaited = wall_ms + 5 * S;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(S);
	other.there = true; /* it comes, and is the one to order */
	other.awaited = 0;
	h->changed(a);
	pass(20 * S);
	assert_int_equal(ca.n_orders, 0);
	pass(20 * S);
	assert_int_equal(ca.n_orders, 1); /* it did not */
	end();
}

/* A proof that the CA asked of a gateway that was not there yet. */
static void a_failed_one_is_tried_when_another_comes(void **state)
{
	const struct mesh_hooks *h = acme_mesh_hooks();
	(void)state;
	other_gateway("");
	other.mine = true;
	ca.fail_types = " http-01 ";
	ca.fail_error = "connection";
	acme_want(a, "app.test");
	acme_settled(a);
	pass(5 * S);
	int orders = ca.n_orders;
	assert_true(orders >= 1);
	ca.fail_types = NULL;
	pass(5 * S);
	assert_int_equal(ca.n_orders, orders);
	h->joined(a, other_id);
	pass(5 * S);
	assert_int_equal(ca.n_orders, orders + 1);
	assert_int_equal(status("app.test").s.state, ACME_READY);
	end();
}

static void denied(void **state)
{
	(void)state;
	other_gateway("");
	other.mine = other.denies = true;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(20 * S);
	assert_int_equal(other.claims, 1);
	assert_int_equal(ca.n_orders, 0);
	other.denies = false;
	pass(30 * S);
	assert_int_equal(ca.n_orders, 1);
	end();

	/* Nobody can deny it for ever, nor fail for ever in our place. */
	const struct mesh_hooks *h = acme_mesh_hooks();
	other_gateway("");
	other.mine = other.denies = true;
	acme_want(a, "app.test");
	acme_settled(a);
	pass(9 * MIN);
	assert_int_equal(ca.n_orders, 0);
	pass(3 * MIN);
	assert_int_equal(ca.n_orders, 1);
	other.mine = false;
	acme_want(a, "two.test");
	for (int i = 0; i < 70; i++) {
		pass(MIN);
		h->failed(a, "two.test", "alas", wall_ms + DAY);
		if (i == 50)
			assert_int_equal(ca.n_orders, 1);
	}
	pass(12 * MIN);
	assert_int_equal(ca.n_orders, 2);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(from_tunnel_to_certificate),
	    cmocka_unit_test(renewal),
	    cmocka_unit_test(renewal_information),
	    cmocka_unit_test(failures_are_remembered),
	    cmocka_unit_test(ca_away),
	    cmocka_unit_test(restart_in_the_middle),
	    cmocka_unit_test(the_end_waits_for_an_order),
	    cmocka_unit_test(throttled),
	    cmocka_unit_test(all_orders_count),
	    cmocka_unit_test(limits_of_some),
	    cmocka_unit_test(comings_and_goings),
	    cmocka_unit_test(a_month_both_ways),
	    cmocka_unit_test(asked_again_after_a_jump),
	    cmocka_unit_test(names_that_lead_nowhere),
	    cmocka_unit_test(nowhere_to_write),
	    cmocka_unit_test(one_in_the_way),
	    cmocka_unit_test(own_file),
	    cmocka_unit_test(two_kinds_of_key),
	    cmocka_unit_test(one_kind_after_the_other),
	    cmocka_unit_test(another_one_orders),
	    cmocka_unit_test(one_comes_from_another),
	    cmocka_unit_test(nonsense_from_another),
	    cmocka_unit_test(a_gateway_that_lies),
	    cmocka_unit_test(not_before_they_have_met),
	    cmocka_unit_test(a_failed_one_is_tried_when_another_comes),
	    cmocka_unit_test(denied),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
