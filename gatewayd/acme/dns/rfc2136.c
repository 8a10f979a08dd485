/* SPDX-License-Identifier: MIT */
/* Dynamic updates (RFC 2136) signed by TSIG (RFC 8945): one message adds or deletes one record.
 * libldns makes and checks the messages. */
#include "gatewayd/acme/dns/exchange.h"
#include "gatewayd/acme/dns/provider.h"
#include "gatewayd/acme/dns/zone.h"
#include "libkm/base/util.h"
#include <ldns/ldns.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define FUDGE_SECONDS 300
#define TSIG_MAC 3 /* fields of a TSIG record */
#define TSIG_ERROR 5
#define VALUE_MAX 255 /* one string of a TXT record */

struct conf {
	char *server, *zone, *key_name, *key_secret;
	int64_t port, ttl;
	int key_algorithm;
};

/* In the order of key_algorithm. */
static const char *const algorithms[] = {"hmac-sha256", "hmac-sha512", "hmac-sha1", NULL};
static const char *const ldns_names[] = {"hmac-sha256.", "hmac-sha512.", "hmac-sha1."};

struct rfc2136 {
	struct dns_provider provider;
	struct event_base *base;
	struct dns *d;
	struct conf conf;
	struct update *updates;
};

struct update {
	struct rfc2136 *p;
	bool add;
	void (*done)(void *arg, const char *failed);
	void *arg;
	struct dns_zone_find *find;
	struct dns_lookup *lookup; /* of the server's name */
	bool looked_up_a;
	struct dns_exchange *exchange;
	struct event *now;
	struct km_addr to;
	ldns_rdf *mac; /* of what was sent */
	char zone[DNS_NAME_STRLEN], fqdn[DNS_NAME_STRLEN], value[VALUE_MAX + 1];
	struct update *prev, *next;
};

static void update_free(struct update *u)
{
	DL_DELETE(u->p->updates, u);
	dns_zone_cancel(u->find);
	dns_lookup_cancel(u->lookup);
	dns_exchange_cancel(u->exchange);
	if (u->now)
		event_free(u->now);
	ldns_rdf_deep_free(u->mac);
	free(u);
}

static void conclude(struct update *u, const char *failed)
{
	void (*done)(void *arg, const char *failed) = u->done;
	void *arg = u->arg;

	update_free(u);
	done(arg, failed);
}

static void fail(struct update *u, const char *what, const char *why)
{
	char text[900];

	snprintf(text, sizeof(text), "%s of %s in the zone %s by %s: %s%s%s",
		 u->add ? "adding the TXT record" : "deleting the TXT record", u->fqdn,
		 *u->zone ? u->zone : "?", u->p->conf.server, what, why ? ": " : "",
		 why ? why : "");
	conclude(u, text);
}

/* ---- the answer ---- */
/* The error inside the TSIG record (RFC 8945 section 3), or NULL. */
static const char *tsig_error(const ldns_pkt *answer)
{
	const ldns_rr *rr = ldns_pkt_tsig(answer);
	const ldns_rdf *f =
	    rr && ldns_rr_rd_count(rr) > TSIG_ERROR ? ldns_rr_rdf(rr, TSIG_ERROR) : NULL;

	switch (f && ldns_rdf_size(f) == 2 ? ldns_rdf2native_int16(f) : 0) {
	case 16:
		return "the key's secret or algorithm is not the server's (BADSIG)";
	case 17:
		return "the server does not know the key by this name and algorithm, or does not "
		       "let it "
		       "change this name (BADKEY)";
	case 18:
		return "the clocks of this host and the server are too far apart (BADTIME)";
	case 22:
		return "the server wants longer signatures (BADTRUNC)";
	default:
		return NULL;
	}
}

static const char *rcode_meaning(int rcode)
{
	switch (rcode) {
	case LDNS_RCODE_REFUSED:
		return "the server refuses: it may not allow this key to change this name "
		       "(REFUSED)";
	case LDNS_RCODE_NOTAUTH:
		return "the server does not hold this zone, or does not take the key (NOTAUTH)";
	case LDNS_RCODE_NOTZONE:
		return "the name is not in this zone (NOTZONE)";
	case LDNS_RCODE_NOTIMPL:
		return "the server takes no dynamic updates (NOTIMP)";
	default:
		return dns_rcode_str(rcode);
	}
}

/* A refusal is believed as it is: it may come unsigned, and nothing follows from it. */
static void on_answer(void *arg, const uint8_t *p, size_t n, const char *failed)
{
	struct update *u = arg;
	const struct conf *c = &u->p->conf;
	ldns_pkt *answer = NULL;
	const char *why = NULL;

	u->exchange = NULL;
	if (failed)
		return fail(u, "no answer", failed);
	if (ldns_wire2pkt(&answer, p, n) != LDNS_STATUS_OK)
		return fail(u, "its answer is malformed", NULL);
	int rcode = ldns_pkt_get_rcode(answer);
	if (tsig_error(answer))
		why = tsig_error(answer);
	else if (rcode)
		why = rcode_meaning(rcode);
	else if (ldns_pkt_get_opcode(answer) != LDNS_PACKET_UPDATE)
		why = "its answer is not to an update";
	else if (!ldns_pkt_tsig_verify(answer, p, n, c->key_name, c->key_secret, u->mac))
		why = "its answer is not signed by the key";
	ldns_pkt_free(answer);
	if (why)
		fail(u, why, NULL);
	else
		conclude(u, NULL);
}

/* ---- the update ---- */
static ldns_rr *record(const struct update *u)
{
	ldns_rr *rr = ldns_rr_new();
	ldns_rdf *owner = ldns_dname_new_frm_str(u->fqdn);
	uint8_t text[VALUE_MAX + 1] = {(uint8_t)strlen(u->value)};

	memcpy(text + 1, u->value, text[0]);
	ldns_rdf *value = ldns_rdf_new_frm_data(LDNS_RDF_TYPE_STR, (size_t)text[0] + 1, text);
	if (!rr || !owner || !value) {
		ldns_rr_free(rr);
		ldns_rdf_deep_free(owner);
		ldns_rdf_deep_free(value);
		return NULL;
	}
	ldns_rr_set_owner(rr, owner);
	ldns_rr_set_type(rr, LDNS_RR_TYPE_TXT);
	/* RFC 2136 sections 2.5.1 and 2.5.4 */
	ldns_rr_set_class(rr, u->add ? LDNS_RR_CLASS_IN : LDNS_RR_CLASS_NONE);
	ldns_rr_set_ttl(rr, u->add ? (uint32_t)u->p->conf.ttl : 0);
	ldns_rr_push_rdf(rr, value);
	return rr;
}

/* The signed message as it goes out, malloc'd by ldns; NULL when it cannot be made. */
static uint8_t *message(struct update *u, size_t *n)
{
	const struct conf *c = &u->p->conf;
	ldns_rr_list *list = ldns_rr_list_new();
	ldns_rdf *zone = ldns_dname_new_frm_str(u->zone);
	ldns_rr *rr = record(u);
	ldns_pkt *pkt = NULL;
	uint8_t *wire = NULL;
	uint16_t id;

	if (!list || !zone || !rr || !ldns_rr_list_push_rr(list, rr))
		goto out;
	rr = NULL; /* the list's */
	pkt = ldns_update_pkt_new(zone, LDNS_RR_CLASS_IN, NULL, list, NULL);
	if (!pkt)
		goto out;
	zone = NULL; /* the packet's */
	km_random(&id, sizeof(id));
	ldns_pkt_set_id(pkt, id);
	if (ldns_pkt_tsig_sign(pkt, c->key_name, c->key_secret, FUDGE_SECONDS,
			       ldns_names[c->key_algorithm], NULL) != LDNS_STATUS_OK ||
	    ldns_pkt2wire(&wire, pkt, n) != LDNS_STATUS_OK) {
		wire = NULL;
		goto out;
	}
	ldns_rdf_deep_free(u->mac);
	u->mac = ldns_rdf_clone(ldns_rr_rdf(ldns_pkt_tsig(pkt), TSIG_MAC));
out:
	ldns_pkt_free(pkt);
	ldns_rr_list_deep_free(list);
	ldns_rr_free(rr);
	ldns_rdf_deep_free(zone);
	return wire;
}

static void send_it(struct update *u)
{
	size_t n = 0;
	uint8_t *wire = message(u, &n);

	if (wire && u->mac)
		u->exchange = dns_exchange(u->p->base, &u->to, (uint16_t)u->p->conf.port, wire, n,
					   on_answer, u);
	free(wire);
	if (!u->exchange)
		fail(u, "the update could not be made", NULL);
}

/* ---- the server ---- */
static void on_server(void *arg, const struct dns_found *f)
{
	struct update *u = arg;
	size_t size = u->looked_up_a ? 16 : 4;

	u->lookup = NULL;
	if (f->n && f->rr[0].n == size) {
		u->to.family = u->looked_up_a ? AF_INET6 : AF_INET;
		memcpy(u->to.ip, f->rr[0].data, size);
		return send_it(u);
	}
	if (!u->looked_up_a) {
		u->looked_up_a = true;
		u->lookup = dns_lookup(u->p->d, u->p->conf.server, DNS_TYPE_AAAA, on_server, u);
		if (u->lookup)
			return;
	}
	fail(u, "the server's address could not be found", f->failed);
}

static void find_server(struct update *u)
{
	if (km_addr_parse(&u->to, u->p->conf.server) == 0)
		return send_it(u);
	u->lookup = dns_lookup(u->p->d, u->p->conf.server, DNS_TYPE_A, on_server, u);
	if (!u->lookup)
		fail(u, "no memory", NULL);
}

/* ---- the zone ---- */
static void on_zone(void *arg, const struct dns_zone *z, const char *failed)
{
	struct update *u = arg;

	u->find = NULL;
	if (failed)
		return fail(u, failed, NULL);
	strcpy(u->zone, z->name);
	find_server(u);
}

static void on_now(evutil_socket_t fd, short what, void *arg)
{
	struct update *u = arg;

	(void)fd;
	(void)what;
	if (strlen(u->value) >= VALUE_MAX)
		return fail(u, "the value is too long", NULL);
	if (u->p->conf.zone && !dns_name_below(u->fqdn, u->p->conf.zone))
		return fail(u, "the name is not in the zone that dns_provider_file names", NULL);
	if (*u->zone)
		return find_server(u);
	u->find = dns_zone_find(u->p->d, u->fqdn, false, on_zone, u);
	if (!u->find)
		fail(u, "no memory", NULL);
}

static void change(struct dns_provider *provider, bool add, const char *fqdn, const char *value,
		   void (*done)(void *arg, const char *failed), void *arg)
{
	struct rfc2136 *p = (struct rfc2136 *)provider;
	struct update *u = km_xcalloc(1, sizeof(*u));

	u->p = p;
	u->add = add;
	u->done = done;
	u->arg = arg;
	snprintf(u->fqdn, sizeof(u->fqdn), "%s", fqdn);
	snprintf(u->value, sizeof(u->value), "%s", value);
	if (p->conf.zone)
		snprintf(u->zone, sizeof(u->zone), "%s", p->conf.zone);
	DL_APPEND(p->updates, u);
	u->now = evtimer_new(p->base, on_now, u);
	if (!u->now)
		abort(); /* no memory, as km_xcalloc would */
	event_active(u->now, 0, 0);
}

/* ---- the file ---- */
static const char *name_check(const char *v)
{
	ldns_rdf *name = ldns_dname_new_frm_str(v);
	bool ok = name && strlen(v) < DNS_NAME_STRLEN;

	ldns_rdf_deep_free(name);
	return ok ? NULL : "not a domain name";
}

/* Not by the table, which would name the bad value. */
static bool is_secret(const char *v)
{
	ldns_rdf *key = NULL;
	bool ok = ldns_str2rdf_b64(&key, v) == LDNS_STATUS_OK && ldns_rdf_size(key) >= 16;

	if (key)
		km_wipe(ldns_rdf_data(key), ldns_rdf_size(key));
	ldns_rdf_deep_free(key);
	return ok;
}

#define AT(member) offsetof(struct conf, member)
static const struct km_opt opts[] = {
    {.key = "server",
     .type = KM_OPT_STRING,
     .offset = AT(server),
     .required = true,
     .check = name_check},
    {.key = "port", .type = KM_OPT_INT, .offset = AT(port), .def = "53", .min = 1, .max = 65535},
    {.key = "zone", .type = KM_OPT_STRING, .offset = AT(zone), .check = name_check},
    {.key = "ttl", .type = KM_OPT_INT, .offset = AT(ttl), .def = "60", .min = 0, .max = 86400},
    {.key = "key_name",
     .type = KM_OPT_STRING,
     .offset = AT(key_name),
     .required = true,
     .check = name_check},
    {.key = "key_algorithm",
     .type = KM_OPT_ENUM,
     .offset = AT(key_algorithm),
     .def = "hmac-sha256",
     .choices = algorithms},
    {.key = "key_secret", .type = KM_OPT_STRING, .offset = AT(key_secret), .required = true},
};
static const struct km_conf_spec spec = {
    .program = "rfc2136",
    .file = "dns_provider_file",
    .opts = opts,
    .n_opts = KM_ARRAY_LEN(opts),
    .size = sizeof(struct conf),
};

static void rfc2136_free(struct dns_provider *provider)
{
	struct rfc2136 *p = (struct rfc2136 *)provider;
	struct update *each, *tmp;

	DL_FOREACH_SAFE (p->updates, each, tmp)
		update_free(each);
	dns_secret_free(&p->conf.key_secret);
	km_conf_free(&spec, &p->conf);
	free(p);
}

static const struct dns_provider_ops ops = {"rfc2136", change, rfc2136_free};

static void cut_dot(char *name)
{
	size_t n = name ? strlen(name) : 0;
	if (n && name[n - 1] == '.')
		name[n - 1] = '\0';
}

int dns_rfc2136_new(struct dns_provider **out, const struct dns_provider_opts *o,
		    struct km_errtext *err)
{
	struct rfc2136 *p = km_xcalloc(1, sizeof(*p));

	p->provider.ops = &ops;
	p->base = o->base;
	p->d = o->d;
	int e = dns_provider_load(&spec, o->file, &p->conf, err);
	if (!e && !is_secret(p->conf.key_secret))
		e = km_errtext_set(err, KM_EINVAL,
				   "%s: key_secret is not base64 of 16 bytes or more", o->file);
	if (e) {
		rfc2136_free(&p->provider);
		return e;
	}
	cut_dot(p->conf.server);
	cut_dot(p->conf.zone);
	*out = &p->provider;
	return 0;
}
