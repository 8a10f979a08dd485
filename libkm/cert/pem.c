/* SPDX-License-Identifier: MIT */
#include "libkm/cert/pem.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

#define BEGIN "-----BEGIN "
#define END "-----END "
#define DASHES "-----"
#define LINE 64 /* columns */

struct line {
	const char *p;
	size_t n; /* without line end and trailing blanks */
};

/* The next line, which *text and *left leave behind. False at the end. */
static bool next_line(struct line *l, const char **text, size_t *left)
{
	const char *end;
	size_t n;

	if (!*left)
		return false;
	end = memchr(*text, '\n', *left);
	n = end ? (size_t)(end - *text) : *left;
	l->p = *text;
	l->n = n;
	*text += n + (end ? 1 : 0);
	*left -= n + (end ? 1 : 0);
	while (l->n && (l->p[l->n - 1] == '\r' || l->p[l->n - 1] == ' ' || l->p[l->n - 1] == '\t'))
		l->n--;
	return true;
}

static bool starts_with(const struct line *l, const char *what)
{
	return l->n >= strlen(what) && !memcmp(l->p, what, strlen(what));
}

/* What stands between `what` and the dashes at the end of the line. */
static bool banner_of(char banner[static KM_PEM_BANNER_MAX + 1], const struct line *l,
		      const char *what)
{
	size_t before = strlen(what), after = strlen(DASHES), n;

	if (!starts_with(l, what) || l->n < before + after)
		return false;
	n = l->n - before - after;
	if (!n || n > KM_PEM_BANNER_MAX || memcmp(l->p + before + n, DASHES, after) != 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (l->p[before + i] < ' ' || l->p[before + i] > '~')
			return false;
	memcpy(banner, l->p + before, n);
	banner[n] = '\0';
	return true;
}

/* The lines up to the end of the block, without blanks, into b64. */
static int collect(struct km_buf *b64, const char *banner, const char **text, size_t *left,
		   struct km_errtext *err)
{
	char ending[KM_PEM_BANNER_MAX + 1];
	struct line l;

	while (next_line(&l, text, left)) {
		int rc = 0;

		if (starts_with(&l, DASHES)) {
			if (banner_of(ending, &l, END) && !strcmp(ending, banner))
				return 0;
			break;
		}
		while (l.n && (*l.p == ' ' || *l.p == '\t')) {
			l.p++;
			l.n--;
		}
		rc = km_buf_add(b64, l.p, l.n);
		if (rc)
			return km_errtext_set(err, rc, "the PEM block %s is too long", banner);
	}
	return km_errtext_set(err, KM_EINVAL, "the PEM block %s has no end", banner);
}

static int decode(struct km_pem *out, struct km_buf *b64, size_t max, struct km_errtext *err)
{
	const char *s;
	size_t n = b64->len;
	int rc = km_buf_add(b64, "", 1);

	if (rc)
		return km_errtext_set(err, rc, "the PEM block %s is too long", out->banner);
	s = (const char *)km_buf_head(b64);
	out->len = n / 4 * 3;
	if (n && s[n - 1] == '=')
		out->len -= n > 1 && s[n - 2] == '=' ? 2 : 1;
	if (out->len > max)
		return km_errtext_set(err, KM_ETOOBIG, "the PEM block %s is too long", out->banner);
	out->body = malloc(out->len ? out->len : 1);
	if (!out->body)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	if (n % 4 || strlen(s) != n || km_unb64(out->body, out->len, s))
		return km_errtext_set(err, KM_EINVAL, "the PEM block %s is no base64", out->banner);
	return 0;
}

int km_pem_next(struct km_pem *out, const char **text, size_t *left, size_t max,
		struct km_errtext *err)
{
	struct km_buf b64;
	struct line l;
	int rc;

	*out = (struct km_pem){.len = 0};
	do {
		if (!next_line(&l, text, left))
			return km_errtext_set(err, KM_ENOTFOUND,
					      "input did not contain a valid PEM encoded block");
	} while (!starts_with(&l, BEGIN));
	if (!banner_of(out->banner, &l, BEGIN))
		return km_errtext_set(err, KM_EINVAL, "a malformed first line of a PEM block");
	km_buf_init(&b64,
		    KM_B64_LEN(max) + 4); /* a little more, so that decode says what is wrong */
	rc = collect(&b64, out->banner, text, left, err);
	if (!rc)
		rc = decode(out, &b64, max, err);
	km_buf_wipe(&b64);
	if (rc)
		km_pem_free(out);
	return rc;
}

int km_pem_write(struct km_buf *out, const char *banner, const void *p, size_t n)
{
	char line[KM_B64_LEN(LINE / 4 * 3) + 1];
	const uint8_t *from = p;
	int rc = km_buf_addf(out, BEGIN "%s" DASHES "\n", banner);

	for (size_t i = 0; !rc && i < n; i += LINE / 4 * 3) {
		size_t part = n - i < LINE / 4 * 3 ? n - i : LINE / 4 * 3;

		km_b64(from + i, part, line);
		rc = km_buf_adds(out, line);
		if (!rc)
			rc = km_buf_adds(out, "\n");
	}
	km_wipe(line, sizeof(line));
	return rc ? rc : km_buf_addf(out, END "%s" DASHES "\n", banner);
}

void km_pem_free(struct km_pem *p)
{
	if (p->body)
		km_wipe(p->body, p->len);
	free(p->body);
	*p = (struct km_pem){.len = 0};
}
