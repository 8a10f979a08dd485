/* SPDX-License-Identifier: MIT */
#include "controld/settings.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include "libkm/link/url.h"
#include <string.h>

static const char *check_network(const char *value)
{
	struct km_prefix p, masked;
	uint32_t ip, mask;

	if (km_prefix_parse(&p, value) || p.addr.family != AF_INET)
		return "not an IPv4 prefix such as 10.0.0.0/8";
	if (p.bits < 8 || p.bits > 15)
		return "must have 8 to 15 bits: each agent gets a /24 of its own";
	masked = p;
	memcpy(&ip, p.addr.ip, 4);
	mask = htonl(0xffffffffu << (32 - p.bits));
	ip &= mask;
	memcpy(masked.addr.ip, &ip, 4);
	return km_prefix_eq(&p, &masked) ? NULL : "has bits set behind the prefix";
}

static const char *check_database(const char *value)
{
	if (!strcmp(value, "embedded") || !strncmp(value, "postgresql://", 13) ||
	    !strncmp(value, "postgres://", 11))
		return NULL;
	return "neither \"embedded\" nor a postgresql:// URL";
}

static const char *const cas[] = {"control", "offline", NULL};

#define AT(member) offsetof(struct settings, member)
static const struct km_opt opts[] = {
    KM_LOG_OPTS(struct settings, log),
    {.key = "state_dir",
     .type = KM_OPT_PATH,
     .offset = AT(state_dir),
     .def = "/var/lib/kakuremichi/control",
     .help = "Holds the embedded database, the master key, root.crt, root.pin and admin.token."},
    {.key = "names",
     .type = KM_OPT_LIST,
     .offset = AT(names),
     .help =
	 "Host names and addresses under which daemons and operators reach this server, for its "
	 "certificate. The host's own name and the loopback addresses are always in it."},
    {.key = "rest_listen",
     .type = KM_OPT_STRING,
     .offset = AT(rest_listen),
     .def = "[::]:3000",
     .help = "Where the REST interface listens (HTTPS)."},
    {.key = "link_listen",
     .type = KM_OPT_STRING,
     .offset = AT(link_listen),
     .def = "[::]:3001",
     .help = "Where the WebSocket for agents and gateways listens (TLS)."},
    {.key = "certificate_file",
     .type = KM_OPT_PATH,
     .offset = AT(certificate_file),
     .help = "A certificate of yours for the REST interface, with its chain, in PEM, in place of the one "
	     "under control's own root. Taken again when the file is replaced. The WebSocket keeps its own, "
	     "whose root agents and gateways pin."},
    {.key = "certificate_key_file",
     .type = KM_OPT_PATH,
     .offset = AT(certificate_key_file),
     .help = "Its private key, in PEM without a passphrase, which not everybody may read. Unset: it is in "
	     "certificate_file too."},
    {.key = "metrics_listen",
     .type = KM_OPT_STRING,
     .offset = AT(metrics_listen),
     .help = "An additional plain HTTP listener for /metrics, /healthz and /readyz, for loopback."},
    {.key = "network",
     .type = KM_OPT_STRING,
     .offset = AT(network),
     .def = "10.0.0.0/8",
     .check = check_network,
     .help =
	 "The private network, IPv4, 8 to 15 bits. Cannot be changed once there is an agent or a "
	 "gateway."},
    {.key = "master_key_file",
     .type = KM_OPT_PATH,
     .offset = AT(master_key_file),
     .help =
	 "The key that seals secrets in the database: 64 hexadecimal digits, mode 0600. Made at "
	 "the "
	 "first start; STATE/master.key when unset. All controld on one database need the same."},
    {.key = "ca",
     .type = KM_OPT_ENUM,
     .offset = AT(ca),
     .def = "control",
     .choices = cas,
     .help = "Where the key of the certificate authority (CA) for agents and gateways is: made here at "
	     "the first start and sealed with the master key (control), or kept by the operator "
	     "(offline), who signs with kmctl cert sign. Decided at the first start."},
    {.key = "ca_certificate",
     .type = KM_OPT_PATH,
     .offset = AT(ca_certificate),
     .help = "With ca = offline: the CA's certificate, as kmctl cert ca has made it; taken at the first "
	     "start."},
    {.key = "certificate_lifetime",
     .type = KM_OPT_DURATION,
     .offset = AT(certificate_lifetime),
     .def = "90d",
     .min = 10000,
     .max = 31622400000,
     .help = "How long the certificates of agents and gateways are valid. They are renewed when a third "
	     "of that is left."},
    {.key = "link_urls",
     .type = KM_OPT_LIST,
     .offset = AT(link_urls),
     .check = km_link_url_check,
     .help = "Where agents and gateways reach the link, as wss://HOST:3001: what join tokens tell them. "
	     "Unset: made from names and link_listen."},
    {.key = "database",
     .type = KM_OPT_STRING,
     .offset = AT(database),
     .def = "embedded",
     .check = check_database,
     .help = "\"embedded\" runs a private PostgreSQL under state_dir; a postgresql:// URL uses a "
	     "server "
	     "of yours."},
    {.key = "database_user",
     .type = KM_OPT_STRING,
     .offset = AT(database_user),
     .def = "postgres",
     .help = "The user that the embedded PostgreSQL runs as when controld is root."},
    {.key = "database_program_dir",
     .type = KM_OPT_PATH,
     .offset = AT(database_program_dir),
     .def = "/usr/lib/postgresql/15/bin",
     .help = "The folder of initdb and postgres for the embedded database."},
};

const struct km_conf_spec settings_spec = {
    .program = "controld",
    .file = "control.conf",
    .what = "controld keeps the configuration of all agents, gateways and tunnels and tells it to "
	    "them.",
    .opts = opts,
    .n_opts = KM_ARRAY_LEN(opts),
    .size = sizeof(struct settings),
};
