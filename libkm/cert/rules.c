/* SPDX-License-Identifier: MIT */
/* What a certificate may say, whoever signed it. */
#include "libkm/base/util.h"
#include "libkm/cert/internal.h"
#include "libkm/cert/key.h"
#include <stdlib.h>
#include <string.h>

int km_cert_add_prefix(struct km_prefix **list, size_t *n, const struct km_prefix *p)
{
	struct km_prefix *more;

	if (*n >= KM_CERT_ITEMS_MAX)
		return KM_ETOOBIG;
	more = reallocarray(*list, *n + 1, sizeof(*more));
	if (!more)
		return KM_ENOMEM;
	more[(*n)++] = *p;
	*list = more;
	return 0;
}

/* C1 control characters are U+0080 to U+009F. */
static bool text_ok(const char *s, size_t n)
{
	const char *end = s + n;

	if (memchr(s, 0, n))
		return false;
	while (s < end) {
		size_t len = km_utf8_len(s);
		const uint8_t *b = (const uint8_t *)s;

		if (!len || b[0] < 0x20 || b[0] == 0x7f || (b[0] == 0xc2 && b[1] < 0xa0))
			return false;
		s += len;
	}
	return true;
}

static int take_text(char **to, const void *p, size_t n, const char *what, struct km_errtext *err)
{
	char *s = malloc(n + 1);

	*to = NULL;
	if (!s) {
		km_errtext_set(err, KM_ENOMEM, "no memory");
		return KM_ENOMEM;
	}
	if (n)
		memcpy(s, p, n);
	s[n] = '\0';
	if (!text_ok(s, n)) {
		free(s);
		km_errtext_set(err, KM_EINVAL, "a %s is no UTF-8 or has control characters", what);
		return KM_EINVAL;
	}
	*to = s;
	return 0;
}

int km_cert_add_group(struct km_cert *c, const void *p, size_t n, struct km_errtext *err)
{
	char **more, *s;
	int rc;

	if (!n || n > KM_CERT_GROUP_MAX)
		return km_errtext_set(err, KM_EINVAL, "a group of %zu bytes, 1 to %d are possible",
				      n, KM_CERT_GROUP_MAX);
	if (c->n_groups >= KM_CERT_ITEMS_MAX)
		return km_errtext_set(err, KM_ETOOBIG, "more than %d groups", KM_CERT_ITEMS_MAX);
	rc = take_text(&s, p, n, "group", err);
	if (rc)
		return rc;
	more = reallocarray(c->groups, c->n_groups + 1, sizeof(*more));
	if (!more) {
		free(s);
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	}
	more[c->n_groups++] = s;
	c->groups = more;
	return 0;
}

int km_cert_set_name(struct km_cert *c, const void *p, size_t n, struct km_errtext *err)
{
	if (n > KM_CERT_NAME_MAX)
		return km_errtext_set(err, KM_EINVAL, "a name of %zu bytes, %d are possible", n,
				      KM_CERT_NAME_MAX);
	free(c->name);
	c->name = NULL;
	return take_text(&c->name, p, n, "name", err);
}

int km_cert_prefix_cmp(const void *a, const void *b)
{
	const struct km_prefix *x = a, *y = b;
	int order;

	if (x->addr.family != y->addr.family)
		return x->addr.family == AF_INET ? -1 : 1;
	order = memcmp(x->addr.ip, y->addr.ip, x->addr.family == AF_INET ? 4 : 16);
	return order ? order : (int)x->bits - (int)y->bits;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

static bool is_mapped(const struct km_addr *a)
{
	return a->family == AF_INET6 && all_zero(a->ip, 10) && a->ip[10] == 0xff &&
	       a->ip[11] == 0xff;
}

static int network_rules(const struct km_cert *c, struct km_errtext *err)
{
	char text[KM_PREFIX_STRLEN];

	for (size_t i = 0; i < c->n_networks; i++) {
		const struct km_prefix *p = &c->networks[i];

		if (p->bits > (p->addr.family == AF_INET ? 32 : 128))
			return km_errtext_set(err, KM_EINVAL, "a network of %u bits", p->bits);
		if (all_zero(p->addr.ip, p->addr.family == AF_INET ? 4 : 16))
			return km_errtext_set(err, KM_EINVAL,
					      "the zero address is no address of a network: %s",
					      km_prefix_str(p, text));
		if (is_mapped(&p->addr))
			return km_errtext_set(err, KM_EINVAL, "an IPv4 address written as IPv6: %s",
					      km_prefix_str(p, text));
	}
	return 0;
}

static bool has_family(const struct km_prefix *list, size_t n, uint8_t family)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].addr.family == family)
			return true;
	return false;
}

/* Version 1 knows IPv4 only, in any order. */
static int v1_rules(const struct km_cert *c, struct km_errtext *err)
{
	if (has_family(c->networks, c->n_networks, AF_INET6) ||
	    has_family(c->unsafe_networks, c->n_unsafe_networks, AF_INET6))
		return km_errtext_set(err, KM_EINVAL,
				      "certificates of version 1 hold no IPv6 networks");
	return 0;
}

static int in_order(const struct km_prefix *list, size_t n, struct km_errtext *err)
{
	char text[KM_PREFIX_STRLEN];

	for (size_t i = 1; i < n; i++) {
		int order = km_cert_prefix_cmp(&list[i - 1], &list[i]);

		if (order >= 0)
			return km_errtext_set(err, KM_EINVAL, "network %s is %s",
					      km_prefix_str(&list[i], text),
					      order ? "out of order" : "there twice");
	}
	return 0;
}

static int v2_rules(const struct km_cert *c, struct km_errtext *err)
{
	char text[KM_PREFIX_STRLEN];
	int rc = in_order(c->networks, c->n_networks, err);

	if (!rc)
		rc = in_order(c->unsafe_networks, c->n_unsafe_networks, err);
	if (rc)
		return rc;
	if (!*c->name)
		return km_errtext_set(err, KM_EINVAL, "the name is empty");
	for (size_t i = 0; !c->is_ca && i < c->n_unsafe_networks; i++) {
		const struct km_prefix *p = &c->unsafe_networks[i];

		if (!has_family(c->networks, c->n_networks, p->addr.family))
			return km_errtext_set(err, KM_EINVAL,
					      "unsafe network %s needs an address of the same "
					      "family among the networks",
					      km_prefix_str(p, text));
	}
	return 0;
}

int km_cert_rules(const struct km_cert *c, struct km_errtext *err)
{
	size_t key_len = c->curve == KM_CERT_P256 ? KM_CERT_PUB_MAX : KM_CERT_25519_LEN;
	int rc = network_rules(c, err);

	if (!rc)
		rc = c->version == KM_CERT_V1 ? v1_rules(c, err) : v2_rules(c, err);
	if (rc)
		return rc;
	if (!c->is_ca && !c->n_networks)
		return km_errtext_set(err, KM_EINVAL, "a host's certificate without a network");
	if (c->public_key_len != key_len || (c->curve == KM_CERT_P256 && c->public_key[0] != 4))
		return km_errtext_set(err, KM_EINVAL, "the public key is none of its curve");
	if (c->is_ca && c->has_issuer)
		return km_errtext_set(err, KM_EINVAL, "a CA that names an issuer");
	if (!c->is_ca && !c->has_issuer)
		return km_errtext_set(err, KM_EINVAL, "no issuer in certificate");
	return 0;
}

int km_cert_rules_signature(const struct km_cert *c, struct km_errtext *err)
{
	uint8_t other[KM_CERT_SIG_MAX];
	size_t len;

	if (c->curve == KM_CERT_25519
		? c->signature_len == KM_CERT_ED_SIG_LEN
		: !km_cert_sig_other(other, &len, c->signature, c->signature_len))
		return 0;
	return km_errtext_set(err, KM_EINVAL, "the signature is none of its curve");
}
