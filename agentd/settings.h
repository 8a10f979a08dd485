/* SPDX-License-Identifier: MIT */
/* The settings of agentd: agent.conf. */
#ifndef AGENTD_SETTINGS_H
#define AGENTD_SETTINGS_H

#include "libkm/base/conf.h"

struct settings {
	int log_level;  /* index into error, warn, info, debug; see settings_log_level */
	int log_format; /* enum km_log_format */
	struct km_strlist control;
	char *control_pin, *api_key_file;
	char *state_dir, *runtime_dir;
	int wireguard; /* enum km_wg_mode */
	int network;   /* index into private, host */
	int64_t wireguard_port;
	struct km_strlist allow_targets;
	int64_t workers, max_connections;
	int64_t connect_timeout, idle_timeout, drain_timeout, probe_interval; /* ms */
	char *metrics_listen;
	char *warden;
	int64_t warden_linger;
};

extern const struct km_conf_spec settings_spec;

/* The log level of the settings as km_log_init wants it (enum km_log_level). */
int settings_log_level(const struct settings *s);

#endif
