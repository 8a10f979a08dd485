/* SPDX-License-Identifier: MIT */
/* Trust in control by the pin of its own root certificate: "sha256//" and the padded base64 of the
 * SHA-256 of the root's SubjectPublicKeyInfo (the form of RFC 7469's pins). No I/O. */
#ifndef KM_LINK_PIN_H
#define KM_LINK_PIN_H

#include "libkm/base/err.h"
#include <openssl/x509.h>
#include <stdint.h>

#define KM_PIN_LEN 32
#define KM_PIN_STRLEN 53 /* text and NUL */

/* KM_EINVAL. */
int km_pin_parse(uint8_t pin[static KM_PIN_LEN], const char *s) __attribute__((warn_unused_result));
/* The check of a setting that holds a pin: NULL, or what is wrong with it. */
const char *km_pin_check(const char *value);
/* The text of a pin; returns out. */
char *km_pin_str(const uint8_t pin[static KM_PIN_LEN], char out[static KM_PIN_STRLEN]);
/* The pin of a certificate. KM_EINVAL when it has no readable key. */
int km_pin_of(uint8_t pin[static KM_PIN_LEN], X509 *cert) __attribute__((warn_unused_result));

/* Whether chain (as the server sent it, leaf first or not) holds a CA certificate with this pin,
 * and leaf is signed by it, directly or through other certificates of the chain, and every
 * certificate is valid now and fit for a TLS server. The name in the leaf is not looked at:
 * the pinned root signs nothing but control's own certificates, and an address by which control
 * is reached need not be known to it. KM_EAUTH with a sentence, KM_ENOMEM. */
int km_pin_verify(const uint8_t pin[static KM_PIN_LEN], X509 *leaf, STACK_OF(X509) * chain,
		  struct km_errtext *err) __attribute__((warn_unused_result));

#endif
