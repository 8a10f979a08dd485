/* SPDX-License-Identifier: MIT */
/* Why a user without privilege gets no private network here, as far as can be told, and what to do.
 */
#include "libkm/base/util.h"
#include "warden/warden.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The number in a file of /proc/sys; -1: there is none. */
static long number_in(const char *path)
{
	FILE *f = fopen(path, "re");
	long n = -1;

	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

/* Whether a seccomp filter is on this process, as in most containers. */
static bool filtered(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[128];
	int mode = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "Seccomp: %d", &mode) == 1)
			break;
	if (f)
		fclose(f);
	return mode == 2;
}

struct cause {
	const char *what, *cure;
};

static struct cause namespace_cause(int error)
{
	if (number_in("/proc/sys/kernel/unprivileged_userns_clone") == 0)
		return (struct cause){"kernel.unprivileged_userns_clone is 0",
				      "sysctl kernel.unprivileged_userns_clone=1"};
	if (number_in("/proc/sys/user/max_user_namespaces") == 0)
		return (struct cause){"user.max_user_namespaces is 0",
				      "sysctl user.max_user_namespaces=10000"};
	if (number_in("/proc/sys/user/max_net_namespaces") == 0)
		return (struct cause){"user.max_net_namespaces is 0",
				      "sysctl user.max_net_namespaces=10000"};
	if (error == ENOSPC || error == EUSERS)
		return (struct cause){"too many namespaces, or too deep ones",
				      "raise user.max_user_namespaces and user.max_net_namespaces"};
	if (error == EINVAL || error == ENOSYS)
		return (struct cause){"this kernel has none", "a kernel with CONFIG_USER_NS"};
	if (number_in("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") > 0)
		return (struct cause){"kernel.apparmor_restrict_unprivileged_userns is 1",
				      "an AppArmor profile with `userns,` for km-warden, or "
				      "sysctl kernel.apparmor_restrict_unprivileged_userns=0"};
	if (filtered())
		return (struct cause){"a seccomp filter, as of Docker or systemd's "
				      "RestrictNamespaces, refuses",
				      "a filter that permits unshare (Docker: --security-opt "
				      "seccomp=FILE)"};
	return (struct cause){"the system refuses", "permit it"};
}

static int no_namespace(int error, struct km_errtext *err)
{
	struct cause c = namespace_cause(error);

	return km_errtext_set(
	    err, KM_EPERM,
	    "no private network for uid %u: without CAP_SYS_ADMIN and "
	    "CAP_NET_ADMIN it needs a user namespace, but %s (%s). Ways out: %s; or "
	    "run as root with these capabilities; or network = host with "
	    "CAP_NET_ADMIN",
	    (unsigned)geteuid(), c.what, strerror(error), c.cure);
}

static int no_tun(int error, struct km_errtext *err)
{
	struct stat st;

	if (error == ENOENT || error == ENXIO || error == ENODEV)
		return km_errtext_set(err, KM_EUNSUPPORTED,
				      "/dev/net/tun is missing (%s): load the module tun (modprobe "
				      "tun), or give the container the device (--device "
				      "/dev/net/tun)",
				      strerror(error));
	if ((error == EACCES || error == EPERM) && !stat("/dev/net/tun", &st))
		return km_errtext_set(
		    err, KM_EPERM,
		    "/dev/net/tun cannot be used by uid %u (%s; its mode is %04o). Ways out: chmod "
		    "0666 /dev/net/tun, as distributions have it and which gives no right on the "
		    "host; for a container --device /dev/net/tun; for a systemd unit "
		    "DeviceAllow=/dev/net/tun rw without PrivateDevices; or run as root with "
		    "CAP_SYS_ADMIN and CAP_NET_ADMIN",
		    (unsigned)geteuid(), strerror(error), (unsigned)st.st_mode & 07777);
	return km_errtext_set(err, KM_EIO, "no TUN device inside: %s", strerror(error));
}

int warden_forbidden(enum warden_stage stage, int error, struct km_errtext *err)
{
	static const char *const what[] = {
	    [WARDEN_STAGE_LOOPBACK] = "lo cannot be brought up",
	    [WARDEN_STAGE_NETLINK] = "no rtnetlink socket",
	    [WARDEN_STAGE_DROP] = "capabilities cannot be dropped",
	};

	if (stage == WARDEN_STAGE_NAMESPACE)
		return no_namespace(error, err);
	if (stage == WARDEN_STAGE_TUN)
		return no_tun(error, err);
	if ((size_t)stage >= KM_ARRAY_LEN(what) || !what[stage])
		return km_errtext_set(err, KM_EPROTO, "the process inside talks nonsense");
	/* AppArmor may let the namespace come to be, and then refuse every use of it. */
	if (error == EPERM || error == EACCES)
		return no_namespace(error, err);
	return km_errtext_set(err, KM_EIO, "inside the private network: %s: %s", what[stage],
			      strerror(error));
}
