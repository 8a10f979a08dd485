/* SPDX-License-Identifier: MIT */
#include "agentd/settings.h"
#include "agentd/forward/allow.h"
#include "libkm/base/util.h"

static const char *check_target(const char *value)
{
	return allow_check(value);
}

#define AT(member) offsetof(struct settings, member)

static const struct km_opt opts[] = {
    KM_HOST_OPTS(struct settings, host, "agent"),
    {.key = "wireguard_port",
     .type = KM_OPT_INT,
     .offset = AT(host.wireguard_port),
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
     .help = "How long running connections may go on after SIGTERM. Gateways close those that they "
	     "do not "
	     "use within their pool_idle_timeout; those of a gateway that cannot be reached are "
	     "not waited for."},
    {.key = "probe_interval",
     .type = KM_OPT_DURATION,
     .offset = AT(probe_interval),
     .def = "3s",
     .min = 100,
     .max = 60000,
     .help = "How often the path to each gateway is probed, and its width while it is in use."},
    KM_HOST_OPTS_OUTPUT(struct settings, host, "9102"),
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
