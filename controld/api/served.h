/* SPDX-License-Identifier: MIT */
/* A certificate of the operator's for the REST interface: read at the start, and again when its files
 * are replaced. */
#ifndef CONTROLD_API_SERVED_H
#define CONTROLD_API_SERVED_H

#include "libkm/base/err.h"
#include <event2/event.h>

struct served;

/* Called with the new texts when the files were replaced by others that can be served; returns 0, or an
 * error with a sentence. */
typedef int served_changed_cb(void *arg, const char *cert_pem, const char *key_pem,
			      struct km_errtext *err);

/* Reads cert_file (PEM: the certificate, then its chain) and key_file (PEM, without passphrase; NULL: the
 * key is in cert_file too). Looks every 2 s whether one of them is another file or was written;
 * what cannot be served then is logged, and what was served before stays. An expired one is served, with a
 * warning. KM_EIO: a file cannot be read; KM_EPERM: everybody may read the key; KM_EINVAL: no certificate, no key, or they
 * do not belong together; KM_ENOMEM. err names the file. */
int served_open(struct served **out, struct event_base *base, const char *cert_file,
		const char *key_file, struct km_errtext *err) __attribute__((warn_unused_result));
/* PEM texts, until the files are replaced. */
const char *served_cert_pem(const struct served *s);
const char *served_key_pem(const struct served *s);
/* From now on changes are told. */
void served_watch(struct served *s, served_changed_cb *changed, void *arg);
/* Accepts NULL. */
void served_free(struct served *s);

#endif
