/* SPDX-License-Identifier: MIT */
/* Certificates and account key on disk, in the layout and form of Go's autocert DirCache, so that a
 * folder of autocert's works as it is: DOMAIN ("*.parent" for a wildcard), DOMAIN+rsa (private key
 * first, then the chain, PEM), acme_account+key. Written through a temp file, fsync and rename,
 * 0600 in a folder of 0700. What is no file of ours is set aside (renamed to NAME.broken), never
 * fatal; a symbolic link, a folder or a device is refused and stays. A domain that route_domain_ok
 * does not like, or that is the name of another file here (account.json, *.broken), never touches
 * the disk: KM_EINVAL. Blocking; any thread. */
#ifndef GATEWAYD_ACME_CACHE_H
#define GATEWAYD_ACME_CACHE_H

#include "gatewayd/edge/cert.h"
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>

/* Kept beside by who has the account, for `gatewayd certificates account`: {"directory": URL,
 * "url": the account's, "caa": [the CA's domains, from the directory's meta.caaIdentities]}; "caa"
 * may be absent. */
#define CACHE_ACCOUNT_FILE "account.json"

/* Makes DIR if there is none and checks that it is a folder only of ours. KM_EIO, KM_EPERM, with a
 * sentence. */
int cache_open(const char *dir, struct km_errtext *err) __attribute__((warn_unused_result));

/* What an entry is. */
struct cache_facts {
	int64_t not_before_ms, not_after_ms; /* wall clock */
	char fingerprint[65];                /* SHA-256 of the leaf, hex */
	char issuer[128];                    /* common name */
	bool rsa;
};
/* Private key and chain of a domain as one PEM text (the caller wipes and frees). KM_ENOTFOUND;
 * KM_EINVAL: it was broken and has been set aside; KM_EIO. facts may be NULL. */
int cache_get(const char *dir, const char *domain, bool rsa, char **pem, struct cache_facts *facts,
	      struct km_errtext *err) __attribute__((warn_unused_result));
/* The same, ready for use. One that is out of its time is given. */
int cache_load(const char *dir, const char *domain, bool rsa, struct cert **out,
	       struct km_errtext *err) __attribute__((warn_unused_result));
/* Checks that the key is the leaf's and that the leaf names the domain, then writes. KM_EINVAL,
 * KM_EIO (errno; the older entry stays). */
int cache_put(const char *dir, const char *domain, bool rsa, const char *pem,
	      struct cache_facts *facts, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* An absent one is no error. */
int cache_remove(const char *dir, const char *domain, bool rsa, struct km_errtext *err);
/* PEM of a key (PKCS#8 is read too; written as autocert does: SEC1 or PKCS#1) and a chain in one
 * text; the caller wipes and frees. NULL: no memory. */
char *cache_pem(EVP_PKEY *key, const char *chain);

/* The account key: acme_account+key, else acme_account.key, else a new one (P-256) that is written.
 * A file that is no key is set aside, with a warning in the log. KM_EIO (it could not be read or
 * written), KM_EINVAL (a symbolic link), KM_ENOMEM. */
int cache_account_key(const char *dir, EVP_PKEY **out, struct km_errtext *err)
    __attribute__((warn_unused_result));
int cache_account_key_put(const char *dir, EVP_PKEY *key, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* Calls each for every entry that looks like a domain's, by name only (nothing is read). */
int cache_each(const char *dir, void (*each)(void *arg, const char *domain, bool rsa), void *arg,
	       struct km_errtext *err) __attribute__((warn_unused_result));

#endif
