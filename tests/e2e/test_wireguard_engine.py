# SPDX-License-Identifier: MIT
"""The embedded engine as a device by itself (km-warden --device), driven by wg(8): with itself and
with Debian's wireguard-go, each in both roles.

    kmwea 10.97.0.1, fd97::1 ══ veth ══ kmweb 10.97.0.2, fd97::2     outer
          10.96.0.1, fd96::1 ── wg ──── 10.96.0.2, fd96::2           inner
"""
import os
import re
import time

import pytest

from tests.lab.wgpair import ENGINE, GO, SIZE, Pair, sh

NS, DEV, INNER4, INNER6 = Pair.NS, Pair.DEV, Pair.INNER4, Pair.INNER6


@pytest.fixture(params=["engine-engine", "engine-go"])
def pair(request, tmp_path):
    p = Pair([ENGINE, ENGINE if request.param == "engine-engine" else GO], tmp_path)
    p.go = request.param == "engine-go"
    yield p
    codes = p.close()
    assert codes[0] == 0 and (p.go or codes[1] == 0)


@pytest.mark.parametrize("outer", [0, 1], ids=["over4", "over6"])
@pytest.mark.parametrize("role", [0, 1], ids=["initiator", "responder"])
def test_traffic(pair, role, outer):
    pair.begin(role, outer)
    pair.ping(role, INNER4[1 - role])
    pair.ping(1 - role, INNER6[role], "-s", "1300")
    for i in range(2):
        pair.transfer(i, INNER4[1 - i])
        pair.transfer(i, INNER6[1 - i])
    for i in range(2):
        s = pair.status(i)
        assert s["handshake"] > 0 and s["rx"] > SIZE and s["tx"] > SIZE and s["key"] == pair.keys[1 - i]


def test_roaming(pair):
    pair.begin(0, 0)
    pair.ping(0, INNER4[1])
    assert pair.status(1)["endpoint"] == "10.97.0.1:51820"
    pair.ip(0, "addr", "add", "10.97.0.9/24", "dev", "kmwe-a")
    pair.ip(0, "addr", "del", "10.97.0.1/24", "dev", "kmwe-a")
    pair.ip(0, "addr", "add", "10.97.0.9/24", "dev", "kmwe-a", check=False)
    pair.ping(0, INNER4[1])
    pair.ping(1, INNER4[0])
    assert pair.status(1)["endpoint"] == "10.97.0.9:51820"


def test_narrow_link(pair):
    """No packet is lost when this host's own link is too narrow: the first ones are cut by IP outside, the
    next by us inside, or their sender hears of it."""
    pair.begin(0, 0)
    for i, link in enumerate(["kmwe-a", "kmwe-b"]):
        pair.ip(i, "link", "set", link, "mtu", "1300")
    pair.ping(0, INNER4[1], "-s", "1300", "-M", "dont")
    if not pair.go:
        out = pair.inside(0, "ping", "-n", "-c", "2", "-s", "1300", "-M", "do", INNER4[1], check=False)
        assert "mtu = 1240" in out or "mtu=1240" in out
    for i in range(2):
        pair.transfer(i, INNER4[1 - i])


def test_psk_and_allowed(pair):
    """A wrong psk gives no session; an inner source that is not the peer's is dropped."""
    pair.begin(0, 0)
    other = pair.file("other", sh("wg", "genpsk"))
    sh("wg", "set", DEV[0], "peer", pair.keys[1], "preshared-key", other)
    out = pair.inside(0, "ping", "-c", "1", "-W", "1", INNER4[1], check=False)
    assert "100% packet loss" in out and pair.status(0)["handshake"] == 0
    pair.begin(0, 0)
    pair.ping(0, INNER4[1])
    pair.ip(0, "addr", "add", "10.96.0.77/24", "dev", DEV[0])
    out = pair.inside(0, "ping", "-c", "1", "-W", "1", "-I", "10.96.0.77", INNER4[1], check=False)
    assert "100% packet loss" in out


def test_keepalive(pair):
    pair.begin(0, 0)
    pair.peer(0, "persistent-keepalive", "1")
    until = time.monotonic() + 10
    while pair.status(1)["rx"] < 148 + 3 * 32:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert pair.status(0)["keepalive"] == "1"


def test_control_socket(pair):
    """Errors as wireguard-go has them; the port moves; the program ends with its device."""
    import socket
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"/var/run/wireguard/{DEV[0]}.sock")
        f = s.makefile("rw", encoding="ascii")
        for request, reply in (("set=1\nfoo=bar\n\n", "errno=-22"), ("set=1\nprivate_key=12\n\n", "errno=-22"),
                               ("set=1\nlisten_port=70000\n\n", "errno=-22"), ("set=1\n\n", "errno=0"),
                               ("set=1\npublic_key=" + "00" * 31 + "09\nallowed_ip=1.2.3.4/33\n\n",
                                "errno=-22")):
            f.write(request)
            f.flush()
            assert f.readline().strip() == reply and f.readline() == "\n"
        f.write("get=1\n\n")
        f.flush()
        lines = []
        while (line := f.readline().strip()):
            lines.append(line)
        assert lines[-1] == "errno=0" and "listen_port=51820" in lines
        f.write("what=1\n\n")
        f.flush()
        assert f.readline() == ""
    pair.begin(0, 0)
    sh("wg", "set", DEV[1], "listen-port", "51999")
    sh("wg", "set", DEV[0], "peer", pair.keys[1], "endpoint", "10.97.0.2:51999")
    pair.ping(0, INNER4[1])
    pair.ip(0, "link", "del", DEV[0])
    assert pair.procs[0].wait(5) == 0
    assert not re.search(rf"{DEV[0]}\b", " ".join(os.listdir("/var/run/wireguard")))
