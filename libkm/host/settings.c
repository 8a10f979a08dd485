/* SPDX-License-Identifier: MIT */
#include "libkm/host/settings.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include "libkm/cert/cert.h"

enum { NETWORK_PRIVATE, NETWORK_HOST };

const char *const km_host_wireguards[] = {"auto", "kernel", "embedded", "none", NULL};
const char *const km_host_networks[] = {"private", "host", NULL};

const char *km_host_check_listen(const char *value)
{
	struct km_hostport hp;

	return km_hostport_parse(&hp, value, NULL) ? "not an address and port" : NULL;
}

const char *km_host_check_fingerprint(const char *value)
{
	uint8_t fp[KM_CERT_FP_LEN];

	return km_cert_fp_parse(fp, value) ? "not a certificate's fingerprint (64 hexadecimal digits)"
					   : NULL;
}

int km_host_folders(const struct km_host_settings *s, struct km_errtext *err)
{
	if (km_mkdirs(s->state_dir, 0700))
		return km_errtext_set(err, KM_EIO, "state_dir %s: %m", s->state_dir);
	if (s->wireguard != KM_WG_NONE && km_mkdirs(s->runtime_dir, 0700))
		return km_errtext_set(err, KM_EIO, "runtime_dir %s: %m", s->runtime_dir);
	return 0;
}

struct km_privnet_opts km_host_privnet_opts(const struct km_host_settings *s)
{
	return (struct km_privnet_opts){
	    .warden = s->warden,
	    .runtime_dir = s->runtime_dir,
	    .state_dir = s->state_dir,
	    .wireguard = (enum km_wg_mode)s->wireguard,
	    .host_network = s->network == NETWORK_HOST,
	    .listen_port = (uint16_t)s->wireguard_port,
	    .linger_ms = s->warden_linger,
	    .log_format = (enum km_log_format)s->log.format,
	};
}

struct km_uplink_opts km_host_uplink_opts(const struct km_host_settings *s)
{
	return (struct km_uplink_opts){
	    .state_dir = s->state_dir,
	    .control = &s->control,
	    .pin = s->control_pin,
	    .ca_pin = &s->ca_pin,
	    .certificate_grace = s->certificate_grace,
	    .key_rotation = s->key_rotation,
	    .no_wireguard = s->wireguard == KM_WG_NONE,
	    .api_key_file = s->api_key_file,
	};
}
