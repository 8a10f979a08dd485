/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/hello.h"
#include "gatewayd/acme/challenges.h"
#include "libkm/base/buf.h"
#include "libkm/base/err.h"
#include <string.h>

/* ---- extensions ---- */

static bool sni_read(struct km_cur all, char out[static HTTP_HOST_MAX + 1])
{
	struct km_cur list = km_cur_sub(&all, km_cur_be16(&all));
	uint8_t type = km_cur_u8(&list);
	uint16_t len = km_cur_be16(&list);
	const uint8_t *name = km_cur_take(&list, len);
	uint32_t port;
	if (all.bad || all.left || list.bad || type != TLSEXT_NAMETYPE_host_name || !len ||
	    memchr(name, ':', len) || memchr(name, '[', len))
		return false;
	return http_host_normal((struct http_str){(const char *)name, len}, out, &port);
}

static bool ext_get(SSL *ssl, unsigned type, struct km_cur *out)
{
	const unsigned char *p;
	size_t n;
	if (!SSL_client_hello_get0_ext(ssl, type, &p, &n))
		return false;
	*out = km_cur_of(p, n);
	return true;
}

/* Whether a vector of 16-bit values with a length in front has this one. */
static bool has16(struct km_cur list, uint16_t wanted)
{
	bool has = false;
	while (list.left >= 2)
		has |= km_cur_be16(&list) == wanted;
	return has;
}

static bool ext_has16(SSL *ssl, unsigned type, uint16_t wanted)
{
	struct km_cur c;
	return ext_get(ssl, type, &c) && has16(km_cur_sub(&c, km_cur_be16(&c)), wanted);
}

bool hello_sni(SSL *ssl, char out[static HTTP_HOST_MAX + 1])
{
	struct km_cur c;
	if (ext_get(ssl, TLSEXT_TYPE_server_name, &c) && sni_read(c, out))
		return true;
	out[0] = '\0';
	return false;
}

bool hello_asks_challenge(SSL *ssl)
{
	static const char want[] = CHALLENGE_ALPN;
	struct km_cur c;
	if (!ext_get(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &c))
		return false;
	struct km_cur list = km_cur_sub(&c, km_cur_be16(&c));
	struct km_cur name = km_cur_sub(&list, km_cur_u8(&list));
	return !c.bad && !c.left && !list.bad && !list.left && name.left == sizeof(want) - 1 &&
	       !memcmp(name.p, want, sizeof(want) - 1);
}

bool hello_can_ecdsa(SSL *ssl)
{
	enum { P256_SHA256 = 0x0403, P256 = 23 };
	static const uint16_t suites[] = {0xc02b, 0xc02c, 0xcca9};
	const unsigned char *p;
	struct km_cur c;
	bool suite = false;
	if (!ext_has16(ssl, TLSEXT_TYPE_signature_algorithms, P256_SHA256))
		return false;
	if (ext_get(ssl, TLSEXT_TYPE_supported_versions, &c) &&
	    has16(km_cur_sub(&c, km_cur_u8(&c)), TLS1_3_VERSION))
		return true;
	struct km_cur ciphers = km_cur_of(NULL, 0);
	size_t n = SSL_client_hello_get0_ciphers(ssl, &p);
	if (n)
		ciphers = km_cur_of(p, n);
	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++)
		suite |= has16(ciphers, suites[i]);
	return suite && (!ext_get(ssl, TLSEXT_TYPE_supported_groups, &c) ||
			 ext_has16(ssl, TLSEXT_TYPE_supported_groups, P256));
}

/* ---- before OpenSSL ---- */

/* Puts what the records at p hold of the handshake's messages into out, of HELLO_PEEK_MAX bytes.
 * *ended: something else follows them, so that no more of the message comes. */
static void records_join(const uint8_t *p, size_t n, uint8_t *out, size_t *len, bool *ended)
{
	struct km_cur c = km_cur_of(p, n);
	*len = 0;
	*ended = false;
	while (c.left) {
		if (c.p[0] != SSL3_RT_HANDSHAKE || (c.left > 1 && c.p[1] != SSL3_VERSION_MAJOR)) {
			*ended = true;
			return;
		}
		if (c.left < 5)
			return;
		km_cur_take(&c, 3);
		size_t size = km_cur_be16(&c);
		if (!size || size > 16384) {
			*ended = true;
			return;
		}
		if (size > c.left)
			size = c.left;
		memcpy(out + *len, km_cur_take(&c, size), size);
		*len += size;
	}
}

/* Skips a vector whose length has `bytes` bytes. */
static void vector_skip(struct km_cur *c, int bytes)
{
	km_cur_take(c, bytes == 1 ? km_cur_u8(c) : km_cur_be16(c));
}

/* The name, as far as the message has come: `whole` when it is all there. */
static int name_find(struct km_cur c, bool whole, char sni[static HTTP_HOST_MAX + 1])
{
	km_cur_take(&c, 2 + 32); /* version, random */
	vector_skip(&c, 1);      /* session id */
	vector_skip(&c, 2);      /* cipher suites */
	vector_skip(&c, 1);      /* compression methods */
	if (c.bad)
		return whole ? KM_EPROTO : KM_ETRUNC;
	if (!c.left && whole)
		return 0;
	km_cur_be16(&c); /* the extensions' length: the message's own bounds them */
	while (c.left) {
		uint16_t type = km_cur_be16(&c);
		struct km_cur ext = km_cur_sub(&c, km_cur_be16(&c));
		if (c.bad)
			break;
		if (type != TLSEXT_TYPE_server_name)
			continue;
		if (!sni_read(ext, sni))
			sni[0] = '\0';
		return 0;
	}
	if (!whole)
		return KM_ETRUNC;
	return c.bad ? KM_EPROTO : 0;
}

int hello_peek(const uint8_t *p, size_t n, char sni[static HTTP_HOST_MAX + 1])
{
	uint8_t message[HELLO_PEEK_MAX];
	size_t len;
	bool ended, full = n >= HELLO_PEEK_MAX;
	sni[0] = '\0';
	int rc;
	records_join(p, full ? HELLO_PEEK_MAX : n, message, &len, &ended);
	struct km_cur c = km_cur_of(message, len);
	uint8_t type = km_cur_u8(&c);
	size_t size = (size_t)km_cur_u8(&c) << 16;
	size |= km_cur_be16(&c);
	if (len && type != SSL3_MT_CLIENT_HELLO)
		return KM_EPROTO;
	bool whole = !c.bad && size <= c.left;
	if (c.bad)
		rc = KM_ETRUNC;
	else
		rc = name_find(whole ? km_cur_sub(&c, size) : c, whole, sni);
	if (rc == KM_ETRUNC && ended)
		return KM_EPROTO;
	return rc == KM_ETRUNC && full ? KM_ETOOBIG : rc;
}
