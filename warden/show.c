/* SPDX-License-Identifier: MIT */
/* km-warden --show RUNTIME_DIR: wg(8) looks for devices in /var/run/wireguard only, where an
 * ordinary user's warden cannot put its control socket. This says what `wg show` would. No key but
 * the public ones is printed. */
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include "libkm/wg/wg.h"
#include "warden/warden.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_MAX ((size_t)64 << 20)
#define REPLY_S 5

static int ask(const char *path, struct km_buf *reply)
{
	static const char request[] = "get=1\n\n";
	const struct timeval limit = {REPLY_S, 0};
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = KM_EIO;
	uint8_t *p;
	ssize_t n = 1;

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%.107s", path);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) ||
	    connect(fd, (const struct sockaddr *)&sun, sizeof(sun)) ||
	    send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0)
		goto out;
	while (reply->len < 2 || memcmp(km_buf_head(reply) + reply->len - 2, "\n\n", 2)) {
		rc = km_buf_reserve(reply, 65536, &p);
		if (rc)
			goto out;
		n = recv(fd, p, 65536, 0);
		rc = n < 0 ? KM_EIO : KM_ECLOSED;
		if (n <= 0)
			goto out;
		km_buf_commit(reply, (size_t)n);
	}
	rc = 0;
out:
	if (fd >= 0)
		close(fd);
	return rc;
}

/* A key in hex as base64; priv: the public half of it. */
static const char *key_text(const char *hex, bool priv, char out[static KM_WG_KEY_STRLEN])
{
	uint8_t key[KM_WG_KEY_LEN], pub[KM_WG_KEY_LEN];
	int rc = km_unhex(key, sizeof(key), hex);

	if (!rc && priv)
		rc = km_wg_public(pub, key);
	if (!rc)
		km_wg_key_str(priv ? pub : key, out);
	km_wipe(key, sizeof(key));
	return rc ? "?" : out;
}

/* What has been said of the present peer but is printed in one line with something else. */
struct seen {
	int64_t tx;
	bool allowed;
};

static void show_handshake(const char *value)
{
	int64_t at = strtoll(value, NULL, 10), ago = km_wall_ms() / 1000 - at;

	if (at > 0)
		printf("  latest handshake: %" PRId64 " s ago\n", ago > 0 ? ago : 0);
}

static void show_line(struct seen *s, const char *name, const char *value)
{
	char key[KM_WG_KEY_STRLEN];

	if (s->allowed && strcmp(name, "allowed_ip")) {
		printf("\n");
		s->allowed = false;
	}
	if (!strcmp(name, "private_key"))
		printf("  public key: %s\n", key_text(value, true, key));
	else if (!strcmp(name, "listen_port"))
		printf("  listening port: %s\n", value);
	else if (!strcmp(name, "fwmark"))
		printf("  fwmark: %s\n", value);
	else if (!strcmp(name, "public_key"))
		printf("\npeer: %s\n", key_text(value, false, key));
	else if (!strcmp(name, "preshared_key") && strspn(value, "0") != strlen(value))
		printf("  preshared key: (hidden)\n");
	else if (!strcmp(name, "endpoint"))
		printf("  endpoint: %s\n", value);
	else if (!strcmp(name, "last_handshake_time_sec"))
		show_handshake(value);
	else if (!strcmp(name, "tx_bytes"))
		s->tx = strtoll(value, NULL, 10);
	else if (!strcmp(name, "rx_bytes"))
		printf("  transfer: %s B received, %" PRId64 " B sent\n", value, s->tx);
	else if (!strcmp(name, "persistent_keepalive_interval") && strcmp(value, "0"))
		printf("  persistent keepalive: every %s s\n", value);
	else if (!strcmp(name, "allowed_ip")) {
		printf(s->allowed ? ", %s" : "  allowed ips: %s", value);
		s->allowed = true;
	}
}

static void show(const char *path, char *text)
{
	struct seen s = {.tx = 0};
	char *line, *rest = text, *value;

	printf("device: %s\n", path);
	while ((line = strsep(&rest, "\n")) && *line) {
		value = strchr(line, '=');
		if (!value)
			continue;
		*value++ = 0;
		show_line(&s, line, value);
	}
}

int warden_show(const char *path)
{
	char socket_path[KM_WIRE_PATH_MAX];
	struct km_buf reply;
	struct stat st;
	char *text = NULL;
	int rc;

	snprintf(socket_path, sizeof(socket_path), "%s", path);
	if (!stat(path, &st) && S_ISDIR(st.st_mode))
		snprintf(socket_path, sizeof(socket_path), "%.900s/%s", path, WARDEN_CONTROL);
	km_buf_init(&reply, REPLY_MAX);
	rc = ask(socket_path, &reply);
	if (rc)
		fprintf(stderr, "km-warden: %s: %s%s\n", socket_path,
			km_why(rc),
			rc == KM_EIO && errno == ENOENT
			    ? " (a warden that runs as root is shown by wg(8))"
			    : "");
	else
		text = strndup((const char *)km_buf_head(&reply), reply.len);
	if (text) {
		show(socket_path, text);
		km_wipe(text, strlen(text));
	}
	free(text);
	km_buf_wipe(&reply);
	return rc || !text ? 1 : 0;
}
