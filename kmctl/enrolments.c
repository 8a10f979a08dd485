/* SPDX-License-Identifier: MIT */
/* kmctl enrolments: the requests that wait for the CA; kmctl cert sign answers them. */
#include "kmctl/ask.h"
#include "kmctl/cert/request.h"
#include "kmctl/command.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

static const char *const headings[] = {"NAME",   "KIND",     "KEY CODE", "ADDRESS",
				       "REASON", "ASKED ON", "ID",       NULL};

static void row(struct km_table *t, const json_t *item, int64_t now_ms)
{
	char network[KM_PREFIX_STRLEN], asked[KM_WHEN_LEN];
	struct km_errtext why = {""};
	struct cert_request r;

	if (cert_request_read(&r, item, &why)) {
		fprintf(stderr, "Warning: %s\n", why.text);
		return;
	}
	km_table_row(t, (const char *const[]){r.name, r.group, r.code,
					      km_prefix_str(&r.network, network), r.reason,
					      km_when(r.requested_at, now_ms, asked), r.id});
}

static int refuse(struct command *c, struct control *control, const char *name,
		  struct km_errtext *err)
{
	char *id = NULL, *path = NULL, *question = km_xasprintf("Refuse the request of %s?", name);
	int rc = command_id(&id, control, "/api/enrolments", "name", name, "request", err);

	if (!rc)
		rc = command_flag(c, "yes")->on ? ANSWER_YES : ask(question, err);
	if (rc == ANSWER_YES) {
		path = km_xasprintf("/api/enrolments/%s", id);
		rc = control_call(control, "DELETE", path, NULL, NULL, err);
		if (!rc)
			printf("Refused: %s.\n", name);
	}
	free(path);
	free(question);
	free(id);
	return rc;
}

static int run(struct command *c, char **words, int n, struct km_errtext *err)
{
	struct control *control;
	int rc;

	if (n != 0 && (n != 2 || strcmp(words[0], "refuse") != 0))
		return KM_EUNSUPPORTED;
	rc = control_open(&control, c->flags, c->n_flags, err);
	if (!rc)
		rc = n ? refuse(c, control, words[1], err)
		       : command_list(c, control, "/api/enrolments", headings, "No request waits.",
				      row, err);
	control_close(control);
	return rc;
}

static struct flag flags[] = {
    {.name = "json", .kind = FLAG_BOOL, .help = "JSON in place of a table"},
    {.name = "yes", .kind = FLAG_BOOL, .help = "refuse without asking"},
    CONTROL_FLAGS,
};
struct command command_enrolments = {
    .name = "enrolments",
    .usage = "[refuse NAME] [options]",
    .help = "Lists the requests for certificates that wait for a CA that is offline, and refuses "
	    "one. NAME may\nbe an id. kmctl cert sign answers them.\n",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
