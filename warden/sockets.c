/* SPDX-License-Identifier: MIT */
#include "warden/warden.h"
#include <errno.h>
#include <string.h>

static int some(const struct km_wire_socket *s, int fds[static KM_PRIVNET_SOCKETS_MAX], size_t *n,
		struct km_errtext *err)
{
	int rc = 0;

	if (!s->count || s->count > KM_PRIVNET_SOCKETS_MAX)
		return km_errtext_set(err, KM_EINVAL, "%u sockets, 1 to %d at a time", s->count,
				      KM_PRIVNET_SOCKETS_MAX);
	while (!rc && *n < s->count) {
		rc = km_wire_socket_new(s->family, s->type, s->protocol, &fds[*n]);
		*n += !rc;
	}
	return rc ? km_errtext_set(err, rc, "no socket of family %d, type %d, protocol %d: %s",
				   s->family, s->type, s->protocol,
				   rc == KM_EIO ? strerror(errno) : "not a kind given here")
		  : 0;
}

static int listener(const struct km_wire_socket *s, int *fd, size_t *n, struct km_errtext *err)
{
	char text[KM_ENDPOINT_STRLEN];
	struct km_prefix p;
	int rc = km_wire_get_prefix(&p, &s->addr);

	if (rc)
		return km_errtext_set(err, rc, "the address is malformed");
	rc = km_wire_listener_new(&p.addr, s->port, s->backlog, fd);
	if (rc)
		return km_errtext_set(err, rc, "listening on %s: %s",
				      km_endpoint_str(&p.addr, s->port, text), strerror(errno));
	*n = 1;
	return 0;
}

int warden_sockets(const struct km_wire_request *msg, int fds[static KM_PRIVNET_SOCKETS_MAX],
		   size_t *n, struct km_errtext *err)
{
	*n = 0;
	return msg->head.op == KM_WIRE_SOCKETS ? some(&msg->u.socket, fds, n, err)
					       : listener(&msg->u.socket, fds, n, err);
}
