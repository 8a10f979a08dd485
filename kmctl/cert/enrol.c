/* SPDX-License-Identifier: MIT */
#include "kmctl/cert/enrol.h"
#include "kmctl/ask.h"
#include "kmctl/cert/request.h"
#include "kmctl/cert/signer.h"
#include "kmctl/control.h"
#include <stdlib.h>
#include <string.h>

#define DEFAULT_S (90 * INT64_C(86400))

struct enrolling {
	struct cert_mode *m;
	struct control *control;
	struct cert_signer by;
	struct cert_list wanted; /* none: all */
	json_t *items;
	size_t failed;
};

static int to_pem(char **out, const struct km_cert *c)
{
	struct km_buf pem;
	int rc;

	km_buf_init(&pem, KM_CERT_PEM_MAX);
	rc = km_cert_to_pem(&pem, c);
	*out = rc ? NULL : strndup((char *)km_buf_head(&pem), pem.len);
	km_buf_free(&pem);
	return *out ? 0 : KM_ENOMEM;
}

static int answer(struct enrolling *e, const struct cert_request *r, const struct km_cert *cert,
		  struct km_errtext *err)
{
	char *path = km_xasprintf("/api/enrolments/%s", r->id), *pem = NULL;
	json_t *body = NULL;
	int rc = to_pem(&pem, cert);

	if (!rc && !(body = json_pack("{s:s}", "certificate", pem)))
		rc = KM_ENOMEM;
	if (rc)
		km_errtext_set(err, rc, "no memory");
	else
		rc = control_call(e->control, "PUT", path, body, NULL, err);
	json_decref(body);
	free(pem);
	free(path);
	return rc;
}

/* One that the operator has agreed to, or -yes. */
static int sign(struct enrolling *e, const struct cert_request *r, const struct km_cert_spec *spec,
		struct km_errtext *err)
{
	struct km_cert *cert = NULL;
	int rc = km_cert_sign(&cert, spec, e->by.ca, &e->by.key, err);

	if (!rc)
		rc = answer(e, r, cert, err);
	if (!rc)
		printf("Signed: %s %s.\n", r->group, r->name);
	km_cert_free(cert);
	return rc;
}

/* What the operator is asked: a renewal that an earlier certificate vouches for needs no code. */
static const char *question(struct enrolling *e, const struct cert_request *r)
{
	struct km_errtext why = {""};
	json_t *host = NULL;
	char *path;
	bool renews;

	if (strcmp(r->reason, "renewal") != 0)
		return "Is this the code that the host has printed? Sign?";
	path = km_xasprintf("/api/%ss/%s", r->group, r->host);
	renews = control_call(e->control, "GET", path, NULL, &host, &why) == 0 &&
		 cert_request_renews(r, control_text(host, "certificate"), e->by.ca, &why);
	json_decref(host);
	free(path);
	if (renews) {
		puts("  renews    a certificate by this CA for the same key, name and addresses");
		return "Sign?";
	}
	printf("  Note      %s; compare the code with the host's log\n", why.text);
	return "Is this the code that the host has logged? Sign?";
}

/* KM_EUNSUPPORTED and KM_EIO from ask() end it all; other errors are of this request. */
static int one(struct enrolling *e, const json_t *item, struct km_errtext *err)
{
	const struct flag *duration = cert_flag(e->m, "duration");
	int64_t s = duration->ns > 0 ? duration->ns / 1000000000 : DEFAULT_S;
	struct km_errtext why = {""};
	struct cert_request r;
	struct km_cert_spec spec;
	int rc = cert_request_read(&r, item, &why);

	if (!rc) {
		cert_request_spec(&spec, &r, e->by.ca, cert_now_ns() / 1000000000, s);
		cert_request_show(&r, spec.not_after, stdout);
		const char *ask_this = question(e, &r);

		fflush(stdout);
		rc = cert_flag(e->m, "yes")->on ? ANSWER_YES : ask(ask_this, err);
		if (rc < 0)
			return rc;
		if (rc == ANSWER_NO) {
			puts("Not signed; it goes on waiting.");
			return 0;
		}
		rc = sign(e, &r, &spec, &why);
	}
	if (rc) {
		e->failed++;
		fprintf(stderr, "Error: not signed: %s\n", why.text);
	}
	return 0;
}

/* Those that -id names, in its order; else all of them. */
static int each(struct enrolling *e, struct km_errtext *err)
{
	const json_t *item;
	size_t i;
	int rc = 0;

	if (e->wanted.n)
		for (i = 0; i < e->wanted.n && !rc; i++) {
			rc = control_pick(e->items, "name", e->wanted.items[i], "request", &item,
					  err);
			if (!rc)
				rc = one(e, item, err);
		}
	else
		for (i = 0; i < json_array_size(e->items) && !rc; i++)
			rc = one(e, json_array_get(e->items, i), err);
	return rc;
}

static int run(struct enrolling *e, struct km_errtext *err)
{
	if (cert_flag(e->m, "all")->on && *cert_text(e->m, "id"))
		return km_errtext_set(err, CERT_USAGE, "-all and -id: one of them only");
	if (cert_split(&e->wanted, cert_text(e->m, "id"), err) ||
	    control_open(&e->control, e->m->flags, e->m->n_flags, err) ||
	    control_list(e->control, "/api/enrolments", &e->items, err))
		return 1;
	if (!json_array_size(e->items) && !e->wanted.n) {
		puts("No request waits.");
		return 0;
	}
	if (cert_signer_open(&e->by, cert_text(e->m, "ca-crt"), cert_text(e->m, "ca-key"), err) ||
	    each(e, err))
		return 1;
	if (e->failed)
		return km_errtext_set(err, 1, "%zu of the requests could not be answered",
				      e->failed);
	return 0;
}

int cert_enrolments(struct cert_mode *m, struct km_errtext *err)
{
	struct enrolling e = {.m = m};
	int rc = run(&e, err);

	cert_signer_close(&e.by);
	cert_list_free(&e.wanted);
	json_decref(e.items);
	control_close(e.control);
	return rc;
}
