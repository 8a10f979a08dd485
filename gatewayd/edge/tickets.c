/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/tickets.h"
#include "libkm/base/util.h"
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct key {
	uint8_t name[16], cipher[32], mac[32];
};

struct tickets {
	pthread_mutex_t lock;
	int64_t every_ms, (*now)(void);
	int64_t made_ms;
	size_t n;
	struct key keys[TICKET_KEYS]; /* newest first */
};

static void make_key(struct tickets *t, int64_t now)
{
	if (t->n < TICKET_KEYS)
		t->n++;
	memmove(&t->keys[1], &t->keys[0], (TICKET_KEYS - 1) * sizeof(t->keys[0]));
	km_random(&t->keys[0], sizeof(t->keys[0]));
	t->made_ms = now;
}

/* What is due. After a long quiet time that is several keys: none serves longer than it may. */
static void rotate(struct tickets *t)
{
	int64_t now = t->now(), due = (now - t->made_ms) / t->every_ms;
	for (int64_t i = 0; i < due && i < TICKET_KEYS; i++)
		make_key(t, now);
}

/* The key that seals (name NULL), or the one of this name. *newest: it is the one that seals. */
static bool key_get(struct tickets *t, const uint8_t *name, struct key *out, bool *newest)
{
	bool found = false;
	pthread_mutex_lock(&t->lock);
	rotate(t);
	for (size_t i = 0; i < t->n && !found; i++) {
		found = !name || !memcmp(t->keys[i].name, name, sizeof(t->keys[i].name));
		if (found)
			*out = t->keys[i];
		*newest = i == 0;
	}
	pthread_mutex_unlock(&t->lock);
	return found;
}

static bool mac_start(EVP_MAC_CTX *mac, struct key *k)
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
	    OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, k->mac, sizeof(k->mac)),
	    OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
	    OSSL_PARAM_construct_end()};
	return EVP_MAC_CTX_set_params(mac, params) == 1;
}

static int ex_index = -1; /* of the tickets in a context */
static pthread_once_t ex_once = PTHREAD_ONCE_INIT;

static void ex_new(void)
{
	ex_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): 1 goes on, 2 opens and asks for a newer ticket, 0 knows
 * no such key (a whole handshake follows), -1 fails. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
		     EVP_MAC_CTX *mac, int seal)
{
	struct tickets *t = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), ex_index);
	const EVP_CIPHER *aes = EVP_aes_256_cbc();
	bool newest, ok;
	struct key k;
	if (!key_get(t, seal ? NULL : name, &k, &newest))
		return 0;
	if (seal) {
		memcpy(name, k.name, sizeof(k.name));
		km_random(iv, (size_t)EVP_CIPHER_get_iv_length(aes));
		ok = EVP_EncryptInit_ex2(cipher, aes, k.cipher, iv, NULL) == 1;
	} else {
		ok = EVP_DecryptInit_ex2(cipher, aes, k.cipher, iv, NULL) == 1;
	}
	ok = ok && mac_start(mac, &k);
	km_wipe(&k, sizeof(k));
	if (!ok)
		return -1;
	return seal || newest ? 1 : 2;
}

bool tickets_use(struct tickets *t, SSL_CTX *ctx)
{
	pthread_once(&ex_once, ex_new);
	return ex_index >= 0 && SSL_CTX_set_ex_data(ctx, ex_index, t) == 1 &&
	       SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket) == 1;
}

struct tickets *tickets_new(int64_t every_ms, int64_t (*now)(void))
{
	struct tickets *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	pthread_mutex_init(&t->lock, NULL);
	t->every_ms = every_ms;
	t->now = now;
	make_key(t, now());
	return t;
}

void tickets_free(struct tickets *t)
{
	if (!t)
		return;
	pthread_mutex_destroy(&t->lock);
	km_wipe(t->keys, sizeof(t->keys));
	free(t);
}
