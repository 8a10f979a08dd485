/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/provider.h"

int dns_route53_new(struct dns_provider **out, const struct dns_provider_opts *o,
		    struct km_errtext *err)
{
	(void)out;
	(void)o;
	return km_errtext_set(err, KM_EUNSUPPORTED, "dns_provider = route53 is not there yet");
}
