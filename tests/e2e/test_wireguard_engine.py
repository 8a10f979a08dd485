# SPDX-License-Identifier: MIT
"""The embedded engine as a device by itself (km-warden --device), driven by wg(8): with itself and
with Debian's wireguard-go, each in both roles.

    kmwea 10.97.0.1, fd97::1 ══ veth ══ kmweb 10.97.0.2, fd97::2     outer
          10.96.0.1, fd96::1 ── wg ──── 10.96.0.2, fd96::2           inner
"""
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import pytest

BUILD = pathlib.Path(os.environ.get("KM_BUILD", "build")).absolute()
NS = ["kmwea", "kmweb"]
DEV = ["kmwe0", "kmwe1"]
OUTER = [("10.97.0.1", "10.97.0.2"), ("fd97::1", "fd97::2")]
INNER4, INNER6 = ("10.96.0.1", "10.96.0.2"), ("fd96::1", "fd96::2")
ENGINE = [str(BUILD / "km-warden"), "-f", "--device"]
GO = ["wireguard-go", "-f"]
SIZE = 8_000_000

TRANSFER = r"""
import hashlib, socket, sys
mode, addr, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in addr else socket.AF_INET
if mode == "recv":
    s = socket.create_server((addr, 7777), family=family)
    print("ready", flush=True)
    c, _ = s.accept()
    h = hashlib.sha256()
    while d := c.recv(1 << 20):
        h.update(d)
    print(h.hexdigest(), flush=True)
else:
    data = hashlib.shake_256(b"kakuremichi").digest(size)
    with socket.create_connection((addr, 7777), timeout=10) as s:
        s.sendall(data)
"""


def sh(*args, check=True, **kw):
    return subprocess.run(args, check=check, capture_output=True, text=True, timeout=60, **kw).stdout


class Pair:
    """Two namespaces, each with a device; begin(i): side i knows where the other is."""

    def __init__(self, commands, tmp):
        self.tmp, self.procs, self.keys = tmp, [], []
        sh("ip", "link", "add", "kmwe-a", "type", "veth", "peer", "name", "kmwe-b", check=True)
        for i, ns in enumerate(NS):
            sh("ip", "netns", "add", ns)
            link = ["kmwe-a", "kmwe-b"][i]
            sh("ip", "link", "set", link, "netns", ns)
            for a in (f"{OUTER[0][i]}/24", f"{OUTER[1][i]}/64"):
                self.ip(i, "addr", "add", a, "dev", link, *(["nodad"] if ":" in a else []))
            self.ip(i, "link", "set", link, "up")
            self.ip(i, "link", "set", "lo", "up")
            self.start(i, commands[i])
        self.psk = self.file("psk", sh("wg", "genpsk"))

    def ip(self, i, *args, check=True):
        return sh("ip", "-n", NS[i], *args, check=check)

    def inside(self, i, *args, **kw):
        return sh("ip", "netns", "exec", NS[i], *args, **kw)

    def file(self, name, text):
        path = self.tmp / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o600)
        return str(path)

    def start(self, i, command):
        p = subprocess.Popen(["ip", "netns", "exec", NS[i], *command, DEV[i]],
                             stdout=subprocess.DEVNULL, stderr=open(self.tmp / f"{i}.err", "w"))
        self.procs.append(p)
        until = time.monotonic() + 10
        while f"interface: {DEV[i]}" not in sh("wg", "show", DEV[i], check=False):
            assert p.poll() is None and time.monotonic() < until, "the device does not come"
            time.sleep(0.02)
        key = sh("wg", "genkey")
        self.keys.append(sh("wg", "pubkey", input=key).strip())
        sh("wg", "set", DEV[i], "private-key", self.file(f"key{i}", key), "listen-port", "51820")
        self.ip(i, "link", "set", DEV[i], "mtu", "1420", "up")
        self.ip(i, "addr", "add", f"{INNER4[i]}/24", "dev", DEV[i])
        self.ip(i, "addr", "add", f"{INNER6[i]}/64", "dev", DEV[i], "nodad")

    def peer(self, i, *args):
        sh("wg", "set", DEV[i], "peer", self.keys[1 - i], "preshared-key", self.psk, "allowed-ips",
           f"{INNER4[1 - i]}/32,{INNER6[1 - i]}/128", *args)

    def begin(self, i, outer):
        """Fresh peers; only side i has an endpoint."""
        for k in range(2):
            sh("wg", "set", DEV[k], "peer", self.keys[1 - k], "remove")
        self.peer(1 - i)
        to = OUTER[outer][1 - i]
        self.peer(i, "endpoint", f"[{to}]:51820" if ":" in to else f"{to}:51820")

    def ping(self, i, addr, *args):
        out = self.inside(i, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", *args, addr, check=False)
        assert " 0% packet loss" in out, out

    def transfer(self, i, addr):
        """SIZE bytes from side i to the other one's addr."""
        recv = subprocess.Popen(["ip", "netns", "exec", NS[1 - i], sys.executable, "-c", TRANSFER, "recv",
                                 addr, "0"], stdout=subprocess.PIPE, text=True)
        watch = threading.Timer(60, recv.kill)
        watch.start()
        try:
            assert recv.stdout.readline() == "ready\n"
            self.inside(i, sys.executable, "-c", TRANSFER, "send", addr, str(SIZE))
            got = recv.stdout.readline().strip()
        finally:
            watch.cancel()
            recv.kill()
            recv.wait()
        assert got == hashlib.sha256(hashlib.shake_256(b"kakuremichi").digest(SIZE)).hexdigest()

    def status(self, i):
        key, psk, endpoint, allowed, handshake, rx, tx, keepalive = \
            sh("wg", "show", DEV[i], "dump").splitlines()[1].split("\t")
        return {"endpoint": endpoint, "handshake": int(handshake), "rx": int(rx), "tx": int(tx),
                "allowed": allowed, "psk": psk, "key": key, "keepalive": keepalive}

    def close(self):
        for p in self.procs:
            p.terminate()
        codes = [p.wait(20) for p in self.procs]
        for i, ns in enumerate(NS):
            sh("ip", "netns", "del", ns, check=False)
        errors = "".join((self.tmp / f"{i}.err").read_text() for i in range(len(self.procs)))
        assert "Sanitizer" not in errors, errors
        return codes


@pytest.fixture(params=["engine-engine", "engine-go"])
def pair(request, tmp_path):
    for ns in NS:
        sh("ip", "netns", "del", ns, check=False)
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
    """Outer packets that do not fit are cut by IP, as the kernel's WireGuard has it."""
    pair.begin(0, 0)
    for i, link in enumerate(["kmwe-a", "kmwe-b"]):
        pair.ip(i, "link", "set", link, "mtu", "1300")
    pair.ping(0, INNER4[1], "-s", "1300")
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
