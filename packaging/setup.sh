#!/bin/sh
# SPDX-License-Identifier: MIT
# Installs the Debian packages that are missing for: build, run, demo, check, vm, bench, lint. Says what it installs;
# does nothing (and needs no privilege) when all are there.
set -eu
build="gcc make pkg-config libc6-dev libevent-dev libssl-dev libpq-dev libjansson-dev libwebsockets-dev
 libwebsockets-evlib-uv liburcu-dev libsodium-dev libinih-dev libmnl-dev libidn2-dev
 libargon2-dev libcurl4-openssl-dev libc-ares-dev libldns-dev libpsl-dev libnghttp2-dev uthash-dev wireguard-tools"
run="postgresql-15"
demo="iproute2 nftables python3 curl openssl ca-certificates pebble"
check="knot knot-dnsutils python3-cryptography testssl.sh python3-pytest-xdist wireguard-go iperf3 nebula
 dnsmasq-base libcmocka-dev python3-pytest python3-websockets conntrack procps
 systemd gnutls-bin python3-h2 python3-grpcio nginx-light apache2-bin caddy nghttp2-client nghttp2-server slowhttptest"
bench="nginx-light haproxy h2o caddy nghttp2-client"
vm="qemu-system-x86 busybox-static cpio kmod"
lint="clang clang-tidy clang-format cppcheck mandoc"
services="knot nginx haproxy h2o caddy"

want=$build
for part in "$@"; do
	case $part in
	build) ;;
	run) want="$want $run" ;;
	demo) want="$want $run $demo" ;;
	check) want="$want $run $demo $check" ;;
	vm) want="$want $vm" ;;
	bench) want="$want $bench" ;;
	lint) want="$want $lint" ;;
	*) echo "setup.sh: unknown part '$part' (build, run, demo, check, vm, bench, lint)" >&2; exit 2 ;;
	esac
done

missing=
for p in $want; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $p"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "These Debian packages are missing:$missing" >&2
		echo "Run again as root (sudo make …), or install them yourself." >&2
		exit 1
	fi
	echo "installing:$missing"
	# A PostgreSQL server is wanted as a program, not as a running service of this host.
	if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
		mkdir -p /etc/postgresql-common
		echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
	fi
	# The same holds for the other servers: none is started now, nor at the next boot.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' > $policy
		chmod 755 $policy
		trap 'rm -f $policy' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086
	{ apt-get -q update && apt-get -q -y --no-install-recommends \
		-o Dpkg::Options::=--force-confold install $missing; } > /tmp/kakuremichi-setup.$$ 2>&1 || {
		cat /tmp/kakuremichi-setup.$$ >&2
		rm -f /tmp/kakuremichi-setup.$$
		echo "setup.sh: the packages could not be installed" >&2
		exit 1
	}
	rm -f /tmp/kakuremichi-setup.$$
	for p in $services; do
		case " $missing " in
		*" $p "* | *" $p-"*) if command -v systemctl > /dev/null; then systemctl -q disable "$p.service" || :; fi ;;
		esac
	done
fi

# Images that drop /usr/share/doc have the package without the library's source.
embed=/usr/share/doc/wireguard-tools/examples/embeddable-wg-library/wireguard.c
if [ ! -e "$embed" ] && [ "$(id -u)" = 0 ]; then
	echo "fetching wireguard-tools again for $embed, which this image left out"
	dir=$(mktemp -d)
	(cd "$dir" && apt-get -q download wireguard-tools >/dev/null && dpkg -x wireguard-tools_*.deb root)
	mkdir -p "$(dirname "$embed")"
	cp "$dir/root$(dirname "$embed")"/* "$(dirname "$embed")"/
	rm -rf "$dir"
fi
