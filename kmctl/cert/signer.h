/* SPDX-License-Identifier: MIT */
/* The CA that signs: its certificate and its key, which may be encrypted. */
#ifndef KMCTL_CERT_SIGNER_H
#define KMCTL_CERT_SIGNER_H

#include "libkm/cert/cert.h"
#include "libkm/cert/key.h"

struct cert_signer {
	struct km_cert *ca;
	struct km_cert_key key;
};

/* Reads both files ("-": standard input), asks for the passphrase where there is one, and sees that
 * they belong together and that the CA has not expired. 1 with a sentence. Close it always. */
int cert_signer_open(struct cert_signer *s, const char *crt, const char *key,
		     struct km_errtext *err) __attribute__((warn_unused_result));
/* Wipes the key. */
void cert_signer_close(struct cert_signer *s);

#endif
