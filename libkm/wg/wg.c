/* SPDX-License-Identifier: MIT */
#include "libkm/wg/internal.h"

/* What to do about it that the kernel's device is asked for by name and is not to be had. */
static const char *ways_out(int rc)
{
	switch (rc) {
	case KM_EUNSUPPORTED:
		return ". Ways out: modprobe wireguard; or a kernel that has it (Linux 5.6 or "
		       "newer, Debian's "
		       "own do); or wireguard = auto or embedded";
	case KM_EPERM:
		return ". Ways out: run as root with this capability; or wireguard = auto or "
		       "embedded";
	default:
		return "";
	}
}

int km_wg_open(struct km_wg_device **out, enum km_wg_mode mode, int netns_fd,
	       const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
	       struct km_errtext *why, struct km_errtext *err)
{
	struct km_errtext no_kernel = {""};
	int rc;

	*out = NULL;
	if (mode == KM_WG_NONE)
		return km_errtext_set(err, KM_EINVAL, "wireguard = none has no device");
	if (mode == KM_WG_EMBEDDED) {
		km_errtext_set(why, 0, "asked for by wireguard = embedded");
		return km_wg_embedded_open(out, netns_fd, private_key, port, err);
	}
	rc = km_wg_kernel_open(out, netns_fd, private_key, port, &no_kernel);
	if (!rc) {
		km_errtext_set(why, 0, "this kernel has WireGuard and lets this process use it");
		return 0;
	}
	if (mode == KM_WG_KERNEL)
		return km_errtext_set(err, rc, "wireguard = kernel: %s%s", no_kernel.text,
				      ways_out(rc));
	km_errtext_set(why, 0, "%s", no_kernel.text);
	return km_wg_embedded_open(out, netns_fd, private_key, port, err);
}
