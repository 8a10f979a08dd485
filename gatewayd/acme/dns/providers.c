/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/provider.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void dns_secret_free(char **s)
{
	if (*s)
		km_wipe(*s, strlen(*s));
	free(*s);
	*s = NULL;
}

const char *dns_api_url_check(const char *v)
{
	const char *rest = !strncmp(v, "https://", 8) ? v + 8 : v;

	if (!strncmp(v, "http://127.0.0.1:", 17))
		rest = v + 7;
	return rest == v || !*rest || strlen(v) > 250 || !dns_header_ok(v)
		   ? "an https:// URL is needed"
		   : NULL;
}

bool dns_header_ok(const char *v)
{
	size_t n = strlen(v);

	for (size_t i = 0; i < n; i++)
		if (v[i] <= ' ' || v[i] > '~')
			return false;
	return n && n <= 4096;
}

int dns_provider_load(const struct km_conf_spec *spec, const char *file, void *out,
		      struct km_errtext *err)
{
	char *report = NULL;
	size_t n = 0;

	if (!file)
		return km_errtext_set(
		    err, KM_EINVAL,
		    "dns_provider = %s needs dns_provider_file; gatewayd(8) lists what "
		    "stands in it",
		    spec->program);
	int e = km_secret_check(file, err);
	if (e)
		return e;
	FILE *f = open_memstream(&report, &n);
	if (!f)
		return km_errtext_set(err, KM_ENOMEM, "no memory for %s", file);
	e = km_conf_load(spec, file, out, f);
	fclose(f);
	if (e) {
		while (n && report[n - 1] == '\n')
			report[--n] = '\0';
		for (char *p = report; (p = strchr(p, '\n'));)
			*p = ';';
		km_errtext_set(err, e, "%s", report);
	}
	free(report);
	return e;
}

int dns_provider_new(struct dns_provider **out, struct event_base *base, struct dns *d,
		     const struct gw_settings *s, struct km_errtext *err)
{
	struct dns_provider_opts o = {base, d, s->dns_provider_file, s->dns_hook, s->dns_timeout};

	*out = NULL;
	switch ((enum gw_dns_provider)s->dns_provider) {
	case GW_DNS_RFC2136:
		return dns_rfc2136_new(out, &o, err);
	case GW_DNS_CLOUDFLARE:
		return dns_cloudflare_new(out, &o, err);
	case GW_DNS_ROUTE53:
		return dns_route53_new(out, &o, err);
	case GW_DNS_HOOK:
		return dns_hook_new(out, &o, err);
	case GW_DNS_NONE:
		break;
	}
	return 0;
}

void dns_provider_free(struct dns_provider *p)
{
	if (p)
		p->ops->free(p);
}
