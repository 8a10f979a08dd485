/* SPDX-License-Identifier: MIT */
#include "controld/pki/issue.h"
#include "controld/pki/master.h"
#include "controld/pki/pki.h"
#include "controld/store/first.h"
#include "tests/unit/controld/fixture.h"
#include <openssl/pem.h>
#include <openssl/x509v3.h>

static struct fix fix;
static PGconn *db;
static char key_file[64];

static int group_setup(void **state)
{
	(void)state;
	fix_group_begin(&fix, &db);
	snprintf(key_file, sizeof(key_file), "%s/master.key", fix.dir);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	return fix_group_end(&fix, db);
}

/* A database without a root, and no master key. */
static int setup(void **state)
{
	(void)state;
	unlink(key_file);
	fix_value(
	    db,
	    "DELETE FROM settings WHERE key LIKE 'pki%'; DELETE FROM tokens; DELETE FROM agents;"
	    "UPDATE settings SET value = '10.0.0.0/8' WHERE key = 'network'");
	return 0;
}

static int try_open(struct pki **p, const struct km_strlist *names, struct km_errtext *err)
{
	struct pki_opts o = {.state_dir = fix.dir, .names = names};

	return pki_open(p, fix.base, db, &o, err);
}

static struct pki *open_pki(void)
{
	struct pki *p;
	struct km_errtext err = {""};

	if (try_open(&p, NULL, &err))
		fail_msg("%s", err.text);
	return p;
}

static char *slurp(const char *name)
{
	char path[96], *text;
	size_t n;

	snprintf(path, sizeof(path), "%s/%s", fix.dir, name);
	assert_int_equal(km_file_read(path, 65536, &text, &n), 0);
	return text;
}

static X509 *leaf_of(const struct pki *p)
{
	X509 *c = issue_cert_parse(pki_chain_pem(p)); /* the first one in the text */

	assert_non_null(c);
	return c;
}

/* As a client with the root as its only trust would check it. */
static int verify(const struct pki *p, const char *host, const char *ip)
{
	X509_STORE *trust = X509_STORE_new();
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	X509 *root = issue_cert_parse(pki_root_pem(p)), *leaf = leaf_of(p);
	int rc;

	X509_STORE_add_cert(trust, root);
	X509_STORE_CTX_init(ctx, trust, leaf, NULL);
	X509_STORE_CTX_set_default(ctx, "ssl_server");
	if (host)
		X509_VERIFY_PARAM_set1_host(X509_STORE_CTX_get0_param(ctx), host, 0);
	if (ip)
		X509_VERIFY_PARAM_set1_ip_asc(X509_STORE_CTX_get0_param(ctx), ip);
	rc = X509_verify_cert(ctx) == 1 ? 0 : X509_STORE_CTX_get_error(ctx);
	X509_STORE_CTX_free(ctx);
	X509_STORE_free(trust);
	X509_free(root);
	X509_free(leaf);
	return rc;
}

static void root_is_made_once(void **state)
{
	struct pki *p = open_pki();
	char *pin = km_xstrdup(pki_pin(p)), *text, *chain = km_xstrdup(pki_chain_pem(p));
	struct stat st;

	(void)state;
	assert_int_equal(strncmp(pin, "sha256//", 8), 0);
	assert_int_equal(strlen(pin), 8 + 44);
	text = slurp("root.pin");
	assert_int_equal(strncmp(text, pin, strlen(pin)), 0);
	free(text);
	text = slurp("root.crt");
	assert_string_equal(text, pki_root_pem(p));
	free(text);
	assert_int_equal(stat(key_file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_string_equal(
	    fix_value(db, "SELECT left(value, 3) FROM settings WHERE key = 'pki_root_key'"), "v1:");
	pki_free(p);
	p = open_pki();
	assert_string_equal(pki_pin(p), pin);
	assert_string_not_equal(pki_chain_pem(p), chain); /* the server's key is another */
	pki_free(p);
	free(pin);
	free(chain);
}

static void certificate_is_for_every_name(void **state)
{
	char *items[] = {"control.example.org", "192.0.2.7", "2001:db8::7", "LOCALHOST"};
	struct km_strlist names = {items, KM_ARRAY_LEN(items)};
	struct km_errtext err = {""};
	struct pki *p;
	X509 *leaf;
	BIO *b;
	EVP_PKEY *key;

	(void)state;
	assert_int_equal(try_open(&p, &names, &err), 0);
	assert_int_equal(verify(p, "control.example.org", NULL), 0);
	assert_int_equal(verify(p, "localhost", NULL), 0);
	assert_int_equal(verify(p, NULL, "192.0.2.7"), 0);
	assert_int_equal(verify(p, NULL, "2001:db8::7"), 0);
	assert_int_equal(verify(p, NULL, "127.0.0.1"), 0);
	assert_int_equal(verify(p, NULL, "::1"), 0);
	assert_int_not_equal(verify(p, "other.example.org", NULL), 0);
	leaf = leaf_of(p);
	b = BIO_new_mem_buf(pki_key_pem(p), -1);
	key = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
	assert_int_equal(X509_check_private_key(leaf, key), 1);
	EVP_PKEY_free(key);
	BIO_free(b);
	X509_free(leaf);
	pki_free(p);
}

static void bad_name_is_named(void **state)
{
	char *items[] = {"a,DNS:evil"};
	struct km_strlist names = {items, 1};
	struct km_errtext err = {""};
	struct pki *p;

	(void)state;
	assert_int_equal(try_open(&p, &names, &err), KM_EINVAL);
	assert_null(p);
	assert_non_null(strstr(err.text, items[0]));
}

struct renewed {
	int calls;
	char chain[8192];
};

static void on_renewed(void *arg, const char *chain_pem, const char *key_pem)
{
	struct renewed *r = arg;

	r->calls++;
	assert_non_null(strstr(key_pem, "PRIVATE KEY"));
	snprintf(r->chain, sizeof(r->chain), "%s", chain_pem);
}

static void renewal_is_told(void **state)
{
	struct pki *p = open_pki();
	struct renewed r = {0};
	struct pki_watch w = {.renewed = on_renewed, .arg = &r};
	char *before = km_xstrdup(pki_chain_pem(p));
	struct km_errtext err;

	(void)state;
	pki_watch(p, &w);
	assert_int_equal(pki_renew(p, &err), 0);
	assert_int_equal(r.calls, 1);
	assert_string_equal(r.chain, pki_chain_pem(p));
	assert_string_not_equal(r.chain, before);
	assert_int_equal(verify(p, "localhost", NULL), 0);
	pki_unwatch(p, &w);
	assert_int_equal(pki_renew(p, &err), 0);
	assert_int_equal(r.calls, 1);
	free(before);
	pki_free(p);
}

static void master_key_must_be_the_right_one(void **state)
{
	struct km_errtext err = {""};
	struct master_key k;
	char *was;
	struct pki *p = open_pki();

	(void)state;
	pki_free(p);
	was = slurp("master.key");

	unlink(key_file);
	assert_int_equal(try_open(&p, NULL, &err), KM_ENOTFOUND); /* not quietly made anew */
	assert_non_null(strstr(err.text, key_file));
	assert_int_not_equal(access(key_file, F_OK), 0);

	assert_int_equal(master_key_make(&k, key_file, &err), 0);
	assert_int_equal(master_key_make(&k, key_file, &err), KM_EEXIST);
	assert_int_equal(try_open(&p, NULL, &err), KM_EAUTH);
	assert_non_null(strstr(err.text, key_file));
	assert_null(p);

	assert_int_equal(km_file_write(key_file, "short\n", 6, 0600), 0);
	assert_int_equal(try_open(&p, NULL, &err), KM_EINVAL);
	assert_int_equal(km_file_write(key_file, was, strlen(was), 0644), 0);
	assert_int_equal(try_open(&p, NULL, &err), KM_EPERM);

	assert_int_equal(km_file_write(key_file, was, strlen(was), 0600), 0);
	assert_int_equal(try_open(&p, NULL, &err), 0);
	pki_free(p);
	free(was);
}

static void sealed_text_is_bound(void **state)
{
	static const char secret[] = "the key of the root";
	struct master_key k = {{1}}, other = {{2}};
	char *sealed = master_seal(&k, "here", secret, sizeof(secret));
	uint8_t *p = NULL;
	size_t n = 0;

	(void)state;
	assert_non_null(sealed);
	assert_int_equal(master_open(&k, "here", sealed, &p, &n), 0);
	assert_int_equal(n, sizeof(secret));
	assert_memory_equal(p, secret, n);
	free(p);
	assert_int_equal(master_open(&other, "here", sealed, &p, &n), KM_EAUTH);
	assert_int_equal(master_open(&k, "there", sealed, &p, &n), KM_EAUTH);
	for (size_t i = 0; i < strlen(sealed); i++) {
		char was = sealed[i];

		sealed[i] = was == '0' ? '1' : '0';
		assert_int_not_equal(master_open(&k, "here", sealed, &p, &n), 0);
		sealed[i] = was;
	}
	for (size_t len = strlen(sealed); len-- > 0;) {
		sealed[len] = '\0';
		assert_int_not_equal(master_open(&k, "here", sealed, &p, &n), 0);
	}
	free(sealed);
}

/* ---- what else a first start does ---- */

static void first_token_is_made_once(void **state)
{
	struct km_errtext err = {""};
	static const struct vault vault = {.master = {.key = {1, 2, 3}}};
	char path[96], *token, sql[256], id[64], digest[VAULT_TEXT_LEN];
	struct stat st;

	(void)state;
	assert_int_equal(first_token(db, &vault, fix.dir, &err), 0);
	snprintf(path, sizeof(path), "%s/admin.token", fix.dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	token = slurp("admin.token");
	token[strcspn(token, "\n")] = '\0';
	assert_int_equal(strlen(token), 4 + 43);
	assert_int_equal(strncmp(token, "kmt_", 4), 0);
	snprintf(id, sizeof(id), "%.36s", fix_value(db, "SELECT id FROM tokens"));
	snprintf(sql, sizeof(sql),
		 "SELECT count(*) FROM tokens WHERE hash = '%s' AND prefix = '%.8s'",
		 vault_digest_text(&vault, digest, VAULT_TOKEN(id, "admin", token)), token);
	assert_string_equal(fix_value(db, sql), "1");
	assert_int_equal(first_token(db, &vault, fix.dir, &err), 0);
	assert_string_equal(fix_value(db, "SELECT count(*) FROM tokens"), "1");
	assert_string_equal(fix_value(db, sql), "1");
	free(token);
	fix_value(db, "UPDATE tokens SET expires_at = now() - interval '1 second'");
	assert_int_equal(first_token(db, &vault, fix.dir, &err), 0);
	assert_string_equal(fix_value(db, "SELECT count(*) FROM tokens"), "2");
	fix_value(db, "UPDATE tokens SET role = 'viewer', expires_at = NULL");
	assert_int_equal(first_token(db, &vault, fix.dir, &err), 0);
	assert_string_equal(fix_value(db, "SELECT count(*) FROM tokens"), "3");
	fix_value(db, "DELETE FROM tokens"); /* locked out: the next start helps */
	assert_int_equal(first_token(db, &vault, fix.dir, &err), 0);
	assert_string_equal(fix_value(db, sql), "0");
	assert_string_equal(fix_value(db, "SELECT count(*) FROM tokens"), "1");
}

static void network_stays_once_used(void **state)
{
	struct km_errtext err = {""};

	(void)state;
	assert_int_equal(first_network(db, "10.0.0.0/8", &err), 0);
	assert_int_equal(first_network(db, "172.16.0.0/12", &err), 0);
	fix_value(db, "INSERT INTO agents (name, api_key_hash, api_key_prefix) VALUES ('a', "
		      "sha256('a'), 'a')");
	assert_int_equal(
	    strncmp(fix_value(db, "SELECT host(virtual_ip) FROM agents"), "172.17.", 7), 0);
	assert_int_equal(first_network(db, "172.16.0.0/12", &err), 0);
	assert_int_equal(first_network(db, "10.0.0.0/8", &err), KM_EUNSUPPORTED);
	assert_non_null(strstr(err.text, "172.16.0.0/12"));
}

#define T(f) cmocka_unit_test_setup(f, setup)
int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(root_is_made_once),
	    T(certificate_is_for_every_name),
	    T(bad_name_is_named),
	    T(renewal_is_told),
	    T(master_key_must_be_the_right_one),
	    T(sealed_text_is_bound),
	    T(first_token_is_made_once),
	    T(network_stays_once_used),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
