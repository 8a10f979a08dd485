/* SPDX-License-Identifier: MIT */
/* What the modes read from their options and from the terminal. */
#include "kmctl/cert/cert.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PASSPHRASE_MAX 1024
#define PROMPTS 5

struct flag *cert_flag(struct cert_mode *m, const char *name)
{
	return flags_get(m->flags, m->n_flags, name);
}

const char *cert_text(struct cert_mode *m, const char *name)
{
	const char *text = cert_flag(m, name)->text;

	return text ? text : "";
}

void cert_default(struct cert_mode *m, const char *name, const char *text)
{
	struct flag *f = cert_flag(m, name);

	if (f->text && *f->text)
		return;
	f->text = text;
	f->given = true;
}

int cert_must(struct cert_mode *m, const char *name, struct km_errtext *err)
{
	return *cert_text(m, name) ? 0 : km_errtext_set(err, CERT_USAGE, "-%s is required", name);
}

int cert_one_std(struct cert_mode *m, const char *const *names, struct km_errtext *err)
{
	const char *first = NULL;

	for (; *names; names++) {
		if (!file_is_std(cert_text(m, *names)))
			continue;
		if (first)
			return km_errtext_set(err, CERT_USAGE, "-%s and -%s cannot both be -",
					      first, *names);
		first = *names;
	}
	return 0;
}

int cert_refuse_existing(struct cert_mode *m, const char *flag, const char *what,
			 struct km_errtext *err)
{
	const char *path = cert_text(m, flag);

	if (!file_exists(path))
		return 0;
	return km_errtext_set(err, 1, "refusing to overwrite existing %s: %s", what, path);
}

int cert_curve(int *curve, struct cert_mode *m, struct km_errtext *err)
{
	static const char *const names[] = {"25519", "X25519", "Curve25519", "CURVE25519"};
	const char *text = cert_text(m, "curve");

	*curve = KM_CERT_P256;
	if (!strcmp(text, "P256"))
		return 0;
	*curve = KM_CERT_25519;
	for (size_t i = 0; i < KM_ARRAY_LEN(names); i++)
		if (!strcmp(text, names[i]))
			return 0;
	return km_errtext_set(err, 1, "invalid curve: %s", text);
}

/* ---- lists ---- */

static char *trimmed(char *s)
{
	char *end = s + strlen(s);

	while (*s == ' ' || *s == '\t')
		s++;
	while (end > s && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	return s;
}

int cert_split(struct cert_list *l, const char *text, struct km_errtext *err)
{
	char *save = NULL;

	*l = (struct cert_list){.text = km_xstrdup(text),
				.items = km_xcalloc(CERT_LIST_MAX, sizeof(char *))};
	for (char *s = strtok_r(l->text, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
		s = trimmed(s);
		if (!*s)
			continue;
		if (l->n >= CERT_LIST_MAX) {
			cert_list_free(l);
			return km_errtext_set(err, 1, "a list of more than %d items",
					      CERT_LIST_MAX);
		}
		l->items[l->n++] = s;
	}
	return 0;
}

void cert_list_free(struct cert_list *l)
{
	free(l->text);
	free(l->items);
	*l = (struct cert_list){.n = 0};
}

static void cut_host_bits(struct km_prefix *p)
{
	size_t bytes = p->addr.family == AF_INET ? 4 : 16;

	for (size_t i = 0; i < bytes; i++) {
		unsigned first = (unsigned)i * 8, keep = p->bits > first ? p->bits - first : 0;

		p->addr.ip[i] &= (uint8_t)(keep >= 8 ? 0xff : 0xff00 >> keep);
	}
}

int cert_networks(struct km_prefix **out, size_t *n, struct cert_mode *m, const char *name,
		  const char *older, bool mask, struct km_errtext *err)
{
	const char *text = *cert_text(m, name) ? cert_text(m, name) : cert_text(m, older);
	struct cert_list l;
	int rc = cert_split(&l, text, err);

	*out = NULL;
	*n = 0;
	if (rc)
		return rc;
	*out = km_xcalloc(l.n + 1, sizeof(**out));
	for (; *n < l.n; (*n)++) {
		struct km_prefix *p = &(*out)[*n];

		if (!strchr(l.items[*n], '/') || km_prefix_parse(p, l.items[*n])) {
			rc = km_errtext_set(err, CERT_USAGE, "invalid -%s definition: %s", name,
					    l.items[*n]);
			break;
		}
		if (mask)
			cut_host_bits(p);
	}
	cert_list_free(&l);
	return rc;
}

/* ---- the terminal ---- */

static void on_interrupt(int sig)
{
	(void)sig; /* ends the read below */
}

/* One line, without its end. KM_EIO: end of input, or interrupted. */
static int read_line(char line[static PASSPHRASE_MAX])
{
	size_t n = 0;
	ssize_t got;
	char c = 0;

	while ((got = read(STDIN_FILENO, &c, 1)) == 1 && c != '\n' && n + 1 < PASSPHRASE_MAX)
		line[n++] = c;
	line[n] = '\0';
	return got == 1 && c == '\n' ? 0 : KM_EIO;
}

/* The same with the terminal's echo off; it is on again afterwards, whatever happens. */
static int read_hidden(char line[static PASSPHRASE_MAX])
{
	struct sigaction interrupt = {.sa_handler = on_interrupt}, before_int;
	struct termios before, hidden;
	int rc;

	if (tcgetattr(STDIN_FILENO, &before))
		return KM_EIO;
	hidden = before;
	hidden.c_lflag &= ~(tcflag_t)ECHO;
	hidden.c_lflag |= ICANON | ISIG;
	sigaction(SIGINT, &interrupt, &before_int);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
	rc = read_line(line);
	tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
	sigaction(SIGINT, &before_int, NULL);
	fputc('\n', stderr);
	return rc;
}

int cert_passphrase(char **out, const char *no_terminal, const char *none, struct km_errtext *err)
{
	const char *env = getenv("NEBULA_CA_PASSPHRASE");
	char line[PASSPHRASE_MAX] = "";

	*out = NULL;
	if (env && *env) {
		*out = km_xstrdup(env);
		return 0;
	}
	if (!isatty(STDIN_FILENO))
		return km_errtext_set(err, 1, "%s", no_terminal);
	for (int i = 0; i < PROMPTS && !*line; i++) {
		fputs("Enter passphrase: ", stderr);
		if (read_hidden(line)) {
			km_wipe(line, sizeof(line));
			return km_errtext_set(err, 1, "error reading passphrase");
		}
	}
	if (!*line)
		return km_errtext_set(err, 1, "%s", none);
	*out = km_xstrdup(line);
	km_wipe(line, sizeof(line));
	return 0;
}

int64_t cert_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
