/* SPDX-License-Identifier: MIT */
/* kmctl trust sign: the bundle of CAs and refused certificates, signed where the CA's key is. */
#include "kmctl/ask.h"
#include "kmctl/bundle_diff.h"
#include "kmctl/cert/signer.h"
#include "kmctl/command.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

struct signing {
	struct command *c;
	struct control *control; /* NULL: files */
	struct cert_signer by;
	struct km_bundle *previous, *next; /* previous NULL: none was signed */
};

static int parse(struct km_bundle **out, const char *text, size_t n, const char *what,
		 struct km_errtext *err)
{
	struct km_errtext why = {""};
	int rc = km_bundle_parse(out, text, n, &why);

	return rc ? km_errtext_set(err, rc, "%s: %s", what, why.text) : 0;
}

static int read_file(struct km_bundle **out, const char *path, struct km_errtext *err)
{
	char *text;
	size_t n;
	int rc = file_read(path, KM_BUNDLE_PEM_MAX, &text, &n, err);

	if (rc)
		return rc;
	rc = parse(out, text, n, path, err);
	free(text);
	return rc;
}

static int read_control(struct signing *s, struct km_errtext *err)
{
	const char *bundle, *last;
	json_t *answer;
	int rc = control_open(&s->control, s->c->flags, s->c->n_flags, err);

	if (!rc)
		rc = control_call(s->control, "GET", "/api/trust", NULL, &answer, err);
	if (rc)
		return rc;
	bundle = control_text(answer, "bundle");
	last = control_text(answer, "lastSigned");
	if (!bundle || !*bundle)
		rc = km_errtext_set(err, KM_ENOTFOUND,
				    "control has no trust bundle yet: it has no CA");
	else
		rc = parse(&s->next, bundle, strlen(bundle), "control's trust bundle", err);
	if (!rc && last && *last)
		rc = parse(&s->previous, last, strlen(last), "control's last signed bundle", err);
	json_decref(answer);
	return rc;
}

static int read_bundles(struct signing *s, struct km_errtext *err)
{
	const char *in = command_text(s->c, "in"), *against = command_text(s->c, "against");
	int rc = *in ? read_file(&s->next, in, err) : read_control(s, err);

	if (!rc && *against) {
		km_bundle_free(s->previous);
		s->previous = NULL;
		rc = read_file(&s->previous, against, err);
	}
	return rc;
}

/* Whether hosts that obey `previous` will take what this CA signs, and whether `previous` is what
 * it says: only a CA of ours can have signed it. */
static int check(const struct signing *s, struct km_errtext *err)
{
	const struct km_cert *ca = s->by.ca;
	struct km_bundle *ours = NULL;
	struct km_errtext why = {""};
	char fp[KM_CERT_FP_STRLEN];
	int rc = 0;

	if (!s->previous)
		return km_bundle_find(s->next, ca->fingerprint)
			   ? 0
			   : km_errtext_set(err, KM_EPERM,
					    "the first bundle must hold the CA that signs it, and "
					    "%s is not in it",
					    km_cert_fp_str(ca, fp));
	if (!km_bundle_find(s->previous, ca->fingerprint))
		return km_errtext_set(err, KM_EPERM,
				      "hosts do not trust this CA yet: sign with the key of one "
				      "that the last signed bundle holds");
	if (s->next->number < s->previous->number)
		return km_errtext_set(err, KM_EPERM, "hosts obey a newer bundle than this one");
	if (memcmp(s->previous->signer, ca->fingerprint, KM_CERT_FP_LEN) != 0 ||
	    !s->previous->is_signed) {
		fputs("Warning: the last signed bundle is not by this CA; what it held is taken on "
		      "trust\n",
		      stderr);
		return 0;
	}
	rc = km_bundle_new(&ours, 0, &ca, 1, NULL, 0, err);
	if (!rc && km_bundle_check(s->previous, ours, KM_CERT_ANY_TIME, &why))
		rc = km_errtext_set(err, KM_EAUTH,
				    "the last signed bundle was changed since it was signed: %s",
				    why.text);
	km_bundle_free(ours);
	return rc;
}

/* Nothing to do: it is signed as it is. */
static bool is_done(const struct signing *s)
{
	return s->control && s->next->is_signed && s->previous &&
	       s->previous->number == s->next->number;
}

static int give(const struct signing *s, const char *pem, size_t n, struct km_errtext *err)
{
	const char *out = command_text(s->c, "out");
	json_t *body;
	int rc;

	if (!s->control)
		return file_write_new(out, pem, n, err);
	body = json_pack("{s:s%}", "bundle", pem, n);
	rc = body ? control_call(s->control, "PUT", "/api/trust", body, NULL, err) : KM_ENOMEM;
	json_decref(body);
	if (!rc)
		printf("Signed: trust bundle %llu.\n", (unsigned long long)s->next->number);
	return rc;
}

static int sign(struct signing *s, struct km_errtext *err)
{
	struct km_buf pem;
	int rc = command_flag(s->c, "yes")->on ? ANSWER_YES : ask("Sign this?", err);

	if (rc != ANSWER_YES)
		return rc < 0 ? rc : km_errtext_set(err, KM_EPERM, "not signed");
	km_buf_init(&pem, KM_BUNDLE_PEM_MAX);
	rc = km_bundle_sign(s->next, s->by.ca, &s->by.key, err);
	if (!rc)
		rc = km_bundle_format(&pem, s->next);
	if (!rc)
		rc = give(s, (const char *)km_buf_head(&pem), pem.len, err);
	km_buf_free(&pem);
	return rc;
}

static int sign_bundle(struct signing *s, struct km_errtext *err)
{
	struct command *c = s->c;
	int rc;

	if (*command_text(c, "in") && !*command_text(c, "out"))
		return km_errtext_set(err, KM_EINVAL, "-in wants -out as well");
	rc = read_bundles(s, err);
	if (rc)
		return rc;
	if (is_done(s)) {
		printf("Trust bundle %llu is signed already.\n",
		       (unsigned long long)s->next->number);
		return 0;
	}
	if (cert_signer_open(&s->by, command_text(c, "ca-crt"), command_text(c, "ca-key"), err))
		return KM_EINVAL;
	rc = check(s, err);
	if (rc)
		return rc;
	bundle_diff_show(s->previous, s->next, stderr);
	return sign(s, err);
}

static int run(struct command *c, char **words, int n, struct km_errtext *err)
{
	struct signing s = {.c = c};
	int rc;

	if (n != 1 || strcmp(words[0], "sign") != 0)
		return KM_EUNSUPPORTED;
	rc = sign_bundle(&s, err);
	cert_signer_close(&s.by);
	km_bundle_free(s.previous);
	km_bundle_free(s.next);
	control_close(s.control);
	return rc;
}

static struct flag flags[] = {
    {.name = "ca-crt", .text = "ca.crt", .help = "path to the signing CA's certificate"},
    {.name = "ca-key", .text = "ca.key", .help = "path to its key"},
    {.name = "yes", .kind = FLAG_BOOL, .help = "sign without asking"},
    {.name = "in", .help = "a bundle's file (- is standard input), in place of control's newest"},
    {.name = "against",
     .help = "the file of the bundle that was signed last, in place of what control says"},
    {.name = "out", .help = "with -in: where the signed bundle goes (- is standard output)"},
    CONTROL_FLAGS,
};
struct command command_trust = {
    .name = "trust",
    .usage = "sign [options]",
    .help =
	"Shows what control's newest trust bundle changes, asks, signs it with the CA's key and "
	"gives it back.\n",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
