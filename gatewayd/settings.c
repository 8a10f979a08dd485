/* SPDX-License-Identifier: MIT */
#include "gatewayd/settings.h"
#include "gatewayd/edge/access.h"
#include "libkm/base/addr.h"
#include "libkm/base/prefixes.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const gw_certificate_keys[] = {"ecdsa", "rsa", "both", NULL};
const char *const gw_access_formats[] = {"text", "json", NULL}; /* as enum access_format */
const char *const gw_record_layers[] = {"own", "openssl", NULL}; /* as enum gw_record_layer */
const char *const gw_dns_providers[] = {"none", "rfc2136", "cloudflare", "route53", "hook", NULL};

static const char *https_url_check(const char *v)
{
	return strncmp(v, "https://", 8) || !v[8] ? "an https:// URL is needed" : NULL;
}

static const char *challenge_check(const char *v)
{
	static const char *const known[] = {"tls-alpn-01", "http-01", "dns-01", "dns-persist-01"};
	for (size_t i = 0; i < KM_ARRAY_LEN(known); i++)
		if (!strcmp(v, known[i]))
			return NULL;
	return "not one of tls-alpn-01, http-01, dns-01, dns-persist-01";
}

char *gw_acme_dir(const struct gw_settings *s)
{
	return s->acme_dir ? km_xstrdup(s->acme_dir) : km_xasprintf("%s/acme", s->host.state_dir);
}

int gw_rate_parse(int64_t *n, int64_t *ms, const char *s)
{
	char *end;
	errno = 0;
	long long count = strtoll(s, &end, 10);
	if (errno || end == s || *end != '/' || count < 1 || count > 1000000000)
		return KM_EINVAL;
	*n = count;
	char one[8] = "1"; /* of a bare unit */
	const char *time = end + 1;
	if (strlen(time) <= 2 && !isdigit((unsigned char)*time))
		time = strcat(one, time);
	return km_duration_parse(ms, time) || *ms < 1 ? KM_EINVAL : 0;
}

static const char *rate_check(const char *v)
{
	int64_t n, ms;
	return gw_rate_parse(&n, &ms, v) ? "not a number/time such as 100/s or 300/3h" : NULL;
}

static const char *access_log_check(const char *v)
{
	return strcmp(v, "off") && strcmp(v, "journald") && v[0] != '/'
		   ? "not off, journald or the absolute path of a file"
		   : NULL;
}

static const char *sample_check(const char *v)
{
	uint64_t n;
	return access_sample_parse(&n, v) ? "not a share such as 1/100 or 2.5%" : NULL;
}

static const char *listen_check(const char *v)
{
	struct km_hostport hp;
	return km_hostport_parse(&hp, v, NULL) || (hp.host[0] && !hp.is_addr)
		   ? "not a port, or an address with one, such as 443, [::]:443 or 192.0.2.1:443"
		   : NULL;
}

#define AT(member) offsetof(struct gw_settings, member)
static const struct km_opt opts[] = {
    KM_HOST_OPTS(struct gw_settings, host, "gateway"),
    {.key = "wireguard_port",
     .type = KM_OPT_INT,
     .offset = AT(host.wireguard_port),
     .def = "51820",
     .min = 1,
     .max = 65535,
     .help = "The UDP port on which agents reach this gateway."},
    {.key = "public_ip",
     .type = KM_OPT_LIST,
     .offset = AT(public_ip),
     .check = km_public_host_check,
     .help =
	 "Addresses or host names by which agents reach this gateway, at most 8. An agent tries "
	 "all their addresses in turn and stays with one that works. Unset: the address from "
	 "which control sees it."},
    {.key = "https_listen",
     .type = KM_OPT_LIST,
     .offset = AT(https_listen),
     .check = listen_check,
     .def = "[::]:443",
     .help = "Where HTTPS is served."},
    {.key = "http_listen",
     .type = KM_OPT_LIST,
     .offset = AT(http_listen),
     .check = listen_check,
     .def = "[::]:80",
     .help = "Where plain HTTP is redirected to HTTPS, http-01 challenges are answered, and tunnels with "
	     "tls = off are served."},
    {.key = "proxy_https_listen",
     .type = KM_OPT_LIST,
     .offset = AT(proxy_https_listen),
     .check = listen_check,
     .help = "Where HTTPS is served behind a load balancer: every connection begins with a PROXY header "
	     "(version 1 or 2), which names the client. Without one it is refused."},
    {.key = "proxy_http_listen",
     .type = KM_OPT_LIST,
     .offset = AT(proxy_http_listen),
     .check = listen_check,
     .help = "The same for what http_listen serves."},
    {.key = "proxy_protocol_from",
     .type = KM_OPT_LIST,
     .offset = AT(proxy_protocol_from),
     .check = km_prefix_check,
     .def = "127.0.0.0/8 ::1/128",
     .help = "The load balancers (addresses or prefixes) whose PROXY headers are believed; "
	     "connections to proxy_https_listen and proxy_http_listen from elsewhere are refused."},
    {.key = "certificate_dir",
     .type = KM_OPT_PATH,
     .offset = AT(certificate_dir),
     .def = "/etc/kakuremichi/certificates",
     .help = "One PEM file per domain (DOMAIN or DOMAIN.pem, also *.parent) with private key and "
	     "certificate chain. A replaced file is noticed within seconds."},
    {.key = "certificate_key",
     .type = KM_OPT_ENUM,
     .offset = AT(certificate_key),
     .def = "ecdsa",
     .choices = gw_certificate_keys,
     .help = "The keys of certificates that the gateway obtains: ecdsa (P-256), rsa (2048 bits), or "
	     "both (RSA for clients that cannot do better)."},
    {.key = "certificate_cache",
     .type = KM_OPT_INT,
     .offset = AT(certificate_cache),
     .def = "4096",
     .min = 16,
     .max = 1000000,
     .help = "Certificates kept in memory, about 8 KiB each; others are loaded when asked for."},
    {.key = "certificate_alert",
     .type = KM_OPT_STRING,
     .offset = AT(certificate_alert),
     .help = "A program (absolute path) or an http(s) URL that is told when a certificate cannot be "
	     "obtained, is close to its end, or is well again."},
    {.key = "share_certificates",
     .type = KM_OPT_BOOL,
     .offset = AT(share_certificates),
     .def = "on",
     .help = "Gateways obtain one certificate for a name together and give it to each other inside "
	     "the private network. Off: each obtains its own."},
    {.key = "acme",
     .type = KM_OPT_BOOL,
     .offset = AT(acme),
     .def = "on",
     .help = "Obtain certificates for tunnels by ACME. By using it you agree to the terms of the CA "
	     "that acme_directory names."},
    {.key = "acme_directory",
     .type = KM_OPT_STRING,
     .offset = AT(acme_directory),
     .check = https_url_check,
     .def = "https://acme-v02.api.letsencrypt.org/directory",
     .help = "The CA's directory. Default: Let's Encrypt."},
    {.key = "acme_staging",
     .type = KM_OPT_BOOL,
     .offset = AT(acme_staging),
     .def = "off",
     .help = "Use Let's Encrypt's staging CA, whose certificates no browser trusts, in place of "
	     "acme_directory: for tries."},
    {.key = "acme_ca_file",
     .type = KM_OPT_PATH,
     .offset = AT(acme_ca_file),
     .help = "PEM file of the CAs by which the directory's own server certificate is checked. Unset: "
	     "those of the system."},
    {.key = "acme_email",
     .type = KM_OPT_STRING,
     .offset = AT(acme_email),
     .help = "An address that the CA may write to."},
    {.key = "acme_eab_file",
     .type = KM_OPT_PATH,
     .offset = AT(acme_eab_file),
     .help = "For CAs that want an account of theirs first: a file (0600) with two words, the key id "
	     "and the HMAC key in base64url."},
    {.key = "acme_profile",
     .type = KM_OPT_STRING,
     .offset = AT(acme_profile),
     .help = "The CA's profile to ask for, such as tlsserver or shortlived; used when the CA offers "
	     "it."},
    {.key = "acme_chain",
     .type = KM_OPT_STRING,
     .offset = AT(acme_chain),
     .help = "The common name of the root or intermediate that is preferred when the CA offers "
	     "several chains."},
    {.key = "acme_challenges",
     .type = KM_OPT_LIST,
     .offset = AT(acme_challenges),
     .check = challenge_check,
     .def = "tls-alpn-01 http-01 dns-01",
     .help = "The challenges that are tried, in this order. Wildcards need dns-01 (or "
	     "dns-persist-01)."},
    {.key = "acme_dir",
     .type = KM_OPT_PATH,
     .offset = AT(acme_dir),
     .help = "Where account key and certificates are kept, in autocert's layout. Unset: acme in "
	     "state_dir."},
    {.key = "acme_preflight",
     .type = KM_OPT_BOOL,
     .offset = AT(acme_preflight),
     .def = "on",
     .help = "Ask the DNS before an order whether the name leads to a gateway and whether its CAA "
	     "records allow the CA."},
    {.key = "acme_wait",
     .type = KM_OPT_DURATION,
     .offset = AT(acme_wait),
     .def = "15s",
     .min = 0,
     .max = 300000,
     .help = "How long a stranger's handshake waits for a certificate that is being obtained."},
    {.key = "acme_jobs",
     .type = KM_OPT_INT,
     .offset = AT(acme_jobs),
     .def = "32",
     .min = 1,
     .max = 1000,
     .help = "Orders under way at once."},
    {.key = "acme_order_rate",
     .type = KM_OPT_STRING,
     .offset = AT(acme_order_rate),
     .check = rate_check,
     .def = "280/3h",
     .help = "New orders of this gateway, as number/time. The default keeps under Let's Encrypt's "
	     "limit for an account."},
    {.key = "acme_domain_rate",
     .type = KM_OPT_STRING,
     .offset = AT(acme_domain_rate),
     .check = rate_check,
     .def = "45/7d",
     .help = "New certificates below one registered domain; renewals that the CA knows as such are "
	     "not counted."},
    {.key = "acme_name_rate",
     .type = KM_OPT_STRING,
     .offset = AT(acme_name_rate),
     .check = rate_check,
     .def = "5/7d",
     .help = "New certificates for the very same name; renewals that the CA knows as such are not "
	     "counted. A CA whose certificates live for hours or less needs more."},
    {.key = "dns_resolvers",
     .type = KM_OPT_LIST,
     .offset = AT(dns_resolvers),
     .help = "DNS servers (address or address:port) for what ACME looks up. Unset: those of the "
	     "system."},
    {.key = "dns_provider",
     .type = KM_OPT_ENUM,
     .offset = AT(dns_provider),
     .def = "none",
     .choices = gw_dns_providers,
     .help = "Who writes the records of dns-01: rfc2136, cloudflare, route53, hook (a program), or "
	     "none."},
    {.key = "dns_provider_file",
     .type = KM_OPT_PATH,
     .offset = AT(dns_provider_file),
     .help = "What the provider needs to know, as key = value lines, in a file (0600). gatewayd(8) "
	     "lists the keys."},
    {.key = "dns_hook",
     .type = KM_OPT_PATH,
     .offset = AT(dns_hook),
     .help = "With dns_provider = hook: the program, run as PROGRAM present|cleanup NAME VALUE."},
    {.key = "dns_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(dns_timeout),
     .def = "2m",
     .min = 1000,
     .max = 3600000,
     .help = "How long a record may take to be seen on the zone's servers."},
    {.key = "allow_domains",
     .type = KM_OPT_LIST,
     .offset = AT(allow_domains),
     .help = "The only domains that control may open here; *.parent allows every name below "
	     "parent. Unset: all."},
    {.key = "trusted_proxies",
     .type = KM_OPT_LIST,
     .offset = AT(trusted_proxies),
     .check = km_prefix_check,
     .help = "Addresses (203.0.113.0/24) of proxies in front of this gateway. Of what they send, "
	     "X-Forwarded-For or Forwarded names the client, and X-Forwarded-Proto and -Host are "
	     "kept. Of what all others send, nothing is. They may have any number of connections."},
    {.key = "rate_limit",
     .type = KM_OPT_STRING,
     .offset = AT(rate_limit),
     .check = rate_check,
     .help = "Requests for one tunnel, as number/time (100/s), where the tunnel has no "
	     "rateLimit of its own; so many may come at once. More get 429. Unset: no limit."},
    {.key = "address_rate_limit",
     .type = KM_OPT_STRING,
     .offset = AT(address_rate_limit),
     .check = rate_check,
     .help = "The same for each client address (IPv6: /64) at one tunnel, where the tunnel has no "
	     "addressRateLimit. Unset: no limit."},
    {.key = "workers",
     .type = KM_OPT_INT,
     .offset = AT(workers),
     .def = "0",
     .min = 0,
     .max = 256,
     .help = "Threads that carry traffic. 0: one per processor."},
    {.key = "max_connections",
     .type = KM_OPT_INT,
     .offset = AT(max_connections),
     .def = "16384",
     .min = 16,
     .max = 1000000,
     .help = "Connections of strangers served at once; further ones wait in the kernel's queue. In the last "
	     "sixteenth of them those that have been idle longest are closed."},
    {.key = "max_connections_per_address",
     .type = KM_OPT_INT,
     .offset = AT(max_connections_per_address),
     .def = "1024",
     .min = 0,
     .max = 1000000,
     .help = "Connections that one IPv4 address, or one /64 of IPv6, may have open; further ones are "
	     "reset. trusted_proxies may have any number. 0: any number."},
    {.key = "header_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(header_timeout),
     .def = "10s",
     .min = 100,
     .max = 3600000,
     .help = "For the TLS handshake (and a PROXY header before it), and for a request's head once it has "
	     "begun."},
    {.key = "idle_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(idle_timeout),
     .def = "60s",
     .min = 100,
     .max = 3600000,
     .help = "How long a kept-alive connection may wait between requests."},
    {.key = "body_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(body_timeout),
     .def = "60s",
     .min = 100,
     .max = 86400000,
     .help = "How long a body may make no progress."},
    {.key = "body_min_rate",
     .type = KM_OPT_SIZE,
     .offset = AT(body_min_rate),
     .def = "240",
     .min = 0,
     .max = 1048576,
     .help = "Bytes a second, averaged over body_timeout, that a client must send of its request, or read of "
	     "its answer, while it is waited for. A slower one is cut off (408 before the answer); one that sends, after "
	     "half of connect_timeout, if others wait for a connection to its target. Upgraded "
	     "connections, and gRPC's streams to a target of HTTP/2, may send as slowly as they like. 0: any "
	     "progress will do."},
    {.key = "request_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(request_timeout),
     .def = "0",
     .min = 0,
     .max = 604800000,
     .help = "How long a request and its answer may take in all, unless they become an upgraded connection. "
	     "0: any time."},
    {.key = "max_body_size",
     .type = KM_OPT_SIZE,
     .offset = AT(max_body_size),
     .def = "0",
     .help = "The longest body of a request (413 above it), unless its tunnel has a bound of its own. 0: "
	     "any length."},
    {.key = "request_buffer",
     .type = KM_OPT_SIZE,
     .offset = AT(request_buffer),
     .def = "64K",
     .min = 0,
     .max = 65536,
     .help = "So much of a request's body is awaited before its target is asked for a connection, where its length "
	     "is known: a form that comes slowly takes nobody's place there. Of an HTTP/2 connection with more than "
	     "4 requests at once, 16 KiB at most. Bodies without a Content-Length and requests with Expect: "
	     "100-continue go on at once. 0: all do."},
    {.key = "upstream_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(upstream_timeout),
     .def = "60s",
     .min = 100,
     .max = 86400000,
     .help = "How long a target may take to begin its answer (504 after that)."},
    {.key = "connect_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(connect_timeout),
     .def = "10s",
     .min = 100,
     .max = 600000,
     .help = "For the connection to the agent."},
    {.key = "upgrade_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(upgrade_timeout),
     .def = "1h",
     .min = 1000,
     .max = 604800000,
     .help = "How long an upgraded connection (WebSocket) may be silent."},
    {.key = "drain_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(drain_timeout),
     .def = "30s",
     .min = 0,
     .max = 3600000,
     .help = "How long requests in flight may take after SIGTERM. A second SIGTERM ends at once."},
    {.key = "max_header_size",
     .type = KM_OPT_SIZE,
     .offset = AT(max_header_size),
     .def = "64K",
     .min = 1024,
     .max = 1048576,
     .help = "The largest head of a request or of an answer."},
    {.key = "max_header_fields",
     .type = KM_OPT_INT,
     .offset = AT(max_header_fields),
     .def = "128",
     .min = 8,
     .max = 128,
     .help = "The most header fields in a request or an answer."},
    {.key = "tls_record_layer",
     .type = KM_OPT_ENUM,
     .offset = AT(tls_record_layer),
     .def = "own",
     .choices = gw_record_layers,
     .help = "Who protects the data of TLS 1.3 once OpenSSL has done the handshake: own (the gateway, which "
	     "frees OpenSSL's 13 KiB of a connection, and derives the handshake's secrets) or openssl (all of "
	     "it). TLS 1.2's data are OpenSSL's always."},
    {.key = "http2",
     .type = KM_OPT_BOOL,
     .offset = AT(http2),
     .def = "on",
     .help = "Offer HTTP/2 to strangers, beside HTTP/1.1."},
    {.key = "h2_max_streams",
     .type = KM_OPT_INT,
     .offset = AT(h2_max_streams),
     .def = "128",
     .min = 1,
     .max = 1000,
     .help = "Requests at once on one HTTP/2 connection."},
    {.key = "h2_stream_window",
     .type = KM_OPT_SIZE,
     .offset = AT(h2_stream_window),
     .def = "256K",
     .min = 16384,
     .max = 16777216,
     .help = "Bytes of one HTTP/2 request's body that may come before its target takes them."},
    {.key = "h2_connection_window",
     .type = KM_OPT_SIZE,
     .offset = AT(h2_connection_window),
     .def = "1M",
     .min = 65536,
     .max = 134217728,
     .help = "The same of all requests of one HTTP/2 connection together."},
    {.key = "h2_resets",
     .type = KM_OPT_STRING,
     .offset = AT(h2_resets),
     .check = rate_check,
     .def = "200/10s",
     .help = "How many requests one HTTP/2 connection may take back, and how many it may make the "
	     "gateway reset, as number/time. One that does more is closed."},
    {.key = "pool_idle_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(pool_idle_timeout),
     .def = "4s",
     .min = 0,
     .max = 600000,
     .help = "How long an unused connection to a target is kept."},
    {.key = "pool_size",
     .type = KM_OPT_INT,
     .offset = AT(pool_size),
     .def = "64",
     .min = 0,
     .max = 4096,
     .help = "Unused connections kept for one target, in each worker."},
    {.key = "max_target_connections",
     .type = KM_OPT_INT,
     .offset = AT(max_target_connections),
     .def = "1024",
     .min = 1,
     .max = 65536,
     .help = "Connections to one target, of all workers together, where the tunnel's maxConnections says "
	     "nothing else. Further requests wait until one is free, for connect_timeout at most. "
	     "Tunnels with tls = passthrough count only what their own maxConnections says, and nothing waits "
	     "there."},
    {.key = "target_queue",
     .type = KM_OPT_INT,
     .offset = AT(target_queue),
     .def = "1024",
     .min = 0,
     .max = 65536,
     .help = "Requests that may wait for a connection to one target; further ones are answered with 503."},
    {.key = "access_log",
     .type = KM_OPT_STRING,
     .offset = AT(access_log),
     .check = access_log_check,
     .def = "off",
     .help = "Where each request leaves a line: the absolute path of a file, journald (fields KM_*), or "
	     "off. A file that was moved away is made anew within a second, at once after SIGHUP. Lines "
	     "that cannot be written as fast as they come are dropped and counted."},
    {.key = "access_log_format",
     .type = KM_OPT_ENUM,
     .offset = AT(access_log_format),
     .def = "text",
     .choices = gw_access_formats,
     .help = "Of a file: text (the combined format of other servers, then key=value) or json (an object "
	     "a line). gatewayd(8) lists the fields."},
    {.key = "access_log_sample",
     .type = KM_OPT_STRING,
     .offset = AT(access_log_sample),
     .check = sample_check,
     .def = "100%",
     .help = "How many of the requests are logged, as 1/N or a percentage; those answered with 5xx "
	     "always are."},
    {.key = "access_log_query",
     .type = KM_OPT_BOOL,
     .offset = AT(access_log_query),
     .def = "on",
     .help = "Off: what follows the question mark of a path or a referer, which may be a secret, is not "
	     "logged."},
    {.key = "via",
     .type = KM_OPT_BOOL,
     .offset = AT(via),
     .def = "off",
     .help = "Whether targets are sent Via, as RFC 9110 wants it. Some send less to who has it: nginx does "
	     "not compress. Loops are seen without it, by CDN-Loop (RFC 8586)."},
    {.key = "metrics_tunnels",
     .type = KM_OPT_INT,
     .offset = AT(metrics_tunnels),
     .def = "1000",
     .min = 0,
     .max = 10000,
     .help = "So many tunnels have metrics of their own: where there are more, the busiest. All others "
	     "are summed as domain=\"other\"."},
    {.key = "metrics_tunnels_keep",
     .type = KM_OPT_DURATION,
     .offset = AT(metrics_tunnels_keep),
     .def = "15m",
     .min = 1000,
     .max = 86400000,
     .help = "So long a tunnel keeps metrics of its own at least, before a busier one may have its place. "
	     "What is busy is judged by about that time."},
    KM_HOST_OPTS_OUTPUT(struct gw_settings, host, "9101"),
};

const struct km_conf_spec gw_settings_spec = {
    .program = "gatewayd",
    .file = "gateway.conf",
    .what = "gatewayd answers strangers on ports 80 and 443, ends TLS and passes each request "
	    "through WireGuard to the agent that serves its domain.",
    .opts = opts,
    .n_opts = KM_ARRAY_LEN(opts),
    .size = sizeof(struct gw_settings),
};
