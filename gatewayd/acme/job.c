/* SPDX-License-Identifier: MIT */
/* What all jobs have in common: the directory, a nonce and the account come first, badNonce and
 * passing troubles are tried again. */
#include "gatewayd/acme/internal.h"
#include "gatewayd/acme/jose.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAD_NONCES_MAX 8
#define TRIES_MAX 4         /* of a request that gets no answer, or a passing refusal */
#define FIRST_RETRY_MS 1000 /* then twice as long each time */
#define PATIENCE_MS 15000   /* a longer Retry-After is the caller's affair */
#define DIRECTORY_MS (86400 * 1000)

/* ---- ends ---- */

void job_init(struct acme_job *j, const struct job_ops *ops, struct acme_client *c)
{
	j->ops = ops;
	j->client = c;
}

/* The turn of the client's own request is over; who waited goes on, or fails with p. */
static void turn_over(struct acme_job *j, const struct acme_problem *p)
{
	struct acme_client *c = j->client;

	if (c->owner != j)
		return;
	c->owner = NULL;
	if (p) {
		c->failed = *p;
		c->failed_turn = c->turn;
	}
	c->turn++;
	if (c->changed)
		c->changed(c->arg);
}

void job_done(struct acme_job *j)
{
	j->problem = (struct acme_problem){.reached = j->problem.reached};
	j->over = JOB_DONE;
}

void job_fail(struct acme_job *j, const struct acme_problem *p)
{
	if (&j->problem != p) {
		bool reached = j->problem.reached;

		j->problem = *p;
		j->problem.reached = reached;
	}
	if (!j->problem.cause)
		j->problem.cause = ACME_PROTOCOL;
	j->over = JOB_FAILED;
	turn_over(j, &j->problem);
}

void job_failf(struct acme_job *j, enum acme_cause cause, const char *fmt, ...)
{
	struct acme_problem p = {0};
	char text[2 * sizeof(p.text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	problem_set(&p, cause, "%s", text);
	job_fail(j, &p);
}

void job_no_memory(struct acme_job *j)
{
	job_failf(j, ACME_LOCAL, "no memory");
}

json_t *job_json(struct acme_job *j, const struct acme_answer *a)
{
	json_t *doc = json_loadb(a->body ? a->body : "", a->n, 0, NULL);

	if (json_is_object(doc))
		return doc;
	json_decref(doc);
	job_failf(j, ACME_NETWORK, "what answered is no ACME server: no JSON object came");
	return NULL;
}

void acme_job_free(struct acme_job *j)
{
	if (!j)
		return;
	turn_over(j, NULL);
	free(j->kid);
	free(j->nonce);
	j->ops->free(j);
}

const struct acme_problem *acme_job_problem(const struct acme_job *j)
{
	return &j->problem;
}

void acme_request_clear(struct acme_request *r)
{
	free(r->url);
	free(r->body);
	*r = (struct acme_request){0};
}

/* ---- what to send ---- */

/* Takes the turn of the client's own requests. False: another job has it, or had it and failed; out
 * says so. */
static bool take_turn(struct acme_job *j)
{
	struct acme_client *c = j->client;

	if (c->owner && c->owner != j) {
		j->waits = c->turn;
		return false;
	}
	c->owner = j;
	j->waits = 0;
	return true;
}

static void put(struct acme_job *j, struct acme_next *out, int method, const char *url, char *body,
		const char *accept)
{
	out->request.method = method;
	out->request.url = strdup(url);
	out->request.body = body;
	out->request.accept = accept;
	out->want = ACME_REQUEST;
	if (!out->request.url) {
		acme_request_clear(&out->request);
		job_no_memory(j);
	}
}

/* The nonce first, then the signed request. */
static void post(struct acme_job *j, struct acme_next *out, const struct want *w, int sent)
{
	struct acme_client *c = j->client;
	struct jose_head head = {.key = w->key ? w->key : c->key, .url = w->url};
	char *body;

	if (!j->nonce && !(j->nonce = client_take_nonce(c))) {
		j->sent = SENT_NONCE;
		put(j, out, ACME_HEAD, c->dir.new_nonce, NULL, NULL);
		return;
	}
	head.nonce = j->nonce;
	free(j->kid);
	j->kid = NULL;
	if (!w->key && c->account_url && !(j->kid = strdup(c->account_url))) {
		job_no_memory(j);
		return;
	}
	head.kid = j->kid;
	body = jose_sign(&head, w->payload ? w->payload : "");
	free(j->nonce);
	j->nonce = NULL;
	if (!body) {
		job_failf(j, ACME_LOCAL,
			  "a request cannot be signed (no memory, or OpenSSL failed)");
		return;
	}
	j->sent = sent;
	put(j, out, ACME_POST, w->url, body, w->accept);
}

static void next_account(struct acme_job *j, struct acme_next *out)
{
	struct acme_client *c = j->client;
	struct want w = {.url = c->dir.new_account, .key = c->key};
	int rc;

	if (c->dir.external_account && !c->eab_kid) {
		job_failf(j, ACME_ACCOUNT,
			  "the CA wants an external account binding: set acme_eab_file");
		return;
	}
	if (!take_turn(j))
		return;
	rc = client_new_account(c, &w.payload);
	if (rc == KM_EINVAL)
		job_failf(j, ACME_ACCOUNT,
			  "the key of the external account binding is no base64url");
	else if (rc)
		job_no_memory(j);
	else
		post(j, out, &w, SENT_ACCOUNT);
	free(w.payload);
}

static void next_own(struct acme_job *j, struct acme_next *out)
{
	struct want w = {.want = ACME_WAIT, .until = INT64_MAX};

	j->ops->next(j, &w);
	if (j->over)
		goto out;
	out->want = w.want;
	out->until_ms = w.until;
	if (w.want != ACME_REQUEST)
		goto out;
	out->want = ACME_WAIT;
	if (w.get) {
		j->sent = SENT_OWN;
		put(j, out, ACME_GET, w.url, NULL, w.accept);
	} else if (!w.key && !j->client->account_url) {
		next_account(j, out);
	} else {
		post(j, out, &w, SENT_OWN);
	}
out:
	free(w.payload);
}

static void next(struct acme_job *j, struct acme_next *out)
{
	struct acme_client *c = j->client;

	if (j->waits && j->waits == c->failed_turn) {
		job_fail(j, &c->failed);
		return;
	}
	if (!c->dir_known || j->mono >= c->dir_until) {
		if (!take_turn(j))
			return;
		j->sent = SENT_DIRECTORY;
		put(j, out, ACME_GET, c->url, NULL, "application/json");
		return;
	}
	next_own(j, out);
}

void acme_job_next(struct acme_job *j, int64_t mono_ms, int64_t wall_ms, struct acme_next *out)
{
	*out = (struct acme_next){.want = ACME_WAIT, .until_ms = INT64_MAX};
	j->mono = mono_ms;
	j->wall = wall_ms;
	if (!j->over && !j->sent) {
		if (j->retry_at > mono_ms) {
			out->until_ms = j->retry_at;
			return;
		}
		next(j, out);
	}
	if (j->over) {
		acme_request_clear(&out->request);
		out->want = j->over == JOB_DONE ? ACME_DONE : ACME_FAILED;
		out->until_ms = 0;
	}
}

/* ---- what has come ---- */

static void directory_came(struct acme_job *j, const struct acme_answer *a)
{
	struct acme_client *c = j->client;
	json_t *doc = job_json(j, a);
	struct directory d;
	struct km_errtext err = {""};
	int rc;

	if (!doc)
		return;
	rc = directory_read(&d, doc, &err);
	json_decref(doc);
	if (rc) {
		job_failf(j, rc == KM_ENOMEM ? ACME_LOCAL : ACME_NETWORK, "%s: %s", c->url,
			  err.text);
		return;
	}
	directory_clear(&c->dir);
	c->dir = d;
	c->dir_known = true;
	c->dir_until = j->mono + DIRECTORY_MS;
	turn_over(j, NULL);
}

static void nonce_came(struct acme_job *j)
{
	j->nonce = client_take_nonce(j->client);
	if (!j->nonce)
		job_failf(j, ACME_NETWORK, "the CA gives no nonce");
}

static void account_came(struct acme_job *j, const struct acme_answer *a)
{
	if (!a->location || !acme_url_ok(a->location))
		job_failf(j, ACME_PROTOCOL, "the CA gives the account no https URL");
	else if (!client_set_account(j->client, a->location))
		job_no_memory(j);
	else
		turn_over(j, NULL);
}

/* Whether what went wrong passes: then the same is asked again in a while. */
static bool passes(struct acme_job *j, const struct acme_problem *p)
{
	int64_t delay = p->retry_at_ms ? p->retry_at_ms - j->wall : 0;

	if (p->cause != ACME_NETWORK && (p->cause != ACME_RATE_LIMITED || !p->retry_at_ms))
		return false;
	if (delay > PATIENCE_MS || ++j->tries >= TRIES_MAX)
		return false;
	if (delay < FIRST_RETRY_MS << (j->tries - 1))
		delay = FIRST_RETRY_MS << (j->tries - 1);
	j->retry_at = j->mono + delay;
	return true;
}

/* RFC 8555 section 6.5: again with the nonce that came with the refusal. */
static void bad_nonce(struct acme_job *j, const struct acme_answer *a)
{
	struct acme_client *c = j->client;

	if (++j->bad_nonces > BAD_NONCES_MAX) {
		job_failf(j, ACME_NETWORK, "the CA refuses every nonce that it gives");
		return;
	}
	if (!a->replay_nonce || !acme_b64url_ok(a->replay_nonce, NONCE_MAX))
		client_drop_nonces(c); /* the others may be as old */
	else
		j->nonce = client_take_nonce(c);
}

/* The CA has forgotten the account: once, a new one is made. */
static void account_gone(struct acme_job *j, const struct acme_problem *p)
{
	struct acme_client *c = j->client;

	if (j->new_account) {
		job_fail(j, p);
		return;
	}
	j->new_account = true;
	if (c->account_url && !strcmp(c->account_url, j->kid))
		client_set_account(c, NULL);
	if (j->ops->account_lost)
		j->ops->account_lost(j);
}

static void refused(struct acme_job *j, const struct acme_answer *a, int sent)
{
	struct acme_problem p;

	problem_answer(&p, a, j->wall);
	if (problem_is(&p, "badNonce")) {
		bad_nonce(j, a);
	} else if (passes(j, &p)) {
		return;
	} else if (problem_is(&p, "accountDoesNotExist") && sent == SENT_OWN && j->kid) {
		account_gone(j, &p);
	} else if (sent == SENT_OWN) {
		j->bad_nonces = j->tries = 0;
		j->ops->answer(j, a, &p);
	} else {
		if (sent == SENT_ACCOUNT && problem_is(&p, "unauthorized"))
			p.cause = ACME_ACCOUNT;
		problem_about(&p, sent == SENT_ACCOUNT ? "the account" : j->client->url);
		job_fail(j, &p);
	}
}

void acme_job_answer(struct acme_job *j, const struct acme_answer *a, int64_t mono_ms,
		     int64_t wall_ms)
{
	int sent = j->sent;

	j->mono = mono_ms;
	j->wall = wall_ms;
	if (j->over || !sent)
		return;
	j->sent = SENT_NOTHING;
	client_keep_nonce(j->client, a->replay_nonce);
	if (a->status < 200 || a->status > 299) {
		refused(j, a, sent);
		return;
	}
	if (sent == SENT_NONCE) {
		nonce_came(j); /* what it is for has its own counts */
		return;
	}
	j->bad_nonces = j->tries = 0;
	if (sent == SENT_DIRECTORY)
		directory_came(j, a);
	else if (sent == SENT_ACCOUNT)
		account_came(j, a);
	else
		j->ops->answer(j, a, NULL);
}
