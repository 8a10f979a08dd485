/* SPDX-License-Identifier: MIT */
/* kmctl certificates: those of tunnels' domains, at each gateway: until when, what went wrong. */
#include "kmctl/command.h"
#include "libkm/base/util.h"
#include <stdlib.h>

static const char *const headings[] = {"DOMAIN", "GATEWAY", "STATUS", "UNTIL", "NEXT TRY", "ERROR",
				       NULL};

static void row(struct km_table *t, const json_t *item, int64_t now_ms)
{
	char until[KM_WHEN_LEN], next[KM_WHEN_LEN];

	km_table_row(t, (const char *const[]){
			    control_text(item, "domain"), control_text(item, "gatewayName"),
			    control_text(item, "status"),
			    km_when(control_text(item, "notAfter"), now_ms, until),
			    km_when(control_text(item, "nextTryAt"), now_ms, next),
			    control_text(item, "error")});
}

/* The list's path with the filters that were given; malloc'd. */
static char *path_of(struct command *c, struct control *control)
{
	static const char *const filters[] = {"domain", "gateway", "status"};
	char *path = km_xstrdup("/api/certificates"), sep = '?';

	for (size_t i = 0; i < KM_ARRAY_LEN(filters); i++) {
		char *value, *longer;

		if (!command_text(c, filters[i])[0])
			continue;
		value = control_escape(control, command_text(c, filters[i]));
		longer = km_xasprintf("%s%c%s=%s", path, sep, filters[i], value);
		free(value);
		free(path);
		path = longer;
		sep = '&';
	}
	return path;
}

static int run(struct command *c, char **words, int n, struct km_errtext *err)
{
	struct control *control;
	char *path = NULL;
	int rc;

	(void)words;
	if (n != 0)
		return KM_EUNSUPPORTED;
	rc = control_open(&control, c->flags, c->n_flags, err);
	if (!rc) {
		path = path_of(c, control);
		rc = command_list(c, control, path, headings, "There are none.", row, err);
	}
	free(path);
	control_close(control);
	return rc;
}

static struct flag flags[] = {
    {.name = "domain", .help = "only those of this domain"},
    {.name = "gateway", .help = "only those at this gateway, by its name or id"},
    {.name = "status", .help = "only pending, issuing, ready, renewal_due or error ones"},
    {.name = "json", .kind = FLAG_BOOL, .help = "JSON in place of a table"},
    CONTROL_FLAGS,
};
struct command command_certificates = {
    .name = "certificates",
    .usage = "[options]",
    .help = "Lists the certificates of tunnels' domains at each gateway: their state, until when they\n"
	    "are valid, why the last attempt to obtain one has failed and when the next one is made.\n",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
