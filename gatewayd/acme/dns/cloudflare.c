/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/provider.h"

int dns_cloudflare_new(struct dns_provider **out, const struct dns_provider_opts *o,
		       struct km_errtext *err)
{
	(void)out;
	(void)o;
	return km_errtext_set(err, KM_EUNSUPPORTED, "dns_provider = cloudflare is not there yet");
}
