/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/rules_parts.h"
#include "libkm/base/util.h"
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

#define CA_MAX 64 /* certificates in one tlsCa */

static int proto_of(enum route_proto *out, const char *name, struct km_errtext *err)
{
	static const char *const names[] = {"http", "h2c", "https"};
	*out = ROUTE_PROTO_HTTP;
	for (size_t i = 0; name && i < KM_ARRAY_LEN(names); i++) {
		if (strcmp(name, names[i]) != 0)
			continue;
		*out = (enum route_proto)i;
		return 0;
	}
	return name ? km_errtext_set(err, KM_EUNSUPPORTED,
				     "target protocol %.32s is not supported by this gateway", name)
		    : 0;
}

/* The host name or address of the target; "localhost" for a Unix socket. */
static int target_host(struct km_hostport *out, const char *target, struct km_errtext *err)
{
	struct km_target parsed;
	int rc = km_target_parse(&parsed, target, err);
	if (rc)
		return rc;
	*out = parsed.hp;
	if (parsed.is_unix || !out->host[0]) {
		memset(out, 0, sizeof(*out));
		strcpy(out->host, "localhost");
		out->port = parsed.is_unix ? 0 : parsed.hp.port;
	}
	return 0;
}

/* ---- TLS ---- */

static int ca_read(X509_STORE *store, BIO *bio, struct km_errtext *err)
{
	int n = 0;
	for (X509 *x; (x = PEM_read_bio_X509(bio, NULL, NULL, NULL)); n++) {
		int ok = n < CA_MAX && X509_STORE_add_cert(store, x);
		X509_free(x);
		if (!ok)
			return km_errtext_set(err, KM_EINVAL,
					      "tlsCa: certificate %d cannot be used", n + 1);
	}
	unsigned long why = ERR_peek_last_error();
	ERR_clear_error();
	if (!n || ERR_GET_REASON(why) != PEM_R_NO_START_LINE)
		return km_errtext_set(err, KM_EINVAL,
				      "tlsCa: no certificate in PEM after the first %d", n);
	return 0;
}

static int ca_compile(struct route_rules *r, const char *pem, struct km_errtext *err)
{
	if (!pem || !pem[0])
		return 0;
	BIO *bio = BIO_new_mem_buf(pem, -1);
	int rc = KM_ENOMEM;
	ERR_clear_error();
	if (bio && (r->tls_store = X509_STORE_new()))
		rc = ca_read(r->tls_store, bio, err);
	BIO_free(bio);
	return rc;
}

static int tls_compile(struct route_rules *r, const struct km_hostport *host,
		       const struct km_msg_tunnel_options *o, struct km_errtext *err)
{
	const char *name =
	    o->tls_server_name && o->tls_server_name[0] ? o->tls_server_name : host->host;
	char normal[HTTP_HOST_MAX + 1];
	struct http_str kept;
	struct km_addr a;
	uint32_t port;
	r->tls_verify = !o->has_tls_verify || o->tls_verify;
	r->tls_name_is_addr = !km_addr_parse(&a, name);
	if (!r->tls_name_is_addr &&
	    (strpbrk(name, ":[") ||
	     !http_host_normal((struct http_str){name, strlen(name)}, normal, &port)))
		return km_errtext_set(err, KM_EINVAL, "tlsServerName \"%.64s\": not a host name",
				      name);
	if (!r->tls_name_is_addr)
		name = normal;
	int rc = rules_keep_str(r, &kept, name, strlen(name));
	r->tls_name = kept.p;
	return rc ? rc : ca_compile(r, o->tls_ca, err);
}

/* ---- Host ---- */

static int host_of_target(struct route_rules *r, const struct km_hostport *h)
{
	char text[sizeof(h->host) + 10];
	uint16_t own = r->proto == ROUTE_PROTO_HTTPS ? 443 : 80;
	bool v6 = h->is_addr && h->addr.family == AF_INET6;
	int n = snprintf(text, sizeof(text), "%s%s%s", v6 ? "[" : "", h->host, v6 ? "]" : "");
	if (h->port && h->port != own)
		n += snprintf(text + n, sizeof(text) - (size_t)n, ":%u", h->port);
	return rules_keep_str(r, &r->host, text, (size_t)n);
}

static int host_compile(struct route_rules *r, const struct km_hostport *target, const char *host,
			struct km_errtext *err)
{
	char normal[HTTP_HOST_MAX + 1];
	uint32_t port;
	if (!host || !host[0])
		return 0;
	if (!strcmp(host, "target"))
		return host_of_target(r, target);
	if (!http_host_normal((struct http_str){host, strlen(host)}, normal, &port))
		return km_errtext_set(err, KM_EINVAL, "hostHeader \"%.64s\": not a host", host);
	return rules_keep_str(r, &r->host, host, strlen(host));
}

/* ---- */

static int digest(struct route_rules *r, const char *ca)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	const uint8_t kind[] = {(uint8_t)r->proto, r->tls_verify};
	const char *name = r->tls_name ? r->tls_name : "";
	bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) &&
		  EVP_DigestUpdate(ctx, kind, sizeof(kind)) &&
		  EVP_DigestUpdate(ctx, name, strlen(name) + 1) &&
		  EVP_DigestUpdate(ctx, ca ? ca : "", ca ? strlen(ca) : 0) &&
		  EVP_DigestFinal_ex(ctx, r->target_digest, NULL);
	EVP_MD_CTX_free(ctx);
	return ok ? 0 : KM_ENOMEM;
}

int rules_target(struct route_rules *r, const struct km_msg_tunnel *t,
		 const struct km_msg_tunnel_options *o, struct km_errtext *err)
{
	struct km_hostport host;
	int rc;
	if ((rc = proto_of(&r->proto, t->target_protocol, err)) ||
	    (rc = target_host(&host, t->target, err)) ||
	    (rc = host_compile(r, &host, o->host_header, err)))
		return rc;
	bool tls = r->proto == ROUTE_PROTO_HTTPS;
	if (tls && (rc = tls_compile(r, &host, o, err)))
		return rc;
	return digest(r, tls ? o->tls_ca : NULL);
}
