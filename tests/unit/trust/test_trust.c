/* SPDX-License-Identifier: MIT */
/* What a host believes: the bundle that it keeps, the peers that it admits, and for how long. */
#include "tests/unit/cert/fixture.h"

#include "libkm/cert/bundle.h"
#include "libkm/trust/trust.h"
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define DAY 86400
#define GRACE (30 * DAY)
#define NETWORK "10.0.0.0/8"
#define ID "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
#define HOME ((struct says){"home", "10.1.0.100/8", "10.1.0.0/24", "agent", 0, 0})
#define GATE ((struct says){"gate", "10.0.0.1/8", NULL, "gateway", 0, 0})

static char dir[32];
static struct authority ca, other;
static struct km_strlist no_pins;

static struct km_trust_clock at(int64_t wall_s, int64_t mono_s)
{
	return (struct km_trust_clock){wall_s, mono_s * 1000};
}
#define THEN at(FROM + 1000, 100)

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int setup(void **state)
{
	const struct says limits = {NULL, NETWORK, NETWORK, NULL, 0, 0};

	(void)state;
	strcpy(dir, "/tmp/kmt-XXXXXX");
	assert_non_null(mkdtemp(dir));
	ca = authority_new(KM_CERT_V2, KM_CERT_25519, limits);
	other = authority_new(KM_CERT_V2, KM_CERT_25519, limits);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	authority_free(&ca);
	authority_free(&other);
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int try_open(struct km_trust **t, const struct km_strlist *pins, struct km_trust_clock now,
		    struct km_errtext *err)
{
	const struct km_trust_opts o = {dir, pins, GRACE};

	err->text[0] = 0;
	return km_trust_open(t, &o, now, err);
}

static struct km_trust *opened(struct km_trust_clock now)
{
	struct km_errtext err;
	struct km_trust *t;

	if (try_open(&t, &no_pins, now, &err))
		fail_msg("%s", err.text);
	return t;
}

/* A bundle of up to two CAs and one blocked certificate (NULL: none), signed by `by` (NULL:
 * nobody). */
static char *bundle_of(uint64_t number, const struct authority *one, const struct authority *two,
		       const struct km_cert *blocked, const struct authority *by)
{
	const struct km_cert *cas[] = {one->cert, two ? two->cert : NULL};
	struct km_errtext err = {""};
	struct km_bundle *b;
	struct km_buf out;
	char *text;

	assert_int_equal(
	    km_bundle_new(&b, number, cas, two ? 2 : 1,
			  blocked ? (const uint8_t(*)[KM_CERT_FP_LEN])blocked->fingerprint : NULL,
			  blocked ? 1 : 0, &err),
	    0);
	if (by)
		assert_int_equal(km_bundle_sign(b, by->cert, &by->key, &err), 0);
	km_buf_init(&out, KM_BUNDLE_PEM_MAX);
	assert_int_equal(km_bundle_format(&out, b), 0);
	text = strndup((char *)km_buf_head(&out), out.len);
	assert_non_null(text);
	km_buf_free(&out);
	km_bundle_free(b);
	return text;
}

/* What taking it comes to; *why gets the sentence. Frees the text. */
static int take(struct km_trust *t, char *text, bool changed, struct km_errtext *why)
{
	bool did = !changed;
	int rc;

	why->text[0] = 0;
	rc = km_trust_take(t, text, THEN, &did, why);
	free(text);
	assert_int_equal(did, changed);
	assert_true(rc == 0 || why->text[0]);
	return rc;
}

static void taken(struct km_trust *t, char *text)
{
	struct km_errtext why;

	if (take(t, text, true, &why))
		fail_msg("%s", why.text);
}

/* A peer with all that its description needs to live. */
struct host {
	struct km_cert *cert;
	struct km_prefix allowed[LIST_MAX];
	uint8_t key[KM_WG_KEY_LEN];
	char *pem;
	struct km_trust_peer p;
};

static void host_make(struct host *h, const struct authority *by, struct says s,
		      const char *allowed)
{
	struct km_buf pem;

	memset(h, 0, sizeof(*h));
	h->cert = host_new(by, KM_CERT_V2, s);
	km_buf_init(&pem, KM_CERT_PEM_MAX);
	assert_int_equal(km_cert_to_pem(&pem, h->cert), 0);
	h->pem = strndup((char *)km_buf_head(&pem), pem.len);
	km_buf_free(&pem);
	memcpy(h->key, h->cert->public_key, sizeof(h->key));
	h->p = (struct km_trust_peer){.gateway = strcmp(s.groups, "gateway") == 0,
				      .id = ID,
				      .name = s.name,
				      .key = h->key,
				      .allowed = h->allowed,
				      .n_allowed = prefixes(allowed, h->allowed),
				      .certificate = h->pem};
}

static void host_free(struct host *h)
{
	km_cert_free(h->cert);
	free(h->pem);
}

static int admit(struct km_trust *t, const struct host *h, struct km_trust_clock now,
		 struct km_errtext *why)
{
	why->text[0] = 0;
	return km_trust_admit(t, &h->p, now, why);
}

static void admitted(struct km_trust *t, const struct host *h, struct km_trust_clock now)
{
	struct km_errtext why;

	if (admit(t, h, now, &why))
		fail_msg("%s", why.text);
	assert_true(km_trust_admitted(t, h->p.gateway, h->p.next, h->p.id));
}

static void has(const struct km_errtext *why, const char *part)
{
	if (!strstr(why->text, part))
		fail_msg("\"%s\" does not say \"%s\"", why->text, part);
}

static void write_state(const char *name, const char *text)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(km_file_write(path, text, strlen(text), 0600), 0);
}

static char *read_state(const char *name)
{
	char path[64], *text;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(km_file_read(path, KM_BUNDLE_PEM_MAX, &text, &n), 0);
	return text;
}

struct gone {
	int calls;
	char id[KM_UUID_STRLEN], why[512];
	bool gateway;
};

static void on_gone(void *arg, bool gateway, bool next, const char *id,
		    const struct km_errtext *why)
{
	struct gone *g = arg;

	assert_false(next);
	g->calls++;
	g->gateway = gateway;
	snprintf(g->id, sizeof(g->id), "%s", id);
	snprintf(g->why, sizeof(g->why), "%s", why->text);
}

static struct gone reviewed(struct km_trust *t, struct km_trust_clock now)
{
	struct gone g = {.calls = 0};

	km_trust_review(t, now, on_gone, &g);
	return g;
}

/* ---- the bundle ---- */

static void the_bundle_outlives_a_restart(void **state)
{
	struct km_trust *t = opened(THEN);
	struct stat st;
	char path[64];
	struct host h;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32 10.1.0.0/24");
	assert_false(km_trust_ready(t));
	assert_int_equal(km_trust_number(t), 0);
	taken(t, bundle_of(7, &ca, NULL, NULL, &ca));
	km_trust_free(t);

	snprintf(path, sizeof(path), "%s/trust.pem", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	t = opened(THEN);
	assert_true(km_trust_ready(t));
	assert_int_equal(km_trust_number(t), 7);
	admitted(t, &h, THEN);
	km_trust_free(t);
	host_free(&h);
}

static void the_first_bundle_is_the_pinned_cas(void **state)
{
	char fp[KM_CERT_FP_STRLEN], *items[] = {fp};
	struct km_strlist pins = {items, 1};
	struct km_errtext why;
	struct km_trust *t;

	(void)state;
	km_cert_fp_str(ca.cert, fp);
	assert_int_equal(try_open(&t, &pins, THEN, &why), 0);
	assert_int_equal(take(t, bundle_of(1, &other, NULL, NULL, &other), false, &why), KM_EAUTH);
	has(&why, "ca_pin");
	/* The pinned CA is in it, but another one has signed, or nobody. */
	assert_int_equal(take(t, bundle_of(1, &ca, &other, NULL, &other), false, &why), KM_EAUTH);
	assert_int_equal(take(t, bundle_of(1, &ca, NULL, NULL, NULL), false, &why), KM_EAUTH);
	assert_false(km_trust_ready(t));
	taken(t, bundle_of(1, &ca, &other, NULL, &ca));
	km_trust_free(t);

	fp[0] = 'x';
	assert_int_equal(try_open(&t, &pins, THEN, &why), KM_EINVAL);
	assert_null(t);
	has(&why, "ca_pin x");
}

/* What a control that is not itself any more could offer. */
static void bundles_that_are_refused(void **state)
{
	struct km_trust *t = opened(THEN);
	struct km_errtext why;
	struct host h, foreign;
	char *before, *after;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	host_make(&foreign, &other, HOME, "10.1.0.100/32");
	taken(t, bundle_of(5, &ca, NULL, h.cert, &ca));
	before = read_state("trust.pem");

	assert_int_equal(take(t, bundle_of(4, &ca, NULL, NULL, &ca), false, &why), KM_EINVAL);
	assert_int_equal(take(t, bundle_of(5, &ca, &other, NULL, &ca), false, &why), KM_EEXIST);
	assert_int_equal(take(t, bundle_of(6, &ca, &other, h.cert, &other), false, &why), KM_EAUTH);
	assert_int_equal(take(t, bundle_of(6, &ca, &other, h.cert, NULL), false, &why), KM_EAUTH);
	assert_int_equal(take(t, bundle_of(6, &ca, NULL, NULL, NULL), false, &why), KM_EAUTH);
	/* Nobody would be left: that is no removal. */
	assert_int_equal(take(t, bundle_of(6, &other, NULL, h.cert, &other), false, &why),
			 KM_EPERM);
	assert_int_equal(take(t, km_xstrdup("nonsense"), false, &why), KM_ENOTFOUND);

	after = read_state("trust.pem");
	assert_string_equal(after, before);
	assert_int_equal(km_trust_number(t), 5);
	assert_int_equal(admit(t, &h, THEN, &why), KM_CERT_EBLOCKED);
	assert_int_equal(admit(t, &foreign, THEN, &why), KM_CERT_EISSUER);
	free(before);
	free(after);
	host_free(&h);
	host_free(&foreign);
	km_trust_free(t);
}

static void removals_are_obeyed_unsigned(void **state)
{
	struct km_trust *t = opened(THEN);
	struct host h, second;
	struct km_errtext why;
	struct gone g;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	host_make(&second, &other, GATE, "10.0.0.1/32");
	taken(t, bundle_of(5, &ca, &other, NULL, &ca));
	admitted(t, &h, THEN);
	admitted(t, &second, THEN);
	assert_int_equal(take(t, bundle_of(6, &ca, NULL, h.cert, NULL), true, &why), 0);
	assert_int_equal(km_trust_number(t), 5); /* a signed 6 may yet come */
	assert_int_equal(admit(t, &h, THEN, &why), KM_CERT_EBLOCKED);
	assert_int_equal(admit(t, &second, THEN, &why), KM_CERT_EISSUER);
	g = reviewed(t, THEN);
	assert_int_equal(g.calls, 2);
	km_trust_free(t);

	t = opened(THEN); /* that, too, is on disk */
	assert_int_equal(admit(t, &h, THEN, &why), KM_CERT_EBLOCKED);
	taken(t, bundle_of(6, &ca, &other, NULL, &ca));
	admitted(t, &h, THEN); /* a CA that is trusted has taken it back */
	km_trust_free(t);
	host_free(&h);
	host_free(&second);
}

/* ---- peers ---- */

static void who_is_no_peer(void **state)
{
	static const struct {
		struct says says;
		const char *allowed, *part;
		int rc;
	} cases[] = {
	    {HOME, "10.2.0.100/32 10.1.0.0/24", "does not give it 10.2.0.100/32", KM_EAUTH},
	    {HOME, "10.1.0.100/32 10.2.0.0/24", "does not give it 10.2.0.0/24", KM_EAUTH},
	    {HOME, "10.1.0.100/32 10.0.0.0/8", "does not give it 10.0.0.0/8", KM_EAUTH},
	    {HOME, "10.1.0.100/32 10.1.0.0/23", "does not give it 10.1.0.0/23", KM_EAUTH},
	    {HOME, "0.0.0.0/0", "does not give it", KM_EAUTH},
	    {HOME, "::/0", "does not give it", KM_EAUTH},
	    {{"gate", "10.0.0.1/8", NULL, "agent", 0, 0}, "10.0.0.1/32", "", 0},
	    {{"gate", "10.0.0.1/8", NULL, "gateways", 0, 0},
	     "10.0.0.1/32",
	     "does not say that it is an agent",
	     KM_EAUTH},
	};
	struct km_trust *t = opened(THEN);
	struct km_errtext why;
	struct host h;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	assert_int_equal(admit(t, &h, THEN, &why), KM_EAUTH);
	has(&why, "there is no trust bundle yet");
	taken(t, bundle_of(1, &ca, NULL, NULL, &ca));
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct host c;

		host_make(&c, &ca, cases[i].says, cases[i].allowed);
		assert_int_equal(admit(t, &c, THEN, &why), cases[i].rc);
		has(&why, cases[i].part);
		assert_int_equal(km_trust_admitted(t, false, false, ID), cases[i].rc == 0);
		km_trust_forget(t, false, false, ID);
		host_free(&c);
	}

	h.key[0] ^= 1;
	assert_int_equal(admit(t, &h, THEN, &why), KM_EAUTH);
	has(&why, "agent home: its certificate is for another WireGuard key");
	h.key[0] ^= 1;
	h.p.gateway = true; /* an agent that is called a gateway */
	assert_int_equal(admit(t, &h, THEN, &why), KM_EAUTH);
	has(&why, "gateway home: its certificate does not say that it is a gateway");
	h.p.gateway = false;
	h.p.certificate = "";
	assert_int_equal(admit(t, &h, THEN, &why), KM_EAUTH);
	has(&why, "no certificate");
	h.p.certificate = "nonsense";
	assert_int_equal(admit(t, &h, THEN, &why), KM_EINVAL);
	h.p.certificate = h.pem;
	h.p.name = "elsewhere"; /* informative */
	admitted(t, &h, THEN);
	h.p.next = true;
	admitted(t, &h, THEN);
	km_trust_forget(t, false, true, ID);
	assert_false(km_trust_admitted(t, false, true, ID));
	assert_true(km_trust_admitted(t, false, false, ID));
	km_trust_free(t);
	host_free(&h);
}

/* One that was admitted stays so when something else is offered under its id. */
static void a_refusal_changes_nothing(void **state)
{
	struct km_trust *t = opened(THEN);
	struct host h, thief;
	struct km_errtext why;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	host_make(&thief, &other, HOME, "10.1.0.100/32");
	taken(t, bundle_of(1, &ca, NULL, NULL, &ca));
	admitted(t, &h, THEN);
	assert_int_equal(admit(t, &thief, THEN, &why), KM_CERT_EISSUER);
	assert_true(km_trust_admitted(t, false, false, ID));
	assert_int_equal(reviewed(t, THEN).calls, 0);
	taken(t, bundle_of(2, &ca, NULL, h.cert, &ca));
	assert_int_equal(reviewed(t, THEN).calls, 1);
	assert_int_equal(reviewed(t, THEN).calls, 0);
	assert_false(km_trust_admitted(t, false, false, ID));
	km_trust_free(t);
	host_free(&h);
	host_free(&thief);
}

/* ---- time ---- */

static void expired_is_borne_with_for_a_time(void **state)
{
	struct km_trust *t = opened(THEN);
	struct km_errtext why;
	struct host h;
	struct gone g;
	int64_t left;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	taken(t, bundle_of(1, &ca, NULL, NULL, &ca));
	admitted(t, &h, THEN);
	/* The clock jumps ahead by ten years: nothing is counted but what this host has run. */
	assert_int_equal(reviewed(t, at(TO + 3650L * DAY, 200)).calls, 0);
	assert_int_equal(km_trust_borne(t, &left), 1);
	assert_int_equal(left, GRACE);
	assert_int_equal(km_trust_save(t, at(TO + 3650L * DAY, 200 + 20 * DAY)), 0);
	km_trust_free(t);

	/* Another run: ten days are left. */
	t = opened(at(TO + 3650L * DAY, 0));
	assert_int_equal(admit(t, &h, at(TO + 3650L * DAY, 0), &why), 0);
	has(&why, "borne with for 864000 more seconds");
	assert_int_equal(reviewed(t, at(TO + 3650L * DAY, 10L * DAY - 1)).calls, 0);
	g = reviewed(t, at(TO + 3650L * DAY, 10L * DAY));
	assert_int_equal(g.calls, 1);
	assert_string_equal(g.id, ID);
	assert_non_null(strstr(g.why, "the grace time is over"));
	assert_int_not_equal(admit(t, &h, at(TO + 3650L * DAY, 10L * DAY), &why), 0);
	/* Put right: at once as if nothing had happened. */
	admitted(t, &h, at(FROM + 2000, 11L * DAY));
	assert_int_equal(reviewed(t, at(FROM + 2000, 11L * DAY)).calls, 0);
	assert_int_equal(km_trust_borne(t, &left), 0);
	assert_int_equal(reviewed(t, at(TO + 1000, 11L * DAY)).calls, 0);
	assert_int_equal(km_trust_borne(t, &left), 1);
	assert_int_equal(left, GRACE); /* a new time */
	km_trust_free(t);
	host_free(&h);
}

static void not_yet_valid_is_a_matter_of_clocks(void **state)
{
	struct km_trust *t = opened(at(FROM - 365L * DAY, 0));
	struct km_errtext why;
	struct host h;
	int64_t left;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	taken(t, bundle_of(1, &ca, NULL, NULL, &ca));
	assert_int_equal(admit(t, &h, at(FROM - 365L * DAY, 0), &why), 0);
	assert_int_equal(reviewed(t, at(FROM - 365L * DAY, 400L * DAY)).calls, 0);
	assert_int_equal(km_trust_borne(t, &left), 0);
	assert_int_equal(km_trust_save(t, at(FROM, 0)), 0);
	km_trust_free(t);
	t = opened(at(FROM - 365L * DAY, 0));
	assert_true(km_trust_behind(t, at(FROM - 365L * DAY, 0)));
	assert_false(km_trust_behind(t, at(FROM, 0)));
	km_trust_free(t);
	host_free(&h);
}

/* ---- this host's own, and damage ---- */

static void its_own_certificate_is_kept(void **state)
{
	struct km_trust *t = opened(THEN);
	struct km_errtext why = {""};
	struct host h;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	assert_null(km_trust_own(t));
	assert_int_equal(km_trust_set_own(t, h.pem, &why), 0);
	assert_int_equal(km_trust_set_own(t, "nonsense", &why), KM_EINVAL);
	assert_string_equal(km_trust_own(t)->name, "home");
	km_trust_free(t);
	t = opened(THEN);
	assert_memory_equal(km_trust_own(t)->fingerprint, h.cert->fingerprint, KM_CERT_FP_LEN);
	assert_int_equal(km_trust_set_own(t, NULL, &why), 0);
	km_trust_free(t);
	t = opened(THEN);
	assert_null(km_trust_own(t));
	km_trust_free(t);
	host_free(&h);
}

static void damaged_files(void **state)
{
	struct km_trust *t = opened(THEN);
	struct km_errtext why;
	char *good, *bad;
	size_t n;

	(void)state;
	taken(t, bundle_of(3, &ca, NULL, NULL, &ca));
	km_trust_free(t);
	write_state("trust.times", "saved x\n");
	write_state("identity.pem", "-----BEGIN NEBULA CERTIFICATE V2-----\nAA\n");
	t = opened(THEN);
	assert_int_equal(km_trust_number(t), 3);
	assert_null(km_trust_own(t));
	assert_false(km_trust_behind(t, at(0, 0)));
	km_trust_free(t);

	good = read_state("trust.pem");
	n = strlen(good);
	for (size_t keep = 0; keep < n; keep += 7) {
		bad = strndup(good, keep);
		write_state("trust.pem", bad);
		free(bad);
		assert_int_not_equal(try_open(&t, &no_pins, THEN, &why), 0);
		assert_null(t);
		has(&why, "trust.pem");
		has(&why, "nobody can be believed");
	}
	free(good);
}

/* A write that fails has changed nothing, on disk or in memory. */
static void a_full_disk(void **state)
{
	const struct rlimit none = {0, RLIM_INFINITY};
	struct km_trust *t = opened(THEN);
	struct rlimit was;
	struct km_errtext why;
	char *before, *after;
	struct host h;

	(void)state;
	host_make(&h, &ca, HOME, "10.1.0.100/32");
	taken(t, bundle_of(1, &ca, NULL, NULL, &ca));
	admitted(t, &h, THEN);
	before = read_state("trust.pem");
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	assert_int_equal(take(t, bundle_of(2, &ca, NULL, h.cert, &ca), false, &why), KM_EIO);
	assert_int_equal(km_trust_set_own(t, h.pem, &why), KM_EIO);
	assert_int_equal(km_trust_save(t, THEN), KM_EIO);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
	assert_int_equal(km_trust_number(t), 1);
	assert_null(km_trust_own(t));
	assert_int_equal(reviewed(t, THEN).calls, 0);
	after = read_state("trust.pem");
	assert_string_equal(after, before);
	taken(t, bundle_of(2, &ca, NULL, h.cert, &ca));
	assert_int_equal(reviewed(t, THEN).calls, 1);
	free(before);
	free(after);
	km_trust_free(t);
	host_free(&h);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(the_bundle_outlives_a_restart),
	    T(the_first_bundle_is_the_pinned_cas),
	    T(bundles_that_are_refused),
	    T(removals_are_obeyed_unsigned),
	    T(who_is_no_peer),
	    T(a_refusal_changes_nothing),
	    T(expired_is_borne_with_for_a_time),
	    T(not_yet_valid_is_a_matter_of_clocks),
	    T(its_own_certificate_is_kept),
	    T(damaged_files),
	    T(a_full_disk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
