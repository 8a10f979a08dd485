/* SPDX-License-Identifier: MIT */
#include "agentd/settings.h"
#include "agentd/forward/allow.h"
#include "libkm/base/addr.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/link/pin.h"
#include "libkm/link/url.h"

static const char *const levels[] = {"error", "warn", "info", "debug", NULL};
static const char *const formats[] = {"text", "json", NULL};
static const char *const devices[] = {"auto", "kernel", "embedded", "none", NULL};
static const char *const networks[] = {"private", "host", NULL};

static const char *check_target(const char *value)
{
	return allow_check(value);
}

static const char *check_listen(const char *value)
{
	struct km_hostport hp;

	return km_hostport_parse(&hp, value, NULL) == 0 ? NULL : "not address:port";
}

#define AT(member) offsetof(struct settings, member)

static const struct km_opt opts[] = {
    {.key = "control",
     .type = KM_OPT_LIST,
     .offset = AT(control),
     .check = km_link_url_check,
     .help = "URLs of control, as wss://HOST:3001, tried in turn. Without one the agent serves the "
	     "configuration that it has on disk."},
    {.key = "control_pin",
     .type = KM_OPT_STRING,
     .offset = AT(control_pin),
     .check = km_pin_check,
     .help = "The pin of control's root certificate, sha256//..., as control writes it into "
	     "root.pin."},
    {.key = "api_key_file",
     .type = KM_OPT_PATH,
     .offset = AT(api_key_file),
     .def = KM_SYSCONF "/agent.key",
     .help = "The file with this agent's API key. Nobody but its owner may read it."},
    {.key = "state_dir",
     .type = KM_OPT_PATH,
     .offset = AT(state_dir),
     .def = "/var/lib/kakuremichi/agent",
     .help = "Where the applied configuration and the WireGuard key are kept."},
    {.key = "runtime_dir",
     .type = KM_OPT_PATH,
     .offset = AT(runtime_dir),
     .def = "/run/kakuremichi/agent",
     .help = "Where the warden's socket is."},
    {.key = "wireguard",
     .type = KM_OPT_ENUM,
     .offset = AT(wireguard),
     .def = "auto",
     .choices = devices,
     .help = "The WireGuard device: the kernel's, the embedded one, whichever works (auto), or "
	     "none where a network to the gateways exists already."},
    {.key = "network",
     .type = KM_OPT_ENUM,
     .offset = AT(network),
     .def = "private",
     .choices = networks,
     .help = "Whether the tunnel lives in a network of its own (private) or on the host."},
    {.key = "wireguard_port",
     .type = KM_OPT_INT,
     .offset = AT(wireguard_port),
     .def = "0",
     .min = 0,
     .max = 65535,
     .help = "WireGuard's UDP port; 0 takes any free one."},
    {.key = "allow_targets",
     .type = KM_OPT_LIST,
     .offset = AT(allow_targets),
     .def = ALLOW_DEFAULT,
     .check = check_target,
     .help = "What control may ask for: address:ports, prefix/bits:ports, [v6]:ports, "
	     "name:ports or unix:/path, with ports *, 80 or 8000-8100. Anything else is refused, "
	     "whatever control says."},
    {.key = "workers",
     .type = KM_OPT_INT,
     .offset = AT(workers),
     .def = "0",
     .min = 0,
     .max = 64,
     .help = "Threads that forward connections; 0 makes one per processor."},
    {.key = "max_connections",
     .type = KM_OPT_INT,
     .offset = AT(max_connections),
     .def = "8192",
     .min = 1,
     .max = 1000000,
     .help = "Connections at once; further ones wait. Less where file descriptors are short."},
    {.key = "connect_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(connect_timeout),
     .def = "5s",
     .min = 10,
     .max = 300000,
     .help = "How long a target may take to answer."},
    {.key = "idle_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(idle_timeout),
     .def = "1h",
     .min = 1000,
     .max = 30LL * 86400 * 1000,
     .help = "A connection on which nothing moves for so long is cut."},
    {.key = "drain_timeout",
     .type = KM_OPT_DURATION,
     .offset = AT(drain_timeout),
     .def = "30s",
     .min = 0,
     .max = 3600000,
     .help = "How long running connections may go on after SIGTERM."},
    {.key = "probe_interval",
     .type = KM_OPT_DURATION,
     .offset = AT(probe_interval),
     .def = "3s",
     .min = 100,
     .max = 60000,
     .help = "How often the path to each gateway is probed."},
    {.key = "metrics_listen",
     .type = KM_OPT_STRING,
     .offset = AT(metrics_listen),
     .def = "127.0.0.1:9102",
     .check = check_listen,
     .help = "Where /metrics, /healthz and /readyz are served, without TLS. Empty: nowhere."},
    {.key = "warden",
     .type = KM_OPT_PATH,
     .offset = AT(warden),
     .help = "The program km-warden. Unset: beside this program, else where it is installed."},
    {.key = "warden_linger",
     .type = KM_OPT_DURATION,
     .offset = AT(warden_linger),
     .def = "60s",
     .min = 0,
     .max = 3600000,
     .help = "How long the warden keeps the private network for an agent that vanished."},
    {.key = "log_level",
     .type = KM_OPT_ENUM,
     .offset = AT(log_level),
     .def = "info",
     .choices = levels,
     .help = "What is logged."},
    {.key = "log_format",
     .type = KM_OPT_ENUM,
     .offset = AT(log_format),
     .def = "text",
     .choices = formats,
     .help = "How it is logged."},
};

const struct km_conf_spec settings_spec = {
    .program = "agentd",
    .file = "agent.conf",
    .what = "The agent runs beside the services that are to be reached, and connects what comes "
	    "from the gateways with the targets that its own list allows.",
    .opts = opts,
    .n_opts = KM_ARRAY_LEN(opts),
    .size = sizeof(struct settings),
};

int settings_log_level(const struct settings *s)
{
	static const int level[] = {KM_LOG_ERROR, KM_LOG_WARN, KM_LOG_INFO, KM_LOG_DEBUG};

	return level[s->log_level];
}
