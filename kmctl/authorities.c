/* SPDX-License-Identifier: MIT */
/* kmctl authorities: the certificate authorities that hosts trust. */
#include "kmctl/ask.h"
#include "kmctl/command.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include "libkm/cert/cert.h"
#include <stdlib.h>
#include <string.h>

static const char *const headings[] = {"NAME", "FINGERPRINT", "STATE", "KEY", "UNTIL", "ID", NULL};

static void row(struct km_table *t, const json_t *item, int64_t now_ms)
{
	const char *pem = control_text(item, "certificate");
	size_t left = pem ? strlen(pem) : 0;
	struct km_cert *ca = NULL;
	char until[KM_WHEN_LEN], fp[KM_CERT_FP_STRLEN] = "";

	if (left && km_cert_from_pem(&ca, &pem, &left, NULL))
		ca = NULL;
	if (ca)
		km_cert_fp_str(ca, fp);
	km_table_row(t,
		     (const char *const[]){
			 ca ? ca->name : NULL, fp, control_text(item, "state"),
			 json_is_true(json_object_get(item, "keyHere")) ? "at control" : "offline",
			 km_when(control_text(item, "notAfter"), now_ms, until),
			 control_text(item, "id")});
	km_cert_free(ca);
}

/* What has to follow a change of the CAs where no key is at control. */
static void say_next(void)
{
	puts("Hosts learn of it by a signed bundle: unless a CA's key is at control, kmctl trust "
	     "sign "
	     "comes next.");
}

static int post(struct command *c, struct control *control, const char *path, const json_t *body,
		struct km_errtext *err)
{
	json_t *answer;
	int rc = control_call(control, "POST", path, body, &answer, err);

	if (rc)
		return rc;
	if (command_flag(c, "json")->on) {
		command_json(answer);
	} else {
		const char *fp = control_text(answer, "fingerprint");
		char *shown = km_plain(fp ? fp : "?");

		printf("The CA %s is the active one.\n", shown);
		free(shown);
		say_next();
	}
	json_decref(answer);
	return 0;
}

static int add(struct command *c, struct control *control, const char *file, struct km_errtext *err)
{
	char *pem = NULL;
	json_t *body;
	size_t n;
	int rc = file_read(file, KM_CERT_PEM_MAX, &pem, &n, err);

	if (rc)
		return rc;
	body = json_pack("{s:s}", "certificate", pem);
	rc = body ? post(c, control, "/api/authorities", body, err)
		  : km_errtext_set(err, KM_EINVAL, "%s: no certificate in PEM", file);
	json_decref(body);
	free(pem);
	return rc;
}

static int retire(struct command *c, struct control *control, const char *name,
		  struct km_errtext *err)
{
	char *id = NULL, *path;
	int rc = command_id(&id, control, "/api/authorities", "fingerprint", name, "CA", err);

	if (rc)
		return rc;
	rc = command_flag(c, "yes")->on
		 ? ANSWER_YES
		 : ask("Trust this CA no longer? Hosts with certificates by it are cut off.", err);
	if (rc == ANSWER_YES) {
		path = km_xasprintf("/api/authorities/%s", id);
		rc = control_call(control, "DELETE", path, NULL, NULL, err);
		free(path);
		if (!rc)
			puts("Retired.");
	}
	free(id);
	return rc;
}

static int act(struct command *c, struct control *control, char **words, int n,
	       struct km_errtext *err)
{
	if (!n)
		return command_list(c, control, "/api/authorities", headings, "There are none.",
				    row, err);
	if (n == 1)
		return post(c, control, "/api/authorities/rotate", NULL, err);
	return strcmp(words[0], "add") == 0 ? add(c, control, words[1], err)
					    : retire(c, control, words[1], err);
}

static int run(struct command *c, char **words, int n, struct km_errtext *err)
{
	bool known = n == 0 || (n == 1 && !strcmp(words[0], "rotate")) ||
		     (n == 2 && (!strcmp(words[0], "add") || !strcmp(words[0], "retire")));
	struct control *control;
	int rc;

	if (!known)
		return KM_EUNSUPPORTED;
	rc = control_open(&control, c->flags, c->n_flags, err);
	if (!rc)
		rc = act(c, control, words, n, err);
	control_close(control);
	return rc;
}

static struct flag flags[] = {
    {.name = "json", .kind = FLAG_BOOL, .help = "JSON in place of a table"},
    {.name = "yes", .kind = FLAG_BOOL, .help = "retire without asking"},
    CONTROL_FLAGS,
};
struct command command_authorities = {
    .name = "authorities",
    .usage = "[rotate | add FILE | retire ID] [options]",
    .help =
	"Lists the CAs of hosts' certificates; makes a new one with its key at control; adds an "
	"operator's own,\nwhose certificate is in FILE; trusts one (ID or fingerprint) no "
	"longer.\n",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
