/* SPDX-License-Identifier: MIT */
/* The inside of the authority: authority.c what it knows and the bundle, issuing.c signing,
 * renewal.c what is due, ends.c what comes to its end. */
#ifndef CONTROLD_PKI_AUTHORITY_PRIV_H
#define CONTROLD_PKI_AUTHORITY_PRIV_H

#include "controld/pki/authority.h"
#include "libkm/cert/bundle.h"
#include "libkm/cert/key.h"
#include "libkm/cert/pool.h"

struct ca {
	struct km_cert *cert;
	bool active, has_key;
	struct km_cert_key key;
};

/* The CAs that are trusted, as the database had them. */
struct cas {
	struct ca *items;
	size_t n;
	struct km_cert_pool *pool;
};

struct authority {
	const struct vault *vault;
	struct km_prefix network;
	int64_t lifetime_s;
	bool offline;
	struct cas cas;
	char *bundle;
	char *signed_bundle; /* the last that bears a signature; NULL: none was signed */
	struct km_bundle *obeyed; /* the same, parsed and believed; NULL: none yet */
	int64_t number;

	struct event_base *base;
	struct store *store;
	struct store_watch *listen;
	struct store_req *db;    /* the bundle's */
	struct store_req *sweep; /* renewal's */
	struct store_req *ends;
	int64_t told_hosts_ms, told_cas_ms; /* when an end was warned of last; 0: never */
	bool sweep_again;        /* asked for while one went on */
	char last_kind[8], last_id[KM_UUID_STRLEN]; /* of this sweep: whom it has looked at */
	int64_t skipped;         /* hosts that cannot be renewed */
	int64_t renewed;
	struct event *timer;
	struct authority_watch *watches;
};

/* Removes the rows of certificates that ended long ago. */
void authority_tidy(struct authority *a);
/* Sets the metrics of the earliest ends, and warns of those that come near. */
void authority_ends(struct authority *a);
/* The last signed bundle; *out NULL: none was signed. The caller frees it. As km_bundle_parse. */
int authority_last_signed(struct km_bundle **out, const struct authority *a,
			  struct km_errtext *err) __attribute__((warn_unused_result));
/* The active CA; NULL: there is none. */
const struct ca *authority_active(const struct authority *a);
void cas_free(struct cas *c);
/* Rows of AUTHORITY_COLUMNS. KM_EAUTH: one bears no mac of this master key. */
#define AUTHORITY_COLUMNS "fingerprint, certificate, sealed_key, state, encode(mac, 'hex')"
int cas_read(struct cas *out, const struct vault *v, const PGresult *res, struct km_errtext *err);

#endif
