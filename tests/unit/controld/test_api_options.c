/* SPDX-License-Identifier: MIT */
/* Options of tunnels: each row is what an operator writes, and what is stored of it or which fields are
 * named as wrong. Single quotes stand for double ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "controld/api/input_tunnel.h"
#include "libkm/msg/msg.h"
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

static json_t *json(const char *text)
{
	char copy[8192];
	json_error_t why;
	assert_true(strlen(text) < sizeof(copy));
	strcpy(copy, text);
	for (char *p = copy; *p; p++)
		if (*p == '\'')
			*p = '"';
	json_t *v = json_loads(copy, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
	if (!v)
		fail_msg("%s: %s", text, why.text);
	return v;
}

/* The fields of the details, in their order; the list is given back. */
static char *fields_of(struct details *d, char out[static 2048])
{
	json_t *one;
	size_t i;
	out[0] = '\0';
	json_array_foreach(d->list, i, one)
	{
		if (i)
			strcat(out, " ");
		strcat(out, json_string_value(json_object_get(one, "field")));
		assert_true(json_string_length(json_object_get(one, "message")) > 0);
	}
	json_decref(d->list);
	d->list = NULL;
	return out;
}

/* What is stored can be sent. */
static void must_be_a_message(const char *said, const json_t *stored)
{
	struct km_msg_tunnel_options o;
	struct km_errtext err;
	if (km_msg_parse(&km_msg_desc_tunnel_options, &o, stored, &err))
		fail_msg("%s: %s", said, err.text);
	km_msg_clear(&km_msg_desc_tunnel_options, &o);
}

static void single_options(void **state)
{
	static const struct {
		const char *in, *stored, *fields;
	} rows[] = {
	    {"{}", "{}", ""},
	    {"{'stripPath':true,'tlsVerify':false}", "{'stripPath':true,'tlsVerify':false}", ""},
	    {"{'stripPath':null,'hsts':null}", "{'stripPath':null,'hsts':null}", ""},
	    {"{'stripPath':1,'x':2,'tlsVerify':'no'}", NULL,
	     "options.stripPath options.x options.tlsVerify"},
	    /* names */
	    {"{'hostHeader':'target'}", "{'hostHeader':'target'}", ""},
	    {"{'hostHeader':'a.b:8080'}", "{'hostHeader':'a.b:8080'}", ""},
	    {"{'hostHeader':'[::1]:80'}", "{'hostHeader':'[::1]:80'}", ""},
	    {"{'hostHeader':'[::1]'}", "{'hostHeader':'[::1]'}", ""},
	    {"{'hostHeader':'10.0.0.5'}", "{'hostHeader':'10.0.0.5'}", ""},
	    {"{'hostHeader':''}", NULL, "options.hostHeader"},
	    {"{'hostHeader':':80'}", NULL, "options.hostHeader"},
	    {"{'hostHeader':'80'}", NULL, "options.hostHeader"},
	    {"{'hostHeader':'a b'}", NULL, "options.hostHeader"},
	    {"{'hostHeader':'a\\r\\nX: y'}", NULL, "options.hostHeader"},
	    {"{'hostHeader':'a/b'}", NULL, "options.hostHeader"},
	    {"{'hostHeader':'::1'}", NULL, "options.hostHeader"},
	    {"{'hostHeader':'a:0'}", NULL, "options.hostHeader"},
	    {"{'hostHeader':5}", NULL, "options.hostHeader"},
	    {"{'tlsServerName':'nas.local'}", "{'tlsServerName':'nas.local'}", ""},
	    {"{'tlsServerName':'10.0.0.5'}", NULL, "options.tlsServerName"},
	    {"{'tlsServerName':'a:443'}", NULL, "options.tlsServerName"},
	    {"{'tlsServerName':''}", NULL, "options.tlsServerName"},
	    {"{'tlsCa':'not pem'}", NULL, "options.tlsCa"},
	    {"{'tlsCa':''}", NULL, "options.tlsCa"},
	    {"{'tlsCa':'-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----\\n'}", NULL,
	     "options.tlsCa"},
	    /* header rules */
	    {"{'requestHeaders':{'set':{'X-B':'2','x-a':''},'remove':['Cookie']}}",
	     "{'requestHeaders':[{'name':'Cookie'},{'name':'x-a','value':''},{'name':'X-B','value':'2'}]}",
	     ""},
	    {"{'responseHeaders':{'remove':['Server']}}", "{'responseHeaders':[{'name':'Server'}]}",
	     ""},
	    {"{'responseHeaders':{'set':{},'remove':[]}}", "{'responseHeaders':null}", ""},
	    {"{'responseHeaders':{'set':null,'remove':null}}", "{'responseHeaders':null}", ""},
	    {"{'responseHeaders':[]}", NULL, "options.responseHeaders"},
	    {"{'responseHeaders':{'add':{},'set':[],'remove':{}}}", NULL,
	     "options.responseHeaders.add options.responseHeaders.set "
	     "options.responseHeaders.remove"},
	    {"{'requestHeaders':{'set':{'A':1,'B':'a\\nb','C':' x','host':'y','a b':'z'}}}", NULL,
	     "options.requestHeaders.set.A options.requestHeaders.set.B "
	     "options.requestHeaders.set.C options.requestHeaders.set.host "
	     "options.requestHeaders.set.a b"},
	    {"{'requestHeaders':{'set':{'A':'1','a':'2'},'remove':['A','X-Forwarded-For',5,'']}}",
	     NULL,
	     "options.requestHeaders.set.a options.requestHeaders.remove[0] "
	     "options.requestHeaders.remove[0] options.requestHeaders.remove[1] "
	     "options.requestHeaders.remove[2] options.requestHeaders.remove[3]"},
	    {"{'responseHeaders':{'remove':['Content-Length','Connection','transfer-encoding']}}",
	     NULL,
	     "options.responseHeaders.remove[0] options.responseHeaders.remove[1] "
	     "options.responseHeaders.remove[2]"},
	    /* redirects */
	    {"{'redirects':[{'from':'/a','to':'/b'},{'from':'/c/*','to':'https://x.y/*','status':308}]}",
	     "{'redirects':[{'from':'/a','to':'/b','status':302},"
	     "{'from':'/c/*','to':'https://x.y/*','status':308}]}",
	     ""},
	    {"{'redirects':[]}", "{'redirects':null}", ""},
	    {"{'redirects':[{'from':'/%61/','to':'/b?c=*'}]}", NULL, "options.redirects[0].to"},
	    {"{'redirects':[{'from':'/%61/*','to':'/b?c=*','status':null}]}",
	     "{'redirects':[{'from':'/a/*','to':'/b?c=*','status':302}]}", ""},
	    {"{'redirects':[{'from':'/a','to':'http://[::1]:8080/x?y'}]}",
	     "{'redirects':[{'from':'/a','to':'http://[::1]:8080/x?y','status':302}]}", ""},
	    {"{'redirects':[{},{'from':'a','to':'b','status':304},5,{'from':'/x','to':'/y','s':1}]}",
	     NULL,
	     "options.redirects[0].from options.redirects[0].to options.redirects[1].from "
	     "options.redirects[1].to options.redirects[1].status options.redirects[2] "
	     "options.redirects[3].s"},
	    {"{'redirects':[{'from':'/*a','to':'/b'},{'from':'/a*','to':'/*b'},{'from':'/..','to':'/'},"
	     "{'from':'/a?b','to':'/'}]}",
	     NULL,
	     "options.redirects[0].from options.redirects[1].to options.redirects[2].from "
	     "options.redirects[3].from"},
	    /* what stands for "*" never becomes a host */
	    {"{'redirects':[{'from':'/*','to':'https://x.y*'},{'from':'/*','to':'//x.y/'},"
	     "{'from':'/*','to':'https://x.y?*'},{'from':'/*','to':'https://*'},"
	     "{'from':'/*','to':'https://x.y:*'},{'from':'/*','to':'https://x.y@z/*'},"
	     "{'from':'/*','to':'javascript:*'},{'from':'/*','to':'/\\\\x.y/*'},"
	     "{'from':'/*','to':'HTTPS://x.y/*'},{'from':'/*','to':'/a#*'}]}",
	     NULL,
	     "options.redirects[0].to options.redirects[1].to options.redirects[2].to "
	     "options.redirects[3].to options.redirects[4].to options.redirects[5].to "
	     "options.redirects[6].to options.redirects[7].to options.redirects[8].to "
	     "options.redirects[9].to"},
	    {"{'redirects':[{'from':'/','to':'/a\\r\\nb'},{'from':'/','to':''},{'from':'/','to':'/a b'},"
	     "{'from':'/','to':'/\xc3\xa9'},{'from':'/','to':'/a/../b'}]}",
	     NULL,
	     "options.redirects[0].to options.redirects[1].to options.redirects[2].to "
	     "options.redirects[3].to options.redirects[4].to"},
	    {"{'redirects':[{'from':'/a','to':'/b','status':303.5}]}", NULL,
	     "options.redirects[0].status"},
	    /* HSTS, maintenance */
	    {"{'hsts':true,'maintenance':true}", "{'hsts':{'maxAge':31536000},'maintenance':{}}", ""},
	    {"{'hsts':false,'maintenance':false}", "{'hsts':null,'maintenance':null}", ""},
	    {"{'hsts':{'maxAge':0,'includeSubDomains':null}}", "{'hsts':{'maxAge':0}}", ""},
	    {"{'hsts':{'maxAge':31536000,'includeSubDomains':true,'preload':true}}",
	     "{'hsts':{'maxAge':31536000,'includeSubDomains':true,'preload':true}}", ""},
	    {"{'hsts':{'maxAge':31535999,'includeSubDomains':true,'preload':true}}", NULL,
	     "options.hsts.preload"},
	    {"{'hsts':{'maxAge':31536000,'preload':true}}", NULL, "options.hsts.preload"},
	    {"{'hsts':{'preload':1,'x':1}}", NULL,
	     "options.hsts.x options.hsts.maxAge options.hsts.preload"},
	    {"{'hsts':5}", NULL, "options.hsts"},
	    {"{'maintenance':{'title':'t','text':'a\\nb','retryAfter':60}}",
	     "{'maintenance':{'title':'t','text':'a\\nb','retryAfter':60}}", ""},
	    {"{'maintenance':{'title':'a\\nb','text':'\\u0007','retryAfter':0,'y':1}}", NULL,
	     "options.maintenance.y options.maintenance.title options.maintenance.text "
	     "options.maintenance.retryAfter"},
	    {"{'maintenance':'soon'}", NULL, "options.maintenance"},
	    /* rates and sizes */
	    {"{'rateLimit':'100/s','addressRateLimit':{'rate':'300/5m','burst':7}}",
	     "{'rateLimit':{'requests':100,'per':1000,'burst':100},"
	     "'addressRateLimit':{'requests':300,'per':300000,'burst':7}}",
	     ""},
	    {"{'rateLimit':'1/d','addressRateLimit':'5/250ms'}",
	     "{'rateLimit':{'requests':1,'per':86400000,'burst':1},"
	     "'addressRateLimit':{'requests':5,'per':250,'burst':5}}",
	     ""},
	    {"{'rateLimit':'0/s','addressRateLimit':'1/0s'}", NULL,
	     "options.rateLimit options.addressRateLimit"},
	    {"{'rateLimit':'-1/s','addressRateLimit':'1/2d'}", NULL,
	     "options.rateLimit options.addressRateLimit"},
	    {"{'rateLimit':'1000000001/s','addressRateLimit':'1'}", NULL,
	     "options.rateLimit options.addressRateLimit"},
	    {"{'rateLimit':'99999999999999999999/s','addressRateLimit':'1/99999999999999999999s'}",
	     NULL, "options.rateLimit options.addressRateLimit"},
	    {"{'rateLimit':'1/w','addressRateLimit':5}", NULL,
	     "options.rateLimit options.addressRateLimit"},
	    {"{'rateLimit':{'burst':0},'addressRateLimit':{'rate':'1/s','burst':0,'x':1}}", NULL,
	     "options.rateLimit.rate options.addressRateLimit.x options.addressRateLimit.burst"},
	    {"{'maxBody':0}", "{'maxBody':0}", ""},
	    {"{'maxBody':'10M'}", "{'maxBody':10485760}", ""},
	    {"{'maxBody':'1kiB'}", NULL, ""},
	    {"{'maxBody':'2G'}", "{'maxBody':2147483648}", ""},
	    {"{'maxBody':'10m'}", "{'maxBody':10485760}", ""},
	    {"{'maxBody':'64K'}", "{'maxBody':65536}", ""},
	    {"{'maxBody':-1}", NULL, "options.maxBody"},
	    {"{'maxBody':'10MB'}", NULL, "options.maxBody"},
	    {"{'maxBody':'M'}", NULL, "options.maxBody"},
	    {"{'maxBody':'10'}", NULL, "options.maxBody"},
	    {"{'maxBody':1.5}", NULL, "options.maxBody"},
	    {"{'maxConnections':65536}", "{'maxConnections':65536}", ""},
	    {"{'maxConnections':0}", NULL, "options.maxConnections"},
	    {"{'maxConnections':65537}", NULL, "options.maxConnections"},
	    {"[]", NULL, "options"},
	    {"'all'", NULL, "options"},
	};
	char fields[2048];
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct details d = {NULL};
		json_t *in = json(rows[i].in), *out = options_read(in, "options", &d);
		if (strcmp(fields_of(&d, fields), rows[i].fields) != 0)
			fail_msg("%s: wrong are \"%s\", not \"%s\"", rows[i].in, fields,
				 rows[i].fields);
		if (rows[i].stored) {
			json_t *stored = json(rows[i].stored);
			if (!json_equal(out, stored))
				fail_msg("%s: stored is %s", rows[i].in,
					 json_dumps(out, JSON_COMPACT));
			must_be_a_message(rows[i].in, out);
			json_decref(stored);
		}
		json_decref(in);
		json_decref(out);
	}
}

/* ---- bounds that are too long to write down ---- */

static void expect(json_t *options, const char *fields)
{
	struct details d = {NULL};
	char got[2048];
	json_t *out = options_read(options, "options", &d);
	if (!d.list)
		must_be_a_message("a long one", out);
	assert_string_equal(fields_of(&d, got), fields);
	json_decref(options);
	json_decref(out);
}

static json_t *many(const char *kind, size_t n)
{
	json_t *list = json_array(), *set = json_object();
	char name[32];
	for (size_t i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "X-%zu", i);
		json_array_append_new(list, json_string(name));
		json_object_set_new(set, name, json_string("v"));
	}
	json_t *out = strcmp(kind, "set") == 0 ? json_incref(set) : json_incref(list);
	json_decref(list);
	json_decref(set);
	return json_pack("{s:{s:o}}", "requestHeaders", kind, out);
}

static char *xs(char *out, size_t n)
{
	memset(out, 'x', n);
	out[n] = '\0';
	return out;
}

static void bounds(void **state)
{
	static char a[10000], b[10000];
	(void)state;
	expect(many("set", 64), "");
	expect(many("set", 65), "options.requestHeaders.set");
	expect(many("remove", 64), "");
	expect(many("remove", 65), "options.requestHeaders.remove");
	expect(json_pack("{s:{s:{s:s}}}", "requestHeaders", "set", "A", xs(a, 8192)), "");
	expect(json_pack("{s:{s:{s:s}}}", "requestHeaders", "set", "A", xs(a, 8193)),
	       "options.requestHeaders.set.A");
	expect(json_pack("{s:{s:{s:s, s:s}}}", "requestHeaders", "set", "A", xs(a, 8192), "B",
			 xs(b, 8192 - 10)),
	       "");
	expect(json_pack("{s:{s:{s:s, s:s}}}", "requestHeaders", "set", "A", xs(a, 8192), "B",
			 xs(b, 8192 - 9)),
	       "options.requestHeaders");
	expect(json_pack("{s:{s:[s]}}", "requestHeaders", "remove", xs(a, 256)), "");
	expect(json_pack("{s:{s:[s]}}", "requestHeaders", "remove", xs(a, 257)),
	       "options.requestHeaders.remove[0]");
	xs(a, 2048)[0] = '/';
	expect(json_pack("{s:[{s:s, s:s+}]}", "redirects", "from", "/", "to", "/y?", xs(b, 2045)), "");
	expect(json_pack("{s:[{s:s, s:s+}]}", "redirects", "from", "/", "to", "/y?", xs(b, 2046)),
	       "options.redirects[0].to");
	xs(a, 1024)[0] = '/';
	expect(json_pack("{s:[{s:s, s:s}]}", "redirects", "from", a, "to", "/"), "");
	expect(json_pack("{s:[{s:s+, s:s}]}", "redirects", "from", a, "*", "to", "/"),
	       "options.redirects[0].from");
	expect(json_pack("{s:{s:s}}", "maintenance", "title", xs(a, 200)), "");
	expect(json_pack("{s:{s:s}}", "maintenance", "title", xs(a, 201)),
	       "options.maintenance.title");
	expect(json_pack("{s:{s:s}}", "maintenance", "text", xs(a, 4000)), "");
	expect(json_pack("{s:{s:s}}", "maintenance", "text", xs(a, 4001)),
	       "options.maintenance.text");
	expect(json_pack("{s:s}", "tlsServerName", xs(a, 253)), "");
	expect(json_pack("{s:s}", "tlsServerName", xs(a, 254)), "options.tlsServerName");
}

/* ---- certificates ---- */

static char *make_pem(bool with_key)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();
	BIO *out = BIO_new(BIO_s_mem());
	char *text;
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), 0);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	X509_set_pubkey(x, key);
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	BIO_puts(out, "subject = a box in the cellar\n");
	PEM_write_bio_X509(out, x);
	if (with_key)
		PEM_write_bio_PrivateKey(out, key, NULL, NULL, 0, NULL, NULL);
	long n = BIO_get_mem_data(out, &text);
	text = strndup(text, (size_t)n);
	BIO_free(out);
	X509_free(x);
	EVP_PKEY_free(key);
	return text;
}

static void certificates(void **state)
{
	char *one = make_pem(false), *keyed = make_pem(true), *both = malloc(70 * strlen(one)),
	     *broken = strdup(one);
	struct details d = {NULL};
	(void)state;
	json_t *in = json_pack("{s:s}", "tlsCa", one), *out = options_read(in, "options", &d);
	assert_null(d.list);
	const char *stored = json_string_value(json_object_get(out, "tlsCa"));
	assert_ptr_equal(strstr(stored, "-----BEGIN CERTIFICATE-----"), stored); /* and no text */
	json_decref(in);
	json_decref(out);
	expect(json_pack("{s:s}", "tlsCa", keyed), "options.tlsCa");
	strstr(broken, "CERTIFICATE-----\n")[20] ^= 0x15;
	expect(json_pack("{s:s}", "tlsCa", broken), "options.tlsCa");
	both[0] = '\0';
	for (int i = 0; i < 65; i++)
		strcat(both, one);
	expect(json_pack("{s:s}", "tlsCa", both), "options.tlsCa");
	strcpy(both, one);
	strcat(both, broken);
	expect(json_pack("{s:s}", "tlsCa", both), "options.tlsCa");
	free(one);
	free(keyed);
	free(both);
	free(broken);
}

/* ---- the whole tunnel ---- */

static void together(void **state)
{
	static const struct {
		const char *domain, *path, *tls, *target, *protocol, *options, *fields;
	} rows[] = {
	    {"a.b", "", "auto", "x:1", "http", "{'stripPath':true,'hsts':{'maxAge':1}}", ""},
	    {"a.b", "/p", "auto", "x:1", "https", "{'tlsVerify':false,'tlsServerName':'y'}", ""},
	    {"a.b", "", "auto", "x:1", "http", "{'tlsVerify':false,'tlsCa':'c','tlsServerName':'y'}",
	     "options.tlsVerify options.tlsServerName options.tlsCa"},
	    {"a.b", "", "auto", "x:1", "h2c", "{'tlsVerify':true}", "options.tlsVerify"},
	    {"a.b", "", "auto", "x:1", "https", "{'tlsVerify':false,'tlsCa':'c'}", "options.tlsCa"},
	    {"a.b", "", "auto", "unix:/x", "https", "{}", "options.tlsServerName"},
	    {"a.b", "", "auto", "unix:/x", "https", "{'tlsVerify':false}", ""},
	    {"a.b", "", "auto", "unix:/x", "http", "{'hostHeader':'target'}", "options.hostHeader"},
	    {"a.b", "", "off", "x:1", "http", "{'hsts':{'maxAge':1}}", "options.hsts"},
	    {"a.b", "", "passthrough", "x:1", "http", "{'maxConnections':5}", ""},
	    {"a.b", "/p", "passthrough", "x:1", "https",
	     "{'hostHeader':'y','tlsVerify':false,'maintenance':{},'rateLimit':{},'maxConnections':5}",
	     "path targetProtocol options.hostHeader options.maintenance options.rateLimit "
	     "options.tlsVerify"},
	    /* redirects that never fit, and those that never end */
	    {"a.b", "/p", "auto", "x:1", "http",
	     "{'redirects':[{'from':'/p','to':'/q'},{'from':'/p/x*','to':'/q'},{'from':'/px','to':'/q'},"
	     "{'from':'/','to':'/q'}]}",
	     "options.redirects[2].from options.redirects[3].from"},
	    {"a.b", "", "auto", "x:1", "http", "{'redirects':[{'from':'/a','to':'/a'}]}",
	     "options.redirects[0].to"},
	    {"a.b", "", "auto", "x:1", "http", "{'redirects':[{'from':'/a','to':'/%61?x'}]}",
	     "options.redirects[0].to"},
	    {"a.b", "", "auto", "x:1", "http", "{'redirects':[{'from':'/*','to':'/home'}]}",
	     "options.redirects[0].to"},
	    {"a.b", "", "auto", "x:1", "http", "{'redirects':[{'from':'/a*','to':'/a/b*'}]}",
	     "options.redirects[0].to"},
	    {"a.b", "", "auto", "x:1", "http",
	     "{'redirects':[{'from':'/a','to':'/b'},{'from':'/b','to':'/c'},{'from':'/c','to':'/a'}]}",
	     "options.redirects[0].to"},
	    {"a.b", "", "auto", "x:1", "http",
	     "{'redirects':[{'from':'/a','to':'/b'},{'from':'/b','to':'/c'},{'from':'/d','to':'/a'}]}",
	     ""},
	    {"a.b", "", "auto", "x:1", "http",
	     "{'redirects':[{'from':'/x/y','to':'/'},{'from':'/x/*','to':'/x/y'}]}", ""},
	    {"a.b", "", "auto", "x:1", "http", "{'redirects':[{'from':'/','to':'https://A.b'}]}",
	     "options.redirects[0].to"},
	    {"a.b", "", "auto", "x:1", "http", "{'redirects':[{'from':'/*','to':'http://a.b/*'}]}",
	     "options.redirects[0].to"},
	    {"a.b", "", "auto", "x:1", "http",
	     "{'redirects':[{'from':'/*','to':'https://a.b:8443/*'}]}", ""},
	    {"a.b", "", "auto", "x:1", "http", "{'redirects':[{'from':'/*','to':'https://c.b/*'}]}",
	     ""},
	    {"*.b.c", "", "auto", "x:1", "http", "{'redirects':[{'from':'/*','to':'https://a.b.c/*'}]}",
	     "options.redirects[0].to"},
	    {"*.b.c", "", "auto", "x:1", "http", "{'redirects':[{'from':'/*','to':'https://b.c/*'}]}",
	     ""},
	};
	char fields[2048];
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct details d = {NULL};
		json_t *options = json(rows[i].options);
		const struct options_tunnel t = {rows[i].domain, rows[i].path,	   rows[i].tls,
						 rows[i].target, rows[i].protocol, options};
		options_check(&t, &d);
		if (strcmp(fields_of(&d, fields), rows[i].fields) != 0)
			fail_msg("%s %s: wrong are \"%s\", not \"%s\"", rows[i].domain,
				 rows[i].options, fields, rows[i].fields);
		json_decref(options);
	}
}

static void too_large_together(void **state)
{
	char *ca = malloc(65000), *text = malloc(70000);
	struct details d = {NULL};
	char fields[2048];
	(void)state;
	json_t *o = json_pack("{s:s}", "tlsCa", xs(ca, 64999));
	struct options_tunnel t = {"a.b", "", "auto", "x:1", "https", o};
	options_check(&t, &d);
	assert_null(d.list);
	json_object_set_new(o, "tlsServerName", json_string(xs(text, 69999)));
	options_check(&t, &d);
	assert_string_equal(fields_of(&d, fields), "options");
	json_decref(o);
	free(ca);
	free(text);
}

/* ---- requests over what was ---- */

static void wholes(void **state)
{
	static const struct {
		const char *body, *path, *target, *protocol, *tls, *options;
	} rows[] = {
	    {"{}", "/p", "was:1", "https", "own", "{'hsts':{'maxAge':1},'maxBody':5}"},
	    {"{'path':null}", "", "was:1", "https", "own", "{'hsts':{'maxAge':1},'maxBody':5}"},
	    {"{'path':'/q/','tls':'auto'}", "/q", "was:1", "https", "auto",
	     "{'hsts':{'maxAge':1},'maxBody':5}"},
	    {"{'target':'is:2'}", "/p", "is:2", "https", "own", "{'hsts':{'maxAge':1},'maxBody':5}"},
	    {"{'target':'http://is'}", "/p", "is:80", "http", "own",
	     "{'hsts':{'maxAge':1},'maxBody':5}"},
	    {"{'targetProtocol':'h2c'}", "/p", "was:1", "h2c", "own",
	     "{'hsts':{'maxAge':1},'maxBody':5}"},
	    {"{'options':null}", "/p", "was:1", "https", "own", "{}"},
	    {"{'options':{}}", "/p", "was:1", "https", "own", "{'hsts':{'maxAge':1},'maxBody':5}"},
	    {"{'options':{'hsts':null,'stripPath':true}}", "/p", "was:1", "https", "own",
	     "{'maxBody':5,'stripPath':true}"},
	    {"{'options':{'hsts':{'maxAge':2,'preload':false}}}", "/p", "was:1", "https", "own",
	     "{'maxBody':5,'hsts':{'maxAge':2,'preload':false}}"},
	    {"{'match':{'path':'/q'},'targets':[{'target':'is:2','protocol':'h2c'}]}", "/q", "is:2",
	     "h2c", "own", "{'hsts':{'maxAge':1},'maxBody':5}"},
	};
	json_t *had = json("{'hsts':{'maxAge':1},'maxBody':5}"), *same = json_deep_copy(had);
	const struct options_tunnel was = {"a.b", "/p", "own", "was:1", "https", had};
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct details d = {NULL};
		struct tunnel_input in;
		json_t *body = json(rows[i].body), *options = json(rows[i].options);
		if (input_tunnel(&in, body, false, &d))
			fail_msg("%s: %s", rows[i].body, json_dumps(d.list, 0));
		struct options_tunnel is = input_tunnel_whole(&in, &was);
		assert_string_equal(is.domain, "a.b");
		assert_string_equal(is.path, rows[i].path);
		assert_string_equal(is.target, rows[i].target);
		assert_string_equal(is.protocol, rows[i].protocol);
		assert_string_equal(is.tls, rows[i].tls);
		if (!json_equal(is.options, options))
			fail_msg("%s: %s", rows[i].body, json_dumps(is.options, JSON_COMPACT));
		assert_true(json_equal(had, same));
		json_decref((json_t *)(uintptr_t)is.options);
		input_tunnel_clear(&in);
		json_decref(body);
		json_decref(options);
	}
	json_decref(had);
	json_decref(same);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(single_options), cmocka_unit_test(bounds),
	    cmocka_unit_test(certificates),   cmocka_unit_test(together),
	    cmocka_unit_test(wholes),	      cmocka_unit_test(too_large_together),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
