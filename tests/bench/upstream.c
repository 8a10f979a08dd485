/* SPDX-License-Identifier: MIT */
/* The target of bench-edge, the same for every proxy: HTTP/1.1 with keep-alive, one epoll thread. A PROXY
 * v2 header at the beginning of a connection is passed over. GET /N answers with N bytes; PUT reads
 * its body (Content-Length or chunked, found by the last chunk) and then answers.
 *
 * usage: bench-upstream ADDRESS:PORT... */
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define IN_MAX 65536

struct conn {
	int fd;
	bool listener, chunked, in_body, begun;
	size_t in_len;
	uint64_t body_left, out_left;
	char head[256];
	size_t head_len, head_at;
	char tail[5]; /* the last bytes of a chunked body */
	char in[IN_MAX];
};

static char zeros[256 << 10];
static int ep;

static void listen_on(const char *where)
{
	char ip[64];
	const char *colon = strrchr(where, ':');
	struct sockaddr_in sa = {.sin_family = AF_INET};
	int one = 1;
	if (!colon || (size_t)(colon - where) >= sizeof(ip))
		errx(2, "%s: ADDRESS:PORT is needed", where);
	memcpy(ip, where, (size_t)(colon - where));
	ip[colon - where] = 0;
	sa.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, ip, &sa.sin_addr) != 1)
		errx(2, "%s: not an address", where);
	struct conn *c = calloc(1, sizeof(*c));
	if (!c)
		err(1, "memory");
	c->listener = true;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(c->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (bind(c->fd, (struct sockaddr *)&sa, sizeof(sa)) || listen(c->fd, 4096))
		err(1, "%s", where);
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
	epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
}

static void conn_end(struct conn *c)
{
	close(c->fd);
	free(c);
}

static void answer(struct conn *c, uint64_t n)
{
	c->head_len = (size_t)snprintf(c->head, sizeof(c->head),
				       "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
				       "Content-Length: %llu\r\n\r\n",
				       (unsigned long long)n);
	c->head_at = 0;
	c->out_left = n;
}

/* Writes what is owed; false: the connection is gone. */
static bool flush_out(struct conn *c)
{
	while (c->head_at < c->head_len || c->out_left) {
		struct iovec iov[2];
		int n = 0;
		if (c->head_at < c->head_len)
			iov[n++] = (struct iovec){c->head + c->head_at, c->head_len - c->head_at};
		if (c->out_left)
			iov[n++] = (struct iovec){
			    zeros, c->out_left < sizeof(zeros) ? c->out_left : sizeof(zeros)};
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)n};
		ssize_t got = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (got < 0)
			return true; /* full (or gone: the next read tells) */
		size_t head = c->head_len - c->head_at;
		size_t took = (size_t)got < head ? (size_t)got : head;
		c->head_at += took;
		c->out_left -= (uint64_t)got - took;
	}
	return true;
}

static void drop(struct conn *c, size_t n)
{
	c->in_len -= n;
	memmove(c->in, c->in + n, c->in_len);
}

static bool body_step(struct conn *c)
{
	if (!c->chunked) {
		size_t n = c->in_len < c->body_left ? c->in_len : (size_t)c->body_left;
		c->body_left -= n;
		drop(c, n);
		if (c->body_left)
			return false;
	} else {
		/* The bodies of the bench are zeros, so this can only be the end. */
		char all[IN_MAX + 5];
		memcpy(all, c->tail, 5);
		memcpy(all + 5, c->in, c->in_len);
		char *end = memmem(all, c->in_len + 5, "0\r\n\r\n", 5);
		if (!end) {
			memcpy(c->tail, all + c->in_len, 5);
			c->in_len = 0;
			return false;
		}
		drop(c, (size_t)(end - all));
	}
	c->in_body = false;
	answer(c, 0);
	return true;
}

static bool head_step(struct conn *c)
{
	static const char sig[12] = "\r\n\r\n\0\r\nQUIT\n";
	if (!c->begun && c->in_len >= 16 && !memcmp(c->in, sig, 12)) {
		size_t n = 16 + ((size_t)(uint8_t)c->in[14] << 8 | (uint8_t)c->in[15]);
		if (c->in_len < n)
			return false;
		drop(c, n);
	}
	char *end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
	if (!end)
		return false;
	c->begun = true;
	*end = 0;
	if (!strncmp(c->in, "PUT ", 4)) {
		const char *length = strcasestr(c->in, "\r\ncontent-length:");
		c->chunked = !length;
		c->body_left = length ? strtoull(length + 17, NULL, 10) : 0;
		memset(c->tail, 'x', sizeof(c->tail));
		c->in_body = true;
	} else {
		const char *path = strchr(c->in, '/');
		answer(c, path ? strtoull(path + 1, NULL, 10) : 0);
	}
	drop(c, (size_t)(end - c->in) + 4);
	return true;
}

static bool drive(struct conn *c)
{
	for (;;) {
		if (!flush_out(c))
			return false;
		if (c->head_at < c->head_len || c->out_left)
			return true;
		if (c->in_len && (c->in_body ? body_step(c) : head_step(c)))
			continue;
		if (c->in_len == IN_MAX)
			return false;
		ssize_t n = recv(c->fd, c->in + c->in_len, IN_MAX - c->in_len, MSG_DONTWAIT);
		if (n == 0)
			return false;
		if (n < 0)
			return true;
		c->in_len += (size_t)n;
	}
}

static void accept_all(struct conn *l)
{
	int fd, one = 1;
	while ((fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct conn *c = malloc(sizeof(*c));
		if (!c)
			err(1, "memory");
		memset(c, 0, offsetof(struct conn, in));
		c->fd = fd;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLET | EPOLLRDHUP,
					 .data.ptr = c};
		epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	}
}

int main(int argc, char **argv)
{
	struct epoll_event ev[256];
	ep = epoll_create1(0);
	for (int i = 1; i < argc; i++)
		listen_on(argv[i]);
	puts("ready");
	fflush(stdout);
	for (;;) {
		int n = epoll_wait(ep, ev, 256, -1);
		for (int i = 0; i < n; i++) {
			struct conn *c = ev[i].data.ptr;
			if (c->listener)
				accept_all(c);
			else if ((ev[i].events & (EPOLLERR | EPOLLHUP)) || !drive(c))
				conn_end(c);
		}
	}
}
