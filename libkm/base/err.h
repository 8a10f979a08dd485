/* SPDX-License-Identifier: MIT */
#ifndef KM_BASE_ERR_H
#define KM_BASE_ERR_H

/* The one error convention: functions return 0 or one of these (negative). */
enum km_err {
	KM_EINVAL = -1,       /* a value is malformed or out of range */
	KM_ENOMEM = -2,       /* no memory */
	KM_EIO = -3,          /* a system call failed; errno says how */
	KM_ETOOBIG = -4,      /* larger than the stated bound */
	KM_ENOTFOUND = -5,    /* no such thing */
	KM_EEXIST = -6,       /* already there, or taken */
	KM_EFULL = -7,        /* a bounded queue or table has no room */
	KM_EAGAIN = -8,       /* nothing now; wait for the descriptor */
	KM_EPROTO = -9,       /* the peer broke the protocol */
	KM_EAUTH = -10,       /* not who it says, or not allowed by its credentials */
	KM_ETIMEOUT = -11,    /* took longer than the stated bound */
	KM_ECLOSED = -12,     /* the peer or the object is gone */
	KM_EUNSUPPORTED = -13, /* this host or build cannot */
	KM_EPERM = -14,       /* refused by policy or by the operating system */
	KM_ETRUNC = -15,      /* the input ends too early */
	KM_EGAP = -16,        /* a revision is missing; the whole configuration is needed */
};

/* The name of an error, e.g. "not found"; never NULL, static storage. */
const char *km_strerror(int err);
/* The same, but what errno says for KM_EIO; errno must still be that of the call that failed. */
const char *km_why(int err);

/* Room for a sentence that says what went wrong with what value, for people. */
struct km_errtext {
	char text[512];
};

/* Writes a sentence into e (cut at its end); e may be NULL. Returns err, so that a function can
 * end with `return km_errtext_set(e, KM_EINVAL, "port %d is out of range", p);`. */
int km_errtext_set(struct km_errtext *e, int err, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
