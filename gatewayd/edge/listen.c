/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/listen.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG 4096
/* A client that is gone without a word: probed after a minute of silence, given up after two; what
 * it does not acknowledge is given up after one. */
#define KEEPALIVE_IDLE_S 60
#define KEEPALIVE_EVERY_S 20
#define KEEPALIVE_PROBES 3
#define UNACKNOWLEDGED_MS 60000
/* What may wait in the kernel beyond what is on its way: a client that reads slowly or not at all holds this
 * much, and not megabytes that would have been read, encrypted and copied for it. */
#define NOTSENT 262144

/* Accepted sockets inherit these. */
static void options_set(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
	    {SOL_SOCKET, SO_REUSEADDR, 1},
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
	    {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_EVERY_S},
	    {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
	    {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS},
	    {IPPROTO_TCP, TCP_NODELAY, 1},
	    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT},
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(options); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
				 sizeof(options[i].value));
}

static int bind_one(int *out, const struct km_addr *a, uint16_t port)
{
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, a, port);
	int off = 0;
	int fd = socket(a->family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return KM_EIO;
	options_set(fd);
	if (a->family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, (struct sockaddr *)&ss, len) || listen(fd, BACKLOG)) {
		int e = errno;
		close(fd);
		errno = e;
		return KM_EIO;
	}
	*out = fd;
	return 0;
}

static bool is_any6(const struct km_addr *a)
{
	static const uint8_t zero[16];
	return a->family == AF_INET6 && !memcmp(a->ip, zero, sizeof(zero));
}

int listen_open(int *fd, uint16_t *port, const char *where, struct km_errtext *err)
{
	struct km_hostport hp;
	struct km_addr a = {.family = AF_INET6}, any4 = {.family = AF_INET};
	int rc = km_hostport_parse(&hp, where, err);
	if (rc)
		return rc;
	if (hp.is_addr)
		a = hp.addr;
	else if (hp.host[0])
		return km_errtext_set(err, KM_EINVAL, "%s: an address is needed, not a name",
				      where);
	*port = hp.port;
	rc = bind_one(fd, &a, hp.port);
	if (rc && is_any6(&a) && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL))
		rc = bind_one(fd, &any4, hp.port);
	if (rc)
		return km_errtext_set(err, rc, "cannot listen on %s: %s", where, strerror(errno));
	return 0;
}

void listen_refuse(int fd)
{
	/* The filter sees the TCP header: SYN without ACK is dropped. */
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
	    BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, 0),
	    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
	};
	struct sock_fprog prog = {.len = KM_ARRAY_LEN(code), .filter = code};
	(void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
}
