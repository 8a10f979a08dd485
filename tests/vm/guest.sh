#!/bin/sh
# SPDX-License-Identifier: MIT
# guest.sh TREE BUILD VMDIR [ARGUMENTS OF PYTEST]: the first process of the guest. Runs the tests (all of
# them without arguments), says their exit status on the console and turns the machine off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 KM_BUILD="$2" KM_BACKEND=kernel
export KM_LAB_AGENT_UID=0 # an agent without capabilities has no use of the kernel's device
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run # as on any host: an ordinary user makes nothing there
mount -t tmpfs tmpfs /tmp
chmod 1777 /tmp /dev/shm
ln -sf /proc/self/fd /dev/fd
mount --bind "$3/root/lib/modules" /lib/modules # the kernel loads from here what the lab asks for
ip link set lo up
hostname guest
cd "$1" || exit 1
shift 3

status=0
modprobe -a wireguard tun || status=1
echo "WireGuard of Linux $(uname -r), $(cut -d. -f1 /proc/uptime) s after power-on"
# What runs without arguments: what the kernel's device changes. Left out, each because the host runs it and an
# emulated processor would take minutes for what is the same here: control's and the edge's own tests (agent,
# bad_input, cert_interop, control_api, edge, install, trust: no packet of theirs meets WireGuard, or the tunnel is not
# what they are about), what concerns the engine alone (path_mtu, endpoints, wireguard_flood, _load and _model;
# rootless: the agents here are root, for the kernel's device; rootless ones are in backends), bodies of gigabytes
# or ten thousand frames (bulk, websocket), figures (test_from_post_to_first_answer), how
# often threads wake (test_threads_at_rest).
if [ $# = 0 ]; then
	timeout -k 10 240 "$KM_BUILD/tests/unit/privnet/test_privnet" > /tmp/privnet 2>&1 || status=1
	[ $status = 0 ] || cat /tmp/privnet
	grep -a '\[  PASSED  \]' /tmp/privnet
	set -- --deselect tests/e2e/test_first_request.py::test_from_post_to_first_answer \
		--deselect tests/e2e/test_wireguard_engine.py::test_threads_at_rest
	for t in backends wireguard_engine first_request outage shutdown; do
		set -- "$@" "tests/e2e/test_$t.py"
	done
fi
timeout -s INT -k 60 "$KM_VM_LIMIT" /usr/bin/python3 -m pytest -v --color=no -p no:cacheprovider --durations=5 "$@" || status=1
echo "km-vm: status $status"
poweroff -f 2>/dev/null || busybox poweroff -f
