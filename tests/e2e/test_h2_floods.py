# SPDX-License-Identifier: MIT
"""What a stranger may do to gatewayd over HTTP/2 that costs him nearly nothing. Each kind of flood ends its own
connection with GOAWAY(ENHANCE_YOUR_CALM) and is counted by kind; meanwhile another client is served, and neither
memory nor processor time grows with what is sent behind the bound. `pytest -s` prints both.

    flooding frames --TLS--> gatewayd (wireguard = none) --> stand-in agent
"""
import os
import pathlib
import socket

import pytest

import test_edge as base
from tests.lab import h2raw as h
from tests.lab.h2raw import (ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, HEADERS, PING, POST, PRIORITY,
                             SETTINGS, Closed, Conn, frame, rst, settings, window_update)

MIB = 1 << 20
# AddressSanitizer keeps what is freed.
SANITIZED = "san-" in base.BUILD.name
LIMIT = (400 if SANITIZED else 8) * MIB


@pytest.fixture(scope="module")
def agent():
    a = base.Agent()
    yield a
    a.close()


@pytest.fixture(scope="module")
def gw(agent):
    with base.running(workers=1, body_timeout="2s") as g:
        serves(g)  # what a first request allocates
        yield g


def connect(gw, *own):
    c = Conn(gw.tls(set_alpn_protocols=["h2"]), *own)
    c.until(lambda f: f.kind == SETTINGS and f.flags & ACK)
    return c


def path(p, method="GET"):
    return [(":method", method), *GET[1:3], (":path", p)]


class Cost:
    """Of gatewayd, while the block runs."""

    def __init__(self, gw, what):
        self.gw, self.what = gw, what

    def ticks(self):
        fields = pathlib.Path(f"/proc/{self.gw.proc.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def peak(self):
        for line in pathlib.Path(f"/proc/{self.gw.proc.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024

    def __enter__(self):
        pathlib.Path(f"/proc/{self.gw.proc.pid}/clear_refs").write_text("5")  # the peak is what is held now
        self.cpu, self.rss = self.ticks(), self.gw.rss()
        return self

    def __exit__(self, kind, *_):
        if kind:
            return
        grown = self.peak() - self.rss
        cpu = (self.ticks() - self.cpu) * 1000 // os.sysconf("SC_CLK_TCK")
        print(f"\n{self.what}: {cpu} ms of CPU, {grown // 1024} KiB more memory at most", end=" ")
        assert grown < LIMIT


def upto(n, make):
    """n pieces, in writes of some KiB."""
    out = b""
    for i in range(n):
        out += make(i)
        if len(out) > 8192:
            yield out
            out = b""
    yield out


def paced(c, make):
    """Never more open streams than are allowed."""
    for i in range(5000):
        yield make(i)
        if i % 50 == 49:
            c.alive()


def rapid_reset(c):
    return upto(5000, lambda i: c.head(2 * i + 1, path("/silent")) + rst(2 * i + 1))


def made_reset(c):
    """The gateway resets: the window is made too large (CVE-2025-8671)."""
    return paced(c, lambda i: c.head(2 * i + 1, path("/silent")) + window_update(2 * i + 1, 0x7fffffff))


def malformed(c):
    return paced(c, lambda i: c.head(2 * i + 1, GET + [("connection", "close")]))


def empty_data(c):
    yield c.head(1, POST, end=False)
    yield from upto(20000, lambda i: frame(DATA, 0, 1, b""))


def padded_data(c):
    yield c.head(1, POST, end=False)
    yield from upto(20000, lambda i: frame(DATA, h.PADDED, 1, b"\0"))


def continuation(c):
    yield c.head(1, flags=0)
    yield from upto(20000, lambda i: frame(CONTINUATION, 0, 1, b""))


def bomb(c):
    """An entry of 4,000 bytes in the table, then one byte for each time it is used."""
    entry = b"\x40\x01a\x7f" + bytes([0x80 | (4000 - 127) % 128, (4000 - 127) // 128]) + b"x" * 4000
    yield frame(HEADERS, END_STREAM, 1, c.block(GET) + entry)
    yield from upto(8, lambda i: frame(CONTINUATION, 0, 1, b"\xbe" * 16000))


def trailer_bomb(c):
    entry = b"\x40\x01a\x7f" + bytes([0x80 | (4000 - 127) % 128, (4000 - 127) // 128]) + b"x" * 4000
    yield c.head(1, POST, end=False)
    yield frame(HEADERS, END_STREAM, 1, entry + b"\xbe" * 12000)
    yield from upto(8, lambda i: frame(CONTINUATION, 0, 1, b"\xbe" * 16000))


# name: (the bytes, the kind they are counted as, how many requests may have been taken)
FLOODS = {
    "rapid reset": (rapid_reset, "reset", 300),
    "streams that the gateway must reset": (made_reset, "stream_error", 300),
    "malformed requests": (malformed, "stream_error", 0),
    "PING": (lambda c: upto(50000, lambda i: frame(PING, 0, 0, bytes(8))), "ping", 0),
    "PING acknowledgements": (lambda c: upto(50000, lambda i: frame(PING, ACK, 0, bytes(8))), "ping", 0),
    "SETTINGS": (lambda c: upto(20000, lambda i: settings()), "settings", 0),
    "SETTINGS full of entries":
        (lambda c: upto(500, lambda i: settings(*((h.INITIAL_WINDOW_SIZE, 1000 + k) for k in range(32)))), "settings", 0),
    "PRIORITY": (lambda c: upto(50000, lambda i: frame(PRIORITY, 0, 2 * i + 1, bytes(5))), "priority", 0),
    "WINDOW_UPDATE": (lambda c: upto(50000, lambda i: window_update(0, 1)), "window_update", 0),
    "empty DATA": (empty_data, "empty_data", 1),
    "DATA of nothing but padding": (padded_data, "empty_data", 1),
    "CONTINUATION": (continuation, "continuation", 0),
    "HPACK bomb": (bomb, "header", 0),
    "HPACK bomb in trailers": (trailer_bomb, "header", 1),
}


def serves(gw):
    c = connect(gw)
    with c.sock:
        assert c.get(1).status == 200


@pytest.mark.parametrize("name", FLOODS)
def test_flood(gw, name):
    pieces, kind, requests = FLOODS[name]
    metric = f'kakuremichi_h2_floods_total{{kind="{kind}"}}'
    before, taken = gw.metric(metric), gw.metric("kakuremichi_requests_total")
    c = connect(gw)
    with Cost(gw, name), c.sock:
        sent = 0
        try:
            for piece in pieces(c):
                c.send(piece)
                sent += len(piece)
            assert c.goaway() == h.ENHANCE_YOUR_CALM
        except (Closed, OSError):
            pass  # it has hung up; what we still sent may have reset it before its last words were read
        print(f"\n{name}: {sent} bytes sent", end=" ")
    assert gw.metric(metric) == before + 1
    assert gw.metric("kakuremichi_requests_total") - taken <= requests
    serves(gw)
    gw.until(lambda: gw.metric("kakuremichi_h2_streams") == 0)


def test_frugal_clients_are_no_flood(gw):
    """A thousand requests with a PING, two WINDOW_UPDATEs and now and then a reset each stay below every bound."""
    c = connect(gw)
    with c.sock:
        for i in range(300):
            s = 4 * i + 1
            c.send(c.head(s), frame(PING, 0, 0, bytes(8)))
            n = len(c.answer(s).body)
            c.send(window_update(0, n - 1), window_update(0, 1))
            if i % 10 == 0:
                c.send(c.head(s + 2, path("/silent")), rst(s + 2))
        c.alive()


def test_frames_of_no_known_type(gw):
    """They must be ignored (section 4.1), and are: nothing of them stays."""
    c = connect(gw)
    with Cost(gw, "100,000 frames of no known type"), c.sock:
        for piece in upto(100000, lambda i: frame(0xfa, 0, i % 100, b"x")):
            c.send(piece)
        c.alive()


def test_no_window(gw):
    """A hundred requests for large answers that are never taken: each holds little, and its time ends."""
    with Cost(gw, "128 answers of 10 MB without a window"):
        c = connect(gw, (h.INITIAL_WINDOW_SIZE, 0))
        with c.sock:
            for i in range(128):
                c.send(c.head(2 * i + 1, path("/bytes/10000000")))
            heads = 0
            while heads < 128:
                heads += c.recv().kind == HEADERS
            c.alive()
            serves(gw)
            gw.until(lambda: gw.metric("kakuremichi_h2_streams") == 0)  # body_timeout
            assert c.get(257, path("/status/204")).status == 204


def test_reader_that_does_not_read(gw):
    """Windows wide open, but nothing is read from the socket."""
    with Cost(gw, "128 answers of 10 MB to a client that does not read"):
        taken = gw.metric("kakuremichi_requests_total")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(base.WAIT)
        raw.connect(("127.0.0.1", gw.https))
        context = base.ssl.SSLContext(base.ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, base.ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        with context.wrap_socket(raw, server_hostname="hello.test") as sock:
            c = Conn(sock, (h.INITIAL_WINDOW_SIZE, 0x7fffffff))
            c.send(window_update(0, 0x7fff0000 - 1))
            for i in range(128):
                c.send(c.head(2 * i + 1, path("/bytes/10000000")))
            # What is not taken holds back even the requests.
            gw.until(lambda: gw.metric("kakuremichi_requests_total") > taken)
            serves(gw)
            gw.until(lambda: gw.metric("kakuremichi_h2_streams") == 0)  # body_timeout


def test_tables_of_headers(gw):
    """However large a table the client offers, ours stays small; a stranger cannot make us keep his."""
    with Cost(gw, "SETTINGS_HEADER_TABLE_SIZE 4 GiB, 2,000 different fields"):
        c = connect(gw, (h.HEADER_TABLE_SIZE, 0xffffffff))
        with c.sock:
            for i in range(80):
                fields = b"".join(b"\x40\x06x-%02d%02d\x7f\x91\x02" % (i, k) + b"y" * 400 for k in range(25))
                c.encoder = h.hpack.Encoder()  # what the last one has put into the table is gone
                c.send(c.head(2 * i + 1, after=fields))
                assert c.answer(2 * i + 1, window=True).status == 200


def test_bodies_that_nobody_takes(gw, agent):
    """What clients may send ahead is bounded by the connection's window."""
    with Cost(gw, "128 uploads that the target does not read"):
        c = connect(gw)
        with c.sock:
            fields = [(":method", "CONNECT"), *path("/silent")[1:], (":protocol", "websocket")]
            left = 1 * MIB
            for i in range(128):
                c.send(c.head(2 * i + 1, fields, end=False))
                while left >= 8192 and left > MIB - (i + 1) * 8192:
                    c.send(frame(DATA, 0, 2 * i + 1, bytes(8192)))
                    left -= 8192
            c.alive()
            serves(gw)
