/* SPDX-License-Identifier: MIT */
#include "kmctl/command.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

static void usage(const struct command *c, FILE *to)
{
	fprintf(to, "usage: kmctl %s %s\n%s", c->name, c->usage, c->help);
	flags_print(c->flags, c->n_flags, to);
}

int command_main(struct command *c, int argc, char **argv)
{
	struct km_errtext err = {""};
	int words = 0, rc;

	while (words < argc && argv[words][0] != '-')
		words++;
	rc = flags_parse(c->flags, c->n_flags, argc - words, argv + words, &err);
	if (rc == FLAGS_HELP) {
		usage(c, stdout);
		return 0;
	}
	if (!rc)
		rc = c->run(c, argv, words, &err);
	if (rc == KM_EUNSUPPORTED && !err.text[0]) {
		fprintf(stderr, "Error: kmctl %s has no such form\n", c->name);
		usage(c, stderr);
	} else if (rc) {
		fprintf(stderr, "Error: %s\n", err.text[0] ? err.text : km_strerror(rc));
	}
	if (!rc && fflush(stdout)) {
		perror("Error: standard output");
		rc = 1;
	}
	return rc ? 1 : 0;
}

struct flag *command_flag(struct command *c, const char *name)
{
	return flags_get(c->flags, c->n_flags, name);
}

const char *command_text(struct command *c, const char *name)
{
	const char *text = command_flag(c, name)->text;

	return text ? text : "";
}

void command_json(const json_t *j)
{
	json_dumpf(j, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
	putchar('\n');
}

int command_list(struct command *c, struct control *control, const char *path,
		 const char *const *headings, const char *none,
		 void (*row)(struct km_table *t, const json_t *item, int64_t now_ms),
		 struct km_errtext *err)
{
	json_t *items;
	int rc = control_list(control, path, &items, err);

	if (rc)
		return rc;
	if (command_flag(c, "json")->on) {
		command_json(items);
	} else {
		struct km_table *t = km_table_new(headings);
		int64_t now = km_wall_ms();

		for (size_t i = 0; i < json_array_size(items); i++)
			row(t, json_array_get(items, i), now);
		km_table_print(t, none, stdout);
		km_table_free(t);
	}
	json_decref(items);
	return 0;
}

int command_id(char **id, struct control *control, const char *path, const char *field,
	       const char *name, const char *what, struct km_errtext *err)
{
	const json_t *item;
	json_t *items;
	int rc = control_list(control, path, &items, err);

	*id = NULL;
	if (rc)
		return rc;
	rc = control_pick(items, field, name, what, &item, err);
	if (!rc && !km_uuid_ok(control_text(item, "id")))
		rc = km_errtext_set(err, KM_EPROTO, "control gives it no id");
	if (!rc)
		*id = km_xstrdup(control_text(item, "id"));
	json_decref(items);
	return rc;
}
