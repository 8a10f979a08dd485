/* SPDX-License-Identifier: MIT */
/* Certificates in Nebula's format: version 1 (protobuf) and version 2 (DER), of hosts and of CAs.
 *
 * Nothing here reads files, clocks or sockets. Reading is strict: an encoding other than the one
 * that nebula-cert writes (another order of fields, unknown or repeated ones, numbers or lengths
 * longer than needed, host names with control characters) is refused, so that one certificate has
 * one fingerprint. What is read is not yet believed: see pool.h. */
#ifndef KM_CERT_CERT_H
#define KM_CERT_CERT_H

#include "libkm/base/addr.h"
#include "libkm/base/buf.h"
#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KM_CERT_MAX 65536      /* bytes of an encoded certificate, without PEM */
#define KM_CERT_PEM_MAX 92000  /* and of its PEM text */
#define KM_CERT_NAME_MAX 253   /* bytes of a name */
#define KM_CERT_GROUP_MAX 253  /* bytes of a group */
#define KM_CERT_ITEMS_MAX 1024 /* networks, unsafe networks, groups: of each */
#define KM_CERT_FP_LEN 32      /* a fingerprint (SHA-256) */
#define KM_CERT_FP_STRLEN 65   /* in lower-case hex, with NUL */
#define KM_CERT_PUB_MAX 65     /* a public key: 32, or 65 (P-256, uncompressed point) */
#define KM_CERT_SIG_MAX 72     /* a signature: 64 (Ed25519) or a DER pair (ECDSA P-256) */

enum km_cert_version { KM_CERT_V1 = 1, KM_CERT_V2 = 2 };
enum km_cert_curve { KM_CERT_25519 = 0, KM_CERT_P256 = 1 };

/* Why a certificate is refused. Functions here return 0, an enum km_err, or one of these, which
 * lie below them all; each comes with a sentence that names the value. */
enum km_cert_err {
	KM_CERT_EBLOCKED = -100,    /* its fingerprint is in the blocklist */
	KM_CERT_EISSUER = -101,     /* names no issuer, or one that is not trusted */
	KM_CERT_ECURVE = -102,      /* its curve is not its issuer's */
	KM_CERT_ECA_EXPIRED = -103, /* its issuer is no longer valid */
	KM_CERT_ECA_EARLY = -104,   /* its issuer is not yet valid */
	KM_CERT_EEXPIRED = -105,    /* it is no longer valid */
	KM_CERT_EEARLY = -106,      /* it is not yet valid */
	KM_CERT_ESIGNATURE = -107,  /* the signature is not its issuer's over these bytes */
	KM_CERT_EOUTLIVES = -108,   /* valid for longer than its issuer */
	KM_CERT_EPREDATES = -109,   /* valid earlier than its issuer */
	KM_CERT_EGROUP = -110,      /* a group that its issuer may not give */
	KM_CERT_ENETWORK = -111,    /* a network that its issuer may not give */
	KM_CERT_EUNSAFE = -112,     /* an unsafe network (subnet) that its issuer may not give */
	KM_CERT_ENOTCA = -113,      /* a CA was wanted */
	KM_CERT_ENOTSELF = -114,    /* a CA that is not signed by itself */
	KM_CERT_EISCA = -115,       /* a host's certificate was wanted */
	KM_CERT_EENCRYPTED = -116,  /* the private key is encrypted; a passphrase is needed */
	KM_CERT_EPASSPHRASE = -117, /* the passphrase is wrong, or the file was changed */
	KM_CERT_EKEY = -118,        /* a private key that belongs to another certificate */
};

/* The name of either kind of error; never NULL, static storage. */
const char *km_cert_strerror(int err);

/* A certificate as it was read or signed; nothing in it changes afterwards. Strings are valid UTF-8
 * without control characters. */
struct km_cert {
	uint8_t version; /* enum km_cert_version */
	uint8_t curve;   /* enum km_cert_curve, of its key and its signature alike */
	bool is_ca;
	bool has_issuer;            /* every host's; no CA's */
	char *name;                 /* "" is possible in version 1 */
	struct km_prefix *networks; /* host bits kept; version 1: IPv4 only; version 2: sorted */
	size_t n_networks;          /* a host has at least one */
	struct km_prefix *unsafe_networks; /* "subnets" in version 1 */
	size_t n_unsafe_networks;
	char **groups;
	size_t n_groups;
	int64_t not_before, not_after;       /* Unix seconds, both inclusive */
	uint8_t public_key[KM_CERT_PUB_MAX]; /* a host's on 25519 is its X25519 = WireGuard key */
	size_t public_key_len;               /* 32 or 65 */
	uint8_t issuer[KM_CERT_FP_LEN];
	uint8_t signature[KM_CERT_SIG_MAX];
	size_t signature_len;
	uint8_t fingerprint[KM_CERT_FP_LEN];
	/* P-256: what the fingerprint is with the other of the two equivalent signatures (s and
	 * n-s). Elsewhere equal to fingerprint. */
	uint8_t fingerprint2[KM_CERT_FP_LEN];
	uint8_t *raw; /* the whole encoding */
	size_t raw_len;
	uint8_t *tbs; /* the bytes that the signature is over */
	size_t tbs_len;
};

/* Reads one encoded certificate of this version, which must fill the n bytes. KM_EINVAL (not such a
 * certificate, or not its canonical encoding), KM_ETRUNC, KM_ETOOBIG, KM_EUNSUPPORTED (version),
 * KM_ENOMEM; err (may be NULL) says what is wrong. The caller frees *out. */
int km_cert_parse(struct km_cert **out, int version, const void *p, size_t n,
		  struct km_errtext *err) __attribute__((warn_unused_result));

/* Reads the first PEM block of the text, whose banner says the version, and moves *text and *left
 * behind it; what stands before it and is no block is a comment. KM_ENOTFOUND: no block is left;
 * KM_EINVAL also for a block that is no certificate. Otherwise as km_cert_parse. */
int km_cert_from_pem(struct km_cert **out, const char **text, size_t *left, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* The same of a text that must hold one; what stands behind the first is not read. KM_EINVAL also when
 * there is no block. */
int km_cert_from_text(struct km_cert **out, const char *text, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* The PEM text, malloc'd. NULL: no memory. */
char *km_cert_text(const struct km_cert *c) __attribute__((warn_unused_result));
/* Appends the PEM text. KM_ETOOBIG, KM_ENOMEM. */
int km_cert_to_pem(struct km_buf *out, const struct km_cert *c) __attribute__((warn_unused_result));

/* A copy of its own. NULL: no memory. */
struct km_cert *km_cert_copy(const struct km_cert *c) __attribute__((warn_unused_result));
/* Accepts NULL. */
void km_cert_free(struct km_cert *c);

/* The fingerprint as nebula-cert prints it; returns out. */
char *km_cert_fp_str(const struct km_cert *c, char out[static KM_CERT_FP_STRLEN]);
/* 64 hex digits to a fingerprint, either case. KM_EINVAL. */
int km_cert_fp_parse(uint8_t fp[static KM_CERT_FP_LEN], const char *s)
    __attribute__((warn_unused_result));

bool km_cert_has_group(const struct km_cert *c, const char *group);

#endif
