/* SPDX-License-Identifier: MIT */
/* Control's own root (ECDSA P-256, 10 years), which clients pin, and the server certificate
 * (90 days) under it. The root lies in the table `settings`, its private key sealed with the master
 * key (AES-256-GCM). The server's key is made anew at every start and lives in memory only. */
#ifndef CONTROLD_PKI_PKI_H
#define CONTROLD_PKI_PKI_H

#include "controld/pki/vault.h"
#include "libkm/base/conf.h"
#include "libkm/base/err.h"
#include <event2/event.h>
#include <libpq-fe.h>

struct pki;

struct pki_opts {
	const char *state_dir; /* root.crt and root.pin are written here */
	const char *
	    master_key_file; /* NULL: state_dir/master.key; made (0600) when there is no root yet */
	const struct km_strlist *names; /* for the certificate; may be NULL */
};

/* Blocking, at start: takes the root from the database, or makes one (several controld may try at
 * once; one wins and the others take it), makes the server certificate, writes root.crt and
 * root.pin. base: for the timer that renews the server certificate at a third left.
 * KM_EAUTH: the master key is another than the one that sealed the root; KM_ENOTFOUND: there is a
 * root but no master key file; KM_EPERM: the file can be read by others; KM_EINVAL: it is not 32
 * bytes in hex, or a name is neither host name nor address; KM_EIO: file or database; err says
 * which and what to do. */
int pki_open(struct pki **out, struct event_base *base, PGconn *db, const struct pki_opts *opts,
	     struct km_errtext *err) __attribute__((warn_unused_result));
void pki_free(struct pki *p);

/* The master key at work; lives as long as p. */
const struct vault *pki_vault(const struct pki *p);

/* PEM texts; valid until the certificate is renewed (watchers are told) or pki_free. */
const char *pki_chain_pem(const struct pki *p); /* server certificate, then the root */
const char *pki_key_pem(const struct pki *p);   /* of the server certificate; secret */
const char *pki_root_pem(const struct pki *p);
/* "sha256//…" of the root's SubjectPublicKeyInfo; lives as long as p. */
const char *pki_pin(const struct pki *p);

/* Called after a renewal with the new texts. The caller owns the struct and keeps it until
 * pki_unwatch. */
struct pki_watch {
	void (*renewed)(void *arg, const char *chain_pem, const char *key_pem);
	void *arg;
	struct pki_watch *prev, *next; /* the pki's */
};
void pki_watch(struct pki *p, struct pki_watch *w);
void pki_unwatch(struct pki *p, struct pki_watch *w);

/* Renews the server certificate now (the timer calls this too). */
int pki_renew(struct pki *p, struct km_errtext *err) __attribute__((warn_unused_result));

#endif
