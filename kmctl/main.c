/* SPDX-License-Identifier: MIT */
/* kmctl: the operator's command. So far: kmctl cert. */
#include "kmctl/cert/cert.h"
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static void usage(FILE *to)
{
	fputs("usage: kmctl cert ca|keygen|sign|print|verify [options]\n"
	      "  cert  make, sign, show and check certificates of hosts and CAs\n"
	      "  -V    print the version\n"
	      "  -h    print this help; kmctl cert -h, kmctl cert sign -h say more\n",
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
	fprintf(stderr, "Error: unknown command: %s\n", argv[1]);
	usage(stderr);
	return 1;
}
