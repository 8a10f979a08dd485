/* SPDX-License-Identifier: MIT */
#include "gatewayd/settings.h"
#include "libkm/base/addr.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"

static const char *const log_levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const log_formats[] = {"text", "json", NULL};
static const char *const wireguards[] = {"auto", "kernel", "embedded", "none", NULL};
static const char *const networks[] = {"private", "host", NULL};

static const char *check_listen_or_empty(const char *v)
{
	struct km_hostport hp;
	if (!*v)
		return NULL;
	return km_hostport_parse(&hp, v, NULL) ? "not an address and port" : NULL;
}

#define AT(member) offsetof(struct gw_settings, member)
static const struct km_opt opts[] = {
    {.key = "log_level", .type = KM_OPT_ENUM, .offset = AT(log_level), .def = "info",
     .choices = log_levels, .help = "The least important lines that are written."},
    {.key = "log_format", .type = KM_OPT_ENUM, .offset = AT(log_format), .def = "text",
     .choices = log_formats, .help = "Lines as key=value text or as JSON."},
    {.key = "state_dir", .type = KM_OPT_PATH, .offset = AT(state_dir),
     .def = "/var/lib/kakuremichi/gateway",
     .help = "Where the applied configuration, the WireGuard key and learned endpoints are kept."},
    {.key = "runtime_dir", .type = KM_OPT_PATH, .offset = AT(runtime_dir),
     .def = "/run/kakuremichi/gateway", .help = "Where the warden's socket is made."},
    {.key = "control", .type = KM_OPT_LIST, .offset = AT(control),
     .help = "URLs of the control servers, tried in turn. Without one the gateway serves what it "
	     "has on disk."},
    {.key = "control_pin", .type = KM_OPT_STRING, .offset = AT(control_pin),
     .help = "The pin of control's root certificate (sha256//...), as control prints it."},
    {.key = "api_key_file", .type = KM_OPT_PATH, .offset = AT(api_key_file),
     .help = "A file with this gateway's API key, readable by its owner only."},
    {.key = "wireguard", .type = KM_OPT_ENUM, .offset = AT(wireguard), .def = "auto",
     .choices = wireguards,
     .help = "The WireGuard device: the kernel's, the embedded one, whichever works, or none when "
	     "the network to the agents already exists."},
    {.key = "network", .type = KM_OPT_ENUM, .offset = AT(network), .def = "private",
     .choices = networks,
     .help = "Whether the tunnel lives in a network namespace of its own or on the host."},
    {.key = "wireguard_port", .type = KM_OPT_INT, .offset = AT(wireguard_port), .def = "51820",
     .min = 1, .max = 65535, .help = "The UDP port on which agents reach this gateway."},
    {.key = "public_ip", .type = KM_OPT_LIST, .offset = AT(public_ip),
     .help = "Addresses or host names by which agents reach this gateway. Unset: the address from "
	     "which control sees it."},
    {.key = "https_listen", .type = KM_OPT_LIST, .offset = AT(https_listen), .def = "[::]:443",
     .help = "Where HTTPS is served."},
    {.key = "http_listen", .type = KM_OPT_LIST, .offset = AT(http_listen), .def = "[::]:80",
     .help = "Where plain HTTP is redirected to HTTPS."},
    {.key = "certificate_dir", .type = KM_OPT_PATH, .offset = AT(certificate_dir),
     .def = "/etc/kakuremichi/certificates",
     .help = "One PEM file per domain (DOMAIN or DOMAIN.pem, also *.parent) with private key and "
	     "certificate chain. A replaced file is noticed within seconds."},
    {.key = "allow_domains", .type = KM_OPT_LIST, .offset = AT(allow_domains),
     .help = "The only domains that control may open here; *.parent allows every name below "
	     "parent. Unset: all."},
    {.key = "workers", .type = KM_OPT_INT, .offset = AT(workers), .def = "0", .min = 0, .max = 256,
     .help = "Threads that carry traffic. 0: one per processor."},
    {.key = "max_connections", .type = KM_OPT_INT, .offset = AT(max_connections), .def = "16384",
     .min = 16, .max = 1000000,
     .help = "Connections of strangers served at once; further ones wait in the kernel's queue."},
    {.key = "metrics_listen", .type = KM_OPT_STRING, .offset = AT(metrics_listen),
     .def = "127.0.0.1:9101", .check = check_listen_or_empty,
     .help = "Where /metrics, /healthz and /readyz are answered. Empty: nowhere."},
    {.key = "warden", .type = KM_OPT_PATH, .offset = AT(warden),
     .help = "The program km-warden. Unset: beside this program, else where it is installed."},
    {.key = "warden_linger", .type = KM_OPT_DURATION, .offset = AT(warden_linger), .def = "60s",
     .min = 0, .max = 86400000, .help = "How long the warden outlives a vanished gatewayd."},
    {.key = "header_timeout", .type = KM_OPT_DURATION, .offset = AT(header_timeout), .def = "10s",
     .min = 100, .max = 3600000,
     .help = "For the TLS handshake, and for a request's head once it has begun."},
    {.key = "idle_timeout", .type = KM_OPT_DURATION, .offset = AT(idle_timeout), .def = "60s",
     .min = 100, .max = 3600000, .help = "How long a kept-alive connection may wait between requests."},
    {.key = "body_timeout", .type = KM_OPT_DURATION, .offset = AT(body_timeout), .def = "60s",
     .min = 100, .max = 86400000, .help = "How long a body may make no progress."},
    {.key = "upstream_timeout", .type = KM_OPT_DURATION, .offset = AT(upstream_timeout),
     .def = "60s", .min = 100, .max = 86400000,
     .help = "How long a target may take to begin its answer (504 after that)."},
    {.key = "connect_timeout", .type = KM_OPT_DURATION, .offset = AT(connect_timeout),
     .def = "10s", .min = 100, .max = 600000, .help = "For the connection to the agent."},
    {.key = "upgrade_timeout", .type = KM_OPT_DURATION, .offset = AT(upgrade_timeout), .def = "1h",
     .min = 1000, .max = 604800000,
     .help = "How long an upgraded connection (WebSocket) may be silent."},
    {.key = "drain_timeout", .type = KM_OPT_DURATION, .offset = AT(drain_timeout), .def = "30s",
     .min = 0, .max = 3600000,
     .help = "How long requests in flight may take after SIGTERM. A second SIGTERM ends at once."},
    {.key = "max_header_size", .type = KM_OPT_SIZE, .offset = AT(max_header_size), .def = "64K",
     .min = 1024, .max = 1048576, .help = "The largest head of a request or of an answer."},
    {.key = "max_header_fields", .type = KM_OPT_INT, .offset = AT(max_header_fields), .def = "128",
     .min = 8, .max = 128, .help = "The most header fields in a request or an answer."},
    {.key = "pool_idle_timeout", .type = KM_OPT_DURATION, .offset = AT(pool_idle_timeout),
     .def = "4s", .min = 0, .max = 600000,
     .help = "How long an unused connection to a target is kept."},
    {.key = "pool_size", .type = KM_OPT_INT, .offset = AT(pool_size), .def = "64", .min = 0,
     .max = 4096, .help = "Unused connections kept for one target, in each worker."},
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

int gw_log_level(const struct gw_settings *s)
{
	static const int level[] = {KM_LOG_ERROR, KM_LOG_WARN, KM_LOG_INFO, KM_LOG_DEBUG};
	return level[s->log_level];
}
