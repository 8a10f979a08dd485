/* SPDX-License-Identifier: MIT */
/* What a host believes of other hosts: the trust bundle that it obeys (STATE/trust.pem), and the
 * peers whose certificates it has accepted. WireGuard knows no certificates: a daemon asks here
 * before it makes a host a peer, and looks again by timer and when the bundle has changed.
 *
 * A peer's certificate must be signed by a CA of the bundle and not be blocked, name its WireGuard
 * key, its group (agent or gateway) and every address that it is to have. Expired, it is borne with
 * for a grace time (times.h); what looks not yet valid is a matter of clocks and no reason to
 * refuse. Main loop only; nothing here logs. */
#ifndef KM_TRUST_TRUST_H
#define KM_TRUST_TRUST_H

#include "libkm/base/conf.h"
#include "libkm/cert/cert.h"
#include "libkm/wg/wg.h"

#define KM_TRUST_GROUP_AGENT "agent"
#define KM_TRUST_GROUP_GATEWAY "gateway"

struct km_trust;

struct km_trust_clock {
	int64_t wall_s;  /* Unix seconds */
	int64_t mono_ms; /* monotonic */
};
struct km_trust_clock km_trust_clock(void);

struct km_trust_opts {
	const char *state_dir;
	/* Fingerprints (hex) of the CAs of which one must have signed the first bundle; none: the
	 * first bundle that comes is taken. */
	const struct km_strlist *pins;
	int64_t grace_s;
};

/* Reads trust.pem, identity.pem and trust.times; each may be missing, and a damaged trust.times or
 * identity.pem counts as missing. KM_EINVAL: a malformed pin or trust.pem (nothing can be
 * believed); KM_EIO, KM_ENOMEM; with a sentence. */
int km_trust_open(struct km_trust **out, const struct km_trust_opts *opts,
		  struct km_trust_clock now, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Accepts NULL. */
void km_trust_free(struct km_trust *t);
/* Writes trust.times, which counts what has been borne with: now and then, and at the end. KM_EIO,
 * KM_ENOMEM. */
int km_trust_save(struct km_trust *t, struct km_trust_clock now)
    __attribute__((warn_unused_result));

/* Whether there is a bundle, and its number (0: none). */
bool km_trust_ready(const struct km_trust *t);
uint64_t km_trust_number(const struct km_trust *t);
/* Whether the wall clock stands before the time that was saved last. */
bool km_trust_behind(const struct km_trust *t, struct km_trust_clock now);

/* A bundle has come: takes over as much of it as may be (libkm/cert/bundle.h) and writes that down
 * first. *changed: something has changed, so km_trust_review. An error says what was refused, also
 * when other parts were taken: KM_EINVAL (malformed, an older number), KM_EEXIST (the number is
 * taken by another content), KM_EAUTH (not signed by a CA that is trusted here), KM_EPERM (it would
 * leave no CA), KM_EIO (not written: nothing has changed), KM_ENOMEM. */
int km_trust_take(struct km_trust *t, const char *bundle, struct km_trust_clock now, bool *changed,
		  struct km_errtext *err) __attribute__((warn_unused_result));

/* A peer as control describes it. */
struct km_trust_peer {
	bool gateway; /* else an agent */
	bool next;    /* its next key: kept apart from the present one */
	const char *id, *name;
	const uint8_t *key; /* KM_WG_KEY_LEN bytes */
	const struct km_prefix *allowed;
	size_t n_allowed;
	const char *certificate; /* PEM; NULL: it has none */
};
/* Whether it may be a peer. 0: it may, and is remembered under kind and id; err's text is then
 * empty, or a warning (it is borne with; its name differs). Otherwise nothing is changed: a
 * KM_CERT_E* code, KM_EAUTH (the certificate is for another key, address or kind of host, there is
 * none, or there is no bundle), KM_EINVAL (malformed), KM_ENOMEM; err names host and reason. */
int km_trust_admit(struct km_trust *t, const struct km_trust_peer *p, struct km_trust_clock now,
		   struct km_errtext *err) __attribute__((warn_unused_result));
/* Whether one was admitted under this id that has not been forgotten. */
bool km_trust_admitted(const struct km_trust *t, bool gateway, bool next, const char *id);
/* The fingerprint of the certificate by which it was admitted, and its other one (struct km_cert).
 * False: there is none. */
bool km_trust_fingerprints(const struct km_trust *t, bool gateway, bool next, const char *id,
			   uint8_t fp[static 2][KM_CERT_FP_LEN]);
/* Whether the bundle blocks this fingerprint. */
bool km_trust_blocks(const struct km_trust *t, const uint8_t fp[static KM_CERT_FP_LEN]);
/* It is no peer any more. An unknown one is no error. */
void km_trust_forget(struct km_trust *t, bool gateway, bool next, const char *id);
/* Looks at all who were admitted: gone is called for each who may be a peer no longer (and is then
 * forgotten); it may call neither km_trust_forget nor km_trust_admit. */
typedef void km_trust_gone_cb(void *arg, bool gateway, bool next, const char *id,
			      const struct km_errtext *why);
void km_trust_review(struct km_trust *t, struct km_trust_clock now, km_trust_gone_cb *gone,
		     void *arg);
/* How many are borne with although their certificates look expired, as of the last review, and how
 * many seconds the first of them has left. */
size_t km_trust_borne(const struct km_trust *t, int64_t *left_s);

/* This host's own certificate, as control has issued it: kept in identity.pem. NULL or "" forgets.
 * KM_EINVAL (malformed; the old one stays), KM_EIO, KM_ENOMEM. */
int km_trust_set_own(struct km_trust *t, const char *certificate, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* NULL: none. */
const struct km_cert *km_trust_own(const struct km_trust *t);

#endif
