/* SPDX-License-Identifier: MIT */
/* The settings of controld: control.conf. */
#ifndef CONTROLD_SETTINGS_H
#define CONTROLD_SETTINGS_H

#include "libkm/base/log_settings.h"

enum settings_ca { SETTINGS_CA_CONTROL, SETTINGS_CA_OFFLINE };

struct settings {
	struct km_log_settings log;
	char *state_dir;
	struct km_strlist names; /* for the server certificate, besides host name and loopback */
	char *rest_listen, *link_listen;
	char *certificate_file, *certificate_key_file; /* of the operator's; NULL: our own */
	char *metrics_listen;  /* NULL: only on the REST port */
	char *network;         /* "10.0.0.0/8": an IPv4 prefix of 8 to 15 bits */
	char *master_key_file; /* NULL: STATE/master.key */
	char *database;        /* "embedded" or a postgresql:// URL */
	char *database_user, *database_program_dir;
	struct km_strlist link_urls; /* what join tokens say; none: made from names */
	int ca;			     /* enum settings_ca */
	char *ca_certificate;	     /* NULL: none */
	int64_t certificate_lifetime; /* ms */
};

extern const struct km_conf_spec settings_spec;

#endif
