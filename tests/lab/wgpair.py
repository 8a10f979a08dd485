# SPDX-License-Identifier: MIT
"""Two hosts with a WireGuard device each, driven by wg(8):

    NS[0] OUTER ══ veth ══ OUTER NS[1]     outer
          INNER ── wg ──── INNER           inner
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import threading
import time

BUILD = pathlib.Path(os.environ.get("KM_BUILD", "build")).absolute()
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


def names(prefix, *tails):
    return [f"{prefix}{os.getpid()}{tail}" for tail in tails]


class Pair:
    """Two namespaces, each with a device; begin(i): side i knows where the other is."""

    NS = names("kmwe", "a", "b")  # of this run: another may go on beside it
    DEV = names("kmwe", "0", "1")
    LINK = ["kmwe-a", "kmwe-b"]
    OUTER = [("10.97.0.1", "10.97.0.2"), ("fd97::1", "fd97::2")]
    INNER4, INNER6 = ("10.96.0.1", "10.96.0.2"), ("fd96::1", "fd96::2")

    def __init__(self, commands, tmp):
        self.tmp, self.procs, self.keys = tmp, [], []
        self.clean()
        for ns in self.NS:
            sh("ip", "netns", "add", ns)
        self.wire()
        for i, command in enumerate(commands):
            self.ip(i, "link", "set", "lo", "up")
            self.start(i, command)
        self.psk = self.file("psk", sh("wg", "genpsk"))

    def clean(self):
        for ns in self.NS:
            sh("ip", "netns", "del", ns, check=False)

    def wire(self):
        """The way between them."""
        sh("ip", "link", "add", self.LINK[0], "netns", self.NS[0], "type", "veth",
           "peer", "name", self.LINK[1], "netns", self.NS[1])
        for i in range(2):
            self.address(i, *self.addresses(i))

    def addresses(self, i):
        return f"{self.OUTER[0][i]}/24", f"{self.OUTER[1][i]}/64"

    def address(self, i, *addrs):
        for a in addrs:
            self.ip(i, "addr", "add", a, "dev", self.LINK[i], *(["nodad"] if ":" in a else []))
        self.ip(i, "link", "set", self.LINK[i], "up")

    def ip(self, i, *args, check=True):
        return sh("ip", "-n", self.NS[i], *args, check=check)

    def inside(self, i, *args, **kw):
        return sh("ip", "netns", "exec", self.NS[i], *args, **kw)

    def file(self, name, text):
        path = self.tmp / name
        path.write_text(text, encoding="ascii")
        path.chmod(0o600)
        return str(path)

    def start(self, i, command):
        p = subprocess.Popen(["ip", "netns", "exec", self.NS[i], *command, self.DEV[i]],
                             stdout=subprocess.DEVNULL, stderr=open(self.tmp / f"{i}.err", "w"))
        self.procs.append(p)
        until = time.monotonic() + 10
        while f"interface: {self.DEV[i]}" not in sh("wg", "show", self.DEV[i], check=False):
            assert p.poll() is None and time.monotonic() < until, "the device does not come"
            time.sleep(0.02)
        key = sh("wg", "genkey")
        self.keys.append(sh("wg", "pubkey", input=key).strip())
        sh("wg", "set", self.DEV[i], "private-key", self.file(f"key{i}", key), "listen-port", "51820")
        self.ip(i, "link", "set", self.DEV[i], "mtu", "1420", "up")
        self.ip(i, "addr", "add", f"{self.INNER4[i]}/24", "dev", self.DEV[i])
        self.ip(i, "addr", "add", f"{self.INNER6[i]}/64", "dev", self.DEV[i], "nodad")

    def peer(self, i, *args):
        sh("wg", "set", self.DEV[i], "peer", self.keys[1 - i], "preshared-key", self.psk, "allowed-ips",
           f"{self.INNER4[1 - i]}/32,{self.INNER6[1 - i]}/128", *args)

    def begin(self, i, outer):
        """Fresh peers; only side i has an endpoint."""
        for k in range(2):
            sh("wg", "set", self.DEV[k], "peer", self.keys[1 - k], "remove")
        self.peer(1 - i)
        to = self.OUTER[outer][1 - i]
        self.peer(i, "endpoint", f"[{to}]:51820" if ":" in to else f"{to}:51820")

    def ping(self, i, addr, *args):
        out = self.inside(i, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", *args, addr, check=False)
        assert " 0% packet loss" in out, out

    def transfer(self, i, addr):
        """SIZE bytes from side i to the other one's addr."""
        recv = subprocess.Popen(["ip", "netns", "exec", self.NS[1 - i], sys.executable, "-c", TRANSFER, "recv",
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
            sh("wg", "show", self.DEV[i], "dump").splitlines()[1].split("\t")
        return {"endpoint": endpoint, "handshake": int(handshake), "rx": int(rx), "tx": int(tx),
                "allowed": allowed, "psk": psk, "key": key, "keepalive": keepalive}

    def close(self):
        for p in self.procs:
            p.terminate()
        codes = [p.wait(20) for p in self.procs]
        self.clean()
        errors = "".join((self.tmp / f"{i}.err").read_text() for i in range(len(self.procs)))
        assert "Sanitizer" not in errors, errors
        return codes
