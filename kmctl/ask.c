/* SPDX-License-Identifier: MIT */
#include "kmctl/ask.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

int ask(const char *question, struct km_errtext *err)
{
	char line[64];

	if (!isatty(STDIN_FILENO))
		return km_errtext_set(err, KM_EUNSUPPORTED,
				      "nobody can be asked: standard input is no terminal (-yes "
				      "answers yes)");
	for (;;) {
		fprintf(stderr, "%s [y/N] ", question);
		if (!fgets(line, sizeof(line), stdin))
			return km_errtext_set(err, KM_EIO, "no answer");
		line[strcspn(line, "\n")] = '\0';
		if (!strcasecmp(line, "y") || !strcasecmp(line, "yes"))
			return ANSWER_YES;
		if (!*line || !strcasecmp(line, "n") || !strcasecmp(line, "no"))
			return ANSWER_NO;
	}
}
