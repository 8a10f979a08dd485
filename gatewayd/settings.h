/* SPDX-License-Identifier: MIT */
/* gateway.conf as a struct. */
#ifndef GATEWAYD_SETTINGS_H
#define GATEWAYD_SETTINGS_H

#include "libkm/host/settings.h"

enum gw_certificate_key { GW_KEY_ECDSA, GW_KEY_RSA, GW_KEY_BOTH };
enum gw_record_layer { GW_RECORDS_OWN, GW_RECORDS_OPENSSL };
enum gw_dns_provider { GW_DNS_NONE, GW_DNS_RFC2136, GW_DNS_CLOUDFLARE, GW_DNS_ROUTE53, GW_DNS_HOOK };

struct gw_settings {
	struct km_host_settings host;
	struct km_strlist public_ip;
	struct km_strlist https_listen, http_listen;
	struct km_strlist proxy_https_listen, proxy_http_listen, proxy_protocol_from;
	char *certificate_dir;
	int certificate_key; /* enum gw_certificate_key */
	int64_t certificate_cache;
	char *certificate_alert;
	bool share_certificates;
	bool acme, acme_staging, acme_preflight;
	char *acme_directory, *acme_ca_file, *acme_email, *acme_eab_file, *acme_profile, *acme_chain;
	struct km_strlist acme_challenges;
	char *acme_dir; /* NULL: "acme" in the state folder */
	int64_t acme_wait, acme_jobs;
	char *acme_order_rate, *acme_domain_rate, *acme_name_rate;
	struct km_strlist dns_resolvers;
	int dns_provider; /* enum gw_dns_provider */
	char *dns_provider_file, *dns_hook;
	int64_t dns_timeout;
	struct km_strlist allow_domains;
	struct km_strlist trusted_proxies;
	char *rate_limit, *address_rate_limit; /* NULL: none */
	int64_t workers, max_connections, max_connections_per_address;
	int64_t header_timeout, idle_timeout, body_timeout, upstream_timeout, connect_timeout;
	int64_t body_min_rate, request_timeout, max_body_size, request_buffer;
	int64_t upgrade_timeout, drain_timeout;
	int64_t max_header_size, max_header_fields;
	int tls_record_layer; /* enum gw_record_layer */
	bool http2;
	int64_t h2_max_streams, h2_stream_window, h2_connection_window;
	char *h2_resets;
	int64_t pool_idle_timeout, pool_size, max_target_connections, target_queue;
	char *access_log; /* "off", "journald" or a path */
	int access_log_format; /* enum access_format */
	char *access_log_sample;
	bool access_log_query, via;
	int64_t metrics_tunnels, metrics_tunnels_keep;
};

extern const struct km_conf_spec gw_settings_spec;

/* acme_dir, or what stands for it when it is unset; the caller frees. */
char *gw_acme_dir(const struct gw_settings *s);

/* Whether gateways give each other certificates and proofs: over the private network only. */
static inline bool gw_settings_shares(const struct gw_settings *s)
{
	return s->share_certificates && s->host.wireguard != KM_WG_NONE;
}

/* "300/3h", "100/s": a number and a time in milliseconds, both above zero. KM_EINVAL. */
int gw_rate_parse(int64_t *n, int64_t *ms, const char *s) __attribute__((warn_unused_result));

#endif
