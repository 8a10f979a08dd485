# SPDX-License-Identifier: MIT
"""Targets of https, which choose between HTTP/2 and HTTP/1.1 in the TLS handshake. The gateway and the stand-in agent
are those of test_target_limits.py; a.wild.test is such a target."""
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import tempfile
import threading
import uuid

import pytest

import test_edge as base
import test_target_limits as limits
from test_edge import Client, Gone
from test_target_limits import Many, ask, waiting

HOST = "a.wild.test"
ID = uuid.UUID(base.TUNNEL["*.wild.test"]).bytes
BODY = bytes(range(256)) * 60
BOTH = ["h2", "http/1.1"]


class Gateway(limits.Gateway):
    options = {}

    def write_config(self):
        super().write_config()
        path = self.dir / "state" / "config.json"
        config = json.loads(path.read_text())
        for t in config["tunnels"]:
            if t["domain"] == "*.wild.test":
                t.update({"targetProtocol": "https", "options": {"tlsVerify": False, **self.options}})
        path.write_text(json.dumps(config))


class Agent(limits.Agent):
    """Its target for a.wild.test ends TLS itself, when tls_gate is open, and speaks what alpn says."""

    def __init__(self):
        self.alpn, self.spoken, self.socks, self.refuses = BOTH, [], [], False
        self.tls_gate = threading.Event()
        self.tls_gate.set()
        with tempfile.TemporaryDirectory() as tmp:
            self.pem = base.make_certificate(tmp, "target.test", "target.test").read_text()
        super().__init__()

    def context(self):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile("w") as f:
            f.write(self.pem)
            f.flush()
            c.load_cert_chain(f.name)
        if self.alpn:
            c.set_alpn_protocols(self.alpn)
        return c

    def play(self, s, info):
        if info[0xE0] != ID:
            return super().play(s, info)
        self.tls_gate.wait(base.WAIT)
        if self.refuses:
            return None
        assert not s.buf, "what follows the header is TLS"
        with contextlib.suppress(ssl.SSLError), self.context().wrap_socket(s.sock, server_side=True) as tls:
            with self.lock:
                self.spoken.append(tls.selected_alpn_protocol())
                self.socks.append(tls)
            s = base.Stream(tls)
            if tls.selected_alpn_protocol() == "h2":
                limits.H2(self, s, info).run()
            else:
                while self.request(s, info):
                    pass
        return None

    def header(self, s):
        """Leaves in the socket what is TLS."""
        buf = b""
        while len(buf) < 16 or len(buf) < 16 + struct.unpack("!H", buf[14:16])[0]:
            data = s.sock.recv(16 - len(buf) if len(buf) < 16 else 16 + struct.unpack("!H", buf[14:16])[0] - len(buf))
            if not data:
                raise Gone
            buf += data
        s.buf = buf
        return super().header(s)

    def restart(self, alpn):
        """Another version of the server takes its place."""
        self.alpn = alpn
        with self.lock:
            socks, self.socks, self.spoken = self.socks, [], []
        for s in socks:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def agent():
    a = Agent()
    yield a
    a.close()


@pytest.fixture
def gate(agent):
    agent.gate.clear()
    yield agent.gate
    agent.gate.set()


@pytest.fixture
def tls_gate(agent):
    agent.tls_gate.clear()
    yield agent.tls_gate
    agent.tls_gate.set()


@contextlib.contextmanager
def running(agent, alpn=BOTH, options=None, **settings):
    agent.restart(alpn)
    agent.h2_plan, agent.h2_streams = [], 2
    kind = type("Gateway", (Gateway,), {"options": options or {}})
    with base.running(kind=kind, **{"workers": 1, **settings}) as g:
        yield g


@pytest.fixture(scope="module")
def gateway(agent):
    with running(agent) as g:
        yield g


def now_speaks(g, agent, alpn):
    """All connections to it are of this version from now on."""
    agent.restart(alpn)
    assert ask(g, "/echo", HOST).status == 200


def opened(g):
    return g.metric("kakuremichi_upstream_connections_total")


def test_many_wait_for_one_handshake(agent, tls_gate):
    """What the target is shows once: to all that wait for it."""
    with running(agent) as g:
        agent.h2_streams = 100
        before = sum(c[0xE0] == ID for c in agent.connections)
        many = [Client(g.tls(HOST)) for _ in range(24)]
        for c in many:
            c.send(f"GET /echo HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
        for _ in range(2):  # the one worker has read the others by then
            assert ask(g, "/echo", "other.test").status == 200
        tls_gate.set()
        assert [c.answer().status for c in many] == [200] * 24
        for c in many:
            c.sock.close()
        assert sum(c[0xE0] == ID for c in agent.connections) == before + 1 and agent.spoken == ["h2"]


def test_with_http_1_nobody_waits_for_another(agent, gate, tls_gate):
    with running(agent, ["http/1.1"]) as g:
        many = Many(g, 12, "/gate", HOST)
        g.until(lambda: g.metric("kakuremichi_connections") == 12)
        tls_gate.set()
        g.until(lambda: agent.held == 12)
        gate.set()
        assert many.statuses() == [200] * 12 and opened(g) == 12
        # Now it is known: each dials at once, whatever becomes of the first.
        agent.restart(["http/1.1"])
        g.until(lambda: g.metric("kakuremichi_upstream_idle") == 0)
        gate.clear()
        tls_gate.clear()
        many = Many(g, 6, "/gate", HOST)
        g.until(lambda: opened(g) == 18)
        tls_gate.set()
        gate.set()
        assert many.statuses() == [200] * 6


def test_the_target_chooses_and_changes(gateway, agent):
    g = gateway
    with g.tls(HOST) as s:
        c = Client(s)
        for alpn, chosen in ((BOTH, "h2"), (["http/1.1"], "http/1.1"), (["h2"], "h2"), (None, None),
                             (["http/1.1", "h2"], "http/1.1"), (BOTH, "h2")):
            agent.restart(alpn)
            for method in ("GET", "PUT", "POST"):
                body = b"" if method == "GET" else BODY
                c.send(f"{method} /echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                a = c.answer()
                assert a.status == 200, (alpn, method)
                assert json.loads(a.body)["sha256"] == hashlib.sha256(body).hexdigest()
            assert set(agent.spoken) == {chosen}
    requests = [c for c in agent.connections if c[0xE0] == ID][-1]["requests"]
    assert {(r.get(b":scheme") or r[":scheme"].encode()) for r in requests} == {b"https"}


@pytest.mark.parametrize("plan,repeated", [(["refuse"], 1), (["refuse", "refuse"], 2), (["goaway"], 1), (["echo"], 0)])
def test_what_a_target_has_not_processed(gateway, agent, plan, repeated):
    g = gateway
    now_speaks(g, agent, BOTH)
    before = g.metric("kakuremichi_upstream_repeated_total")
    agent.h2_plan = list(plan)
    a = ask(g, "/", HOST, "POST", BODY)
    assert a.status == 200 and json.loads(a.body)["sha256"] == hashlib.sha256(BODY).hexdigest()
    assert g.metric("kakuremichi_upstream_repeated_total") == before + repeated


def test_goaway_before_a_restart_as_http_1(gateway, agent):
    """What was not processed goes to the target in its new version; but not what has been written down for the other
    one, as the chunks of a body are."""
    g = gateway
    now_speaks(g, agent, BOTH)
    agent.h2_plan, agent.alpn = ["goaway"], ["http/1.1"]
    a = ask(g, "/echo", HOST, "POST", BODY)
    assert a.status == 200 and json.loads(a.body)["sha256"] == hashlib.sha256(BODY).hexdigest()
    now_speaks(g, agent, BOTH)
    agent.h2_plan, agent.alpn = ["goaway"], ["http/1.1"]
    with g.tls(HOST) as s:
        c = Client(s)
        c.send(f"POST /echo HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        a = c.answer()
    assert a.status == 502
    g.wait_log("the target speaks another version of HTTP than before")


def test_upgrades_have_http_1(gateway, agent, gate):
    g = gateway
    now_speaks(g, agent, BOTH)
    before = opened(g)
    agent.h2_plan = ["hold"]
    held = Many(g, 1, "/", HOST)
    g.until(lambda: agent.held == 1)
    with g.tls(HOST) as s:
        c = Client(s)
        c.send(f"GET /upgrade HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert c.head()[0] == 101
        c.send(b"more")
        c.s.until(b"welcome more")
        assert agent.spoken == ["h2", "http/1.1"]
        assert ask(g, "/", HOST).status == 200 and opened(g) == before + 1  # others stay with HTTP/2
    gate.set()
    assert held.statuses() == [200]


def test_a_handshake_that_fails(agent, tls_gate):
    agent.refuses = True
    try:
        with running(agent) as g:
            many = Many(g, 5, "/", HOST)
            g.until(lambda: g.metric("kakuremichi_connections") == 5)
            tls_gate.set()
            assert many.statuses() == [502] * 5
            g.wait_log("closed in the TLS handshake")
            agent.refuses = False
            assert ask(g, "/", HOST).status == 200
    finally:
        agent.refuses = False


def test_a_handshake_that_takes_too_long(agent, tls_gate):
    with running(agent, connect_timeout="300ms") as g:
        assert Many(g, 3, "/", HOST).statuses() == [502] * 3
        g.wait_log("the TLS handshake with the target took too long")
        tls_gate.set()
        assert ask(g, "/", HOST).status == 200


def test_who_waits_for_a_handshake_and_goes(agent, tls_gate):
    with running(agent, options={"maxConnections": 1}) as g:
        gone = [g.tls(HOST) for _ in range(3)]
        for s in gone:
            s.sendall(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        g.until(lambda: opened(g) == 1 and agent.open.get(ID) == 1)
        for s in gone:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.close()
        g.until(lambda: g.metric("kakuremichi_connections") == 0)
        later = Many(g, 2, "/", HOST)
        g.until(lambda: g.metric("kakuremichi_connections") == 2)
        tls_gate.set()
        assert later.statuses() == [200] * 2
        assert waiting(g) == 0


@pytest.mark.parametrize("alpn,most", [(BOTH, 4), (["http/1.1"], 1)])
def test_the_maximum(agent, alpn, most, gate):
    """HTTP/1.1 has no more connections than it may have; of HTTP/2 each worker has one."""
    with running(agent, alpn, {"maxConnections": 1}, workers=4, target_queue=64) as g:
        agent.h2_streams, agent.h2_plan = 100, ["hold"] * 24
        agent.most[ID] = 0
        many = Many(g, 24, "/gate", HOST)
        if alpn == BOTH:
            g.until(lambda: agent.held == 24)
        else:
            g.until(lambda: agent.held == 1 and waiting(g) == 23)
        assert agent.most[ID] <= most
        gate.set()
        assert many.statuses() == [200] * 24


def test_a_load_on_all_workers_while_the_target_changes(agent):
    """Nobody is forgotten: each request has an answer, though some may be a 502."""
    with running(agent, options={"maxConnections": 3}, workers=2) as g:
        agent.h2_streams = 3
        stop, wrong, n = threading.Event(), [], []

        def stranger():
            with g.tls(HOST) as s:
                c = Client(s)
                try:
                    while not stop.is_set():
                        a = c.get("/echo", HOST)
                        n.append(1)
                        if a.status not in (200, 502):
                            wrong.append(a.status)
                except (OSError, Gone) as e:
                    wrong.append(repr(e))
        threads = [threading.Thread(target=stranger) for _ in range(10)]
        for t in threads:
            t.start()
        for alpn in (["http/1.1"], BOTH, None, BOTH, ["http/1.1"], BOTH):
            had = len(n)
            g.until(lambda: len(n) > had + 150)
            agent.restart(alpn)
        stop.set()
        for t in threads:
            t.join(base.WAIT)
        assert not any(t.is_alive() for t in threads) and not wrong
