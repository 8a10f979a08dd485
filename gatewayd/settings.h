/* SPDX-License-Identifier: MIT */
/* gateway.conf as a struct. */
#ifndef GATEWAYD_SETTINGS_H
#define GATEWAYD_SETTINGS_H

#include "libkm/host/settings.h"

struct gw_settings {
	struct km_host_settings host;
	struct km_strlist public_ip;
	struct km_strlist https_listen, http_listen;
	char *certificate_dir;
	struct km_strlist allow_domains;
	int64_t workers, max_connections;
	int64_t header_timeout, idle_timeout, body_timeout, upstream_timeout, connect_timeout;
	int64_t upgrade_timeout, drain_timeout;
	int64_t max_header_size, max_header_fields;
	int64_t pool_idle_timeout, pool_size;
};

extern const struct km_conf_spec gw_settings_spec;

#endif
