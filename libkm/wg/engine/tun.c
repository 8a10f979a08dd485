/* SPDX-License-Identifier: MIT */
#include "libkm/base/err.h"
#include "libkm/wg/engine/engine_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

static int error_of(int error)
{
	if (error == EACCES || error == EPERM)
		return KM_EPERM;
	if (error == EBUSY)
		return KM_EEXIST;
	return error == ENOENT || error == ENXIO || error == ENODEV ? KM_EUNSUPPORTED : KM_EIO;
}

int wg_tun_open(int *out, char name[static 16], bool *uso)
{
	const unsigned long tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	struct ifreq ifr = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK), saved;

	if (fd < 0)
		return error_of(errno);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &ifr))
		goto fail;
	*uso = ioctl(fd, TUNSETOFFLOAD, tso | TUN_F_USO4 | TUN_F_USO6) == 0;
	if (!*uso && ioctl(fd, TUNSETOFFLOAD, tso))
		goto fail;
	snprintf(name, 16, "%s", ifr.ifr_name);
	*out = fd;
	return 0;
fail:
	saved = errno;
	close(fd);
	errno = saved;
	return error_of(saved);
}
