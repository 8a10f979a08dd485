/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/handover.h"
#include "gatewayd/edge/records.h"
#include "gatewayd/edge/secrets.h"
#include <pthread.h>
#include <string.h>

/* With a connection from its first secret on. */
struct handover {
	uint8_t secret[2][48]; /* the client's, the server's */
	size_t len[2];
	uint64_t sent;     /* records sealed with the server's */
	uint64_t messages; /* handshake messages since then: tickets */
};

static int index_of = -1; /* of these in a connection */
static int used = -1;     /* of the mark of a context */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void drop(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
	OPENSSL_clear_free(ptr, sizeof(struct handover));
}

static void index_make(void)
{
	used = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	if (used >= 0)
		index_of = SSL_get_ex_new_index(0, NULL, NULL, NULL, drop);
}

static struct handover *made(SSL *ssl)
{
	struct handover *h = SSL_get_ex_data(ssl, index_of);
	if (h || !(h = OPENSSL_zalloc(sizeof(*h))))
		return h;
	if (SSL_set_ex_data(ssl, index_of, h) == 1)
		return h;
	OPENSSL_free(h);
	return NULL;
}

static void on_secret(void *ssl, bool server, const uint8_t *secret, size_t n)
{
	struct handover *h = made(ssl);
	if (!h || n > sizeof(h->secret[0]))
		return;
	memcpy(h->secret[server], secret, n);
	h->len[server] = n;
}

/* Once for each message that OpenSSL sends, and once for each record that it seals. The server's
 * secret is derived right before the first under it. */
static void on_message(int write_p, int version, int type, const void *p, size_t n, SSL *ssl,
		       void *arg)
{
	struct handover *h = write_p ? SSL_get_ex_data(ssl, index_of) : NULL;
	(void)version, (void)p, (void)n, (void)arg;
	if (!h || !h->len[1])
		return;
	h->sent += type == SSL3_RT_INNER_CONTENT_TYPE;
	h->messages += type == SSL3_RT_HANDSHAKE;
}

bool handover_use(SSL_CTX *ctx)
{
	pthread_once(&once, index_make);
	if (index_of < 0)
		return false;
	SSL_CTX_set_msg_callback(ctx, on_message);
	return SSL_CTX_set_ex_data(ctx, used, &used) == 1;
}

void handover_watch(SSL *ssl)
{
	if (used >= 0 && SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), used))
		secrets_watch(on_secret, ssl);
}

void handover_watched(void)
{
	secrets_watch(NULL, NULL);
}

/* A client may have asked for records of at most 512 to 4096 bytes. */
static bool fragments(const SSL *ssl)
{
	const SSL_SESSION *session = SSL_get_session(ssl);
	uint8_t mode = session ? SSL_SESSION_get_max_fragment_length(session) : 0;
	return mode >= TLSEXT_max_fragment_length_512 && mode <= TLSEXT_max_fragment_length_4096;
}

/* A sequence number used twice would give the key away: records and messages are told from
 * different places in OpenSSL, and each ticket is one of both. */
static bool complete(const struct handover *h, const SSL *ssl)
{
	return h->len[0] && h->len[0] == h->len[1] && h->sent == h->messages &&
	       SSL_version(ssl) == TLS1_3_VERSION && !SSL_has_pending(ssl) && !fragments(ssl);
}

struct records *handover_records(SSL *ssl)
{
	struct handover *h = index_of < 0 ? NULL : SSL_get_ex_data(ssl, index_of);
	const SSL_CIPHER *c = SSL_get_current_cipher(ssl);
	struct records *r = NULL;
	if (!h)
		return NULL;
	if (c && complete(h, ssl))
		r = records_new(&(struct records_opts){.suite = SSL_CIPHER_get_protocol_id(c),
						       .read_secret = h->secret[0],
						       .write_secret = h->secret[1],
						       .secret_len = h->len[0],
						       .write_seq = h->sent});
	(void)SSL_set_ex_data(ssl, index_of, NULL);
	OPENSSL_clear_free(h, sizeof(*h));
	return r;
}
