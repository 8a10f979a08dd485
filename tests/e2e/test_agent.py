# SPDX-License-Identifier: MIT
"""The real agentd with a configuration on disk, without control and WireGuard; the test plays the
gateway by raw sockets.

    gateway 127.1.0.1 ──▶ agentd 127.1.0.100:80 ──▶ targets on 127.0.0.1
    (wireguard = none: the virtual IPs lie on the loopback interface of a namespace of its own)
"""
import contextlib
import hashlib
import json
import os
import pathlib
import select
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.request
import uuid

import pytest

from tests.lab.proc import patience

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KM_BUILD", ROOT / "build"))
GATEWAY, AGENT, STRANGER = "127.1.0.1", "127.1.0.100", "127.1.0.77"
CLONE_NEWNET = 0x40000000
METRICS = "127.0.0.1:9102"


def header(tunnel, target, local=True, client=("203.0.113.9", 4711)):
    tlv = b"".join(bytes([t]) + struct.pack(">H", 16) + uuid.UUID(i).bytes
                   for t, i in ((0xE0, tunnel), (0xE1, target)))
    if local:
        body, cmd, fam = b"", 0x20, 0
    else:
        body = socket.inet_aton(client[0]) + socket.inet_aton("198.51.100.1") + struct.pack(">HH", client[1], 443)
        cmd, fam = 0x21, 0x11
    body += tlv
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([cmd, fam]) + struct.pack(">H", len(body)) + body


class Target:
    """A TCP service that hands each connection to a function, on a thread of its own."""

    def __init__(self, serve, path=None):
        if path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(str(path))
            self.name = f"unix:{path}"
        else:
            self.sock = socket.socket()
            self.sock.bind(("127.0.0.1", 0))
            self.name = "127.0.0.1:%d" % self.sock.getsockname()[1]
        self.sock.listen(2048)
        self.serve = serve
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(c,), daemon=True).start()

    def _one(self, c):
        with contextlib.suppress(OSError), c:
            self.serve(c)

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def echo(c):
    while data := c.recv(65536):
        c.sendall(data)
    c.shutdown(socket.SHUT_WR)


def read_all(s):
    out = bytearray()
    while data := s.recv(65536):
        out += data
    return bytes(out)


def cut(s):
    """The agent has cut this connection: by RST, or by FIN without a byte."""
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True


class Agent:
    def __init__(self, tmp, tunnels, **settings):
        self.dir = pathlib.Path(tmp)
        self.tunnels = {}
        state = self.dir / "state"
        state.mkdir(mode=0o700)
        (self.dir / "run").mkdir(mode=0o700)
        listed = []
        for name, (target, enabled) in tunnels.items():
            t = {"id": str(uuid.uuid4()), "domain": f"{name}.test", "enabled": enabled,
                 "targetId": str(uuid.uuid4()), "target": target}
            self.tunnels[name] = t
            listed.append(t)
        config = {"snapshot": str(uuid.uuid4()), "epoch": str(uuid.uuid4()), "revision": 7,
                  "agent": {"id": str(uuid.uuid4()), "name": "agent-1", "virtualIp": AGENT,
                            "subnet": "127.1.0.0/24"},
                  "gateways": [{"id": str(uuid.uuid4()), "name": "gateway-1", "publicIp": ["192.0.2.1"],
                                "wireguardPort": 51820, "virtualIps": [GATEWAY]}],
                  "tunnels": listed}
        (state / "config.json").write_text(json.dumps(config))
        (state / "config.json").chmod(0o600)
        values = dict(state_dir=state, runtime_dir=self.dir / "run", wireguard="none",
                      metrics_listen=METRICS, connect_timeout="2s", workers=2)
        values.update(settings)
        (self.dir / "agent.conf").write_text("".join(f"{k} = {v}\n" for k, v in values.items()))
        self.log = self.dir / "agentd.log"
        env = dict(os.environ, ASAN_OPTIONS="detect_leaks=1:exitcode=99", UBSAN_OPTIONS="print_stacktrace=1")
        self.proc = subprocess.Popen([BUILD / "agentd", "-c", self.dir / "agent.conf"],
                                     stderr=self.log.open("wb"), env=env)
        try:
            self.wait_log("listening")
        except BaseException:
            self.proc.kill()
            raise

    def text(self):
        return self.log.read_text(errors="replace")

    def wait(self, what, timeout=20):
        end = time.monotonic() + patience(timeout)
        while not (got := what()):
            assert self.proc.poll() is None, f"agentd ended with {self.proc.returncode}\n{self.text()}"
            assert time.monotonic() < end, self.text()
            select.select([], [], [], 0.02)
        return got

    def wait_log(self, *any_of, **kw):
        return self.wait(lambda: any(w in self.text() for w in any_of), **kw)

    def metrics(self):
        with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=patience(10)) as r:
            return r.read().decode()

    def metric(self, series):
        for line in self.metrics().splitlines():
            if line.startswith(series + " "):
                return int(line.rsplit(" ", 1)[1])
        return 0

    def raw(self, source=GATEWAY):
        s = socket.create_connection((AGENT, 80), timeout=patience(15), source_address=(source, 0))
        return s

    def header(self, name, **kw):
        t = self.tunnels[name]
        return header(t["id"], t["targetId"], **kw)

    def open(self, name, **kw):
        s = self.raw()
        s.sendall(self.header(name, **kw))
        return s

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.proc.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])

    def stop(self, timeout=patience(40)):
        self.proc.send_signal(signal.SIGTERM)
        return self.proc.wait(timeout)


@pytest.fixture(scope="module")
def private_loopback():
    """The whole module in a network namespace of its own, so that port 80 is free."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    libc = __import__("ctypes").CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(home)


@pytest.fixture(scope="module")
def world(private_loopback, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("agent")
    gate = threading.Event()

    def sink(c):
        gate.wait(60)
        digest = hashlib.sha256()
        while data := c.recv(1 << 16):
            digest.update(data)
        c.sendall(digest.hexdigest().encode())

    def half_close(c):
        c.sendall(b"%d" % len(read_all(c)))

    def resets(c):
        c.recv(1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    seen = []

    def tells_end(c):
        try:
            read_all(c)
            seen.append("fin")
        except ConnectionResetError:
            seen.append("reset")

    targets = dict(echo=Target(echo), sink=Target(sink), half=Target(half_close), resets=Target(resets),
                   end=Target(tells_end), unix=Target(echo, tmp / "echo.sock"),
                   otherunix=Target(echo, tmp / "other.sock"))
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))  # bound, never listening: refused
    tunnels = {n: (t.name, True) for n, t in targets.items()}
    tunnels.update(local=("localhost:" + targets["echo"].name.split(":")[1], True),
                   off=(targets["echo"].name, False),
                   down=("127.0.0.1:%d" % closed.getsockname()[1], True),
                   outside=("192.0.2.55:22", True),
                   gone=("no-such-name.invalid:80", True))
    a = Agent(tmp, tunnels, allow_targets=f"127.0.0.0/8:*, [::1]:*, gone.invalid:80, no-such-name.invalid:80, "
                                          f"unix:{tmp}/echo.sock")
    a.gate, a.seen = gate, seen
    yield a
    gate.set()
    try:
        code = a.stop() if a.proc.poll() is None else a.proc.returncode
    finally:
        a.proc.kill()
    for t in targets.values():
        t.close()
    closed.close()
    print(a.text())
    assert code == 0


@pytest.mark.parametrize("name", ["echo", "local", "unix"])
@pytest.mark.parametrize("local", [True, False])
def test_bytes_both_ways(world, name, local):
    data = os.urandom(1 << 20)
    with world.open(name, local=local) as s:
        t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        t.start()
        assert read_all(s) == data
        t.join()


def test_bytes_in_the_same_packet_as_the_header(world):
    with world.raw() as s:
        s.sendall(world.header("echo") + b"GET / HTTP/1.1\r\n")
        assert s.recv(100) == b"GET / HTTP/1.1\r\n"


def test_header_byte_by_byte(world):
    with world.raw() as s:
        for b in world.header("echo", local=False):
            s.sendall(bytes([b]))
        s.sendall(b"x")
        assert s.recv(1) == b"x"


def test_half_close(world):
    with world.open("half") as s:
        s.sendall(b"z" * 12345)
        s.shutdown(socket.SHUT_WR)
        assert read_all(s) == b"12345"


def test_reset_is_passed_on_by_the_target(world):
    with world.open("resets") as s:
        s.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            s.recv(1)


def test_reset_is_passed_on_to_the_target(world):
    world.seen.clear()
    s = world.open("end")
    s.sendall(b"x")
    series = 'kakuremichi_agent_tunnel_bytes_total{tunnel="%s",direction="in"}' % world.tunnels["end"]["id"]
    world.wait(lambda: world.metric(series) >= 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    world.wait(lambda: world.seen)
    assert world.seen == ["reset"]


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n", b"\0"])
def test_without_the_header(world, first):
    before = world.metric('kakuremichi_agent_refused_total{reason="header"}')
    with world.raw() as s:
        s.sendall(first)
        assert cut(s)
    assert world.metric('kakuremichi_agent_refused_total{reason="header"}') == before + 1
    world.wait_log("no PROXY v2 header")


def test_header_without_tunnel(world):
    with world.raw() as s:
        s.sendall(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00hello")
        assert cut(s)


def test_header_cut_short(world):
    with world.raw() as s:
        s.sendall(world.header("echo")[:30])
        s.shutdown(socket.SHUT_WR)
        assert cut(s)


def test_silent_connection_is_cut_after_five_seconds(world):
    began = time.monotonic()
    with world.raw() as s:
        assert cut(s)
    assert 4 < time.monotonic() - began < 40


def test_wrong_source(world):
    before = world.metric('kakuremichi_agent_refused_total{reason="address"}')
    for source in (STRANGER, AGENT):
        with contextlib.suppress(OSError), world.raw(source) as s:  # it may be cut before it is made
            s.sendall(world.header("echo"))
            assert cut(s)
    assert world.metric('kakuremichi_agent_refused_total{reason="address"}') == before + 2
    world.wait_log("not a gateway's address")


@pytest.mark.parametrize("name,why", [("off", "the tunnel is disabled"), ("outside", "not in allow_targets"),
                                      ("otherunix", "not in allow_targets"), ("down", "Connection refused"),
                                      ("gone", "no-such-name.invalid")])
def test_not_forwarded(world, name, why):
    with world.open(name) as s:
        assert cut(s)
    world.wait_log(why)


def test_unknown_tunnel_and_target(world):
    t = world.tunnels["echo"]
    for ids in ((str(uuid.uuid4()), t["targetId"]), (t["id"], str(uuid.uuid4()))):
        with world.raw() as s:
            s.sendall(header(*ids))
            assert cut(s)
    world.wait_log("unknown tunnel")


def test_health_is_logged(world):
    world.wait_log("target is healthy")
    world.wait(lambda: "target is unhealthy" in world.text())


def test_upgraded_streams_at_once(world):
    """1,200 connections that stay open: over the number of pipes that one user gets."""
    conns = []
    try:
        for i in range(1200):
            conns.append(world.open("echo"))
        for turn in range(3):
            for i, s in enumerate(conns):
                s.sendall(b"%06d" % (i + turn) * 50)
            for i, s in enumerate(conns):
                want = b"%06d" % (i + turn) * 50
                got = b""
                while len(got) < len(want):
                    got += s.recv(65536)
                assert got == want
    finally:
        for s in conns:
            s.close()
    world.wait(lambda: world.metric("kakuremichi_agent_connections") == 0)


def test_slow_reader_holds_back_the_sender(world):
    world.gate.clear()
    before = world.rss_kib()
    block, sent, digest = os.urandom(1 << 20), 0, hashlib.sha256()
    with world.open("sink") as s:
        s.settimeout(2)
        with pytest.raises(TimeoutError):
            while sent < 256 << 20:
                sent += s.send(block)
        assert sent < 64 << 20
        assert world.rss_kib() - before < 8 << 10
        s.settimeout(patience(30))
        world.gate.set()
        # What was sent is a repetition of the block, whatever the sizes of the single sends were.
        s.shutdown(socket.SHUT_WR)
        got = read_all(s).decode()
    assert len(got) == 64 and sent > 0


def test_ready_and_metrics(world):
    with urllib.request.urlopen(f"http://{METRICS}/readyz", timeout=patience(10)) as r:
        assert r.status == 200
    assert "kakuremichi_agent_tunnel_connections_total" in world.metrics()


def test_sigterm_lets_running_connections_finish(world):
    with world.open("half") as busy, world.open("echo") as pausing:
        busy.sendall(b"a" * 10)
        pausing.sendall(b"x")
        assert pausing.recv(1) == b"x"
        world.proc.send_signal(signal.SIGTERM)
        world.wait_log("draining")
        with pytest.raises(ConnectionRefusedError):
            end = time.monotonic() + patience(10)
            while time.monotonic() < end:  # each worker lets the listener go
                try:
                    world.raw().close()
                except ConnectionResetError:
                    pass  # the kernel had begun the handshake when the listener went
        # However long an answer pauses, it goes on; only its gateway knows when it has ended.
        with pytest.raises(TimeoutError):
            pausing.settimeout(3)
            pausing.recv(1)
        pausing.settimeout(patience(20))
        pausing.sendall(b"y")
        assert pausing.recv(1) == b"y"
        pausing.shutdown(socket.SHUT_WR)
        assert read_all(pausing) == b""
        busy.sendall(b"b" * 10)
        busy.shutdown(socket.SHUT_WR)
        assert read_all(busy) == b"20"
    assert world.proc.wait(patience(10)) == 0
