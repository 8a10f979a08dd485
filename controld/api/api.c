/* SPDX-License-Identifier: MIT */
#include "controld/api/api.h"
#include "controld/api/server.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>

static int listen_at(struct api *api, const char *text, struct km_errtext *err)
{
	struct km_hostport hp;
	struct sockaddr_storage ss;
	int rc = km_hostport_parse(&hp, text, err);
	if (rc < 0)
		return rc;
	if (!hp.is_addr && hp.host[0])
		return km_errtext_set(err, KM_EINVAL, "%s: an address is needed, not a name", text);
	if (!hp.is_addr)
		hp.addr = (struct km_addr){.family = AF_INET6}; /* both families */
	socklen_t len = km_addr_to_sa(&ss, &hp.addr, hp.port);
	api->listener = evconnlistener_new_bind(api->base, NULL, NULL,
						LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_FREE |
						    LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_DISABLED,
						1024, (struct sockaddr *)&ss, (int)len);
	if (!api->listener)
		return km_errtext_set(err, KM_EIO, "cannot listen on %s: %s", text,
				      strerror(errno));
	int fd = evconnlistener_get_fd(api->listener), on = 1;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on,
			 sizeof(on)); /* accepted ones inherit it */
	len = sizeof(ss);
	if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
		return km_errtext_set(err, KM_EIO, "getsockname: %s", strerror(errno));
	return km_addr_from_sa(&hp.addr, &api->port, (struct sockaddr *)&ss);
}

static int serve(struct api *api)
{
	api->http = evhttp_new(api->base);
	if (!api->http || !evhttp_bind_listener(api->http, api->listener))
		return KM_ENOMEM;
	evhttp_set_bevcb(api->http, conn_new, api);
	evhttp_set_gencb(api->http, req_arrived, api);
	evhttp_set_max_headers_size(api->http, API_MAX_HEADERS);
	evhttp_set_timeout(api->http, API_TIMEOUT_S);
	evhttp_set_allowed_methods(api->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
						  EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
						  EVHTTP_REQ_OPTIONS | EVHTTP_REQ_TRACE |
						  EVHTTP_REQ_CONNECT | EVHTTP_REQ_PATCH);
	evconnlistener_enable(api->listener);
	return 0;
}

int api_start(struct api **out, struct event_base *base, const struct api_opts *opts,
	      struct km_errtext *err)
{
	struct api *api = calloc(1, sizeof(*api));
	int rc = KM_ENOMEM;
	if (!api)
		goto out;
	api->base = base;
	api->store = opts->store;
	api->vault = opts->vault;
	api->authority = opts->authority;
	api->link_urls = opts->link_urls;
	api->pin = opts->pin;
	api->failures = limit_new(10, 6000, 4096);
	if (!api->failures)
		goto out;
	api->tls = conn_tls(opts->cert_pem, opts->key_pem, err);
	if (!api->tls) {
		rc = KM_EINVAL;
		goto out;
	}
	rc = listen_at(api, opts->listen, err);
	if (rc == 0)
		rc = serve(api);
out:
	if (rc == KM_ENOMEM)
		(void)km_errtext_set(err, rc, "no memory");
	if (rc < 0) {
		api_free(api);
		api = NULL;
	}
	*out = api;
	return rc;
}

uint16_t api_port(const struct api *api)
{
	return api->port;
}

int api_set_certificate(struct api *api, const char *cert_pem, const char *key_pem,
			struct km_errtext *err)
{
	SSL_CTX *tls = conn_tls(cert_pem, key_pem, err);
	if (!tls)
		return KM_EINVAL;
	SSL_CTX_free(api->tls); /* living connections hold it */
	api->tls = tls;
	return 0;
}

void api_free(struct api *api)
{
	if (!api)
		return;
	req_forget_all(api);
	conn_forget_all(api);
	if (api->http)
		evhttp_free(api->http);
	else if (api->listener)
		evconnlistener_free(api->listener);
	SSL_CTX_free(api->tls);
	limit_free(api->failures);
	free(api);
}
