/* SPDX-License-Identifier: MIT */
/* Where control is: options, environment, ~/.config/kakuremichi/kmctl.conf. */
#include "kmctl/control.h"
#include "libkm/base/conf.h"
#include "libkm/base/util.h"
#include "libkm/link/pin.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *check_url(const char *value)
{
	if (strncmp(value, "https://", 8) != 0 || !value[8] || value[8] == '/')
		return "is no https://HOST:PORT";
	return strpbrk(value, "?#@ ") ? "has more than https://HOST:PORT" : NULL;
}

#define AT(field) offsetof(struct control_settings, field)
static const struct km_opt opts[] = {
    {.key = "control",
     .type = KM_OPT_STRING,
     .offset = AT(control),
     .check = check_url,
     .help = "URL of control's REST interface."},
    {.key = "ca_file",
     .type = KM_OPT_PATH,
     .offset = AT(ca_file),
     .help = "control's root certificate (PEM), a copy of its root.crt."},
    {.key = "pin",
     .type = KM_OPT_STRING,
     .offset = AT(pin),
     .check = km_pin_check,
     .help = "Instead of ca_file the pin of that certificate, the content of root.pin."},
    {.key = "token_file",
     .type = KM_OPT_PATH,
     .offset = AT(token_file),
     .help = "File with the operator's token, such as a copy of admin.token."},
};
static const struct km_conf_spec spec = {.program = "kmctl",
					 .file = "kmctl.conf",
					 .what = "How kmctl reaches control.",
					 .opts = opts,
					 .n_opts = KM_ARRAY_LEN(opts),
					 .size = sizeof(struct control_settings)};

/* NULL: there is no such file. */
static char *conf_path(void)
{
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	char *path;

	if (config && *config == '/')
		path = km_xasprintf("%s/kakuremichi/kmctl.conf", config);
	else if (home && *home)
		path = km_xasprintf("%s/.config/kakuremichi/kmctl.conf", home);
	else
		return NULL;
	if (access(path, F_OK) == 0)
		return path;
	free(path);
	return NULL;
}

static int load_file(struct control_settings *s, struct km_errtext *err)
{
	char *path = conf_path(), *said = NULL;
	size_t n = 0;
	FILE *report = open_memstream(&said, &n);
	int rc = report ? km_conf_load(&spec, path, s, report) : KM_ENOMEM;

	if (report)
		fclose(report);
	if (rc)
		km_errtext_set(err, rc, "%.*s", (int)strcspn(said ? said : "", "\n"),
			       said ? said : km_strerror(rc));
	free(said);
	free(path);
	return rc;
}

static bool replace(char **value, struct flag *flags, size_t n, const char *name)
{
	const struct flag *f = flags_get(flags, n, name);

	if (!f->given || !f->text || !*f->text)
		return false;
	free(*value);
	*value = km_xstrdup(f->text);
	return true;
}

int control_settings_load(struct control_settings *s, struct flag *flags, size_t n,
			  struct km_errtext *err)
{
	bool ca, pin;
	const char *wrong = NULL;

	memset(s, 0, sizeof(*s));
	if (load_file(s, err))
		return KM_EINVAL;
	if (replace(&s->control, flags, n, "control"))
		wrong = check_url(s->control);
	if (wrong)
		return km_errtext_set(err, KM_EINVAL, "-control %s: %s", s->control, wrong);
	replace(&s->token_file, flags, n, "token-file");
	ca = replace(&s->ca_file, flags, n, "ca-file");
	pin = replace(&s->pin, flags, n, "pin");
	if (pin)
		wrong = km_pin_check(s->pin);
	if (wrong)
		return km_errtext_set(err, KM_EINVAL, "-pin %s: %s", s->pin, wrong);
	if (ca && !pin) { /* an option stands above the other setting, too */
		free(s->pin);
		s->pin = NULL;
	} else if (pin && !ca) {
		free(s->ca_file);
		s->ca_file = NULL;
	}
	if (s->ca_file && s->pin)
		return km_errtext_set(err, KM_EINVAL,
				      "-ca-file and -pin (ca_file and pin): one of them only");
	return 0;
}

void control_settings_free(struct control_settings *s)
{
	km_conf_free(&spec, s);
	memset(s, 0, sizeof(*s));
}

bool control_named(struct flag *flags, size_t n)
{
	struct control_settings s;
	bool named = control_settings_load(&s, flags, n, NULL) != 0 || s.control;

	control_settings_free(&s);
	return named;
}
