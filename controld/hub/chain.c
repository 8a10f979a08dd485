/* SPDX-License-Identifier: MIT */
#include "controld/hub/client.h"
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <time.h>

int chain_read(struct chain_facts *f, const char *pem, struct km_errtext *err)
{
	unsigned char digest[32];
	unsigned int n = 0;
	struct tm tm;
	memset(f, 0, sizeof(*f));
	if (strstr(pem, "PRIVATE KEY"))
		return km_errtext_set(err, KM_EINVAL,
				      "holds a private key, which must stay where it is");
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *x = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	int rc = KM_EINVAL;
	if (x && X509_digest(x, EVP_sha256(), digest, &n) == 1 && n == sizeof(digest) &&
	    ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) == 1) {
		f->not_after_ms = (int64_t)timegm(&tm) * 1000;
		km_hex(digest, sizeof(digest), f->fingerprint);
		X509_NAME_oneline(X509_get_issuer_name(x), f->issuer, sizeof(f->issuer));
		rc = 0;
	}
	ERR_clear_error();
	X509_free(x);
	BIO_free(bio);
	return rc < 0 ? km_errtext_set(err, rc, "is not a certificate chain in PEM") : 0;
}
