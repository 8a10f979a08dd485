/* SPDX-License-Identifier: MIT */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "warden/warden.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PORT_WAIT_MS 2000

/* Settings of the kernel inside the namespace. */
static const struct {
	const char *path, *value;
	bool needed; /* warn when it cannot be set */
} sysctls[] = {
    /* agents must not reach one another through us */
    {"net/ipv4/ip_forward", "0", true},
    {"net/ipv6/conf/all/forwarding", "0", false},
    /* addresses are changed one by one, and the others stay */
    {"net/ipv4/conf/all/promote_secondaries", "1", true},
    /* no link-local addresses and no router solicitations on the tunnel */
    {"net/ipv6/conf/default/addr_gen_mode", "1", false},
    /* pooled connections are idle now and then, and the path's MTU is not ours to know */
    {"net/ipv4/tcp_slow_start_after_idle", "0", false},
    {"net/ipv4/tcp_mtu_probing", "1", false},
    {"net/ipv4/tcp_rmem", "4096 131072 16777216", false},
    {"net/ipv4/tcp_wmem", "4096 65536 16777216", false},
    /* every connection to an agent goes to the same address and port */
    {"net/ipv4/ip_local_port_range", "1024 65535", false},
    {"net/ipv4/tcp_tw_reuse", "1", false},
};

static void set_sysctl(const char *name, const char *value, bool needed)
{
	char path[128];
	size_t len = strlen(value);
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if ((fd < 0 || write(fd, value, len) != (ssize_t)len) && needed)
		km_warn("kernel setting not changed inside", km_ks("setting", name),
			km_ks("wanted", value), km_ks("why", strerror(errno)));
	if (fd >= 0)
		close(fd);
}

static int loopback_up(void)
{
	struct km_nl *nl = NULL;
	int ifindex, rc = km_nl_open(&nl);

	if (!rc)
		rc = km_nl_link(nl, "lo", &ifindex);
	if (!rc)
		rc = km_nl_link_up(nl, ifindex, 0);
	km_nl_close(nl);
	return rc;
}

int warden_settle_inside(bool rootless)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(sysctls); i++)
		set_sysctl(sysctls[i].path, sysctls[i].value, sysctls[i].needed);
	/* ICMP datagram sockets, the agent's probes, for every group that there is inside */
	set_sysctl("net/ipv4/ping_group_range", rootless ? "0 0" : "0 2147483647", true);
	/* whoever makes sockets has no capability then */
	if (rootless)
		set_sysctl("net/ipv4/ip_unprivileged_port_start", "0", true);
	return loopback_up();
}

/* A fresh namespace, in which we are not yet: *inside; and the host's: *host. */
static int make_namespace(int *host, int *inside, struct km_errtext *err)
{
	*host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (*host < 0)
		return km_errtext_set(err, KM_EIO, "/proc/self/ns/net: %s", strerror(errno));
	if (unshare(CLONE_NEWNET))
		return km_errtext_set(err, KM_EIO, "no network namespace can be made: %s",
				      strerror(errno));
	*inside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (*inside < 0)
		return km_errtext_set(err, KM_EIO, "/proc/self/ns/net: %s", strerror(errno));
	if (warden_settle_inside(false))
		return km_errtext_set(err, KM_EIO, "lo cannot be brought up inside: %s",
				      strerror(errno));
	if (setns(*host, CLONE_NEWNET))
		return km_errtext_set(err, KM_EIO, "no way back to the host's network: %s",
				      strerror(errno));
	return 0;
}

static bool port_taken(int family, uint16_t port)
{
	const struct km_addr any = {.family = (uint8_t)family};
	const int one = 1;
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, &any, port);
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool taken;

	if (fd < 0)
		return false; /* a host without this family */
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	taken = bind(fd, (struct sockaddr *)&ss, len) && errno == EADDRINUSE;
	close(fd);
	return taken;
}

/* What a killed warden had open may need a moment to go, and nothing tells when it has. */
static int wait_port(uint16_t port, struct km_errtext *err)
{
	int64_t until = km_now_ms() + PORT_WAIT_MS;

	while (port && (port_taken(AF_INET, port) || port_taken(AF_INET6, port))) {
		if (km_now_ms() >= until)
			return km_errtext_set(err, KM_EEXIST,
					      "UDP port %u is taken by another program: change "
					      "wireguard_port or end that program",
					      port);
		poll(NULL, 0, 20);
	}
	return 0;
}

static int new_key(const char *path, uint8_t key[static KM_WG_KEY_LEN], struct km_errtext *err)
{
	char text[KM_WG_KEY_STRLEN + 1];
	size_t len;
	int rc;

	km_wg_private_new(key);
	km_wg_key_str(key, text);
	len = strlen(text);
	text[len++] = '\n';
	rc = km_file_write(path, text, len, 0600);
	km_wipe(text, sizeof(text));
	if (rc)
		return km_errtext_set(err, rc, "%s cannot be written: %s", path, strerror(errno));
	km_info("key made", km_ks("file", path));
	return 0;
}

#define KEY "wireguard.key"
#define KEY_NEXT "wireguard.key.next"

static int load_key(const char *dir, const char *name, uint8_t key[static KM_WG_KEY_LEN],
		    struct km_errtext *err)
{
	char path[KM_WIRE_PATH_MAX + 32], *text = NULL;
	int rc;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (km_mkdirs(dir, 0700))
		return km_errtext_set(err, KM_EIO, "%s cannot be made: %s", dir, strerror(errno));
	if (access(path, F_OK) && errno == ENOENT)
		return new_key(path, key, err);
	rc = km_secret_read(path, 256, &text, err);
	if (rc)
		return rc;
	if (km_wg_key_parse(key, text))
		rc = km_errtext_set(
		    err, KM_EINVAL,
		    "%s holds no WireGuard key (44 characters of base64); remove it to "
		    "have a new one made",
		    path);
	km_wipe(text, strlen(text));
	free(text);
	return rc;
}

int warden_key(const char *dir)
{
	uint8_t key[KM_WG_KEY_LEN], pub[KM_WG_KEY_LEN];
	char text[KM_WG_KEY_STRLEN];
	struct km_errtext err = {""};
	int rc = load_key(dir, KEY, key, &err);

	if (!rc && (rc = km_wg_public(pub, key)))
		km_errtext_set(&err, rc, "no public key: %s", km_strerror(rc));
	km_wipe(key, sizeof(key));
	if (rc)
		fprintf(stderr, "km-warden: %s\n", err.text);
	else
		printf("%s\n", km_wg_key_str(pub, text));
	return rc ? 1 : 0;
}

int warden_key_next(const struct warden *w, uint8_t pub[static KM_WG_KEY_LEN],
		    struct km_errtext *err)
{
	uint8_t key[KM_WG_KEY_LEN];
	int rc = load_key(w->settings.state_dir, KEY_NEXT, key, err);

	if (!rc && (rc = km_wg_public(pub, key)))
		km_errtext_set(err, rc, "no public key: %s", km_strerror(rc));
	km_wipe(key, sizeof(key));
	return rc;
}

/* Written anew rather than renamed, so that the file's time tells since when the key is used. */
static int install_key(const char *dir, const uint8_t *key, struct km_errtext *err)
{
	char path[KM_WIRE_PATH_MAX + 32], next[KM_WIRE_PATH_MAX + 32], text[KM_WG_KEY_STRLEN + 1];
	int rc;

	snprintf(path, sizeof(path), "%s/" KEY, dir);
	snprintf(next, sizeof(next), "%s/" KEY_NEXT, dir);
	km_wg_key_str(key, text);
	strcat(text, "\n");
	rc = km_file_write(path, text, strlen(text), 0600);
	km_wipe(text, sizeof(text));
	if (rc)
		return km_errtext_set(err, rc, "%s cannot be written: %s", path, strerror(errno));
	unlink(next);
	return 0;
}

int warden_key_switch(struct warden *w, const uint8_t pub[static KM_WG_KEY_LEN],
		      struct km_errtext *err)
{
	uint8_t key[KM_WG_KEY_LEN], real[KM_WG_KEY_LEN];
	int rc = load_key(w->settings.state_dir, KEY_NEXT, key, err);

	if (!rc && (km_wg_public(real, key) || memcmp(real, pub, sizeof(real)) != 0))
		rc = km_errtext_set(err, KM_EINVAL, "%s holds another key", KEY_NEXT);
	if (!rc)
		rc = install_key(w->settings.state_dir, key, err);
	if (!rc && (rc = w->dev->ops->set_key(w->dev, key)))
		warden_device_error(w, rc, "key not changed", err);
	km_wipe(key, sizeof(key));
	if (rc)
		return rc;
	memcpy(w->hello.public_key, pub, KM_WG_KEY_LEN);
	km_info("WireGuard key changed");
	return 0;
}

/* The device, whose interface goes into the namespace inside (-1: stays on the host), or is tun. */
static int open_device(struct warden *w, int inside, struct warden_tun *tun, const uint8_t *key,
		       struct km_errtext *err)
{
	struct km_errtext why = {""};
	int rc, fd;

	if (tun) {
		fd = tun->fd;
		tun->fd = -1;
		rc = km_wg_open_over(&w->dev, fd, tun->uso, tun->ifname, key, w->settings.port, err);
		km_errtext_set(&why, 0, "%s",
			       w->settings.mode == KM_WG_EMBEDDED
				   ? "asked for by wireguard = embedded"
				   : "a kernel WireGuard device needs CAP_SYS_ADMIN and "
				     "CAP_NET_ADMIN on the host, which this process has not");
	} else {
		rc = km_wg_open(&w->dev, (enum km_wg_mode)w->settings.mode, inside, key,
				w->settings.port, &why, err);
	}
	if (rc)
		return rc;
	snprintf(w->hello.backend, sizeof(w->hello.backend), "%s", w->dev->ops->name);
	snprintf(w->hello.why, sizeof(w->hello.why), "%s", why.text);
	return 0;
}

static int make_device(struct warden *w, int inside, struct warden_tun *tun, struct km_errtext *err)
{
	uint8_t key[KM_WG_KEY_LEN];
	int rc = wait_port(w->settings.port, err);

	if (!rc)
		rc = load_key(w->settings.state_dir, KEY, key, err);
	if (rc)
		return rc;
	rc = km_wg_public(w->hello.public_key, key);
	if (rc)
		km_errtext_set(err, rc, "no public key: %s", km_strerror(rc));
	else
		rc = open_device(w, inside, tun, key, err);
	km_wipe(key, sizeof(key));
	return rc;
}

/* Finds the device by w->nl (NULL: we are where it is) and brings it up. The addresses come later. */
static int take_device(struct warden *w, struct km_errtext *err)
{
	int rc = w->nl ? 0 : km_nl_open(&w->nl);

	if (!rc)
		rc = km_nl_link(w->nl, w->dev->ifname, &w->ifindex);
	if (!rc)
		rc = km_nl_link_up(w->nl, w->ifindex, KM_WG_MTU);
	if (!rc)
		return 0;
	return km_errtext_set(err, rc, "the device %s cannot be brought up: %s", w->dev->ifname,
			      km_why(rc));
}

/* As a user without privilege: somebody else is inside. */
static int open_rootless(struct warden *w, struct km_errtext *err)
{
	struct warden_tun tun = {.fd = -1};
	int rc;

	if (w->settings.mode == KM_WG_KERNEL)
		return km_errtext_set(err, KM_EPERM,
				      "wireguard = kernel needs CAP_SYS_ADMIN and CAP_NET_ADMIN on the "
				      "host, which this process has not. Ways out: run as root with "
				      "these capabilities; or wireguard = auto or embedded");
	km_wg_name_new(tun.ifname);
	rc = warden_inside_start(w, &tun, err);
	if (!rc)
		rc = make_device(w, -1, &tun, err);
	if (!rc)
		rc = take_device(w, err);
	if (tun.fd >= 0)
		close(tun.fd);
	return rc;
}

/* For `km-warden --show`, where wg(8) does not find the device. */
static void give_control(struct warden *w)
{
	char path[KM_WIRE_PATH_MAX + 32];

	snprintf(path, sizeof(path), "%s/%s", w->settings.runtime_dir, WARDEN_CONTROL);
	unlink(path); /* of one that was killed */
	if (w->dev->ops->control_at && w->dev->ops->control_at(w->dev, path))
		km_warn("device has no control socket", km_ks("path", path),
			km_ks("why", strerror(errno)));
}

static int open_space(struct warden *w, struct km_errtext *err)
{
	int host = -1, inside = -1, rc = 0;

	if (!w->settings.host_network && !warden_privileged())
		return open_rootless(w, err);
	if (!w->settings.host_network)
		rc = make_namespace(&host, &inside, err);
	if (!rc)
		rc = make_device(w, inside, NULL, err);
	if (!rc && inside >= 0 && setns(inside, CLONE_NEWNET))
		rc = km_errtext_set(err, KM_EIO, "the namespace cannot be entered: %s",
				    strerror(errno));
	if (!rc)
		rc = take_device(w, err);
	if (host >= 0)
		close(host);
	if (inside >= 0)
		close(inside);
	return rc;
}

int warden_space_open(struct warden *w, struct km_errtext *err)
{
	int rc = open_space(w, err);

	if (!rc)
		give_control(w);
	return rc;
}

void warden_space_close(struct warden *w)
{
	if (w->dev)
		w->dev->ops->free(w->dev);
	w->dev = NULL;
	km_nl_close(w->nl);
	w->nl = NULL;
	warden_inside_stop(w);
	free(w->routes);
	w->routes = NULL;
	free(w->paths);
	w->paths = NULL;
	w->n_paths = 0;
	w->n_routes = 0;
}
