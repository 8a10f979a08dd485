/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/chain.h"
#include "gatewayd/acme/internal.h"
#include "libkm/base/addr.h"
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- what a leaf names ---- */

static bool names_dns(const GENERAL_NAME *g, const char *name)
{
	int type;
	const ASN1_STRING *s = GENERAL_NAME_get0_value(g, &type);

	return type == GEN_DNS && (size_t)ASN1_STRING_length(s) == strlen(name) &&
	       !strncasecmp((const char *)ASN1_STRING_get0_data(s), name, strlen(name));
}

static bool names_ip(const GENERAL_NAME *g, const struct km_addr *a)
{
	int type, n = a->family == AF_INET ? 4 : 16;
	const ASN1_STRING *s = GENERAL_NAME_get0_value(g, &type);

	return type == GEN_IPADD && ASN1_STRING_length(s) == n &&
	       !memcmp(ASN1_STRING_get0_data(s), a->ip, (size_t)n);
}

static bool names(const GENERAL_NAMES *all, const char *name)
{
	struct km_addr a;
	bool ip = !km_addr_parse(&a, name);

	for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, i);

		if (ip ? names_ip(g, &a) : names_dns(g, name))
			return true;
	}
	return false;
}

static int check_leaf(X509 *leaf, EVP_PKEY *key, const char *const *wanted, size_t n,
		      struct km_errtext *err)
{
	GENERAL_NAMES *all;
	int rc = 0;

	if (X509_check_private_key(leaf, key) != 1)
		return km_errtext_set(err, KM_EAUTH, "the CA's certificate is for another key");
	all = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
	for (size_t i = 0; !rc && i < n; i++)
		if (!names(all, wanted[i]))
			rc = km_errtext_set(err, KM_EINVAL, "the CA's certificate does not name %s",
					    wanted[i]);
	GENERAL_NAMES_free(all);
	return rc;
}

/* ---- the chain ---- */

/* No pass phrase is asked for. */
static int no_phrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf, (void)size, (void)rwflag, (void)arg;
	return -1;
}

X509 *chain_leaf(const char *pem)
{
	BIO *in = BIO_new_mem_buf(pem, -1);
	X509 *x = in ? PEM_read_bio_X509(in, NULL, no_phrase, NULL) : NULL;

	BIO_free(in);
	ERR_clear_error();
	return x;
}

static int read_certs(STACK_OF(X509) * out, const char *text, size_t n, struct km_errtext *err)
{
	BIO *in = BIO_new_mem_buf(text, (int)n);
	unsigned long e;
	X509 *x;
	int rc = in ? 0 : KM_ENOMEM;

	ERR_clear_error();
	while (!rc && (x = PEM_read_bio_X509(in, NULL, no_phrase, NULL)))
		if (sk_X509_num(out) >= CHAIN_CERTS_MAX || !sk_X509_push(out, x)) {
			X509_free(x);
			rc = km_errtext_set(err, KM_ETOOBIG,
					    "the CA's chain has more than %d certificates",
					    CHAIN_CERTS_MAX);
		}
	e = ERR_peek_last_error();
	if (!rc && (!sk_X509_num(out) || ERR_GET_REASON(e) != PEM_R_NO_START_LINE))
		rc = km_errtext_set(err, KM_EINVAL, "what the CA sent is no chain of certificates");
	BIO_free(in);
	ERR_clear_error();
	return rc;
}

static int write_certs(char **pem, const STACK_OF(X509) * certs)
{
	BIO *out = BIO_new(BIO_s_mem());
	char *text;
	long n;
	int rc = out ? 0 : KM_ENOMEM;

	for (int i = 0; !rc && i < sk_X509_num(certs); i++)
		rc = PEM_write_bio_X509(out, sk_X509_value(certs, i)) == 1 ? 0 : KM_ENOMEM;
	if (!rc) {
		n = BIO_get_mem_data(out, &text);
		if (!(*pem = strndup(text, (size_t)n)))
			rc = KM_ENOMEM;
	}
	BIO_free(out);
	return rc;
}

int chain_read(char **pem, char issuer[static CHAIN_ISSUER_MAX], const char *text, size_t n,
	       EVP_PKEY *key, const char *const *wanted, size_t n_names, struct km_errtext *err)
{
	STACK_OF(X509) *certs = NULL;
	X509_NAME *top;
	int rc;

	*pem = NULL;
	issuer[0] = '\0';
	if (n > ACME_CHAIN_MAX)
		return km_errtext_set(err, KM_ETOOBIG, "the CA's chain is larger than %d bytes",
				      ACME_CHAIN_MAX);
	if (!(certs = sk_X509_new_null()))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	rc = read_certs(certs, text, n, err);
	if (!rc)
		rc = check_leaf(sk_X509_value(certs, 0), key, wanted, n_names, err);
	if (!rc && (rc = write_certs(pem, certs)))
		km_errtext_set(err, rc, "no memory");
	if (!rc) {
		top = X509_get_issuer_name(sk_X509_value(certs, sk_X509_num(certs) - 1));
		if (X509_NAME_get_text_by_NID(top, NID_commonName, issuer, CHAIN_ISSUER_MAX) < 0)
			issuer[0] = '\0';
	}
	sk_X509_pop_free(certs, X509_free);
	ERR_clear_error();
	return rc;
}

/* ---- Link (RFC 8288) ---- */

/* Whether the parameters (up to the next comma outside of quotes) have rel=alternate; *end is where
 * they end. */
static bool is_alternate(const char *p, const char **end)
{
	bool quoted = false, found = false;
	const char *from = p;

	for (; *p && *p != '\n' && (quoted || *p != ','); p++)
		quoted ^= *p == '"';
	*end = p;
	for (; from < p; from++) {
		if (*from != ';')
			continue;
		from += 1 + strspn(from + 1, " \t");
		if (!strncasecmp(from, "rel=\"alternate\"", 15) ||
		    (!strncasecmp(from, "rel=alternate", 13) && strchr(";, \t\n", from[13])))
			found = true;
		from--;
	}
	return found;
}

char *chain_alternate(const char *link, size_t i)
{
	while (link && (link = strchr(link, '<'))) {
		const char *close = strpbrk(link, ">\n"), *next;
		char url[ACME_URL_MAX];

		if (!close)
			return NULL;
		if (*close == '\n' || !is_alternate(close + 1, &next)) {
			link = *close == '\n' ? close : next;
			continue;
		}
		if ((size_t)(close - link) <= sizeof(url)) {
			memcpy(url, link + 1, (size_t)(close - link) - 1);
			url[close - link - 1] = '\0';
			if (acme_url_ok(url) && !i--)
				return strdup(url);
		}
		link = next;
	}
	return NULL;
}
