/* SPDX-License-Identifier: MIT */
/* kmctl agents, kmctl gateways: which there are, until when their certificates are valid; revoke,
 * and new join tokens. */
#include "kmctl/ask.h"
#include "kmctl/command.h"
#include "libkm/base/util.h"
#include "libkm/wg/wg.h"
#include <stdlib.h>
#include <string.h>

static const char *const headings[] = {"NAME",     "STATUS", "ADDRESS", "CERTIFICATE UNTIL",
				       "KEY CODE", "ID",     NULL};

static void row(struct km_table *t, const json_t *item, int64_t now_ms)
{
	const char *key = control_text(item, "wireguardPublicKey");
	const char *address = control_text(item, "virtualIp");
	char until[KM_WHEN_LEN], code[KM_WG_CODE_STRLEN] = "";
	uint8_t raw[KM_WG_KEY_LEN];

	if (!address)
		address = json_string_value(json_array_get(json_object_get(item, "virtualIps"), 0));
	if (key && km_wg_key_parse(raw, key) == 0)
		km_wg_key_code(raw, code);
	km_table_row(t, (const char *const[]){
			    control_text(item, "name"), control_text(item, "status"), address,
			    km_when(control_text(item, "certificateNotAfter"), now_ms, until), code,
			    control_text(item, "id")});
}

static int revoke(struct command *c, struct control *control, const char *name, const char *id,
		  struct km_errtext *err)
{
	char *path = km_xasprintf("/api/%s/%s/revoke", c->name, id);
	char *question = km_xasprintf("Cut off %s at once?", name);
	int rc = command_flag(c, "yes")->on ? ANSWER_YES : ask(question, err);

	if (rc == ANSWER_YES) {
		rc = control_call(control, "POST", path, NULL, NULL, err);
		if (!rc)
			printf("Revoked: %s. A new join token lets it in again.\n", name);
	}
	free(question);
	free(path);
	return rc;
}

/* The token alone on standard output, to be piped into join. */
static int join_token(struct command *c, struct control *control, const char *id,
		      struct km_errtext *err)
{
	char *path = km_xasprintf("/api/%s/%s/join-token", c->name, id);
	const char *token;
	json_t *answer;
	int rc = control_call(control, "POST", path, NULL, &answer, err);

	free(path);
	if (rc)
		return rc;
	token = control_text(answer, "joinToken");
	if (command_flag(c, "json")->on)
		command_json(answer);
	else if (token)
		puts(token);
	else
		rc = km_errtext_set(err, KM_EPROTO, "control's answer has no token");
	json_decref(answer);
	return rc;
}

static int with_control(struct command *c, struct control *control, char **words, int n,
			struct km_errtext *err)
{
	char *path = km_xasprintf("/api/%s", c->name), *id = NULL;
	char what[16];
	int rc;

	if (n == 0) {
		rc = command_list(c, control, path, headings, "There are none.", row, err);
	} else {
		snprintf(what, sizeof(what), "%.*s", (int)strlen(c->name) - 1, c->name);
		rc = command_id(&id, control, path, "name", words[1], what, err);
		if (!rc)
			rc = strcmp(words[0], "revoke") == 0 ? revoke(c, control, words[1], id, err)
							     : join_token(c, control, id, err);
	}
	free(id);
	free(path);
	return rc;
}

static int run(struct command *c, char **words, int n, struct km_errtext *err)
{
	struct control *control;
	int rc;

	if (n != 0 &&
	    (n != 2 || (strcmp(words[0], "revoke") != 0 && strcmp(words[0], "join-token") != 0)))
		return KM_EUNSUPPORTED;
	rc = control_open(&control, c->flags, c->n_flags, err);
	if (!rc)
		rc = with_control(c, control, words, n, err);
	control_close(control);
	return rc;
}

static struct flag flags[] = {
    {.name = "json", .kind = FLAG_BOOL, .help = "JSON in place of a table"},
    {.name = "yes", .kind = FLAG_BOOL, .help = "revoke without asking"},
    CONTROL_FLAGS,
};
#define HOSTS(kind)                                                                                \
	{                                                                                          \
		.name = kind, .usage = "[revoke NAME | join-token NAME] [options]",                \
		.help =                                                                            \
		    "Lists the " kind "; cuts one off at once; makes a new join token for one. "   \
		    "NAME may be an id.\n",                                                        \
		.flags = flags, .n_flags = KM_ARRAY_LEN(flags), .run = run                         \
	}
struct command command_agents = HOSTS("agents");
struct command command_gateways = HOSTS("gateways");
