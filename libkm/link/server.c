/* SPDX-License-Identifier: MIT */
#include "libkm/link/server.h"
#include "libkm/base/util.h"
#include "libkm/event/mailbox.h"
#include "libkm/link/server_priv.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EVENTS_MAX 4096
#define EVENT_BYTES_MAX (64u << 20)
#define EVENTS_PER_TURN 128

void km_conn_unref(struct km_conn *conn)
{
	if (atomic_fetch_sub(&conn->refs, 1) != 1)
		return;
	km_tx_clear(&conn->tx);
	km_buf_free(&conn->rx);
	free(conn);
}

void km_server_event_free(struct km_qitem *q)
{
	struct km_server_event *e = (struct km_server_event *)q;

	/* The event holds a reference. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
	km_conn_unref(e->conn);
	json_decref(e->data);
	free(e->why);
	free(e);
}

/* --- certificates --- */

void km_server_tls_free(struct km_server_tls *t)
{
	if (!t)
		return;
	X509_free(t->cert);
	sk_X509_pop_free(t->chain, X509_free);
	EVP_PKEY_free(t->key);
	free(t);
}

static int no_passphrase(char *buf, int size, int rw, void *arg)
{
	(void)buf;
	(void)size;
	(void)rw;
	(void)arg;
	return -1;
}

int km_server_tls_read(struct km_server_tls **out, const char *cert_pem, const char *key_pem,
		       struct km_errtext *err)
{
	struct km_server_tls *t = calloc(1, sizeof(*t));
	BIO *c = BIO_new_mem_buf(cert_pem, -1), *k = BIO_new_mem_buf(key_pem, -1);
	X509 *x = NULL;
	int r = KM_ENOMEM;

	if (!t || !c || !k || !(t->chain = sk_X509_new_null()))
		goto out;
	r = KM_EINVAL;
	t->cert = PEM_read_bio_X509(c, NULL, no_passphrase, NULL);
	t->key = PEM_read_bio_PrivateKey(k, NULL, no_passphrase, NULL);
	if (!t->cert || !t->key) {
		km_errtext_set(err, r, "the link's %s is not readable PEM",
			       t->cert ? "private key" : "certificate");
		goto out;
	}
	if (X509_check_private_key(t->cert, t->key) != 1) {
		km_errtext_set(err, r, "the link's private key does not belong to its certificate");
		goto out;
	}
	while ((x = PEM_read_bio_X509(c, NULL, no_passphrase, NULL)))
		if (!sk_X509_push(t->chain, x)) {
			X509_free(x);
			r = KM_ENOMEM;
			goto out;
		}
	*out = t;
	t = NULL;
	r = 0;
out:
	ERR_clear_error();
	BIO_free(c);
	BIO_free(k);
	km_server_tls_free(t);
	return r;
}

/* --- commands --- */

void km_server_cmd_free(struct km_qitem *q)
{
	struct km_server_cmd *cmd = (struct km_server_cmd *)q;

	if (cmd->conn)
		km_conn_unref(cmd->conn);
	km_frames_free(cmd->frames);
	km_server_tls_free(cmd->tls);
	free(cmd);
}

static void put(struct km_link_server *s, const struct km_server_cmd *model)
{
	struct km_server_cmd *cmd = km_xcalloc(1, sizeof(*cmd));

	*cmd = *model;
	if (cmd->conn)
		atomic_fetch_add(&cmd->conn->refs, 1);
	km_cmdq_push(&s->cmds, &cmd->q);
	uv_async_send(&s->wake);
}

static struct km_conn *find(struct km_link_server *s, uint64_t id)
{
	struct km_conn *conn;

	HASH_FIND(hh, s->by_id, &id, sizeof(id), conn);
	return conn && !conn->closing ? conn : NULL;
}

static void close_conn(struct km_link_server *s, struct km_conn *conn, const char *why)
{
	struct km_server_cmd cmd = {.kind = SERVER_CLOSE, .conn = conn};

	snprintf(cmd.why, sizeof(cmd.why), "%s", why ? why : "");
	conn->closing = true;
	put(s, &cmd);
}

/* Ordinary messages have one bound together; of those that exceed it alone (a huge configuration),
 * one may wait. */
static int reserve(struct km_conn *conn, size_t total)
{
	if (total > KM_SERVER_BACKLOG_MAX)
		return atomic_exchange(&conn->huge, true) ? KM_EFULL : 0;
	if (atomic_load(&conn->queued) + total > KM_SERVER_BACKLOG_MAX)
		return KM_EFULL;
	atomic_fetch_add(&conn->queued, total);
	return 0;
}

int km_link_server_send(struct km_link_server *s, uint64_t id, const char *type, json_t *data)
{
	struct km_conn *conn = find(s, id);
	struct km_frame *frames = NULL;
	size_t total = 0;
	int r = KM_ECLOSED;

	if (conn)
		r = km_envelope_format(&frames, &total, type, data, KM_LINK_TO_CLIENT_MAX);
	json_decref(data);
	if (r)
		return r;
	r = reserve(conn, total);
	if (r) {
		km_frames_free(frames);
		close_conn(s, conn, "too slow: more than 16 MiB wait");
		return r;
	}
	put(s, &(struct km_server_cmd){
		   .q.bytes = total, .kind = SERVER_SEND, .conn = conn, .frames = frames});
	return 0;
}

void km_link_server_authenticated(struct km_link_server *s, uint64_t id)
{
	struct km_conn *conn = find(s, id);

	if (conn)
		put(s, &(struct km_server_cmd){.kind = SERVER_AUTHENTICATED, .conn = conn});
}

void km_link_server_close(struct km_link_server *s, uint64_t id, const char *why, int quiet)
{
	struct km_conn *conn = find(s, id);

	if (!conn)
		return;
	close_conn(s, conn, why);
	if (quiet) {
		HASH_DEL(s->by_id, conn);
		km_conn_unref(conn);
	}
}

int km_link_server_set_certificate(struct km_link_server *s, const char *cert_pem,
				   const char *key_pem, struct km_errtext *err)
{
	struct km_server_tls *tls = NULL;
	int r;

	if (!s->first)
		return km_errtext_set(err, KM_EINVAL, "the link was started without TLS");
	r = km_server_tls_read(&tls, cert_pem, key_pem, err);
	if (r == 0)
		put(s, &(struct km_server_cmd){.kind = SERVER_CERTIFICATE, .tls = tls});
	return r;
}

uint16_t km_link_server_port(const struct km_link_server *s)
{
	return s->port;
}

/* --- events --- */

static void deliver(struct km_link_server *s, struct km_server_event *e)
{
	struct km_conn *conn = e->conn, *known;

	if (e->kind == SERVER_OPEN) {
		atomic_fetch_add(&conn->refs, 1);
		HASH_ADD(hh, s->by_id, id, sizeof(conn->id), conn);
		s->cbs.open(s->arg, conn->id, conn->type, &conn->peer);
		return;
	}
	HASH_FIND(hh, s->by_id, &conn->id, sizeof(conn->id), known);
	if (!known)
		return; /* closed quietly */
	if (e->kind == SERVER_MESSAGE) {
		if (!conn->closing)
			s->cbs.message(s->arg, conn->id, e->type, e->data);
		return;
	}
	HASH_DEL(s->by_id, conn);
	s->cbs.closed(s->arg, conn->id, e->why);
	km_conn_unref(conn);
}

static void on_mail(evutil_socket_t fd, short what, void *arg)
{
	struct km_link_server *s = arg;
	struct km_qitem *q;
	bool wake = false;

	(void)fd;
	(void)what;
	for (int i = 0; i < EVENTS_PER_TURN && (q = km_outbox_take(&s->out, &wake)); i++) {
		deliver(s, (struct km_server_event *)q);
		km_server_event_free(q);
	}
	if (wake)
		uv_async_send(&s->wake);
}

/* --- start and end --- */

static int parse_listen(struct sockaddr_storage *ss, socklen_t *len, const char *text,
			struct km_errtext *err)
{
	const char *colon = strrchr(text, ':');
	char host[64];
	struct km_addr a;
	char *end = NULL;
	unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 65536;
	size_t n = colon ? (size_t)(colon - text) : 0;

	if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	snprintf(host, sizeof(host), "%.*s", (int)n, text);
	if (!colon || !colon[1] || *end || port > 65535 || km_addr_parse(&a, n ? host : "::"))
		return km_errtext_set(err, KM_EINVAL,
				      "link_listen '%.80s': must be ADDRESS:PORT, as in [::]:3001",
				      text);
	*len = km_addr_to_sa(ss, &a, (uint16_t)port);
	return 0;
}

/* Also takes IPv4 where the address is [::]. */
static int listen_on(struct km_link_server *s, const char *text, struct km_errtext *err)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int r = parse_listen(&ss, &len, text, err), one = 1, zero = 0;

	if (r)
		return r;
	/* parse_listen has filled ss. NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage) */
	s->listen_fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listen_fd < 0)
		goto fail;
	setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ss.ss_family == AF_INET6)
		setsockopt(s->listen_fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(s->listen_fd, (struct sockaddr *)&ss, len) || listen(s->listen_fd, 1024))
		goto fail;
	len = sizeof(ss);
	struct km_addr a;
	if (getsockname(s->listen_fd, (struct sockaddr *)&ss, &len) ||
	    km_addr_from_sa(&a, &s->port, (struct sockaddr *)&ss))
		goto fail;
	return 0;
fail:
	return km_errtext_set(err, KM_EIO, "link_listen %.80s: %s", text, strerror(errno));
}

static void dispose(struct km_link_server *s)
{
	struct km_conn *conn, *tmp;

	if (!s)
		return;
	if (s->ev)
		event_free(s->ev);
	km_server_thread_dispose(s);
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	km_cmdq_destroy(&s->cmds, km_server_cmd_free);
	km_outbox_free(&s->out, km_server_event_free);
	HASH_ITER (hh, s->by_id, conn, tmp) {
		HASH_DEL(s->by_id, conn);
		km_conn_unref(conn);
	}
	km_server_tls_free(s->first);
	free(s);
}

int km_link_server_start(struct km_link_server **out, struct event_base *base,
			 const struct km_link_server_opts *opts,
			 const struct km_link_server_cbs *cbs, void *arg, struct km_errtext *err)
{
	struct km_link_server *s = calloc(1, sizeof(*s));
	int r;

	*out = NULL;
	if (!s)
		return KM_ENOMEM;
	s->cbs = *cbs;
	s->arg = arg;
	s->listen_fd = s->pipe_fd = -1;
	s->next_id = 1;
	s->max_connections = opts->max_connections ? opts->max_connections : 10000;
	s->max_unauthenticated = opts->max_unauthenticated ? opts->max_unauthenticated : 256;
	s->max_unauthenticated_per_address =
	    opts->max_unauthenticated_per_address ? opts->max_unauthenticated_per_address : 16;
	s->auth_timeout_ms = opts->auth_timeout_ms > 0 ? opts->auth_timeout_ms : 10000;
	km_cmdq_init(&s->cmds);
	r = km_outbox_init(&s->out, EVENTS_MAX, EVENT_BYTES_MAX);
	if (r == 0 && opts->cert_pem)
		r = km_server_tls_read(&s->first, opts->cert_pem,
				       opts->key_pem ? opts->key_pem : "", err);
	if (r == 0)
		r = listen_on(s, opts->listen, err);
	if (r == 0)
		r = km_server_thread_prepare(s, err);
	if (r)
		goto out;
	s->ev = event_new(base, km_mailbox_fd(s->out.mail), EV_READ | EV_PERSIST, on_mail, s);
	r = KM_ENOMEM;
	if (!s->ev || event_add(s->ev, NULL))
		goto out;
	r = pthread_create(&s->thread, NULL, km_server_thread, s)
		? km_errtext_set(err, KM_EIO, "cannot start the link's thread")
		: 0;
	if (r)
		goto out;
	*out = s;
	s = NULL;
out:
	dispose(s);
	return r;
}

void km_link_server_free(struct km_link_server *s)
{
	if (!s)
		return;
	put(s, &(struct km_server_cmd){.kind = SERVER_STOP});
	pthread_join(s->thread, NULL);
	dispose(s);
}
