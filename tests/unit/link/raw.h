/* SPDX-License-Identifier: MIT */
/* A WebSocket client without manners: blocking TLS on loopback, frames byte by byte. */
#ifndef TESTS_UNIT_LINK_RAW_H
#define TESTS_UNIT_LINK_RAW_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RAW_TIMEOUT_S 15

struct raw {
	int fd;
	SSL_CTX *ctx;
	SSL *ssl;
	char answer[2048]; /* to the upgrade */
};

static inline void raw_close(struct raw *r)
{
	SSL_free(r->ssl);
	SSL_CTX_free(r->ctx);
	if (r->fd >= 0)
		close(r->fd);
	*r = (struct raw){.fd = -1};
	ERR_clear_error();
}

/* A TCP socket on a loopback address of ours, connected to the server on loopback; -1. */
static inline int raw_socket_from(const char *address, uint16_t port)
{
	struct sockaddr_in sin = {.sin_family = AF_INET};
	struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6};
	bool v6 = inet_pton(AF_INET, address, &sin.sin_addr) != 1;
	struct sockaddr *sa = v6 ? (struct sockaddr *)&sin6 : (struct sockaddr *)&sin;
	socklen_t len = v6 ? sizeof(sin6) : sizeof(sin);
	int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (v6)
		inet_pton(AF_INET6, address, &sin6.sin6_addr);
	if (bind(fd, sa, len))
		goto fail;
	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sin6.sin6_addr = in6addr_loopback;
	sin.sin_port = sin6.sin6_port = htons(port);
	if (!connect(fd, sa, len))
		return fd;
fail:
	close(fd);
	return -1;
}

/* TCP and TLS; false when the server refuses. max_version 0: any. */
static inline bool raw_connect_from(struct raw *r, const char *address, uint16_t port,
				    int max_version)
{
	struct timeval tv = {RAW_TIMEOUT_S, 0};

	*r = (struct raw){.fd = raw_socket_from(address, port)};
	if (r->fd < 0)
		return false;
	setsockopt(r->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	r->ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_mode(r->ctx,
			 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (max_version) {
		SSL_CTX_set_max_proto_version(r->ctx, max_version);
		SSL_CTX_set_cipher_list(r->ctx, "ALL:@SECLEVEL=0");
	}
	r->ssl = SSL_new(r->ctx);
	SSL_set_fd(r->ssl, r->fd);
	return SSL_connect(r->ssl) == 1;
}

static inline bool raw_connect(struct raw *r, uint16_t port, int max_version)
{
	return raw_connect_from(r, "127.0.0.1", port, max_version);
}

static inline bool raw_write(struct raw *r, const void *p, size_t n)
{
	const uint8_t *b = p;

	while (n) {
		int w = SSL_write(r->ssl, b, n > 16384 ? 16384 : (int)n);
		if (w <= 0)
			return false;
		b += w;
		n -= (size_t)w;
	}
	return true;
}

static inline bool raw_read(struct raw *r, void *p, size_t n)
{
	uint8_t *b = p;

	while (n) {
		int got = SSL_read(r->ssl, b, (int)n);
		if (got <= 0)
			return false;
		b += got;
		n -= (size_t)got;
	}
	return true;
}

/* Sends head as it is and reads the answer's head; its status, or 0. */
static inline int raw_http(struct raw *r, const char *head)
{
	size_t n = 0;

	if (!raw_write(r, head, strlen(head)))
		return 0;
	while (n + 1 < sizeof(r->answer)) {
		if (!raw_read(r, r->answer + n, 1))
			break;
		r->answer[++n] = '\0';
		if (n >= 4 && strcmp(r->answer + n - 4, "\r\n\r\n") == 0)
			break;
	}
	int status = 0;
	return sscanf(r->answer, "HTTP/1.1 %d", &status) == 1 ? status : 0;
}

static inline int raw_upgrade(struct raw *r, const char *path)
{
	char head[512];

	snprintf(
	    head, sizeof(head),
	    "GET %s HTTP/1.1\r\nHost: control:3001\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	    "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
	    path);
	return raw_http(r, head);
}

static inline bool raw_open(struct raw *r, uint16_t port)
{
	return raw_connect(r, port, 0) && raw_upgrade(r, "/ws?type=agent") == 101;
}

/* The header of a masked frame (mask 0, so that the payload needs no change); its length. */
static inline size_t raw_head(uint8_t out[static 14], uint8_t first, uint64_t len)
{
	size_t n = 0;

	out[n++] = first;
	if (len < 126) {
		out[n++] = (uint8_t)(0x80 | len);
	} else if (len < 65536) {
		out[n++] = 0x80 | 126;
		out[n++] = (uint8_t)(len >> 8);
		out[n++] = (uint8_t)len;
	} else {
		out[n++] = 0x80 | 127;
		for (int s = 56; s >= 0; s -= 8)
			out[n++] = (uint8_t)(len >> s);
	}
	memset(out + n, 0, 4);
	return n + 4;
}

#define RAW_FIN 0x80
#define RAW_CONT 0x0
#define RAW_TEXT 0x1
#define RAW_BINARY 0x2
#define RAW_CLOSE 0x8
#define RAW_PING 0x9
#define RAW_PONG 0xa

static inline bool raw_send(struct raw *r, uint8_t first, const void *p, size_t n)
{
	uint8_t head[14];

	return raw_write(r, head, raw_head(head, first, n)) && (!n || raw_write(r, p, n));
}

static inline bool raw_text(struct raw *r, const char *text)
{
	return raw_send(r, RAW_FIN | RAW_TEXT, text, strlen(text));
}

/* Reads one frame; payload NUL-terminated, cut at size - 1. Its first byte, or -1. */
static inline int raw_recv(struct raw *r, char *payload, size_t size)
{
	uint8_t h[10];
	uint64_t len;

	if (!raw_read(r, h, 2))
		return -1;
	len = h[1] & 0x7f;
	int more = len == 126 ? 2 : len == 127 ? 8 : 0;
	if (more) {
		if (!raw_read(r, h + 2, (size_t)more))
			return -1;
		len = 0;
		for (int i = 0; i < more; i++)
			len = len << 8 | h[2 + i];
	}
	for (uint64_t i = 0; i < len; i++) {
		char c;
		if (!raw_read(r, &c, 1))
			return -1;
		if (i + 1 < size)
			payload[i] = c;
	}
	payload[len < size ? len : size - 1] = '\0';
	return h[0];
}

/* Reads until a close frame; its status, or 0. */
static inline int raw_close_status(struct raw *r)
{
	char buf[256];
	int first;

	while ((first = raw_recv(r, buf, sizeof(buf))) >= 0)
		if ((first & 0xf) == RAW_CLOSE)
			return (uint8_t)buf[0] << 8 | (uint8_t)buf[1];
	return 0;
}

#endif
