/* SPDX-License-Identifier: MIT */
/* What gatewayd and agentd, the daemons that control calls hosts, are told in the same way: where
 * control is, where files are kept, the private network, metrics, the log. Each embeds the struct
 * and the rows; what only one of them has stays in its own settings. */
#ifndef KM_HOST_SETTINGS_H
#define KM_HOST_SETTINGS_H

#include "libkm/base/log_settings.h"
#include "libkm/link/pin.h"
#include "libkm/link/url.h"
#include "libkm/privnet/privnet.h"
#include "libkm/uplink/uplink.h"

struct km_host_settings {
	struct km_strlist control;
	char *control_pin, *api_key_file;
	struct km_strlist ca_pin;
	int64_t certificate_grace, key_rotation; /* ms */
	char *state_dir, *runtime_dir;
	int wireguard;          /* enum km_wg_mode */
	int network;            /* index into km_host_networks */
	int64_t wireguard_port; /* its row is the program's: bounds and default differ */
	char *metrics_listen;
	char *warden;
	int64_t warden_linger; /* ms */
	struct km_log_settings log;
};

extern const char *const km_host_wireguards[], *const km_host_networks[];
/* Checks of km_opt: an address and a port. */
const char *km_host_check_listen(const char *value);
/* A certificate's fingerprint. */
const char *km_host_check_fingerprint(const char *value);

/* clang-format off */

/* T is the program's struct of settings, whose member `at` is a struct km_host_settings; who is
 * "agent" or "gateway". */
#define KM_HOST_OPTS(T, at, who)                                                                   \
	{.key = "control",                                                                         \
	 .type = KM_OPT_LIST,                                                                      \
	 .offset = offsetof(T, at.control),                                                        \
	 .check = km_link_url_check,                                                               \
	 .help = "URLs of control, as wss://HOST:3001, tried in turn. Without one the " who        \
		 " serves the configuration that it has on disk."},                                \
	{.key = "control_pin",                                                                     \
	 .type = KM_OPT_STRING,                                                                    \
	 .offset = offsetof(T, at.control_pin),                                                    \
	 .check = km_pin_check,                                                                    \
	 .help = "The pin of control's root certificate, sha256//..., as control writes it into "  \
		 "root.pin."},                                                                     \
	{.key = "ca_pin",                                                                          \
	 .type = KM_OPT_LIST,                                                                      \
	 .offset = offsetof(T, at.ca_pin),                                                         \
	 .check = km_host_check_fingerprint,                                                       \
	 .help = "Fingerprints of certificate authorities (CAs), one of which must have signed "   \
		 "the first trust bundle that control sends; join writes them. Unset: the first "  \
		 "bundle is taken."},                                                              \
	{.key = "certificate_grace",                                                               \
	 .type = KM_OPT_DURATION,                                                                  \
	 .offset = offsetof(T, at.certificate_grace),                                              \
	 .def = "30d",                                                                             \
	 .min = 0,                                                                                 \
	 .max = 31622400000,                                                                       \
	 .help = "For how long other hosts are borne with after their certificates have ended, "   \
		 "counted while this program runs and not by the clock, which may be wrong."},     \
	{.key = "key_rotation",                                                                    \
	 .type = KM_OPT_DURATION,                                                                  \
	 .offset = offsetof(T, at.key_rotation),                                                   \
	 .def = "30d",                                                                             \
	 .min = 0,                                                                                 \
	 .max = 31622400000,                                                                       \
	 .help = "After how long the WireGuard key is changed, with traffic running; 0: never."},  \
	{.key = "api_key_file",                                                                    \
	 .type = KM_OPT_PATH,                                                                      \
	 .offset = offsetof(T, at.api_key_file),                                                   \
	 .def = KM_SYSCONF "/" who ".key",                                                         \
	 .help = "The file with this " who "'s API key. Nobody but its owner may read it."},       \
	{.key = "state_dir",                                                                       \
	 .type = KM_OPT_PATH,                                                                      \
	 .offset = offsetof(T, at.state_dir),                                                      \
	 .def = "/var/lib/kakuremichi/" who,                                                       \
	 .help = "Where the applied configuration, the WireGuard key and what was learned are "    \
		 "kept."},                                                                         \
	{.key = "runtime_dir",                                                                     \
	 .type = KM_OPT_PATH,                                                                      \
	 .offset = offsetof(T, at.runtime_dir),                                                    \
	 .def = "/run/kakuremichi/" who,                                                           \
	 .help = "Where the warden's socket is."},                                                 \
	{.key = "wireguard",                                                                       \
	 .type = KM_OPT_ENUM,                                                                      \
	 .offset = offsetof(T, at.wireguard),                                                      \
	 .def = "auto",                                                                            \
	 .choices = km_host_wireguards,                                                            \
	 .help = "The WireGuard device: the kernel's, the embedded one, whichever works (auto), "  \
		 "or none where agents and gateways have a network to one another already."},      \
	{.key = "network",                                                                         \
	 .type = KM_OPT_ENUM,                                                                      \
	 .offset = offsetof(T, at.network),                                                        \
	 .def = "private",                                                                         \
	 .choices = km_host_networks,                                                              \
	 .help = "Whether the tunnel lives in a network namespace of its own (private) or on the " \
		 "host."},                                                                         \
	{.key = "warden",                                                                          \
	 .type = KM_OPT_PATH,                                                                      \
	 .offset = offsetof(T, at.warden),                                                         \
	 .help = "The program km-warden. Unset: beside this program, else where it is "            \
		 "installed."},                                                                    \
	{.key = "warden_linger",                                                                   \
	 .type = KM_OPT_DURATION,                                                                  \
	 .offset = offsetof(T, at.warden_linger),                                                  \
	 .def = "60s",                                                                             \
	 .min = 0,                                                                                 \
	 .max = 86400000,                                                                          \
	 .help = "How long the warden keeps the private network for a daemon that vanished."}

/* What every daemon says about itself, at the end of the table; port is text: "9102". */
#define KM_HOST_OPTS_OUTPUT(T, at, port)                                                           \
	{.key = "metrics_listen",                                                                  \
	 .type = KM_OPT_STRING,                                                                    \
	 .offset = offsetof(T, at.metrics_listen),                                                 \
	 .def = "127.0.0.1:" port,                                                                 \
	 .check = km_host_check_listen,                                                            \
	 .help = "Where /metrics, /healthz and /readyz are served, without TLS. Empty: nowhere."}, \
	KM_LOG_OPTS(T, at.log)

/* clang-format on */

/* Makes state_dir, and runtime_dir where there will be a warden. KM_EIO with a sentence. */
int km_host_folders(const struct km_host_settings *s, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* What the settings say of the private network, and of the standing with control: in these the
 * program adds its type, loop, key and hooks. Strings are borrowed from s. */
struct km_privnet_opts km_host_privnet_opts(const struct km_host_settings *s);
struct km_uplink_opts km_host_uplink_opts(const struct km_host_settings *s);

#endif
