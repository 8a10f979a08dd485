/* SPDX-License-Identifier: MIT */
/* kmctl: the operator's command. */
#include "kmctl/cert/cert.h"
#include "kmctl/command.h"
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static struct command *const commands[] = {
    &command_trust, &command_enrolments, &command_authorities, &command_agents, &command_gateways,
    &command_certificates,
};

static void usage(FILE *to)
{
	fputs(
	    "usage: kmctl COMMAND [options]\n"
	    "  cert ca|keygen|sign|print|verify  certificates of hosts and CAs; sign also answers\n"
	    "                                    the requests that wait at control\n"
	    "  trust sign                        sign the bundle that tells hosts whom to trust\n"
	    "  enrolments [refuse NAME]          requests for certificates that wait\n"
	    "  authorities [rotate | add FILE | retire ID]\n"
	    "  agents, gateways [revoke NAME | join-token NAME]\n"
	    "  certificates                      of tunnels' domains, at each gateway\n"
	    "  -V                                print the version\n"
	    "  -h                                print this help; kmctl COMMAND -h says more\n",
	    to);
}

int main(int argc, char **argv)
{
	struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none); /* memory holds private keys */
	if (argc < 2) {
		usage(stderr);
		return 1;
	}
	if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-help")) {
		usage(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "-V") || !strcmp(argv[1], "--version") ||
	    !strcmp(argv[1], "-version")) {
		puts("kmctl " KM_VERSION);
		return 0;
	}
	if (!strcmp(argv[1], "cert"))
		return cert_main(argc - 2, argv + 2);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i]->name))
			return command_main(commands[i], argc - 2, argv + 2);
	fprintf(stderr, "Error: unknown command: %s\n", argv[1]);
	usage(stderr);
	return 1;
}
