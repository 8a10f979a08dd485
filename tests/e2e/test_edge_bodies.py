# SPDX-License-Identifier: MIT
"""Whose body comes slowly takes nobody's place at the target, and neither does who hangs up in its queue. The gateway
and the stand-in agent, which counts what is open for each tunnel, are those of test_target_limits.py."""
import concurrent.futures
import contextlib
import hashlib
import json
import socket
import ssl

import pytest

import test_edge as base
import test_target_limits as limits
from test_edge import Client
from test_edge_bounds import h2_conn, pause, slow, wants
from test_target_limits import IDS, MAX, Agent, Many, ask, waiting
from tests.lab import h2raw as h

ID = IDS["hello.test"]


@pytest.fixture(scope="module")
def agent():
    a = Agent()
    yield a
    a.close()


@pytest.fixture(scope="module")
def gw(agent):
    with limits.running(connect_timeout="10m", target_queue="64", pool_idle_timeout="100ms") as g:
        yield g


@pytest.fixture
def gate(agent):
    agent.gate.clear()
    yield agent.gate
    agent.gate.set()


@pytest.fixture
def quiet(gw, agent):
    """No connection to the target is left over from before."""
    gw.until(lambda: not agent.open.get(ID))
    return agent


def gathering(g):
    return g.metric("kakuremichi_requests_gathering")


def head(length, path="/echo", host="hello.test", extra=""):
    return f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{extra}\r\n".encode()


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\n"


def echoed(answer, body):
    told = json.loads(answer.body)
    return answer.status == 200 and (told["length"], told["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


BODY = bytes(range(256)) * 4


# ---- what is awaited ----------------------------------------------------------------------------

def test_a_small_body_is_whole_before_the_target_hears_of_it(gw, quiet):
    with gw.tls() as s:
        c = Client(s)
        seen = quiet.seen("hello.test")
        for i in range(2):
            c.send(head(len(BODY)) + BODY[:i * 100])
            gw.until(lambda: gathering(gw) == 1)
            c.send(BODY[i * 100:-1])
            assert gathering(gw) == 1 and quiet.open.get(ID, 0) <= i and quiet.seen("hello.test") == seen + i
            c.send(BODY[-1:])
            assert echoed(c.answer(), BODY)
        assert gathering(gw) == 0


def test_a_small_body_over_http_2(gw, quiet):
    c = h2_conn(gw)
    with c.sock:
        c.send(c.head(1, wants("/echo", "POST") + [("content-length", str(len(BODY)))], end=False))
        c.send(h.frame(h.DATA, 0, 1, BODY[:-1]))
        gw.until(lambda: gathering(gw) == 1)
        assert c.get(3, wants("/nothing")).status == 200
        assert quiet.open[ID] <= 1
        c.send(h.frame(h.DATA, h.END_STREAM, 1, BODY[-1:]))
        assert echoed(c.answer(1), BODY)
        # It ends too soon, or with too much.
        for stream, data in ((5, BODY[:-1]), (7, BODY + b"x")):
            c.send(c.head(stream, wants("/echo", "POST") + [("content-length", str(len(BODY)))], end=False),
                   h.frame(h.DATA, h.END_STREAM, stream, data))
            assert c.answer(stream).code == h.PROTOCOL_ERROR
        gw.until(lambda: gathering(gw) == 0)


@contextlib.contextmanager
def trickling(g, n):
    """POSTs of 1 KiB, all but the last byte of each; yields what ends them and gives their answers."""
    ones, two = [Client(g.tls()) for _ in range(n // 2)], h2_conn(g)
    streams = range(1, n - n // 2 << 1, 2)
    for c in ones:
        c.send(head(1024) + bytes(1023))
    for i in streams:
        two.send(two.head(i, wants("/echo", "POST") + [("content-length", "1024")], end=False),
                 h.frame(h.DATA, 0, i, bytes(1023)))
    g.until(lambda: gathering(g) == n)

    def end():
        for c in ones:
            c.send(b"\0")
            yield c.answer()
        for i in streams:
            two.send(h.frame(h.DATA, h.END_STREAM, i, b"\0"))
            yield two.answer(i)
    try:
        yield end
    finally:
        for c in (*ones, two):
            c.sock.close()


def test_others_are_served_while_bodies_trickle(gw, quiet):
    with trickling(gw, 50) as end:
        assert not quiet.open.get(ID)
        assert Many(gw, 8, "/echo").statuses() == [200] * 8
        assert gathering(gw) == 50 and waiting(gw) == 0
        assert all(echoed(a, bytes(1024)) for a in end())


def test_a_long_body_begins_when_its_first_part_is_there(gw, quiet):
    body = BODY * 200
    with gw.tls() as s:
        c = Client(s)
        c.send(head(len(body), "/sip") + body[:65535])
        gw.until(lambda: gathering(gw) == 1)
        assert not quiet.open.get(ID)
        c.send(body[65535:65536])
        quiet.heard("sip")
        assert gathering(gw) == 0
        quiet.uploads.put("go")
        c.send(body[65536:])
        assert echoed(c.answer(), body)


def test_more_streams_than_the_window_has_room_for(gw, agent):
    """They wait for their ends, and each holds what would be the others' window: none waits for ever."""
    c = h.Conn(gw.tls("other.test", set_alpn_protocols=["h2"]))
    streams, size, piece = range(1, 201, 2), 20000, 5000
    fields = [(":method", "POST"), (":scheme", "https"), (":authority", "other.test"), (":path", "/echo"),
              ("content-length", str(size))]
    done = set()

    def recv():
        f = c.recv()
        assert f.kind not in (h.RST_STREAM, h.GOAWAY), f
        if f.kind in (h.DATA, h.HEADERS) and f.flags & h.END_STREAM:
            done.add(f.stream)
    with c.sock:
        c.send(h.window_update(0, 1 << 20))
        for i in streams:
            c.send(c.head(i, fields, end=False))
        for n in range(size // piece):
            for i in streams:
                while c.window < piece:
                    recv()
                c.send(h.frame(h.DATA, h.END_STREAM if (n + 1) * piece == size else 0, i, bytes(piece)))
                c.window -= piece
        while len(done) < len(streams):
            recv()


# ---- what goes on at once -----------------------------------------------------------------------

def test_who_waits_for_a_100_gets_it_from_the_target(gw, quiet):
    with gw.tls() as s:
        c = Client(s)
        c.send(head(4, extra="Expect: 100-continue\r\n"))
        assert c.head()[0] == 100 and quiet.open[ID] == 1
        c.send(b"body")
        assert echoed(c.answer(), b"body")


def test_a_body_of_no_known_length_begins_at_once(gw, quiet):
    seen = quiet.seen("hello.test")
    c2 = h2_conn(gw)
    with gw.tls() as s, c2.sock:
        c = Client(s)
        c.send(CHUNKED)
        gw.until(lambda: quiet.seen("hello.test") == seen + 1)
        c2.send(c2.head(1, wants("/echo", "POST"), end=False))
        gw.until(lambda: quiet.seen("hello.test") == seen + 2)
        assert gathering(gw) == 0
        c.send(b"3\r\nabc\r\n0\r\n\r\n")
        c2.send(h.frame(h.DATA, h.END_STREAM, 1, b"abc"))
        assert echoed(c.answer(), b"abc") and echoed(c2.answer(1), b"abc")
    # As gRPC does, to a target of HTTP/2.
    seen = quiet.seen("off.test")
    c = h.Conn(gw.tls("off.test", set_alpn_protocols=["h2"]))
    with c.sock:
        c.send(c.head(1, [(":method", "POST"), (":scheme", "https"), (":authority", "off.test"), (":path", "/a.B/C"),
                          ("te", "trailers"), ("content-type", "application/grpc")], end=False))
        gw.until(lambda: quiet.seen("off.test") == seen + 1)
        c.send(h.frame(h.DATA, h.END_STREAM, 1, b"abc"))
        assert echoed(c.answer(1), b"abc")


# ---- patience -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def impatient(agent):
    with limits.running(body_timeout="3s", body_min_rate="1K", request_timeout="8s") as g:
        yield g


def send_until_answered(c, data):
    """So much ten times a second. What can be read may be only a session ticket."""
    while not c.s.buf:
        c.sock.settimeout(0.1)
        with contextlib.suppress(TimeoutError):
            c.s.more()
        c.sock.settimeout(base.WAIT)
        if not c.s.buf:
            c.send(data)


def does_not_come(impatient, piece):
    with impatient.tls() as s:
        c = Client(s)
        c.send(head(60000) + b"x")
        send_until_answered(c, piece)
        assert c.answer().status == 408 and c.closed()


def test_bodies_that_take_their_time(impatient, quiet):
    """Awaited ones that do not come: not at all, bit by bit, for too long in all. But one of gRPC may. Side by side, as
    they pause most of the time."""
    seen = quiet.seen("hello.test")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        grpc = pool.submit(a_stream_of_grpc, impatient)
        for _ in pool.map(lambda piece: does_not_come(impatient, piece), (b"", b"x", bytes(500))):
            pass
        grpc.result()
    assert slow(impatient, "sending") == 2
    assert quiet.seen("hello.test") == seen and gathering(impatient) == 0


def a_stream_of_grpc(impatient):
    c = h.Conn(impatient.tls("off.test", set_alpn_protocols=["h2"]))
    with c.sock:
        c.send(c.head(1, [(":method", "POST"), (":scheme", "https"), (":authority", "off.test"), (":path", "/a.B/C"),
                          ("te", "trailers"), ("content-type", "application/grpc")], end=False))
        for _ in range(10):  # longer than body_timeout
            c.send(h.frame(h.DATA, 0, 1, b"a"))
            pause(0.4)
        c.send(h.frame(h.DATA, h.END_STREAM, 1, b"b"))
        assert echoed(c.answer(1), b"a" * 10 + b"b")


def test_who_holds_a_connection_and_sends_nothing_gives_way(agent):
    """To who waits for one, long before body_timeout; not more of them than are needed, and nobody for nobody."""
    with limits.running(connect_timeout="4s", body_timeout="10m", body_min_rate="1K", workers=1) as g:
        held, body = {}, bytes(100000)
        for start, rest in ((CHUNKED, b"0\r\n\r\n"), (CHUNKED + b"1\r\nx\r\n", b"0\r\n\r\n"),
                            (head(len(body)) + body[:65536], body[65536:])):
            seen, c = agent.seen("hello.test"), Client(g.tls())
            held[c] = rest
            c.send(start)
            g.until(lambda: agent.seen("hello.test") == seen + 1)
        for _ in range(2):
            assert ask(g, "/echo").status == 200
            assert slow(g, "sending") == 1
            pause(1)  # of those who are looked at
        statuses = []
        for c, rest in held.items():
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                c.send(rest)
            statuses.append(c.answer().status)
            c.sock.close()
        assert sorted(statuses) == [200] * (MAX - 1) + [408]


def test_who_goes_in_the_middle_of_its_body(gw, quiet):
    seen = quiet.seen("hello.test")
    for how in ("fin", "reset"):
        s = gw.tls()
        s.sendall(head(1024) + b"x" * 1000)
        gw.until(lambda: gathering(gw) == 1)
        if how == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, base.struct.pack("ii", 1, 0))
        s.close()
        gw.until(lambda: gathering(gw) == 0)
    assert quiet.seen("hello.test") == seen


def test_nothing_is_awaited_if_so_wished(agent):
    with limits.running(request_buffer="0") as g, g.tls() as s:
        seen = agent.seen("hello.test")
        c = Client(s)
        c.send(head(3))
        g.until(lambda: agent.seen("hello.test") == seen + 1)
        c.send(b"abc")
        assert echoed(c.answer(), b"abc")


# ---- hanging up in the queue --------------------------------------------------------------------

GET = b"GET /gate HTTP/1.1\r\nHost: hello.test\r\n\r\n"


def fin(g):
    s = g.tls()
    s.sendall(GET)
    return s, lambda: socket.socket.shutdown(s, socket.SHUT_WR)


def notify(g):
    c = base.HalfClosing(g)
    c.ask_and_end(GET.decode(), False, False)
    return c.sock, lambda: c.ask_and_end("", True, False)


def upload(g):
    """More than the gateway reads of it in the queue."""
    s = g.tls()
    s.sendall(b"PUT /gate HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 200000\r\n\r\n" + bytes(120000))
    return s, lambda: socket.socket.shutdown(s, socket.SHUT_WR)


def over_http_2(g):
    c = h2_conn(g)
    c.send(c.head(1, wants("/gate")))
    return c.sock, lambda: socket.socket.shutdown(c.sock, socket.SHUT_WR)


@pytest.mark.parametrize("begin", [fin, notify, upload, over_http_2])
def test_who_hangs_up_in_the_queue_gives_its_place_back(gw, agent, gate, begin):
    many = Many(gw, MAX, "/gate")
    gw.until(lambda: agent.held == MAX)
    seen = agent.seen("hello.test")
    sock, end = begin(gw)
    with sock:
        gw.until(lambda: waiting(gw) == 1)
        end()
        gw.until(lambda: waiting(gw) == 0)
    # Who has got as far as the target is answered.
    gate.set()
    assert many.statuses() == [200] * MAX
    assert agent.seen("hello.test") == seen
