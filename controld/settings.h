/* SPDX-License-Identifier: MIT */
/* The settings of controld: control.conf. */
#ifndef CONTROLD_SETTINGS_H
#define CONTROLD_SETTINGS_H

#include "libkm/base/conf.h"

struct settings {
	int log_level;  /* index into error, warn, info, debug; see settings_log_level */
	int log_format; /* enum km_log_format */
	char *state_dir;
	struct km_strlist names; /* for the server certificate, besides host name and loopback */
	char *rest_listen, *link_listen;
	char *metrics_listen;  /* NULL: only on the REST port */
	char *network;         /* "10.0.0.0/8": an IPv4 prefix of 8 to 15 bits */
	char *master_key_file; /* NULL: STATE/master.key */
	char *database;        /* "embedded" or a postgresql:// URL */
	char *database_user, *database_program_dir;
};

extern const struct km_conf_spec settings_spec;

/* The log level of the settings as km_log_init wants it (enum km_log_level). */
int settings_log_level(const struct settings *s);

#endif
