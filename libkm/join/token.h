/* SPDX-License-Identifier: MIT */
/* Join tokens: one line of text with all that a new host needs to become an agent or a gateway:
 *     kmj_SECRET.FACTS
 * SECRET is 43 base64url characters (256 random bits, single use), FACTS the base64url form of
 * {"v":1,"t":"agent"|"gateway","u":[URL, …],"p":PIN,"c":[FINGERPRINT, …]}. */
#ifndef KM_JOIN_TOKEN_H
#define KM_JOIN_TOKEN_H

#include "libkm/base/conf.h"
#include "libkm/base/err.h"
#include <stdbool.h>

#define KM_JOIN_SECRET_STRLEN 48 /* "kmj_", 43 characters and NUL */
#define KM_JOIN_TOKEN_MAX 8192   /* bytes of a token */
#define KM_JOIN_URLS_MAX 16
#define KM_JOIN_CAS_MAX 16

struct km_join_token {
	char secret[KM_JOIN_SECRET_STRLEN];
	bool gateway;
	struct km_strlist urls; /* of control's link, at least one */
	char *pin;              /* of control's root, "sha256//…" */
	struct km_strlist cas;  /* fingerprints of trusted CAs in hex; may be empty */
};

/* The text; malloc'd, to be wiped. NULL: no memory. */
char *km_join_token_format(const struct km_join_token *t) __attribute__((warn_unused_result));
/* Reads the text, white space around it allowed; every part is checked. KM_EINVAL (err says what is
 * wrong, and never the secret), KM_ETOOBIG, KM_ENOMEM. Free with km_join_token_free, also after an
 * error. */
int km_join_token_parse(struct km_join_token *t, const char *text, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Wipes and frees what is in it. */
void km_join_token_free(struct km_join_token *t);

#endif
