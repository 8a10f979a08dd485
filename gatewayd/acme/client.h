/* SPDX-License-Identifier: MIT */
/* ACME (RFC 8555), the client's side, sans-I/O: bytes and time come in; requests to send, challenges to
 * present and verdicts go out. One acme_client is one account at one CA; it is shared by any number
 * of jobs (orders, revocations, renewal-information queries). Single-threaded.
 *
 * A job is driven so: acme_job_next tells what it wants; REQUEST: send it, give the answer with
 * acme_job_answer; PRESENT: put up what acme_job_challenge lists, then acme_job_presented; WAIT: call
 * again at `until`; DONE or FAILED: read the outcome, acme_job_free. Jobs that need the directory, a
 * nonce or the account make the client's own requests by themselves (the first job that comes makes
 * them, others get WAIT until its answer has come: call acme_job_next again for every job after each
 * answer or when acme_client_changed says so). */
#ifndef GATEWAYD_ACME_CLIENT_H
#define GATEWAYD_ACME_CLIENT_H

#include "libkm/base/err.h"
#include <jansson.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACME_NAMES_MAX 8          /* identifiers in one order */
#define ACME_BODY_MAX (1 << 20)   /* of an answer; longer ones are a failure of the transport */
#define ACME_URL_MAX 2048
#define ACME_CHAIN_MAX (256 << 10)

/* ---- the wire, as the transport sees it ---- */
struct acme_request {
	enum { ACME_GET, ACME_HEAD, ACME_POST } method;
	char *url;          /* https:// only */
	char *body;         /* POST: flattened JWS, application/jose+json */
	const char *accept; /* NULL: anything */
};
void acme_request_clear(struct acme_request *r);

struct acme_answer {
	int status;        /* 0: no answer came; `failed` says why */
	const char *failed;
	const char *body;  /* n bytes, at most ACME_BODY_MAX */
	size_t n;
	/* Header values, NULL when absent. link: every Link header, one a line. */
	const char *content_type, *location, *replay_nonce, *retry_after, *link;
};

/* ---- what went wrong ---- */
enum acme_cause {
	ACME_OK,
	ACME_NETWORK,      /* no answer, 5xx, something that is no ACME: try again later */
	ACME_RATE_LIMITED, /* retry_at says when */
	ACME_ACCOUNT,      /* the CA wants something of the operator (terms, EAB, contact): text says what */
	ACME_VALIDATION,   /* the CA did not accept the proof: dns, connection, tls, unauthorized, caa … */
	ACME_REJECTED,     /* the CA will not issue for this name */
	ACME_UNSUPPORTED,  /* none of the challenges that we may use was offered */
	ACME_PROTOCOL,     /* the CA said something that it must not */
	ACME_LOCAL,        /* keys, memory, the presenting of a challenge */
};
const char *acme_cause_str(enum acme_cause c); /* "network", "rate_limited", … for metrics and logs */

struct acme_problem {
	enum acme_cause cause;
	char type[64];       /* of the problem document, without its urn: prefix; "" */
	char text[400];      /* a sentence with the CA's own words; no control characters */
	int64_t retry_at_ms; /* wall clock; 0: the CA named no time */
	bool reached;        /* an order had been made: it counts against the CA's limits */
};

/* ---- the account ---- */
struct acme_client;

struct acme_client_opts {
	const char *directory; /* URL */
	const char *email;     /* NULL: none */
	const char *eab_kid, *eab_key; /* base64url HMAC key; NULL: none */
	EVP_PKEY *key;         /* P-256; a reference is taken */
	const char *account_url; /* as known from earlier; NULL: look it up or make one */
	/* The account has got (or lost, with NULL) its URL: to be kept on disk. May be NULL. */
	void (*account)(void *arg, const char *url);
	/* Jobs that were told to WAIT may go on. May be NULL. */
	void (*changed)(void *arg);
	void *arg;
};
int acme_client_new(struct acme_client **out, const struct acme_client_opts *o, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* After its jobs. Accepts NULL. */
void acme_client_free(struct acme_client *c);
/* NULL while unknown. */
const char *acme_client_account_url(const struct acme_client *c);
/* What the directory said; false while it has not been read. ari: renewalInfo is there; issuers: the CA's
 * domains as CAA records name them (RFC 8659), NULL-terminated; terms: URL or NULL. Each may be NULL;
 * borrowed until the directory is read again (a day later). */
bool acme_client_directory(const struct acme_client *c, bool *ari, const char *const **issuers,
			   const char **terms);
/* token "." thumbprint (RFC 8555 section 8.1); the caller frees. */
char *acme_client_key_authorization(const struct acme_client *c, const char *token);

/* ---- jobs ---- */
struct acme_job;

enum acme_want { ACME_REQUEST, ACME_PRESENT, ACME_WAIT, ACME_DONE, ACME_FAILED };

struct acme_challenge {
	const char *type;       /* "http-01", "tls-alpn-01", "dns-01", "dns-persist-01" */
	const char *name;       /* the identifier without "*." */
	bool wildcard, ip;
	const char *token;      /* NULL for dns-persist-01 */
	const char *key_auth;   /* NULL for dns-persist-01 */
	const char *dns_value;  /* of the TXT record, for dns-01 */
	const char *const *issuers; /* for dns-persist-01: the CA's domains, NULL-terminated */
};

struct acme_order_opts {
	const char *const *names; /* DNS names ("*.x" too) or IP addresses */
	size_t n_names;
	EVP_PKEY *key;             /* of the certificate; a reference is taken */
	const char *const *challenges; /* types that may be used, in order of preference; NULL-terminated */
	const char *profile;       /* NULL; asked for only when the CA offers it */
	const char *chain;         /* preferred issuer's common name; NULL */
	const char *replaces;      /* ARI certificate id of the predecessor (RFC 9773 section 5); NULL */
	const char *order_url;     /* an order under way from before a restart; NULL */
	/* A new order has its URL: to be remembered until it ends, so that a restart makes none twice. */
	void (*ordered)(void *arg, const char *order_url);
	void *arg;
};
/* An order: to a certificate chain. A validation that fails by one type is tried again by the next in
 * a new order. */
int acme_order_new(struct acme_job **out, struct acme_client *c, const struct acme_order_opts *o,
		   struct km_errtext *err) __attribute__((warn_unused_result));
/* RFC 8555 section 7.6. reason: RFC 5280's number (1 keyCompromise, 4 superseded). cert_key: signs with
 * the certificate's own key in place of the account's; may be NULL. Already revoked is DONE. */
int acme_revoke_new(struct acme_job **out, struct acme_client *c, const char *chain_pem, int reason,
		    EVP_PKEY *cert_key, struct km_errtext *err) __attribute__((warn_unused_result));
/* RFC 8555 section 7.3.5: the account gets this key; the client uses it from then on. */
int acme_rollover_new(struct acme_job **out, struct acme_client *c, EVP_PKEY *key,
		      struct km_errtext *err) __attribute__((warn_unused_result));
/* RFC 9773 section 4. */
int acme_ari_new(struct acme_job **out, struct acme_client *c, const char *ari_id,
		 struct km_errtext *err) __attribute__((warn_unused_result));
void acme_job_free(struct acme_job *j);

struct acme_next {
	enum acme_want want;
	struct acme_request request; /* REQUEST: the caller's, acme_request_clear */
	int64_t until_ms;            /* WAIT, monotonic; INT64_MAX: only acme_client_opts.changed ends it */
};
/* mono_ms: monotonic; wall_ms: wall clock (Retry-After dates). */
void acme_job_next(struct acme_job *j, int64_t mono_ms, int64_t wall_ms, struct acme_next *out);
/* The answer to the request that acme_job_next gave last. */
void acme_job_answer(struct acme_job *j, const struct acme_answer *a, int64_t mono_ms, int64_t wall_ms);
/* PRESENT: the i-th challenge to put up; false behind the last. Borrowed until acme_job_presented. They
 * may be taken down at the next PRESENT, DONE or FAILED. */
bool acme_job_challenge(const struct acme_job *j, size_t i, struct acme_challenge *out);
/* They are up (ok), or could not be put up (why): then the next type is tried. */
void acme_job_presented(struct acme_job *j, bool ok, const char *why);
/* The CA has fetched a challenge: the next poll comes at once. */
void acme_job_hint(struct acme_job *j);

/* FAILED: what went wrong; borrowed. */
const struct acme_problem *acme_job_problem(const struct acme_job *j);
/* DONE, of an order: the chain as PEM, leaf first; borrowed. */
const char *acme_job_chain(const struct acme_job *j);
/* DONE, of acme_ari_new. */
struct acme_ari {
	int64_t start_ms, end_ms;  /* the suggested window, wall clock */
	int64_t again_ms;          /* how long until it is asked again, clamped to 1 min .. 1 day */
	char explanation[256];     /* URL or "" */
};
const struct acme_ari *acme_job_ari(const struct acme_job *j);

/* The certificate id of RFC 9773 section 4.1 for the leaf of a PEM chain; "" in out when it has no
 * authority key identifier. KM_EINVAL: no certificate. */
int acme_ari_id(char *out, size_t size, const char *chain_pem) __attribute__((warn_unused_result));

/* ---- keys ---- */
/* A new P-256 key, or RSA of 2048 bits; NULL: OpenSSL failed. */
EVP_PKEY *acme_key_new(bool rsa);
/* The certificate that answers tls-alpn-01 (RFC 8737 section 3): name (or IP address) as its only SAN,
 * the digest of key_auth as critical extension, a fresh key. */
int acme_alpn_cert(X509 **cert, EVP_PKEY **key, const char *name, const char *key_auth)
    __attribute__((warn_unused_result));

#endif
