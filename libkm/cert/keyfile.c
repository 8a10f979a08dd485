/* SPDX-License-Identifier: MIT */
/* Encrypted CA keys: protobuf {1: {1: algorithm, 2: {1 version, 2 memory, 3 passes, 4 lanes, 5
 * salt}}, 2: nonce, ciphertext and tag}. */
#include "libkm/base/util.h"
#include "libkm/cert/internal.h"
#include "libkm/cert/key.h"
#include "libkm/cert/pem.h"
#include "libkm/cert/proto.h"
#include <argon2.h>
#include <openssl/evp.h>
#include <string.h>

#define ALGORITHM "AES-256-GCM"
#define SALT_LEN 32
#define SALT_MIN 16
#define SALT_MAX 64
#define NONCE_LEN 12
#define TAG_LEN 16
#define AES_KEY_LEN 32
#define SEALED_MAX (NONCE_LEN + KM_CERT_KEY_MAX + TAG_LEN)
#define LANES_MAX 255
#define THREADS_MAX 4

enum { OUTER_METADATA = 1, OUTER_SEALED = 2 };
enum { META_ALGORITHM = 1, META_KDF = 2 };
enum { KDF_VERSION = 1, KDF_MEMORY = 2, KDF_PASSES = 3, KDF_LANES = 4, KDF_SALT = 5 };

struct keyfile {
	struct km_cert_kdf kdf;
	uint32_t kdf_version;
	bool known_algorithm;
	uint8_t salt[SALT_MAX];
	size_t salt_len;
	uint8_t sealed[SEALED_MAX]; /* nonce, ciphertext, tag */
	size_t sealed_len;
};

/* ---- the two primitives ---- */

static int derive(uint8_t key[static AES_KEY_LEN], const struct keyfile *f, const void *passphrase,
		  size_t n, struct km_errtext *err)
{
	uint32_t threads = f->kdf.lanes < THREADS_MAX ? f->kdf.lanes : THREADS_MAX;
	argon2_context ctx = {
	    .out = key,
	    .outlen = AES_KEY_LEN,
	    .pwd = (uint8_t *)(uintptr_t)passphrase, /* read only without a flag that clears it */
	    .pwdlen = (uint32_t)n,
	    .salt = (uint8_t *)(uintptr_t)f->salt,
	    .saltlen = (uint32_t)f->salt_len,
	    .t_cost = f->kdf.passes,
	    .m_cost = f->kdf.memory_kib,
	    .lanes = f->kdf.lanes,
	    .threads = threads, /* no influence on the result */
	    .version = ARGON2_VERSION_13,
	    .flags = ARGON2_DEFAULT_FLAGS,
	};
	int rc = argon2id_ctx(&ctx);

	if (rc == ARGON2_OK)
		return 0;
	if (rc == ARGON2_MEMORY_ALLOCATION_ERROR)
		return km_errtext_set(err, KM_ENOMEM, "no %u KiB of memory for Argon2",
				      f->kdf.memory_kib);
	return km_errtext_set(err, KM_EINVAL, "Argon2: %s", argon2_error_message(rc));
}

/* Seals in place of opening when `seal`. from and to do not overlap. */
static bool gcm(bool seal, const uint8_t key[static AES_KEY_LEN], const uint8_t *nonce,
		const uint8_t *from, size_t n, uint8_t *to, uint8_t tag[static TAG_LEN])
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int len = 0;
	bool ok = ctx && EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce, seal) == 1 &&
		  (seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_LEN, tag) == 1) &&
		  EVP_CipherUpdate(ctx, to, &len, from, (int)n) == 1 && len == (int)n &&
		  EVP_CipherFinal_ex(ctx, to + n, &len) == 1 &&
		  (!seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, tag) == 1);

	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

/* ---- writing ---- */

static int write_kdf(struct km_buf *out, const struct keyfile *f)
{
	int rc = km_proto_put_uint(out, KDF_VERSION, f->kdf_version);

	if (!rc)
		rc = km_proto_put_uint(out, KDF_MEMORY, f->kdf.memory_kib);
	if (!rc)
		rc = km_proto_put_uint(out, KDF_PASSES, f->kdf.passes);
	if (!rc)
		rc = km_proto_put_uint(out, KDF_LANES, f->kdf.lanes);
	return rc ? rc : km_proto_put_bytes(out, KDF_SALT, f->salt, f->salt_len);
}

static int write_keyfile(struct km_buf *out, const struct keyfile *f)
{
	struct km_buf kdf, meta;
	int rc;

	km_buf_init(&kdf, KM_CERT_KEYFILE_MAX);
	km_buf_init(&meta, KM_CERT_KEYFILE_MAX);
	rc = write_kdf(&kdf, f);
	if (!rc)
		rc = km_proto_put_bytes(&meta, META_ALGORITHM, ALGORITHM, strlen(ALGORITHM));
	if (!rc)
		rc = km_proto_put_bytes(&meta, META_KDF, km_buf_head(&kdf), kdf.len);
	if (!rc)
		rc = km_proto_put_bytes(out, OUTER_METADATA, km_buf_head(&meta), meta.len);
	if (!rc)
		rc = km_proto_put_bytes(out, OUTER_SEALED, f->sealed, f->sealed_len);
	km_buf_free(&kdf);
	km_buf_free(&meta);
	return rc;
}

static int check_kdf(const struct km_cert_kdf *kdf, struct km_errtext *err)
{
	if (!kdf->lanes || kdf->lanes > LANES_MAX || !kdf->passes ||
	    kdf->memory_kib < 8 * kdf->lanes)
		return km_errtext_set(err, KM_EINVAL,
				      "Argon2 with %u KiB, %u passes, %u lanes is not possible",
				      kdf->memory_kib, kdf->passes, kdf->lanes);
	return 0;
}

int km_cert_key_encrypt(struct km_buf *out, const struct km_cert_key *k, const void *passphrase,
			size_t n, const struct km_cert_kdf *kdf, struct km_errtext *err)
{
	struct keyfile f = {.kdf = *kdf,
			    .kdf_version = ARGON2_VERSION_13,
			    .salt_len = SALT_LEN,
			    .sealed_len = NONCE_LEN + k->priv_len + TAG_LEN};
	uint8_t key[AES_KEY_LEN];
	struct km_buf body;
	int rc;

	if (!k->is_ca)
		return km_errtext_set(err, KM_EINVAL, "only a CA's key is encrypted");
	if (!n || n > UINT16_MAX)
		return km_errtext_set(err, KM_EINVAL, "a passphrase of %zu bytes", n);
	rc = check_kdf(kdf, err);
	if (rc)
		return rc;
	km_random(f.salt, SALT_LEN);
	km_random(f.sealed, NONCE_LEN);
	rc = derive(key, &f, passphrase, n, err);
	if (!rc && !gcm(true, key, f.sealed, k->priv, k->priv_len, f.sealed + NONCE_LEN,
			f.sealed + NONCE_LEN + k->priv_len))
		rc = km_errtext_set(err, KM_EIO, "OpenSSL could not encrypt");
	km_wipe(key, sizeof(key));
	if (rc)
		return rc;
	km_buf_init(&body, KM_CERT_KEYFILE_MAX);
	rc = write_keyfile(&body, &f);
	if (!rc)
		rc = km_pem_write(out,
				  k->curve == KM_CERT_P256 ? KM_PEM_KEY_ENCRYPTED_P256
							   : KM_PEM_KEY_ENCRYPTED_25519,
				  km_buf_head(&body), body.len);
	km_buf_free(&body);
	return rc ? km_errtext_set(err, rc, "%s", km_strerror(rc)) : 0;
}

/* ---- reading ---- */

/* A number that the written form cannot hold stays out, and the comparison fails. */
static uint32_t small(uint64_t v)
{
	return v > UINT32_MAX ? 0 : (uint32_t)v;
}

static void read_kdf(struct keyfile *f, struct km_cur c)
{
	struct km_proto_field p;

	while (km_proto_next(&c, &p)) {
		if (p.number == KDF_VERSION)
			f->kdf_version = small(p.value);
		else if (p.number == KDF_MEMORY)
			f->kdf.memory_kib = small(p.value);
		else if (p.number == KDF_PASSES)
			f->kdf.passes = small(p.value);
		else if (p.number == KDF_LANES)
			f->kdf.lanes = small(p.value);
		else if (p.number == KDF_SALT && p.bytes.left && p.bytes.left <= SALT_MAX) {
			f->salt_len = p.bytes.left;
			memcpy(f->salt, p.bytes.p, p.bytes.left);
		}
	}
}

static void read_metadata(struct keyfile *f, struct km_cur c)
{
	struct km_proto_field p;

	while (km_proto_next(&c, &p)) {
		if (p.number == META_ALGORITHM)
			f->known_algorithm = p.bytes.left == strlen(ALGORITHM) &&
					     !memcmp(p.bytes.p, ALGORITHM, strlen(ALGORITHM));
		else if (p.number == META_KDF)
			read_kdf(f, p.bytes);
	}
}

/* Takes what it knows; what is written again from that must be what was read. */
static int read_keyfile(struct keyfile *f, const uint8_t *p, size_t n, struct km_errtext *err)
{
	struct km_cur c = km_cur_of(p, n);
	struct km_proto_field field;
	struct km_buf again;
	int rc;

	*f = (struct keyfile){.salt_len = 0};
	while (km_proto_next(&c, &field)) {
		if (field.number == OUTER_METADATA)
			read_metadata(f, field.bytes);
		else if (field.number == OUTER_SEALED && field.bytes.left &&
			 field.bytes.left <= SEALED_MAX) {
			f->sealed_len = field.bytes.left;
			memcpy(f->sealed, field.bytes.p, field.bytes.left);
		}
	}
	km_buf_init(&again, KM_CERT_KEYFILE_MAX);
	rc = write_keyfile(&again, f);
	if (!f->known_algorithm)
		rc = km_errtext_set(err, KM_EINVAL, "unsupported encryption algorithm");
	else if (rc == KM_ENOMEM)
		km_errtext_set(err, rc, "no memory");
	else if (rc || again.len != n || memcmp(km_buf_head(&again), p, n) != 0)
		rc = km_errtext_set(err, KM_EINVAL, "the encrypted key is malformed");
	km_buf_free(&again);
	return rc;
}

static int check_keyfile(const struct keyfile *f, size_t key_len, uint32_t max_kib,
			 struct km_errtext *err)
{
	int rc = check_kdf(&f->kdf, err);

	if (rc)
		return rc;
	if (f->kdf_version != ARGON2_VERSION_13)
		return km_errtext_set(err, KM_EINVAL, "incompatible Argon2 version: %u",
				      f->kdf_version);
	if (f->salt_len < SALT_MIN)
		return km_errtext_set(err, KM_EINVAL, "a salt of %zu bytes", f->salt_len);
	if (f->sealed_len != NONCE_LEN + key_len + TAG_LEN)
		return km_errtext_set(err, KM_EINVAL, "an encrypted key of %zu bytes",
				      f->sealed_len);
	if (f->kdf.memory_kib > max_kib ||
	    f->kdf.passes > (uint64_t)max_kib * KM_CERT_KDF_WORK_MAX / f->kdf.memory_kib)
		return km_errtext_set(err, KM_ETOOBIG,
				      "the key's file asks for %u KiB of memory and %u passes; the "
				      "limit is %u KiB",
				      f->kdf.memory_kib, f->kdf.passes, max_kib);
	return 0;
}

static int open_keyfile(struct km_cert_key *k, int curve, const struct keyfile *f,
			const void *passphrase, size_t n, struct km_errtext *err)
{
	uint8_t key[AES_KEY_LEN], plain[KM_CERT_KEY_MAX + 16], tag[TAG_LEN];
	size_t len = f->sealed_len - NONCE_LEN - TAG_LEN;
	int rc = derive(key, f, passphrase, n, err);

	memcpy(tag, f->sealed + NONCE_LEN + len, TAG_LEN);
	if (!rc && !gcm(false, key, f->sealed, f->sealed + NONCE_LEN, len, plain, tag))
		rc = km_errtext_set(err, KM_CERT_EPASSPHRASE, "%s",
				    km_cert_strerror(KM_CERT_EPASSPHRASE));
	if (!rc)
		rc = km_cert_key_take(k, curve, true, plain, len, err);
	km_wipe(key, sizeof(key));
	km_wipe(plain, sizeof(plain));
	return rc;
}

int km_cert_key_decrypt(struct km_cert_key *k, const char *text, size_t text_n,
			const void *passphrase, size_t n, uint32_t max_kib, struct km_errtext *err)
{
	struct km_pem pem;
	struct keyfile f;
	bool p256;
	int rc = km_pem_next(&pem, &text, &text_n, KM_CERT_KEYFILE_MAX, err);

	*k = (struct km_cert_key){0};
	if (rc)
		return rc;
	p256 = !strcmp(pem.banner, KM_PEM_KEY_ENCRYPTED_P256);
	if (!p256 && strcmp(pem.banner, KM_PEM_KEY_ENCRYPTED_25519) != 0) {
		rc = km_errtext_set(err, KM_EINVAL,
				    "bytes did not contain a proper encrypted private key banner: "
				    "%s",
				    pem.banner);
		goto out;
	}
	if (n > UINT16_MAX) {
		rc = km_errtext_set(err, KM_EINVAL, "a passphrase of %zu bytes", n);
		goto out;
	}
	rc = read_keyfile(&f, pem.body, pem.len, err);
	if (!rc)
		rc = check_keyfile(&f, p256 ? 32 : 64, max_kib, err);
	if (!rc)
		rc = open_keyfile(k, p256 ? KM_CERT_P256 : KM_CERT_25519, &f, passphrase, n, err);
out:
	km_pem_free(&pem);
	return rc;
}
