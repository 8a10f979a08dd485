/* SPDX-License-Identifier: MIT */
/* The command `join` of agentd and gatewayd: makes this host an agent or a gateway with one join
 * token, read from standard input. */
#ifndef KM_JOIN_JOIN_H
#define KM_JOIN_JOIN_H

#include "libkm/host/settings.h"
#include "libkm/msg/msg.h"

struct km_join_opts {
	const struct km_conf_spec *spec; /* of the program's settings */
	size_t host;                     /* offset of struct km_host_settings in them */
	const char *type;                /* "agent" or "gateway" */
	const char *unit;                /* the systemd unit to name at the end */
	/* Addresses and port of a gateway's WireGuard, from its settings; may be NULL. */
	void (*fill)(const void *settings, struct km_msg_join *m);
};

/* argv[0] is "join"; options: -c FILE (the settings, made or completed), -f (although this host has
 * joined before), -h. Has the warden make the WireGuard key, shows it to control with the token,
 * and on success checks the trust bundle and the certificate, and writes API key and settings
 * (0600). Nothing is written before control has agreed, so that it can be repeated. Prints what
 * happened and what to do next. Gives the exit status: 0, 1 (it failed; standard error says why), 2
 * (usage). */
int km_join_main(const struct km_join_opts *opts, int argc, char **argv);

#endif
