/* SPDX-License-Identifier: MIT */
/* The settings of agentd: agent.conf. */
#ifndef AGENTD_SETTINGS_H
#define AGENTD_SETTINGS_H

#include "libkm/host/settings.h"

struct settings {
	struct km_host_settings host;
	struct km_strlist allow_targets;
	int64_t workers, max_connections;
	int64_t connect_timeout, idle_timeout, drain_timeout, probe_interval; /* ms */
};

extern const struct km_conf_spec settings_spec;

#endif
