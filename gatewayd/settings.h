/* SPDX-License-Identifier: MIT */
/* gateway.conf as a struct. */
#ifndef GATEWAYD_SETTINGS_H
#define GATEWAYD_SETTINGS_H

#include "libkm/base/conf.h"

struct gw_settings {
	int log_level, log_format; /* indexes into the choices: see gw_log_level() */
	char *state_dir, *runtime_dir;
	struct km_strlist control;
	char *control_pin, *api_key_file;
	int wireguard, network;
	int64_t wireguard_port;
	struct km_strlist public_ip;
	struct km_strlist https_listen, http_listen;
	char *certificate_dir;
	struct km_strlist allow_domains;
	int64_t workers, max_connections;
	char *metrics_listen, *warden;
	int64_t warden_linger;
	int64_t header_timeout, idle_timeout, body_timeout, upstream_timeout, connect_timeout;
	int64_t upgrade_timeout, drain_timeout;
	int64_t max_header_size, max_header_fields;
	int64_t pool_idle_timeout, pool_size;
};

extern const struct km_conf_spec gw_settings_spec;

/* The log level that the setting means, as enum km_log_level. */
int gw_log_level(const struct gw_settings *s);

#endif
