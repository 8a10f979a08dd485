/* SPDX-License-Identifier: MIT */
/* A request for a certificate, as control hands it out: read, judged, and turned into what is
 * signed. control may be in a stranger's hands, so nothing of it is believed before it was shown
 * and agreed to, and nothing is signed that was not shown. No I/O. */
#ifndef KMCTL_CERT_REQUEST_H
#define KMCTL_CERT_REQUEST_H

#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include "libkm/cert/sign.h"
#include "libkm/wg/wg.h"
#include <jansson.h>
#include <stdio.h>

#define REQUEST_NAME_MAX 64
#define REQUEST_REASON_MAX 32

struct cert_request {
	char id[KM_UUID_STRLEN], host[KM_UUID_STRLEN]; /* its own, and the host's */
	bool gateway; /* else an agent */
	char name[REQUEST_NAME_MAX + 1];
	char reason[REQUEST_REASON_MAX + 1];
	char requested_at[KM_ISO8601_LEN];
	char code[KM_WG_CODE_STRLEN]; /* of its key, worked out here */
	const char *group;            /* the only one: its kind */
	uint8_t key[KM_WG_KEY_LEN];
	struct km_prefix network, subnet; /* a gateway has no subnet */
};

/* Reads one item of /api/enrolments. Refused is (KM_EINVAL, with a sentence): a name of other
 * characters than hosts have, other groups than the kind's own, any number of networks but one, an
 * agent without or a gateway with a subnet, a subnet that the address does not lie in, and whatever
 * is malformed. */
int cert_request_read(struct cert_request *r, const json_t *item, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* Whether the certificate (PEM) that control shows as the host's present one vouches for the request,
 * so that nobody need compare the code: ca has signed it, for this key, name, kind and these
 * addresses. false with a sentence. */
bool cert_request_renews(const struct cert_request *r, const char *pem, const struct km_cert *ca,
			 struct km_errtext *err);

/* What a certificate for r says (it borrows from r): valid from an hour before now_s for duration_s
 * seconds, within ca's own validity; in ca's version. */
void cert_request_spec(struct km_cert_spec *spec, const struct cert_request *r,
		       const struct km_cert *ca, int64_t now_s, int64_t duration_s);

/* Shows it to the operator, and until when it would be valid. */
void cert_request_show(const struct cert_request *r, int64_t not_after, FILE *to);

#endif
