/* SPDX-License-Identifier: MIT */
#include "libkm/base/conf.h"
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPT_SAMPLE = 256, OPT_MAN };

static const struct option long_opts[] = {
    {"config", required_argument, NULL, 'c'},
    {"test", no_argument, NULL, 't'},
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {"sample", no_argument, NULL, OPT_SAMPLE},
    {"man", no_argument, NULL, OPT_MAN},
    {NULL, 0, NULL, 0},
};

static void usage(const struct km_conf_spec *spec, FILE *f)
{
	fprintf(f,
		"usage: %s [-tv] [-c file]\n"
		"  -c file   the settings (default " KM_SYSCONF "/%s, when it exists)\n"
		"  -t        check the settings and exit\n"
		"  -v        log at level debug\n"
		"  -V        print the version\n"
		"  -h        print this help\n"
		"  --sample  print a commented sample of %s\n"
		"  --man     print the manual page of %s\n",
		spec->program, spec->file, spec->file, spec->file);
}

static int load(const struct km_conf_spec *spec, const char *path, bool test, void *out)
{
	char standard[512];

	if (!path) {
		snprintf(standard, sizeof(standard), "%s/%s", KM_SYSCONF, spec->file);
		path = access(standard, F_OK) ? NULL : standard;
	}
	if (km_conf_load(spec, path, out, stderr)) {
		km_conf_free(spec, out);
		return 2;
	}
	if (!test)
		return KM_PROGRAM_RUN;
	printf("%s: the settings are valid\n", path ? path : "(no file)");
	km_conf_free(spec, out);
	return 0;
}

int km_program_start(const struct km_conf_spec *spec, int argc, char **argv, void *out,
		     bool *verbose)
{
	const char *path = NULL;
	bool test = false;
	int c;

	*verbose = false;
	optind = 0; /* start anew, also in a test's second call */
	while ((c = getopt_long(argc, argv, "c:tvVh", long_opts, NULL)) != -1) {
		switch (c) {
		case 'c':
			path = optarg;
			break;
		case 't':
			test = true;
			break;
		case 'v':
			*verbose = true;
			break;
		case 'V':
			printf("%s %s\n", spec->program, KM_VERSION);
			return 0;
		case 'h':
			usage(spec, stdout);
			return 0;
		case OPT_SAMPLE:
			km_conf_sample(spec, stdout);
			return 0;
		case OPT_MAN:
			km_conf_man(spec, stdout);
			return 0;
		default:
			usage(spec, stderr);
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "%s: unexpected argument \"%s\"\n", spec->program, argv[optind]);
		usage(spec, stderr);
		return 2;
	}
	return load(spec, path, test, out);
}
