/* SPDX-License-Identifier: MIT */
#include "kmctl/cert/cert.h"
#include <stdio.h>
#include <string.h>

static struct cert_mode *const modes[] = {
    &cert_mode_ca, &cert_mode_keygen, &cert_mode_sign, &cert_mode_print, &cert_mode_verify,
};

static void usage(FILE *to)
{
	fputs("Usage of kmctl cert <mode>:\n"
	      "    -version: Prints the version\n"
	      "    -h, -help: Prints this help message\n\n"
	      "  Modes:\n",
	      to);
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		fprintf(to, "    %s %s\n", modes[i]->name, modes[i]->summary);
	fputs("\n  kmctl cert <mode> -h lists a mode's options\n", to);
}

static void mode_usage(const struct cert_mode *m, FILE *to)
{
	fprintf(to, "Usage of kmctl cert %s %s\n  A file named - is standard input or output.\n",
		m->name, m->summary);
	flags_print(m->flags, m->n_flags, to);
}

static int run(struct cert_mode *m, int argc, char **argv)
{
	struct km_errtext err = {""};
	int rc = flags_parse(m->flags, m->n_flags, argc, argv, &err);

	if (rc == FLAGS_HELP) {
		mode_usage(m, stderr);
		return 0;
	}
	rc = rc ? CERT_USAGE : m->run(m, &err);
	if (rc)
		fprintf(stderr, "Error: %s\n", err.text);
	if (rc == CERT_USAGE)
		mode_usage(m, stderr);
	if (!rc && fflush(stdout)) {
		perror("Error: standard output");
		rc = 1;
	}
	return rc ? 1 : 0;
}

int cert_main(int argc, char **argv)
{
	const char *name = argc ? argv[0] : "";

	if (!argc) {
		fputs("Error: No mode was provided\n\n", stderr);
		usage(stderr);
		return 1;
	}
	if (!strcmp(name, "-h") || !strcmp(name, "-help") || !strcmp(name, "--help")) {
		usage(stderr);
		return 0;
	}
	if (!strcmp(name, "-version") || !strcmp(name, "--version")) {
		puts("Version: " KM_VERSION);
		return 0;
	}
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (!strcmp(name, modes[i]->name))
			return run(modes[i], argc - 1, argv + 1);
	fprintf(stderr, "Error: unknown mode: %s\n", name);
	return 1;
}
