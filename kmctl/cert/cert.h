/* SPDX-License-Identifier: MIT */
/* kmctl cert: one file per mode, each with a table of flags and a run function. */
#ifndef KMCTL_CERT_CERT_H
#define KMCTL_CERT_CERT_H

#include "kmctl/flags.h"
#include "libkm/base/addr.h"
#include "libkm/cert/key.h"
#include <stdint.h>

/* What follows "kmctl cert"; returns the exit status. */
int cert_main(int argc, char **argv);

/* What the modes return besides 0 and 1. */
#define CERT_USAGE 2 /* the options are at fault: the mode's help follows */

struct cert_mode {
	const char *name, *summary;
	struct flag *flags;
	size_t n_flags;
	/* 0, 1 or CERT_USAGE; a sentence is in err unless 0. */
	int (*run)(struct cert_mode *m, struct km_errtext *err);
};
extern struct cert_mode cert_mode_ca, cert_mode_keygen, cert_mode_sign, cert_mode_print,
    cert_mode_verify;

/* ---- what several modes need ---- */

struct flag *cert_flag(struct cert_mode *m, const char *name);
/* The flag's text, "" when there is none. */
const char *cert_text(struct cert_mode *m, const char *name);
/* Gives a flag without a text this one, which stays the caller's. */
void cert_default(struct cert_mode *m, const char *name, const char *text);
/* CERT_USAGE unless the flag has a value. */
int cert_must(struct cert_mode *m, const char *name, struct km_errtext *err);
/* CERT_USAGE when more than one of these flags (ended by NULL) is "-". */
int cert_one_std(struct cert_mode *m, const char *const *names, struct km_errtext *err);
/* 1 when the file that the flag names is there. `what` is e.g. "CA key". */
int cert_refuse_existing(struct cert_mode *m, const char *flag, const char *what,
			 struct km_errtext *err);

/* "25519" (X25519, Curve25519, CURVE25519) or "P256". */
int cert_curve(int *curve, struct cert_mode *m, struct km_errtext *err);

/* A list between commas, blanks around items cut, empty items left out. */
#define CERT_LIST_MAX 1024
struct cert_list {
	char *text; /* free() */
	const char **items;
	size_t n;
};
int cert_split(struct cert_list *l, const char *text, struct km_errtext *err);
void cert_list_free(struct cert_list *l);
/* Networks: the flag `name`, or in its place the older one. Host bits are cut where `mask`.
 * The caller frees *out. */
int cert_networks(struct km_prefix **out, size_t *n, struct cert_mode *m, const char *name,
		  const char *older, bool mask, struct km_errtext *err);

/* A passphrase from $NEBULA_CA_PASSPHRASE, or asked for on the terminal up to five times. Wiped and
 * freed by the caller. `no_terminal` and `none` are the sentences for these two cases. */
int cert_passphrase(char **out, const char *no_terminal, const char *none, struct km_errtext *err);

int64_t cert_now_ns(void);

#define CERT_FILE_MAX (4U << 20)    /* bytes of a file that is read */
#define CERT_KDF_MAX_KIB (4U << 20) /* memory that an encrypted key may ask for: 4 GiB */

#endif
