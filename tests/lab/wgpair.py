# SPDX-License-Identifier: MIT
"""Two hosts with a WireGuard device each, driven by wg(8): the engine (km-warden --device), Debian's
wireguard-go or the kernel's; and what crosses the link between them.

    NS[0] OUTER ══ veth ══ OUTER NS[1]     outer
          INNER ── wg ──── INNER           inner
"""
import base64
import ctypes
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from .net import Namespace
from .proc import SLOW, patience

BUILD = pathlib.Path(os.environ.get("KM_BUILD", "build")).absolute()
ENGINE = [str(BUILD / "km-warden"), "-f", "--device"]
GO = ["wireguard-go", "-f"]
KERNEL = None
PORT = 51820
SIZE = int(8_000_000 / SLOW ** 2)  # of a transfer

TRANSFER = r"""
import hashlib, select, socket, sys
mode, addr, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in addr else socket.AF_INET
if mode == "recv":
    s = socket.create_server((addr, 7777), family=family)
    print("ready", flush=True)
    c, _ = s.accept()
    h, n = hashlib.sha256(), 0
    while d := c.recv(1 << 20):
        if not n:
            print("under way", flush=True)
        n += len(d)
        h.update(d)
    print(h.hexdigest(), flush=True)
else:
    data = hashlib.shake_256(b"kakuremichi").digest(size)
    with socket.create_connection((addr, 7777), timeout=10) as s:
        s.settimeout(None)
        # A little at a time until standard input ends, then the rest.
        while data and not select.select([sys.stdin], [], [], 0.005)[0]:
            s.sendall(data[:1000])
            data = data[1000:]
        s.sendall(data)
"""


def sh(*args, check=True, **kw):
    return subprocess.run(args, check=check, capture_output=True, text=True, timeout=patience(60), **kw).stdout


def names(prefix, *tails):
    return [f"{prefix}{os.getpid()}{tail}" for tail in tails]


class Pair:
    """Two namespaces, each with a device that is made, and whose control socket is served, by a program (its
    command, without the device's name), or is the KERNEL's. begin(i): side i knows where the other is."""

    NS = names("kmwe", "a", "b")  # of this run: another may go on beside it
    DEV = names("kmwe", "0", "1")
    LINK = ["kmwe-a", "kmwe-b"]
    OUTER = [("10.97.0.1", "10.97.0.2"), ("fd97::1", "fd97::2")]
    INNER4, INNER6 = ("10.96.0.1", "10.96.0.2"), ("fd96::1", "fd96::2")

    def __init__(self, commands, tmp):
        self.tmp, self.procs, self.keys, self.private, self.hosts = tmp, [], [], [], []
        self.clean()
        try:
            for ns in self.NS:
                self.hosts.append(Namespace(ns, ""))
            self.wire()
            self.psk = self.file("psk", sh("wg", "genpsk"))
            for i, command in enumerate(commands):
                self.start(i, command)
        except BaseException:
            self.close()
            raise

    def clean(self):
        for host in self.hosts:
            host.close()
        for ns in self.NS:  # of a run that was killed
            shutil.rmtree(f"/etc/netns/{ns}", ignore_errors=True)
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
        p = None
        if command is KERNEL:
            self.ip(i, "link", "add", self.DEV[i], "type", "wireguard")
        else:
            with open(self.tmp / f"{i}.err", "w", encoding="utf-8") as err:
                p = subprocess.Popen(["ip", "netns", "exec", self.NS[i], *command, self.DEV[i]],
                                     stdout=subprocess.DEVNULL, stderr=err)
        self.procs.append(p)
        until = time.monotonic() + patience(10)
        while f"interface: {self.DEV[i]}" not in self.inside(i, "wg", "show", self.DEV[i], check=False):
            assert (not p or p.poll() is None) and time.monotonic() < until, "the device does not come"
            time.sleep(0.02)
        key = sh("wg", "genkey")
        self.keys.append(sh("wg", "pubkey", input=key).strip())
        self.private.append(self.file(f"key{i}", key))
        self.wg(i, "private-key", self.private[i], "listen-port", PORT)
        self.ip(i, "link", "set", self.DEV[i], "mtu", "1420", "up")
        self.ip(i, "addr", "add", f"{self.INNER4[i]}/24", "dev", self.DEV[i])
        self.ip(i, "addr", "add", f"{self.INNER6[i]}/64", "dev", self.DEV[i], "nodad")

    def wg(self, i, *args):
        """wg set of side i's device."""
        self.inside(i, "wg", "set", self.DEV[i], *map(str, args))

    def public(self, i):
        return base64.b64decode(self.keys[i])

    def peer(self, i, *args, psk=True):
        self.wg(i, "peer", self.keys[1 - i], *(["preshared-key", self.psk] if psk else []), "allowed-ips",
                f"{self.INNER4[1 - i]}/32,{self.INNER6[1 - i]}/128", *args)

    def begin(self, i, outer=0, psk=True):
        """Fresh peers, that is, no session; only side i has an endpoint."""
        for k in range(2):
            self.wg(k, "peer", self.keys[1 - k], "remove")
        self.peer(1 - i, psk=psk)
        to = self.OUTER[outer][1 - i]
        self.peer(i, "endpoint", f"[{to}]:{PORT}" if ":" in to else f"{to}:{PORT}", psk=psk)

    def expire(self, i):
        """Ends side i's session for sending, as its age does after a while: its private key is another for a
        moment. (The kernel's device still receives under it; the engine does not.) Nothing may be sent meanwhile."""
        self.wg(i, "private-key", self.file("other", sh("wg", "genkey")))
        self.wg(i, "private-key", self.private[i])

    def ping(self, i, addr, *args):
        """Three, one after the other (of several, ping waits for the last two round trips and no longer), with the
        patience for a handshake message that is lost and comes again after five seconds."""
        for _ in range(3):
            out = self.inside(i, "ping", "-n", "-c", "1", "-W", str(int(patience(8))), *args, addr, check=False)
            assert " 0% packet loss" in out, out

    def lost(self, i, addr, *args):
        """One ping, for which there is no answer."""
        return " 100% packet loss" in self.inside(i, "ping", "-n", "-c", "1", "-W", "1", *args, addr, check=False)

    def transfer(self, i, addr, size=SIZE, meanwhile=None):
        """size bytes from side i to the other one's addr; meanwhile is called while they flow."""
        me = [sys.executable, "-c", TRANSFER]
        recv = subprocess.Popen(self.hosts[1 - i].argv(*me, "recv", addr, str(size)), stdout=subprocess.PIPE, text=True)
        send = None
        watch = threading.Timer(patience(60), recv.kill)
        watch.start()
        try:
            assert recv.stdout.readline() == "ready\n"
            send = subprocess.Popen(self.hosts[i].argv(*me, "send", addr, str(size)), stdin=subprocess.PIPE)
            assert recv.stdout.readline() == "under way\n"
            if meanwhile:
                meanwhile()
            send.stdin.close()
            got = recv.stdout.readline().strip()
            assert send.wait(patience(10)) == 0
        finally:
            watch.cancel()
            for p in filter(None, (recv, send)):
                p.kill()
                p.wait()
        assert got == hashlib.sha256(hashlib.shake_256(b"kakuremichi").digest(size)).hexdigest()

    def status(self, i):
        key, psk, endpoint, allowed, handshake, rx, tx, keepalive = \
            self.inside(i, "wg", "show", self.DEV[i], "dump").splitlines()[1].split("\t")
        return {"endpoint": endpoint, "handshake": int(handshake), "rx": int(rx), "tx": int(tx),
                "allowed": allowed, "psk": psk, "key": key, "keepalive": keepalive}

    def counters(self, i, dev):
        """rx and tx of an interface of side i: {"rx": {"bytes", "packets", …}, "tx": …}."""
        return json.loads(self.ip(i, "-s", "-j", "link", "show", dev))[0]["stats64"]

    def close(self):
        """Ends everything; the exit statuses of the programs (None: the kernel's)."""
        for p in filter(None, self.procs):
            p.terminate()
        codes = [p and p.wait(patience(20)) for p in self.procs]
        self.clean()
        errors = "".join(p.read_text(errors="replace") for p in self.tmp.glob("[01].err"))
        assert "Sanitizer" not in errors, errors
        return codes


class Pings:
    """A ping every interval from side i, until the end of the block; then how many were sent and how many are lost
    (not those that may be under way: sent after the last one that was answered)."""

    def __init__(self, pair, i, addr, interval="0.2"):
        self.p = subprocess.Popen(pair.hosts[i].argv("ping", "-n", "-O", "-i", interval, addr),
                                  stdout=subprocess.PIPE, text=True)
        self.last = self.answered = 0
        assert self.p.stdout.readline()

    def _answer(self, line):
        seq = re.search(r"bytes from .* icmp_seq=(\d+)", line)
        if seq and "DUP!" not in line:
            self.answered += 1
            # it is of 16 bits only
            self.last = max(self.last, self.last + (int(seq.group(1)) - self.last + 32768) % 65536 - 32768)
        return bool(seq)

    def wait(self, n):
        """Until n more have been answered."""
        while n:
            line = self.p.stdout.readline()
            assert line, "ping ended"
            n -= self._answer(line)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.p.send_signal(signal.SIGINT)
        self.out = self.p.communicate(timeout=patience(20))[0]
        for line in self.out.splitlines():
            self._answer(line)
        self.sent = int(re.search(r"(\d+) packets transmitted", self.out).group(1))
        self.lost = self.last - self.answered


# Over IPv4 without options, from 10.97.0.1 or .2, to UDP, the payload's first byte 1 to 3.
_FILTER = [(0x30, 0, 0, 0), (0x15, 0, 11, 0x45), (0x20, 0, 0, 12), (0x15, 1, 0, 0x0A610001), (0x15, 0, 8, 0x0A610002),
           (0x30, 0, 0, 9), (0x15, 0, 6, 17), (0x28, 0, 0, 6), (0x45, 4, 0, 0x1FFF), (0x30, 0, 0, 28),
           (0x35, 0, 2, 1), (0x25, 1, 0, 3), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0)]


class Wire:
    """The handshake messages between the hosts' own IPv4 addresses, seen at side 0's link, in their order:
    (side that sent it, type, whether mac2 is there)."""

    def __init__(self, pair):
        self._seen, self._stop = [], False
        # Protocol 0: it hears nothing before the filter and the link are set.
        self._sock = pair.hosts[0].call(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        code = b"".join(struct.pack("HBBI", *x) for x in _FILTER)
        buf = ctypes.create_string_buffer(code)
        self._sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", len(_FILTER), ctypes.addressof(buf)))
        self._sock.bind((pair.LINK[0], 3))
        self._sock.settimeout(0.1)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        while not self._stop:
            try:
                data = self._sock.recv(2048)
            except TimeoutError:
                continue
            m = data[28:]
            self._seen.append((data[15] - 1, m[0], m[0] < 3 and any(m[-16:])))

    def seen(self, since=0):
        return self._seen[since:]

    def wait(self, message, since=0, timeout=10):
        until = time.monotonic() + patience(timeout)
        while message not in self._seen[since:]:
            assert time.monotonic() < until, (message, self.seen(since))
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._stop = True
        self._thread.join()
        self._sock.close()


def forged_initiation(public):
    """148 bytes with a right mac1 for the holder of this public key (raw), and garbage for the rest."""
    key = hashlib.blake2s(b"mac1----" + public).digest()
    m = struct.pack("<I", 1) + secrets.token_bytes(112)
    return m + hashlib.blake2s(m, key=key, digest_size=16).digest() + bytes(16)


class Flood:
    """Forged initiations for side i, from spoofed sources behind the other side, in bursts of n super-packets of 64
    again and again until the end of the block. One is under load when they queue faster than it looks at them:
    from 512 of 4096 on the kernel (n = 16), from 128 of 1024 on the others (n = 4)."""

    def __init__(self, pair, i, n):
        self.pair, self.i, self._stop = pair, i, threading.Event()
        # The answers have a way to go: what waits for ARP fills wireguard-go's one socket.
        pair.ip(i, "route", "replace", "198.51.100.0/24", "via", pair.OUTER[0][1 - i])
        self._pieces = [forged_initiation(pair.public(i)) for _ in range(64)]
        self._socks = [pair.hosts[1 - i].call(self._socket, f"198.51.100.{k}") for k in range(1, n + 1)]
        self.bursts = 0
        self._thread = threading.Thread(target=self._run)

    @staticmethod
    def _socket(source):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT: a source that is not ours
        s.setsockopt(socket.IPPROTO_UDP, 103, 148)  # UDP_SEGMENT
        s.bind((source, 0))
        return s

    def _run(self):
        burst = b"".join(self._pieces)
        while not self._stop.wait(0.2):
            for s in self._socks:
                s.sendto(burst, (self.pair.OUTER[0][self.i], PORT))
            self.bursts += 1

    def __enter__(self):
        self._thread.start()
        until = time.monotonic() + patience(10)
        while self.bursts < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()
        for s in self._socks:
            s.close()
