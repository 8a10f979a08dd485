/* SPDX-License-Identifier: MIT */
/* kmctl's commands besides cert: each has a table of flags, may begin with a verb and its objects,
 * and runs with control at hand. */
#ifndef KMCTL_COMMAND_H
#define KMCTL_COMMAND_H

#include "kmctl/control.h"
#include "kmctl/flags.h"
#include "libkm/base/table.h"

struct command {
	const char *name, *usage; /* "agents", and what may follow it */
	const char *help;
	struct flag *flags;
	size_t n_flags;
	/* words: what stands before the options, n of them. 0, or any error with a sentence;
	 * KM_EUNSUPPORTED: the words are no command. */
	int (*run)(struct command *c, char **words, int n, struct km_errtext *err);
};
extern struct command command_trust, command_enrolments, command_authorities, command_agents,
    command_gateways, command_certificates;

/* What follows "kmctl NAME"; the exit status. */
int command_main(struct command *c, int argc, char **argv);

struct flag *command_flag(struct command *c, const char *name);
/* The flag's text, "" when there is none. */
const char *command_text(struct command *c, const char *name);

/* Items as JSON on standard output, in ASCII. */
void command_json(const json_t *j);
/* Prints the list at `path` with -json, else as a table whose rows `row` makes. */
int command_list(struct command *c, struct control *control, const char *path,
		 const char *const *headings, const char *none,
		 void (*row)(struct km_table *t, const json_t *item, int64_t now_ms),
		 struct km_errtext *err);
/* The id of the item of the list at `path` that is called so (control_pick); malloc'd. */
int command_id(char **id, struct control *control, const char *path, const char *field,
	       const char *name, const char *what, struct km_errtext *err);

#endif
