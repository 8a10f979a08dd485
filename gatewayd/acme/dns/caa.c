/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/caa.h"
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define CRITICAL 0x80
#define PARAMETERS_MAX 32

/* A piece of a record's value. */
struct text {
	const char *p;
	size_t n;
};
struct property {
	uint8_t flags;
	struct text tag, value;
};
/* issue-value of RFC 8659 section 4.2, as far as we judge it. */
struct issue {
	struct text domain;                          /* empty: nobody */
	struct text account, methods, policy, until; /* p NULL: absent */
	bool twice; /* a parameter that may be there once is there twice */
};

static bool is(struct text t, const char *s)
{
	return t.p && t.n == strlen(s) && !strncasecmp(t.p, s, t.n);
}

static struct text trim(struct text t)
{
	while (t.n && (*t.p == ' ' || *t.p == '\t')) {
		t.p++;
		t.n--;
	}
	while (t.n && (t.p[t.n - 1] == ' ' || t.p[t.n - 1] == '\t'))
		t.n--;
	return t;
}

/* What stands before the next `sep`, trimmed; rest goes behind it. False at the end. */
static bool split(struct text *rest, char sep, struct text *out)
{
	if (!rest->p)
		return false;
	const char *at = rest->n ? memchr(rest->p, sep, rest->n) : NULL;
	size_t n = at ? (size_t)(at - rest->p) : rest->n;
	*out = trim((struct text){rest->p, n});
	*rest = at ? (struct text){at + 1, rest->n - n - 1} : (struct text){NULL, 0};
	return true;
}

static bool property_parse(struct property *p, const struct caa_record *r)
{
	struct km_cur c = km_cur_of(r->data, r->n);

	p->flags = km_cur_u8(&c);
	p->tag.n = km_cur_u8(&c);
	p->tag.p = (const char *)km_cur_take(&c, p->tag.n);
	if (c.bad || !p->tag.n)
		return false;
	p->value = (struct text){(const char *)c.p, c.left};
	return true;
}

static bool all(struct text t, bool (*ok)(unsigned char c))
{
	for (size_t i = 0; i < t.n; i++)
		if (!ok((unsigned char)t.p[i]))
			return false;
	return true;
}

static bool in_domain(unsigned char c)
{
	return isalnum(c) || c == '-' || c == '.';
}

static bool in_tag(unsigned char c)
{
	return isalnum(c);
}

static bool in_value(unsigned char c)
{
	return c > ' ' && c <= '~' && c != ';';
}

static bool parameter(struct issue *out, struct text t)
{
	struct text tag, rest = t;

	split(&rest, '=', &tag);
	struct text value = trim(rest);
	if (!rest.p || !tag.n || !all(tag, in_tag) || !all(value, in_value))
		return false;
	struct text *to = is(tag, "accounturi")          ? &out->account
			  : is(tag, "validationmethods") ? &out->methods
			  : is(tag, "policy")            ? &out->policy
			  : is(tag, "persistUntil")      ? &out->until
							 : NULL;
	if (!to)
		return true;
	out->twice |= to->p && (to == &out->account || to == &out->methods);
	*to = value;
	return true;
}

/* False: malformed, and so a record that allows nobody. */
static bool issue_parse(struct issue *out, struct text value)
{
	struct text rest = value, piece;
	unsigned n = 0;

	*out = (struct issue){0};
	split(&rest, ';', &out->domain);
	if (!all(out->domain, in_domain))
		return false;
	while (split(&rest, ';', &piece)) {
		if (!piece.n && !rest.p)
			break; /* nothing behind the last ';' */
		if (++n > PARAMETERS_MAX || !parameter(out, piece))
			return false;
	}
	return true;
}

static bool listed(struct text t, const char *const *list)
{
	for (; list && *list; list++)
		if (is(t, *list))
			return true;
	return false;
}

static bool methods_meet(struct text methods, const char *const *ours)
{
	struct text one;

	while (split(&methods, ',', &one))
		if (listed(one, ours))
			return true;
	return false;
}

static void say(char *why, size_t size, const char *before, struct text t, const char *after)
{
	snprintf(why, size, "%s%.*s%s", before, (int)(t.n > 200 ? 200 : t.n), t.p ? t.p : "",
		 after);
	for (; *why; why++)
		if (*why < ' ' || *why > '~')
			*why = '?';
}

/* Whether this one property allows it; if not, why gets the reason unless a better one is there. */
static bool property_allows(const struct property *p, const struct caa_question *q, char *why,
			    size_t size)
{
	struct issue i;
	char was[32] = "";

	if (!issue_parse(&i, p->value)) {
		if (!*why)
			say(why, size, "is malformed: ", p->value, "");
		return false;
	}
	snprintf(was, sizeof(was), "%s", why);
	if (!listed(i.domain, q->issuers)) {
		if (!*was || !strncmp(was, "allows nobody", 13))
			say(why, size, i.domain.n ? "allows only " : "allows nobody", i.domain, "");
		return false;
	}
	if (i.twice) {
		say(why, size, "names one parameter twice for ", i.domain, "");
		return false;
	}
	if (i.account.p && q->account_url &&
	    (i.account.n != strlen(q->account_url) ||
	     memcmp(i.account.p, q->account_url, i.account.n))) {
		say(why, size, "wants the account ", i.account, ", which is not this gateway's");
		return false;
	}
	if (i.methods.p && q->methods && !methods_meet(i.methods, q->methods)) {
		say(why, size, "allows only validation by ", i.methods, "");
		return false;
	}
	return true;
}

static bool known(struct text tag)
{
	static const char *const tags[] = {"issue",        "issuewild", "iodef",    "contactemail",
					   "contactphone", "issuemail", "issuevmc", NULL};
	return listed(tag, tags);
}

bool caa_allows(const struct caa_record *set, size_t n, const struct caa_question *q, char *why,
		size_t size)
{
	struct property p;
	bool wild = false, relevant = false, allowed = false;

	*why = '\0';
	for (size_t i = 0; i < n; i++) {
		if (!property_parse(&p, &set[i]))
			continue;
		if ((p.flags & CRITICAL) && !known(p.tag)) {
			say(why, size, "has a critical property that no CA may pass over: ", p.tag,
			    "");
			return false;
		}
		wild |= q->wildcard && is(p.tag, "issuewild");
	}
	for (size_t i = 0; i < n && !allowed; i++) {
		if (!property_parse(&p, &set[i]) || !is(p.tag, wild ? "issuewild" : "issue"))
			continue;
		relevant = true;
		allowed = property_allows(&p, q, why, size);
	}
	return allowed || !relevant;
}

static bool in_number(unsigned char c)
{
	return isdigit(c);
}

/* Whether t, digits, is a time that has not come yet. */
static bool is_ahead(struct text t, int64_t now)
{
	int64_t at = 0;

	if (!t.n || t.n > 15 || !all(t, in_number))
		return false;
	for (size_t i = 0; i < t.n; i++)
		at = at * 10 + (t.p[i] - '0');
	return at > now;
}

bool persist_allows(const char *text, size_t n, const struct persist_question *q)
{
	struct issue i;

	if (!issue_parse(&i, (struct text){text, n}) || i.twice || !listed(i.domain, q->issuers))
		return false;
	if (!i.account.p || i.account.n != strlen(q->account_url) ||
	    memcmp(i.account.p, q->account_url, i.account.n))
		return false;
	if (i.until.p && !is_ahead(i.until, q->now))
		return false;
	return !q->wildcard || (i.policy.p && is(i.policy, "wildcard"));
}
