/* SPDX-License-Identifier: MIT */
/* The certificate authority (CA) that hosts' certificates come from, in Nebula's format, and the
 * trust bundle that tells hosts which CAs to trust and which certificates to refuse.
 *
 * The CA's key is here (`ca = control`: made at the first start, sealed with the master key) or
 * with the operator (`ca = offline`): then certificates are asked for in the table `enrolments`,
 * and bundles are signed elsewhere. Nothing is signed because a row says so: a first certificate is
 * issued to a host that has just proven its secret, which names its number, from which its
 * addresses follow; a later one repeats what an earlier one by a trusted CA says. */
#ifndef CONTROLD_PKI_AUTHORITY_H
#define CONTROLD_PKI_AUTHORITY_H

#include "controld/pki/vault.h"
#include "controld/store/store.h"
#include "libkm/base/conf.h"
#include "libkm/base/util.h"
#include "libkm/cert/cert.h"
#include "libkm/wg/wg.h"

#define AUTHORITY_CA_DAYS 3650
#define AUTHORITY_LATE_DAYS 365 /* so long after its end a certificate can be renewed */

struct authority;

struct authority_opts {
	const struct vault *vault; /* outlives the authority */
	const char *network;       /* the setting: what the CA may give */
	int64_t lifetime_s;        /* of hosts' certificates; they are renewed at a third left */
	bool offline;
	const char
	    *ca_certificate; /* offline: the operator's CA certificate (PEM file); may be NULL */
};

/* Blocking, at start: takes the CAs from the database, or makes one (several controld may try at
 * once, one wins). KM_EINVAL: ca_certificate is malformed or not usable; KM_EAUTH: an authority in
 * the database does not bear this master key's mac; KM_EIO, KM_ECLOSED: the database; with a
 * sentence. */
int authority_open(struct authority **out, PGconn *db, const struct authority_opts *opts,
		   struct km_errtext *err) __attribute__((warn_unused_result));
/* Begins to make bundles when they are wanted, and to renew certificates at a third left. */
int authority_start(struct authority *a, struct event_base *base, struct store *store)
    __attribute__((warn_unused_result));
/* Before store_free. Accepts NULL. */
void authority_free(struct authority *a);

/* Whether control can sign: the active CA's key is here. */
bool authority_signs(const struct authority *a);
/* Fills an empty list with the fingerprints of the trusted CAs, the active one first; the caller
 * frees each and the list. a may be NULL. */
void authority_fingerprints(const struct authority *a, struct km_strlist *out);
/* The newest bundle (PEM) and its number; "" and 0 until the first was made. Borrowed until the
 * loop goes on. */
const char *authority_bundle(const struct authority *a);
int64_t authority_number(const struct authority *a);
/* The newest one that a CA has signed: what a host believes that knows nothing yet. "": none was. */
const char *authority_signed_bundle(const struct authority *a);

/* A host that has proven who it is. */
struct authority_host {
	bool gateway;
	const char *id, *name;
	int64_t number;     /* from it follow its addresses */
	const uint8_t *key; /* WireGuard's public key */
};
/* A certificate with all that the database wants to know. */
struct issued {
	char fingerprint[KM_CERT_FP_STRLEN], authority[KM_CERT_FP_STRLEN];
	char key[KM_WG_KEY_STRLEN];
	char not_before[KM_ISO8601_LEN], not_after[KM_ISO8601_LEN];
	char *pem; /* malloc'd */
};
/* A first certificate, or one for another key. KM_EUNSUPPORTED: the CA is offline; otherwise as
 * km_cert_sign; with a sentence. */
int authority_issue(const struct authority *a, struct issued *out, const struct authority_host *h,
		    struct km_errtext *err) __attribute__((warn_unused_result));
/* Another one like `pem`, which a trusted CA must have signed for this key and kind of host: with
 * the present CA, time and name. KM_EAUTH: it is not such a one, is blocked, or has ended
 * AUTHORITY_LATE_DAYS ago; otherwise as authority_issue. */
int authority_reissue(const struct authority *a, struct issued *out, const char *pem, bool gateway,
		      const char *name, const uint8_t key[static KM_WG_KEY_LEN],
		      struct km_errtext *err) __attribute__((warn_unused_result));
/* A certificate that was signed elsewhere for this host: KM_EAUTH with a sentence unless a trusted
 * CA has signed it for this key, kind and number, it is valid now, and hosts have been told of that
 * CA by a signed bundle. */
int authority_take(const struct authority *a, struct issued *out, const char *pem,
		   const struct authority_host *h, struct km_errtext *err)
    __attribute__((warn_unused_result));
void issued_free(struct issued *i);
/* The statement that keeps it in host_certificates (parameters borrow from i and the texts). */
struct store_stmt issued_insert(const struct issued *i, bool gateway, const char *id);

/* What a host may ask a certificate for, as `kmctl cert sign` and enrolments show it. */
struct authority_place {
	struct km_prefix network; /* its virtual IP with the network's length */
	struct km_prefix subnet;  /* agents only */
	bool has_subnet;
};
/* KM_EINVAL: there is no such number. */
int authority_place(const struct authority *a, bool gateway, int64_t number,
		    struct authority_place *out) __attribute__((warn_unused_result));

/* A bundle that was signed elsewhere: parsed, and signed by a CA that hosts trust, which is one of
 * the last signed bundle (of the first: the active one). KM_EINVAL, KM_EAUTH with a sentence.
 * *number gets its number; *handover: another CA than the one before has signed it. */
int authority_check_bundle(const struct authority *a, const char *pem, int64_t *number,
			   bool *handover, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* A CA's certificate as an authority's row: its mac for this state ("active", "trusted",
 * "retired"). */
void authority_mac(const struct authority *a, const char *fingerprint, const char *state,
		   char mac[static VAULT_TEXT_LEN]);
/* A new CA with its key here; sealed and pem are malloc'd. KM_EIO, KM_ENOMEM. */
struct new_authority {
	char fingerprint[KM_CERT_FP_STRLEN], not_after[KM_ISO8601_LEN];
	char *pem, *sealed;
};
int authority_make(const struct authority *a, struct new_authority *out, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The same of an operator's certificate: it must be a valid CA. KM_EINVAL with a sentence. */
int authority_adopt(const struct authority *a, struct new_authority *out, const char *pem,
		    struct km_errtext *err) __attribute__((warn_unused_result));
void new_authority_free(struct new_authority *n);

/* Called when there is a newer bundle. The caller owns the struct until authority_unwatch. */
struct authority_watch {
	void (*changed)(void *arg);
	void *arg;
	struct authority_watch *prev, *next; /* the authority's */
};
void authority_watch(struct authority *a, struct authority_watch *w);
void authority_unwatch(struct authority *a, struct authority_watch *w);
/* Looks now whether certificates are due (the timer does so every hour). */
void authority_sweep(struct authority *a);

#endif
