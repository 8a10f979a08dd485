/* SPDX-License-Identifier: MIT */
/* Shared by the files of the ACME client (client.h); nobody else includes it. */
#ifndef GATEWAYD_ACME_INTERNAL_H
#define GATEWAYD_ACME_INTERNAL_H

#include "gatewayd/acme/client.h"
#include "gatewayd/acme/problem.h"

#define NONCES_MAX 32
#define NONCE_MAX 512 /* bytes */
#define ISSUERS_MAX 8
#define ISSUER_MAX 253 /* bytes */

/* What the directory says (RFC 8555 section 7.1.1). */
struct directory {
	char *new_nonce, *new_account, *new_order;     /* always there */
	char *revoke_cert, *key_change, *renewal_info; /* NULL: not offered */
	char *terms;                                   /* URL; NULL */
	char *issuers[ISSUERS_MAX + 1];                /* caaIdentities */
	json_t *profiles;                              /* object; NULL */
	bool external_account;                         /* required */
};
int directory_read(struct directory *d, const json_t *doc, struct km_errtext *err)
    __attribute__((warn_unused_result));
void directory_clear(struct directory *d);

struct acme_client {
	char *url, *email, *eab_kid, *eab_key;
	EVP_PKEY *key;
	char *account_url;
	void (*account)(void *arg, const char *url);
	void (*changed)(void *arg);
	void *arg;

	struct directory dir;
	bool dir_known;
	int64_t dir_until; /* monotonic: read again then */

	char *nonces[NONCES_MAX];
	size_t n_nonces;

	/* The job that makes a request of the client's own (directory, account). Others wait for
	 * the end of that turn; a failure is that of all who waited. */
	struct acme_job *owner;
	uint64_t turn, failed_turn;
	struct acme_problem failed;
};
void client_keep_nonce(struct acme_client *c, const char *nonce);
/* The newest nonce, the caller's; NULL: there is none. */
char *client_take_nonce(struct acme_client *c);
void client_drop_nonces(struct acme_client *c);
/* Sets or (NULL) forgets the account's URL and tells the owner of the client. False: no memory. */
bool client_set_account(struct acme_client *c, const char *url);
/* The payload of newAccount (the caller frees); KM_EINVAL: the EAB key is none; KM_ENOMEM. */
int client_new_account(struct acme_client *c, char **payload) __attribute__((warn_unused_result));

/* ---- jobs ---- */

/* What a job wants next. */
struct want {
	enum acme_want want; /* REQUEST, PRESENT or WAIT */
	bool get;            /* REQUEST: a plain GET; else a signed POST */
	const char *url;     /* borrowed from the job */
	char *payload;       /* taken over; NULL: POST-as-GET */
	const char *accept;
	EVP_PKEY *key; /* signs with its JWK in place of the account's URL; NULL */
	int64_t until; /* WAIT */
};

/* A kind of job: base struct first. Both are called with job.mono and job.wall set, and may end the
 * job. */
struct job_ops {
	void (*next)(struct acme_job *j, struct want *w);
	/* An answer of 2xx (problem NULL), or one that the job has to make sense of. */
	void (*answer)(struct acme_job *j, const struct acme_answer *a,
		       struct acme_problem *problem);
	/* The account is another one now: what was bound to it is gone. May be NULL. */
	void (*account_lost)(struct acme_job *j);
	void (*free)(struct acme_job *j);
};

struct acme_job {
	const struct job_ops *ops;
	struct acme_client *client;
	int64_t mono, wall; /* of the call that runs */
	enum { SENT_NOTHING, SENT_DIRECTORY, SENT_NONCE, SENT_ACCOUNT, SENT_OWN } sent;
	char *kid;                  /* the account by which the last request was signed; NULL */
	char *nonce;                /* for this job's next request; NULL: one of the pool */
	unsigned bad_nonces, tries; /* of the request under way */
	int64_t retry_at;           /* monotonic */
	uint64_t waits;             /* for the end of this turn of the client; 0: for none */
	bool new_account;           /* has been made once on this job's behalf */
	enum { JOB_RUNS, JOB_DONE, JOB_FAILED } over;
	struct acme_problem problem;
};
/* Begins a job in zeroed memory. */
void job_init(struct acme_job *j, const struct job_ops *ops, struct acme_client *c);
void job_done(struct acme_job *j);
void job_fail(struct acme_job *j, const struct acme_problem *p);
void job_failf(struct acme_job *j, enum acme_cause cause, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void job_no_memory(struct acme_job *j);
/* The body as JSON object (the caller's reference); NULL: the job has failed. */
json_t *job_json(struct acme_job *j, const struct acme_answer *a);

/* Whether text is an https URL that we take from a CA; whether it is base64url of at most max
 * bytes. */
bool acme_url_ok(const char *url);
bool acme_b64url_ok(const char *text, size_t max);
/* A text in an object (any JSON; NULL too), borrowed; NULL: there is none. */
const char *acme_json_text(const json_t *doc, const char *key);
/* *out becomes a copy, or stays for NULL. False: no memory. */
bool acme_copy(char **out, const char *from);
/* A URL in an object, copied. KM_ENOTFOUND (also null), KM_EPROTO (another type, or no https URL),
 * KM_ENOMEM. */
int acme_json_url(char **out, const json_t *doc, const char *key)
    __attribute__((warn_unused_result));

#endif
