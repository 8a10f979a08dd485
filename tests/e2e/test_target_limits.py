# SPDX-License-Identifier: MIT
"""How many connections a target gets, who waits for one, and which requests are sent once more. The gateway is that
of test_edge.py, with two workers; the stand-in agent plays targets of HTTP/1 and, for off.test, of HTTP/2."""
import contextlib
import hashlib
import json
import select
import socket
import ssl
import threading
import uuid

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

import test_edge as base
from test_edge import Client, Gone

MAX = 3
IDS = {n: uuid.UUID(base.TUNNEL[n]).bytes for n in ("hello.test", "other.test", "off.test", "nocert.test")}
OPTIONS = {"hello.test": {"options": {"maxConnections": MAX}},
           "nocert.test": {"tls": "passthrough", "options": {"maxConnections": 1}},
           "off.test": {"targetProtocol": "h2c", "options": {"maxConnections": 1}}}


class Gateway(base.Gateway):
    def tunnels(self):
        return [{**t, "enabled": True, **OPTIONS.get(t["domain"], {})} for t in super().tunnels()]


def running(**settings):
    return base.running(kind=Gateway, **settings)


class Agent(base.Agent):
    """Counts what is open for each tunnel; holds requests for /gate until it is opened."""

    def __init__(self):
        self.open, self.most, self.held = {}, {}, 0
        self.gate = threading.Event()
        self.h2_plan = []  # what to do with the next requests over HTTP/2
        self.h2_streams = 2  # at once on one connection
        self.quiet = threading.Event()
        super().__init__()

    def header(self, s):
        """Passthrough's names the client's addresses before the rest."""
        head = s.exactly(16)
        skip = {0x11: 12, 0x21: 36}.get(head[13], 0) if head[12] == 0x21 else 0
        rest = s.exactly(base.struct.unpack("!H", head[14:])[0])[skip:]
        info = {"command": head[12]}
        while rest:
            kind, n = base.struct.unpack("!BH", rest[:3])
            info[kind], rest = rest[3:3 + n], rest[3 + n:]
        return info

    def serve(self, sock):
        with sock, contextlib.suppress(Gone, OSError):
            s = base.Stream(sock)
            info = self.header(s)
            tunnel = info[0xE0]
            info["requests"] = []
            with self.lock:
                self.connections.append(info)
                self.open[tunnel] = self.open.get(tunnel, 0) + 1
                self.most[tunnel] = max(self.most.get(tunnel, 0), self.open[tunnel])
            try:
                self.play(s, info)
            finally:
                # The next one may come before we have ended: the gateway counts by its own end.
                with self.lock:
                    self.open[tunnel] -= 1

    def play(self, s, info):
        if info[0xE0] == IDS["off.test"]:
            H2(self, s, info).run()
        elif info[0xE0] == IDS["nocert.test"]:
            while True:
                s.more()
        else:
            while self.request(s, info):
                pass

    def do_gate(self, s, r, arg):
        with self.lock:
            self.held += 1
        self.gate.wait(base.WAIT)
        with self.lock:
            self.held -= 1
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    def do_late(self, s, r, arg):
        """Says at the next request that it has waited too long for it."""
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        s.until(b"\r\n\r\n")
        s.sock.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return False

    def do_swallow(self, s, r, arg):
        """Reads so much of what comes next, and closes without a word."""
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        s.until(b"\r\n\r\n")
        s.exactly(int(arg))
        return False

    def do_impatient(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nKeep-Alive: " + arg.encode() + b"\r\n\r\nok")
        return True

    def seen(self, name):
        return sum(len(c["requests"]) for c in self.connections if c[0xE0] == IDS[name])


class H2:
    """A target of HTTP/2: echoes, or does with a request what the plan says."""

    def __init__(self, agent, s, info):
        self.agent, self.s, self.info = agent, s, info
        self.c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.c.local_settings = h2.settings.Settings(client=False, initial_values={
            h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: agent.h2_streams, h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 65536})
        self.c.initiate_connection()
        self.bodies, self.parked = {}, []

    def run(self):
        try:
            while True:
                self.flush()
                if not self.s.buf:
                    self.wait()
                    self.s.more()
                data, self.s.buf = self.s.buf, b""
                for e in self.c.receive_data(data):
                    if self.event(e):
                        self.flush()
                        return
        except Gone:
            pass
        finally:
            with self.agent.lock:
                self.agent.held -= len(self.parked)

    def flush(self):
        self.s.sock.sendall(self.c.data_to_send())

    def event(self, e):
        if isinstance(e, h2.events.RequestReceived):
            self.info["requests"].append(dict(e.headers))
            plan = self.agent.h2_plan.pop(0) if self.agent.h2_plan else "echo"
            self.bodies[e.stream_id] = [plan, dict(e.headers), b""]
            return self.begin(plan, e.stream_id)
        if isinstance(e, h2.events.DataReceived):
            if e.stream_id in self.bodies:
                self.bodies[e.stream_id][2] += e.data
            self.c.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
        if isinstance(e, h2.events.StreamEnded):
            return self.whole(e.stream_id)
        return False

    def begin(self, plan, stream):
        if plan == "refuse":
            self.bodies.pop(stream)
            self.c.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif plan == "break":
            self.bodies.pop(stream)
            self.c.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif plan == "goaway":
            self.c.close_connection(last_stream_id=stream - 2 if stream > 1 else 0)
            return True
        elif plan == "vanish":
            return True
        elif plan == "flood":
            while not self.agent.quiet.is_set():
                self.s.sock.sendall(b"\0\0\0\xbb\0\0\0\0\0" * 100000)  # frames of no known type
            return True
        elif plan == "408":
            self.bodies.pop(stream)
            self.c.send_headers(stream, [(":status", "408")], end_stream=True)
        elif plan == "early":
            self.bodies.pop(stream)
            self.c.send_headers(stream, [(":status", "413"), ("content-length", "3")])
            self.c.send_data(stream, b"big", end_stream=True)
            self.c.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)
        return False

    def whole(self, stream):
        if stream not in self.bodies:
            return False
        plan, headers, body = self.bodies.pop(stream)
        if plan == "hold":
            with self.agent.lock:
                self.agent.held += 1
            self.parked.append((stream, body))
        else:
            self.answer(stream, body)
        return False

    def wait(self):
        """For bytes, or for the gate."""
        while self.parked and not select.select([self.s.sock], [], [], 0.02)[0]:
            if self.agent.gate.is_set():
                for stream, body in self.parked:
                    with self.agent.lock:
                        self.agent.held -= 1
                    self.answer(stream, body)
                self.parked = []
                self.flush()

    def answer(self, stream, body):
        out = json.dumps({"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}).encode()
        self.c.send_headers(stream, [(":status", "200"), ("content-type", "application/json")])
        self.c.send_data(stream, out, end_stream=True)


@pytest.fixture(scope="module")
def agent():
    a = Agent()
    yield a
    a.close()


@pytest.fixture(scope="module")
def gateway(agent):
    with running(target_queue=16, connect_timeout="10m") as g:
        yield g


@pytest.fixture
def gate(agent):
    agent.gate.clear()
    yield agent.gate
    agent.gate.set()


def ask(g, path, host="hello.test", method="GET", body=b"", extra=""):
    with g.tls(host) as s:
        c = Client(s)
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        c.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{extra}\r\n".encode() + body)
        return c.answer(method)


def waiting(g):
    return g.metric("kakuremichi_upstream_waiting")


class Many:
    """Requests at once, each on a connection of its own."""

    def __init__(self, g, n, *args, **kw):
        self.answers = []
        self.threads = [threading.Thread(target=self.one, args=(g, *args), kwargs=kw) for _ in range(n)]
        for t in self.threads:
            t.start()

    def one(self, *args, **kw):
        try:
            self.answers.append(ask(*args, **kw))
        except BaseException as e:
            self.answers.append(e)

    def statuses(self):
        for t in self.threads:
            t.join()
        return sorted(getattr(a, "status", repr(a)) for a in self.answers)


# ---- a maximum, and a queue ---------------------------------------------------------------------

def test_no_more_connections_than_it_may_have(gateway, agent, gate):
    many = Many(gateway, 12, "/gate")
    gateway.until(lambda: waiting(gateway) == 12 - MAX)
    assert agent.held == MAX and agent.open[IDS["hello.test"]] == MAX
    assert ask(gateway, "/echo", "other.test").status == 200  # another target has its own
    gate.set()
    assert many.statuses() == [200] * 12
    assert gateway.metric("kakuremichi_upstream_wait_seconds_count") == 12 - MAX
    assert agent.most[IDS["hello.test"]] <= MAX + 1  # one that was closed may be seen to end late


def test_too_many_wait(gateway, agent, gate):
    full = gateway.metric("kakuremichi_upstream_queue_full_total")
    failed = gateway.metric('kakuremichi_upstream_errors_total{reason="queue"}')
    many = Many(gateway, MAX + 16, "/gate")
    gateway.until(lambda: waiting(gateway) == 16)
    a = ask(gateway, "/gate", extra="Accept: text/plain\r\n")
    assert a.status == 503 and a.headers["retry-after"] == "1"
    assert gateway.metric("kakuremichi_upstream_queue_full_total") == full + 1
    assert gateway.metric('kakuremichi_upstream_errors_total{reason="queue"}') == failed + 1
    gateway.wait_log("too many wait for a connection to the target")
    gate.set()
    assert many.statuses() == [200] * (MAX + 16)


def test_who_waits_and_goes_takes_no_turn(gateway, agent, gate):
    many = Many(gateway, MAX, "/gate")
    gateway.until(lambda: agent.held == MAX)
    gone = [gateway.tls() for _ in range(6)]
    for s in gone:
        s.sendall(b"GET /gate HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    gateway.until(lambda: waiting(gateway) == 6)
    later = Many(gateway, 4, "/gate")
    gateway.until(lambda: waiting(gateway) == 10)
    before = agent.seen("hello.test")
    for s in gone:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, base.struct.pack("ii", 1, 0))
        s.close()
    gateway.until(lambda: gateway.metric("kakuremichi_connections") <= MAX + 4)
    gate.set()
    assert many.statuses() + later.statuses() == [200] * (MAX + 4)
    assert agent.seen("hello.test") == before + 4


def test_waiting_has_an_end(agent, gate):
    with running(target_queue=4, connect_timeout="2s") as g:
        many = Many(g, MAX, "/gate")
        g.until(lambda: agent.held == MAX)
        a = ask(g, "/gate")
        assert a.status == 503 and a.headers["retry-after"] == "1"
        g.wait_log("no connection to the target became free in time")
        gate.set()
        assert many.statuses() == [200] * MAX


def test_nobody_is_forgotten(gateway, agent):
    """Workers side by side at a target that has too few connections for them, and that closes some of them: a
    wake-up that is lost would be a request that is not answered."""
    wrong, threads = [], []

    def stranger(n):
        with gateway.tls() as s:
            c = Client(s)
            for i in range(60):
                a = c.get("/closing" if (n + i) % 7 == 0 else "/echo")
                if a.status != 200:
                    wrong.append((n, i, a.status))
    for n in range(12):
        threads.append(threading.Thread(target=stranger, args=(n,)))
        threads[-1].start()
    for t in threads:
        t.join(base.WAIT)
    assert not any(t.is_alive() for t in threads) and not wrong


def test_upgraded_connections_count(gateway, agent, gate):
    raw = []
    for _ in range(MAX):
        c = Client(gateway.tls())
        c.send("GET /upgrade HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert c.head()[0] == 101
        raw.append(c)
    one = Many(gateway, 1, "/echo")
    gateway.until(lambda: waiting(gateway) == 1)
    raw.pop().sock.close()
    assert one.statuses() == [200]
    for c in raw:
        c.sock.close()


def hello(g, name):
    """A connection with a ClientHello that nobody answers."""
    out = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    s = socket.create_connection(("127.0.0.1", g.https), timeout=base.WAIT)
    s.sendall(out.read())
    return s


def test_passthrough_has_a_maximum_without_a_queue(gateway, agent):
    ids = IDS["nocert.test"]
    first = hello(gateway, "nocert.test")
    gateway.until(lambda: agent.open.get(ids) == 1)
    with hello(gateway, "nocert.test") as second:
        with contextlib.suppress(ConnectionResetError):
            assert second.recv(1) == b""
    gateway.wait_log("the target has as many connections as it may")
    first.close()
    gateway.until(lambda: agent.open[ids] == 0)
    with hello(gateway, "nocert.test"):
        gateway.until(lambda: agent.open[ids] == 1)


# ---- once more ----------------------------------------------------------------------------------

@pytest.fixture
def one_worker(agent):
    with running(workers=1) as g:
        yield g


def test_what_may_be_sent_twice(one_worker, agent):
    g = one_worker
    with g.tls("other.test") as s:
        c = Client(s)
        for path in ("/echo", "/echo", "/late"):  # then the target is known to keep connections
            assert c.get(path, "other.test").status == 200
        assert c.get("/echo", "other.test").status == 200
        assert g.metric("kakuremichi_upstream_repeated_total") == 1
        body = bytes(range(256)) * 100
        for how in (f"Content-Length: {len(body)}\r\n\r\n".encode() + body,
                    b"Transfer-Encoding: chunked\r\n\r\n6400\r\n" + body + b"\r\n0\r\n\r\n"):
            for path in ("/echo", "/once"):
                assert c.get(path, "other.test").status == 200
            c.send(b"PUT /echo HTTP/1.1\r\nHost: other.test\r\n" + how)
            a = c.answer()
            told = json.loads(a.body)
            assert (told["length"], told["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())
        assert g.metric("kakuremichi_upstream_repeated_total") == 3
        # Not what may not be; and nothing whose body is too long to be kept.
        assert base.behind_once(c, "other.test") == 502
        for path in ("/echo", "/swallow/200000"):
            assert c.get(path, "other.test").status == 200
        long = bytes(200000)
        c.send(b"PUT /echo HTTP/1.1\r\nHost: other.test\r\nContent-Length: 200000\r\n\r\n" + long)
        assert c.answer().status == 502


@pytest.mark.parametrize("said,kept", [("timeout=60", True), ("timeout=0", False), ("timeout=60, max=0", False),
                                       ("max=5", True), ("rubbish", True)])
def test_a_target_that_says_how_long(one_worker, agent, said, kept):
    g = one_worker
    path = f"/impatient/{said}".replace(" ", "")
    with g.tls("other.test") as s:
        c = Client(s)
        assert c.get(path, "other.test").status == 200
        assert c.get(path, "other.test").status == 200
    assert g.metric("kakuremichi_upstream_connections_total") == (1 if kept else 2)


# ---- HTTP/2 -------------------------------------------------------------------------------------

@pytest.mark.parametrize("plan,repeated", [(["refuse"], 1), (["refuse", "refuse"], 2), (["goaway"], 1),
                                           (["echo"], 0)])
def test_what_a_target_has_not_processed(one_worker, agent, plan, repeated):
    g = one_worker
    agent.h2_plan = list(plan)
    body = bytes(range(256)) * 60
    a = ask(g, "/", "off.test", "POST", body)
    assert a.status == 200, g.text()
    assert json.loads(a.body) == {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert g.metric("kakuremichi_upstream_repeated_total") == repeated


def test_what_a_target_may_have_processed(one_worker, agent):
    g = one_worker
    agent.h2_plan = ["echo", "vanish"]
    with g.tls("off.test") as s:
        c = Client(s)
        assert c.get("/", "off.test").status == 200
        assert c.get("/", "off.test").status == 200  # on a connection that had been in use: once more
        assert g.metric("kakuremichi_upstream_repeated_total") == 1
        agent.h2_plan = ["408"]  # on a stream of its own it is an answer as any other
        c.send(b"POST / HTTP/1.1\r\nHost: off.test\r\nContent-Length: 1\r\n\r\nx")
        assert c.answer().status == 408
        assert g.metric("kakuremichi_upstream_repeated_total") == 1
        agent.h2_plan = ["break"]
        assert c.get("/", "off.test").status == 502
        g.wait_log("the target has reset the stream: INTERNAL_ERROR")
        agent.h2_plan = ["vanish"]
        c.send(b"POST / HTTP/1.1\r\nHost: off.test\r\nContent-Length: 1\r\n\r\nx")
        assert c.answer().status == 502
        agent.h2_plan = ["early"]
        c.send(b"POST / HTTP/1.1\r\nHost: off.test\r\nContent-Length: 300000\r\n\r\n" + bytes(100000))
        a = c.answer()
        assert (a.status, a.body) == (413, b"big")


def test_a_target_that_sends_on_and_on_keeps_nobody_from_his_turn(one_worker, agent):
    g = one_worker
    agent.quiet.clear()
    agent.h2_plan = ["flood"]
    with g.tls("off.test") as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: off.test\r\n\r\n")
        try:
            g.until(lambda: not agent.h2_plan)
            for _ in range(20):
                assert ask(g, "/echo", "other.test").status == 200
        finally:
            agent.quiet.set()


def test_streams_are_waited_for(one_worker, agent, gate):
    """One connection, two requests at once on it: so the target wants it."""
    g = one_worker
    ids = IDS["off.test"]
    agent.h2_plan = ["hold"] * 2
    first = Many(g, 2, "/", "off.test")
    g.until(lambda: agent.held == 2)
    more = Many(g, 4, "/", "off.test")
    g.until(lambda: waiting(g) == 4)
    assert agent.open[ids] == 1
    gate.set()
    assert first.statuses() + more.statuses() == [200] * 6


def test_every_worker_has_a_connection(agent, gate):
    """Streams are of use to the worker alone whose connection they are on: endless ones of one keep no other waiting,
    even if the maximum is smaller than the number of workers."""
    with running(workers=4) as g:
        agent.most[IDS["off.test"]] = 0
        agent.h2_streams = 100
        agent.h2_plan = ["hold"] * 32
        many = Many(g, 32, "/", "off.test")
        g.until(lambda: agent.held == 32)
        assert waiting(g) == 0 and agent.most[IDS["off.test"]] <= 4
        gate.set()
        assert many.statuses() == [200] * 32
        agent.h2_streams = 2
