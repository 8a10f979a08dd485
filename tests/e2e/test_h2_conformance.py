# SPDX-License-Identifier: MIT
"""What RFC 9113 (HTTP/2), RFC 7541 (HPACK) and RFC 8441 (WebSocket over HTTP/2) want of a server, by the frame:

    raw frames --TLS--> gatewayd (wireguard = none) --> stand-in agent

Each case is named by its section. What a connection error must be ends in GOAWAY with that code and the
connection's end; what a stream error must be in RST_STREAM, and the connection goes on."""
import base64
import contextlib
import hashlib
import json
import signal
import socket
import struct

import pytest

import test_edge as base
from tests.lab import h2raw as h
from tests.lab.h2raw import (ACK, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PADDED, PING, POST,
                             PRIORITIZED, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
                             CONTINUATION, Closed, Conn, frame, rst, settings, window_update)

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Agent(base.Agent):
    def do_websocket(self, s, r, arg):
        """Echoes after a handshake; arg: with a wrong proof, or none."""
        proof = base64.b64encode(hashlib.sha1(r["headers"]["sec-websocket-key"].encode() + GUID).digest())
        if arg == "wrong":
            proof = proof[::-1]
        s.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                       b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Accept: " + proof + b"\r\n\r\nwelcome ")
        while True:
            if s.buf:
                s.sock.sendall(s.buf)
                if b"bye" in s.buf:
                    return False
            s.buf = b""
            try:
                s.more()
            except base.Gone:
                self.events.put("gone")
                raise

    def do_bighead(self, s, r, arg):
        """A head of about arg bytes."""
        fields = "".join(f"X-{i:03}: {'y' * 511}\r\n" for i in range(int(arg) // 520))
        s.sock.sendall(f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok".encode())
        return True

    def do_trickle(self, s, r, arg):
        """Part of a chunked body, then the rest when told."""
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
        self.uploads.get(timeout=30)
        s.sock.sendall(b"0\r\n\r\n")
        return True


@pytest.fixture(scope="module")
def agent():
    a = Agent()
    yield a
    a.close()


@pytest.fixture(scope="module")
def gw(agent):
    with base.running(log_level="debug", workers=1, h2_resets="1000/1s", h2_max_streams=32) as g:
        yield g


def connect(gw, *own, sni="hello.test", **how):
    c = Conn(gw.tls(sni, set_alpn_protocols=["h2"]), *own, **how)
    if how.get("preface", True) and how.get("auto", True):  # so that no acknowledgement comes in between
        c.until(lambda f: f.kind == SETTINGS and f.flags & ACK)
    return c


@pytest.fixture
def c(gw):
    conn = connect(gw)
    yield conn
    conn.sock.close()


def path(p, *more, method="GET"):
    return [(":method", method), (":scheme", "https"), (":authority", "hello.test"), (":path", p), *more]


def waiting():
    """A WebSocket whose target says nothing: until it does, no DATA goes on."""
    return path("/silent", (":protocol", "websocket"), method="CONNECT")


# ---- tables -------------------------------------------------------------------------------------

# name: (what is sent, the code of the GOAWAY that must follow)
CONNECTION_ERRORS = {
    "3.4 no SETTINGS behind the preface": (lambda c: frame(PING, 0, 0, b"12345678"), h.PROTOCOL_ERROR, "first"),
    "4.2 HEADERS larger than SETTINGS_MAX_FRAME_SIZE":
        (lambda c: frame(HEADERS, END_HEADERS | END_STREAM, 1, c.block(GET) + bytes(16385)), h.FRAME_SIZE_ERROR),
    "4.2 SETTINGS larger than SETTINGS_MAX_FRAME_SIZE":
        (lambda c: frame(SETTINGS, 0, 0, struct.pack("!HI", 0x7777, 0) * 2731), h.FRAME_SIZE_ERROR),
    "4.3 a block that is no HPACK":
        (lambda c: frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x40\x03xyz"), h.COMPRESSION_ERROR),
    "4.3 a frame of another stream within a block":
        (lambda c: c.head(1, end=False, flags=0) + c.head(3), h.PROTOCOL_ERROR),
    "4.3 a PING within a block": (lambda c: c.head(1, flags=0) + frame(PING, 0, 0, bytes(8)), h.PROTOCOL_ERROR),
    "4.3 CONTINUATION of another stream":
        (lambda c: c.head(1, flags=0) + frame(CONTINUATION, END_HEADERS, 3, b""), h.PROTOCOL_ERROR),
    "5.1 idle: DATA": (lambda c: frame(DATA, END_STREAM, 1, b"x"), h.PROTOCOL_ERROR),
    "5.1 idle: RST_STREAM": (lambda c: rst(1), h.PROTOCOL_ERROR),
    "5.1 idle: WINDOW_UPDATE": (lambda c: window_update(1, 1), h.PROTOCOL_ERROR),
    "5.1 idle: CONTINUATION": (lambda c: frame(CONTINUATION, END_HEADERS, 1, c.block(GET)), h.PROTOCOL_ERROR),
    "5.1 half-closed: CONTINUATION":
        (lambda c: c.head(1) + frame(CONTINUATION, END_HEADERS, 1, b""), h.PROTOCOL_ERROR),
    # A stream error may be taken for one of the connection (section 5.4).
    "4.2 DATA larger than SETTINGS_MAX_FRAME_SIZE":
        (lambda c: c.head(1, POST, end=False) + frame(DATA, END_STREAM, 1, bytes(16385)), h.FRAME_SIZE_ERROR),
    "5.1 half-closed: DATA": (lambda c: c.head(1, path("/silent")) + frame(DATA, END_STREAM, 1, b"x"),
                              h.STREAM_CLOSED),
    "5.1 half-closed: HEADERS": (lambda c: c.head(1, path("/silent")) + c.head(1), h.STREAM_CLOSED),
    "6.3 PRIORITY of 4 bytes": (lambda c: c.head(1, path("/silent")) + frame(PRIORITY, 0, 1, bytes(4)),
                                h.FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of 0 for a stream":
        (lambda c: c.head(1, path("/silent")) + window_update(1, 0), h.PROTOCOL_ERROR),
    "5.1.1 an even stream": (lambda c: c.head(2), h.PROTOCOL_ERROR),
    "5.1.1 a stream below the last": (lambda c: c.head(5) + c.head(3), h.PROTOCOL_ERROR),
    "5.5 an unknown frame within a block":
        (lambda c: c.head(1, flags=0) + frame(0xfa, 0, 1, b"x") + frame(CONTINUATION, END_HEADERS, 1, b""),
         h.PROTOCOL_ERROR),
    "6.1 DATA on stream 0": (lambda c: frame(DATA, END_STREAM, 0, b"x"), h.PROTOCOL_ERROR),
    "6.1 padding as long as the DATA":
        (lambda c: c.head(1, POST, end=False) + frame(DATA, END_STREAM | PADDED, 1, b"\x06abcde"), h.PROTOCOL_ERROR),
    "6.2 HEADERS on stream 0": (lambda c: c.head(0), h.PROTOCOL_ERROR),
    "6.2 padding longer than the HEADERS":
        (lambda c: c.head(1, flags=END_HEADERS | PADDED, before=b"\xff"), h.PROTOCOL_ERROR),
    "6.3 PRIORITY on stream 0": (lambda c: frame(PRIORITY, 0, 0, bytes(5)), h.PROTOCOL_ERROR),
    "6.4 RST_STREAM on stream 0": (lambda c: rst(0), h.PROTOCOL_ERROR),
    "6.4 RST_STREAM of 3 bytes":
        (lambda c: c.head(1, POST, end=False) + frame(RST_STREAM, 0, 1, bytes(3)), h.FRAME_SIZE_ERROR),
    "6.5 SETTINGS ACK with a payload": (lambda c: settings((h.ENABLE_PUSH, 0), flags=ACK), h.FRAME_SIZE_ERROR),
    "6.5 SETTINGS on a stream": (lambda c: frame(SETTINGS, 0, 1, b""), h.PROTOCOL_ERROR),
    "6.5 SETTINGS of 5 bytes": (lambda c: frame(SETTINGS, 0, 0, bytes(5)), h.FRAME_SIZE_ERROR),
    "6.5.2 ENABLE_PUSH 2": (lambda c: settings((h.ENABLE_PUSH, 2)), h.PROTOCOL_ERROR),
    "6.5.2 INITIAL_WINDOW_SIZE 2^31":
        (lambda c: settings((h.INITIAL_WINDOW_SIZE, 1 << 31)), h.FLOW_CONTROL_ERROR),
    "6.5.2 MAX_FRAME_SIZE 16383": (lambda c: settings((h.MAX_FRAME_SIZE, 16383)), h.PROTOCOL_ERROR),
    "6.5.2 MAX_FRAME_SIZE 2^24": (lambda c: settings((h.MAX_FRAME_SIZE, 1 << 24)), h.PROTOCOL_ERROR),
    "6.6 PUSH_PROMISE of a client":
        (lambda c: c.head(1, POST, end=False) +
         frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack("!I", 2) + c.block(GET)), h.PROTOCOL_ERROR),
    "6.7 PING on a stream": (lambda c: frame(PING, 0, 1, bytes(8)), h.PROTOCOL_ERROR),
    "6.7 PING of 6 bytes": (lambda c: frame(PING, 0, 0, bytes(6)), h.FRAME_SIZE_ERROR),
    "6.8 GOAWAY on a stream": (lambda c: frame(GOAWAY, 0, 1, bytes(8)), h.PROTOCOL_ERROR),
    "6.8 GOAWAY of 7 bytes": (lambda c: frame(GOAWAY, 0, 0, bytes(7)), h.FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of 0 for the connection": (lambda c: window_update(0, 0), h.PROTOCOL_ERROR),
    "6.9 WINDOW_UPDATE of 3 bytes": (lambda c: frame(WINDOW_UPDATE, 0, 0, bytes(3)), h.FRAME_SIZE_ERROR),
    "6.9.1 the connection's window over 2^31 - 1": (lambda c: window_update(0, 0x7fffffff), h.FLOW_CONTROL_ERROR),
    "6.9.2 a stream's window over 2^31 - 1 by SETTINGS":
        (lambda c: c.head(1, path("/silent")) + window_update(1, 0x7fff0000) +
         settings((h.INITIAL_WINDOW_SIZE, 0x7fffffff)), h.FLOW_CONTROL_ERROR),
    "6.9.1 more DATA than the connection's window":
        (lambda c: b"".join(c.head(i, waiting(), end=False) + frame(DATA, 0, i, bytes(16384)) * 16
                            for i in range(1, 11, 2)), h.FLOW_CONTROL_ERROR),
    "6.10 CONTINUATION behind END_HEADERS":
        (lambda c: c.head(1, POST, end=False) + frame(CONTINUATION, END_HEADERS, 1, b""), h.PROTOCOL_ERROR),
    "6.10 CONTINUATION on stream 0":
        (lambda c: c.head(1, flags=0) + frame(CONTINUATION, END_HEADERS, 0, b""), h.PROTOCOL_ERROR),
    "6.10 CONTINUATION behind DATA":
        (lambda c: c.head(1, POST, end=False) + frame(DATA, 0, 1, b"x") +
         frame(CONTINUATION, END_HEADERS, 1, b""), h.PROTOCOL_ERROR),
    "RFC 7541 2.3.3 an index outside the tables":
        (lambda c: c.head(1, after=b"\xff\x80\x01"), h.COMPRESSION_ERROR),
    "RFC 7541 4.2 a table size above the limit": (lambda c: c.head(1, before=b"\x3f\xe2\x1f"), h.COMPRESSION_ERROR),
    "RFC 7541 4.2 a table size behind a field": (lambda c: c.head(1, after=b"\x20"), h.COMPRESSION_ERROR),
    "RFC 7541 5.1 an integer without an end": (lambda c: c.head(1, after=b"\xff" * 12), h.COMPRESSION_ERROR),
    "RFC 7541 5.2 Huffman padding longer than 7 bits":
        (lambda c: c.head(1, after=b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"), h.COMPRESSION_ERROR),
    "RFC 7541 5.2 Huffman padding of zeros":
        (lambda c: c.head(1, after=b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"), h.COMPRESSION_ERROR),
    "RFC 7541 5.2 EOS in a Huffman string":
        (lambda c: c.head(1, after=b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"),
         h.COMPRESSION_ERROR),
    "RFC 7541 6.1 index 0": (lambda c: c.head(1, after=b"\x80"), h.COMPRESSION_ERROR),
    "RFC 8441 3 ENABLE_CONNECT_PROTOCOL 2": (lambda c: settings((h.ENABLE_CONNECT_PROTOCOL, 2)), h.PROTOCOL_ERROR),
    "RFC 9218 2.1 NO_RFC7540_PRIORITIES 2": (lambda c: settings((h.NO_RFC7540_PRIORITIES, 2)), h.PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", CONNECTION_ERRORS)
def test_connection_error(gw, name):
    make, code, *first = CONNECTION_ERRORS[name]
    c = connect(gw, preface=not first)
    with c.sock:
        if first:
            c.send(h.PREFACE)
        c.send(make(c))
        assert c.goaway() in (code if isinstance(code, tuple) else (code,))


# name: (what is sent on stream 1, the code of its RST_STREAM)
STREAM_ERRORS = {
    "6.9.1 more DATA than the stream's window":
        (lambda c: c.head(1, waiting(), end=False) + frame(DATA, 0, 1, bytes(16384)) * 17, h.FLOW_CONTROL_ERROR),
    "6.9.1 the stream's window over 2^31 - 1":
        (lambda c: c.head(1, path("/silent")) + window_update(1, 0x7fffffff), h.FLOW_CONTROL_ERROR),
    "8.1 trailers without END_STREAM":
        (lambda c: c.head(1, POST, end=False) + c.head(1, [("x", "y")], end=False), h.PROTOCOL_ERROR),
    "8.1 a pseudo-header field in trailers":
        (lambda c: c.head(1, POST, end=False) + c.head(1, [(":method", "GET")]), h.PROTOCOL_ERROR),
    "8.1.1 DATA short of content-length":
        (lambda c: c.head(1, POST + [("content-length", "4")], end=False) + frame(DATA, END_STREAM, 1, b"abc"),
         h.PROTOCOL_ERROR),
    "8.1.1 DATA over content-length":
        (lambda c: c.head(1, POST + [("content-length", "2")], end=False) + frame(DATA, END_STREAM, 1, b"abc"),
         h.PROTOCOL_ERROR),
    "8.1.1 several DATA short of content-length":
        (lambda c: c.head(1, POST + [("content-length", "4")], end=False) + frame(DATA, 0, 1, b"a") +
         frame(DATA, END_STREAM, 1, b"bc"), h.PROTOCOL_ERROR),
    "8.1.1 trailers short of content-length":
        (lambda c: c.head(1, POST + [("content-length", "4")], end=False) + c.head(1, [("x", "y")]),
         h.PROTOCOL_ERROR),
}

# Malformed heads (section 8.1.1: PROTOCOL_ERROR, or an answer of 400 before).
MALFORMED = {
    "8.2.1 a capital letter in a name": GET + [("X-Test", "1")],
    "8.2.1 a space in a name": GET + [("x test", "1")],
    "8.2.1 a colon in a name": GET + [("x:test", "1")],
    "8.2.1 a byte above 0x7f in a name": GET + [("x\xe9", "1")],
    "8.2.1 CR LF in a value": GET + [("x-test", "1\r\nx: y")],
    "8.2.1 LF in a value": GET + [("x-test", "1\nx: y")],
    "8.2.1 NUL in a value": GET + [("x-test", "1\0")],
    "8.2.1 white space before a value": GET + [("x-test", " 1")],
    "8.2.1 white space behind a value": GET + [("x-test", "1\t")],
    "8.2.1 CR LF in :path": path("/echo\r\nx: y"),
    "8.2.1 CR LF in :authority": GET[:2] + [(":authority", "hello.test\r\nx: y"), GET[3]],
    "8.2.1 CR LF in :method": path("/echo", method="GET / HTTP/1.1\r\nx: y"),
    "8.2.2 connection": GET + [("connection", "keep-alive")],
    "8.2.2 proxy-connection": GET + [("proxy-connection", "keep-alive")],
    "8.2.2 keep-alive": GET + [("keep-alive", "timeout=5")],
    "8.2.2 transfer-encoding": POST + [("transfer-encoding", "chunked")],
    "8.2.2 upgrade": GET + [("upgrade", "websocket")],
    "8.2.2 te other than trailers": GET + [("te", "trailers, deflate")],
    "8.3 an unknown pseudo-header field": GET + [(":test", "1")],
    "8.3 a response's pseudo-header field": GET + [(":status", "200")],
    "8.3 a pseudo-header field behind others": GET[:3] + [("x-test", "1"), GET[3]],
    "8.3.1 :path twice": GET + [GET[3]],
    "8.3.1 :method twice": GET + [GET[0]],
    "8.3.1 no :method": GET[1:],
    "8.3.1 no :scheme": [GET[0], *GET[2:]],
    "8.3.1 no :path": GET[:3],
    "8.3.1 an empty :path": path(""),
    "8.3.1 a :path without its slash": path("echo"),
    "8.3.1 an absolute :path": path("https://hello.test/echo"),
    "8.3.1 :path * with GET": path("*"),
    "8.3.1 a fragment in :path": path("/echo#x"),
    "8.3.1 a space in :path": path("/echo x"),
    "8.3.1 neither :authority nor Host": [*GET[:2], GET[3]],
    "8.3.1 user information in :authority": [*GET[:2], (":authority", "u:p@hello.test"), GET[3]],
    "8.3.1 Host other than :authority": GET + [("host", "other.test")],
    "8.3.1 Host twice": GET + [("host", "hello.test"), ("host", "hello.test")],
    "8.1.1 content-length twice": POST + [("content-length", "0"), ("content-length", "0")],
    "8.1.1 content-length with a sign": POST + [("content-length", "+0")],
    "8.1.1 content-length of a list": POST + [("content-length", "0, 0")],
    "8.1.1 content-length without DATA": POST + [("content-length", "1")],
    "8.5 CONNECT with :scheme and :path": path("/", method="CONNECT"),
    "RFC 8441 4 :protocol without CONNECT": GET + [(":protocol", "websocket")],
    "RFC 8441 4 CONNECT that is over at once": path("/", (":protocol", "websocket"), method="CONNECT"),
}


@pytest.mark.parametrize("name", STREAM_ERRORS)
def test_stream_error(c, name):
    make, code = STREAM_ERRORS[name]
    c.send(make(c))
    f = c.until(lambda f: f.kind in (RST_STREAM, GOAWAY))
    assert (f.kind, f.stream, f.code) == (RST_STREAM, 1, code)
    assert c.get(3).status == 200


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request(c, agent, name):
    seen = sum(len(i["requests"]) for i in agent.connections)
    c.send(c.head(1, MALFORMED[name]))
    a = c.answer(1)
    assert a.code == h.PROTOCOL_ERROR if a.code else a.status == 400
    assert sum(len(i["requests"]) for i in agent.connections) == seen
    assert c.get(3).status == 200


# ---- what must work -----------------------------------------------------------------------------

def test_3_4_preface(gw):
    """The server's first frame is SETTINGS; what is no preface ends the connection."""
    with gw.tls(set_alpn_protocols=["h2"]) as sock:
        assert Conn(sock).recv().kind == SETTINGS
    with gw.tls(set_alpn_protocols=["h2"]) as sock:
        c = Conn(sock, preface=False)
        c.send(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        assert c.goaway() == h.PROTOCOL_ERROR


def test_4_1_what_is_unknown_is_ignored(c):
    c.send(frame(0xfa, 0xff, 0, b"x" * 100), frame(0xfa, 0, 7, b""), frame(PING, 0xfe, 0, b"12345678"),
           settings((0x7777, 1)))
    assert c.until(lambda f: f.kind == PING).payload == b"12345678"
    fields = c.block(GET)
    c.send(frame(HEADERS, END_HEADERS | END_STREAM | 0xc2, 1 | 1 << 31, fields))  # the reserved bit
    assert c.answer(1).status == 200


def test_4_2_a_frame_of_2_14(c):
    c.send(c.head(1, POST, end=False), frame(DATA, END_STREAM, 1, bytes(16384)))
    assert json.loads(c.answer(1).body)["length"] == 16384


def test_4_3_and_6_10_blocks_in_pieces(c):
    fields = c.block(GET + [("x-long", "x" * 500), ("x-end", "1")])
    third = len(fields) // 3
    c.send(frame(HEADERS, END_STREAM, 1, fields[:third]), frame(CONTINUATION, 0, 1, fields[third:2 * third]),
           frame(CONTINUATION, 0, 1, b""), frame(CONTINUATION, END_HEADERS, 1, fields[2 * third:]))
    assert json.loads(c.answer(1).body)["headers"]["x-end"] == "1"
    for i in range(8):
        c.send(*(bytes([b]) for b in c.head(2 * i + 3)))
        assert c.answer(2 * i + 3).status == 200


def test_5_1_closed(c):
    """Frames on a stream that has been reset, or is over, do no harm or end the connection; no second
    answer comes."""
    c.send(c.head(1, path("/silent", method="POST"), end=False), rst(1), frame(DATA, END_STREAM, 1, b"x"),
           window_update(1, 10), rst(1))
    c.alive()
    assert c.get(3).status == 200
    c.send(window_update(3, 10), rst(3), frame(PRIORITY, 0, 3, bytes(5)))
    assert c.get(5).status == 200
    c.send(c.head(5))
    assert c.goaway() in (h.STREAM_CLOSED, h.PROTOCOL_ERROR)


def test_5_1_2_concurrent_streams(c):
    assert c.settings[h.MAX_CONCURRENT_STREAMS] == 32
    for i in range(40):
        c.send(c.head(2 * i + 1, path("/silent")))
    f = c.until(lambda f: f.kind in (RST_STREAM, GOAWAY))
    assert f.code in (h.PROTOCOL_ERROR, h.REFUSED_STREAM)


def test_5_3_priorities_are_ignored(c):
    """The deprecated signals, even of streams on themselves, break nothing."""
    c.send(frame(PRIORITY, 0, 9, struct.pack("!IB", 3, 15)),
           c.head(1, flags=END_HEADERS | PRIORITIZED, before=struct.pack("!IB", 11 | 1 << 31, 255)))
    assert c.answer(1).status == 200


def test_6_1_and_6_2_padding(c):
    c.send(c.head(1, POST, end=False, flags=END_HEADERS | PADDED, before=b"\x05", after=bytes(5)),
           frame(DATA, PADDED, 1, b"\x03abc" + bytes(3)), frame(DATA, END_STREAM | PADDED, 1, b"\x00de"))
    assert json.loads(c.answer(1).body)["length"] == 5


def test_6_4_reset_reaches_the_target(c, gw):
    before = gw.metric("kakuremichi_h2_streams")
    c.send(c.head(1, path("/silent")))
    gw.until(lambda: gw.metric("kakuremichi_h2_streams") == before + 1)
    c.send(rst(1))
    gw.until(lambda: gw.metric("kakuremichi_h2_streams") == before)
    c.alive()


def test_6_5_settings(gw):
    c = connect(gw, auto=False)
    with c.sock:
        assert c.recv().kind == SETTINGS
        assert c.settings[h.ENABLE_CONNECT_PROTOCOL] == 1 and c.settings[h.NO_RFC7540_PRIORITIES] == 1
        assert c.settings[h.INITIAL_WINDOW_SIZE] == 1 << 18 and c.settings[h.MAX_HEADER_LIST_SIZE] == 1 << 16
        c.send(settings((h.HEADER_TABLE_SIZE, 0)), settings())
        for _ in range(3):  # with the one behind the preface
            f = c.until(lambda f: f.kind == SETTINGS)
            assert f.flags & ACK and not f.payload
        # HPACK must say that it has no table any more, before the first block (RFC 7541 section 4.2).
        c.send(c.head(1, path("/echo")))
        f = c.until(lambda f: f.kind == HEADERS)
        assert f.payload[0] == 0x20


def test_6_7_ping(c):
    c.send(frame(PING, ACK, 0, b"nobody's"), frame(PING, 0, 0, b"12345678"))
    f = c.until(lambda f: f.kind == PING)
    assert f.flags & ACK and f.payload == b"12345678"


def test_6_8_goaway_of_the_client(c):
    """What has begun ends; then the connection may end."""
    c.send(c.head(1, path("/slowstart/0.2")), frame(GOAWAY, 0, 0, struct.pack("!II", 0, 0xfefe) + b"why"))
    assert c.answer(1).body == b"ok"


def test_6_9_flow_control_of_answers(gw):
    """Never more than the client's windows; a window of 1 gives DATA of 1."""
    c = connect(gw, (h.INITIAL_WINDOW_SIZE, 1))
    with c.sock:
        c.send(c.head(1, path("/bytes/100000")))
        assert c.until(lambda f: f.kind == DATA).payload == b"\0"
        c.alive()  # and no more than that
        c.send(window_update(1, 9))
        assert len(c.until(lambda f: f.kind == DATA).payload) == 9
        # 6.9.2: smaller by SETTINGS, so that the window is negative: nothing until it is above zero again
        c.send(settings((h.INITIAL_WINDOW_SIZE, 0)), window_update(1, 1), frame(PING, 0, 0, b"negative"))
        assert c.until(lambda f: f.kind in (DATA, PING)).kind == PING
        c.send(window_update(1, 5))
        assert len(c.until(lambda f: f.kind == DATA).payload) == 5
        # the connection's window ends at 65,535
        c.send(settings((h.INITIAL_WINDOW_SIZE, 1 << 20)))
        got = 15
        while got < 65535:
            got += len(c.until(lambda f: f.kind == DATA).payload)
        assert got == 65535
        c.alive()
        c.send(window_update(0, 1 << 20))
        while got < 100000:
            got += len(c.until(lambda f: f.kind == DATA).payload)
        assert got == 100000


def test_6_9_flow_control_of_requests(c, agent):
    """The window opens as the target takes the body, and one that takes none holds back nobody else."""
    def window(limit):
        got = 0
        while got < limit:
            f = c.until(lambda f: f.kind == WINDOW_UPDATE)
            if f.stream:
                got += int.from_bytes(f.payload, "big")
        return got
    c.send(c.head(1, path("/echo", method="POST"), end=False))
    for _ in range(4):
        c.send(frame(DATA, 0, 1, bytes(16384)) * 16)
        window(100000)
    c.send(frame(DATA, END_STREAM, 1, b""))
    assert json.loads(c.answer(1).body)["length"] == 4 * 16 * 16384
    c.send(c.head(3, path("/sip", method="POST"), end=False), frame(DATA, 0, 3, bytes(16384)) * 16)
    agent.heard("sip")
    c.send(c.head(5, POST, end=False), frame(DATA, END_STREAM, 5, bytes(16384)))
    assert json.loads(c.answer(5).body)["length"] == 16384
    agent.uploads.put("go")
    c.send(frame(DATA, END_STREAM, 3, b""))
    assert json.loads(c.answer(3).body)["length"] == 16 * 16384


def test_6_9_what_reset_streams_have_sent(c):
    """It is given back to the connection's window, whether anybody took it or not."""
    for s in range(1, 61, 2):
        c.send(c.head(s, waiting(), end=False))
        for _ in range(6):
            while c.window < 16384:
                c.recv()
            c.send(frame(DATA, 0, s, bytes(16384)))
            c.window -= 16384
        c.send(rst(s))
    assert c.get(61).status == 200


def test_7_unknown_error_codes(c):
    c.send(c.head(1, path("/silent")), rst(1, 0xffff))
    assert c.get(3).status == 200


def test_8_1_requests_and_answers(c):
    a = c.get(1)
    r = json.loads(a.body)
    assert a.status == 200 and r["version"] == "HTTP/1.1" and r["headers"]["host"] == "hello.test"
    assert a.head["content-type"] == "application/json" and a.head["content-length"] == str(len(a.body))
    a = c.get(3, path("/bytes/300000"), window=True)
    assert len(a.body) == 300000
    a = c.get(5, path("/bytes/300000", method="HEAD"))
    assert a.status == 200 and not a.body and a.head["content-length"] == "300000"
    for i, status in enumerate((204, 304)):
        a = c.get(7 + 2 * i, path(f"/status/{status}"))
        assert a.status == status and not a.sizes
    a = c.get(11, path("/untilclose/70000"), window=True)
    assert len(a.body) == 70000 and "content-length" not in a.head and "connection" not in a.head
    a = c.get(13, path("/hints"))
    assert a.body == b"ok" and [i[":status"] for i in a.interim] == ["103"] and a.interim[0]["link"] == "</a>"


def test_8_1_trailers_both_ways(c):
    a = c.get(1, path("/chunked/3"))
    assert a.body == b"abcde" * 3 and a.trailers == {"x-t": "1"} and "transfer-encoding" not in a.head
    c.send(c.head(3, POST, end=False), frame(DATA, 0, 3, b"abc"),
           c.head(3, [("grpc-status", "0"), ("host", "other.test"), ("x-sum", "1")]))
    r = json.loads(c.answer(3).body)
    assert r["length"] == 3 and r["trailers"] == {"grpc-status": "0", "x-sum": "1"}


def test_8_1_answer_before_the_request_is_whole(c):
    """RST_STREAM(NO_ERROR) asks for no more of it."""
    c.send(c.head(1, path("/early", method="POST"), end=False), frame(DATA, 0, 1, b"x" * 100))
    a = c.answer(1)
    assert a.status == 413 and a.body == b"big"
    assert c.until(lambda f: f.kind == RST_STREAM and f.stream == 1).code == h.NO_ERROR
    c.send(frame(DATA, END_STREAM, 1, b"x"))
    assert c.get(3).status == 200


def test_8_1_continue(c):
    c.send(c.head(1, POST + [("expect", "100-continue")], end=False))
    assert c.until(lambda f: f.kind == HEADERS).fields[":status"] == "100"
    c.send(frame(DATA, END_STREAM, 1, b"abc"))
    assert json.loads(c.answer(1).body)["length"] == 3


def test_8_1_1_broken_answers(c):
    """Half an answer never looks like a whole one."""
    for i, how in enumerate(("short", "shortchunk", "shortreset")):
        a = c.get(2 * i + 1, path("/" + how))
        assert a.code == h.INTERNAL_ERROR
    assert c.get(7, path("/drop")).status == 502


def test_8_2_3_cookies(c):
    a = c.get(1, GET + [("cookie", "a=1"), ("x-test", "1"), ("cookie", "b=2"), ("cookie", "c=3")])
    assert [v for k, v in json.loads(a.body)["pairs"] if k.lower() == "cookie"] == ["a=1; b=2; c=3"]


def test_8_3_1_host(c):
    assert c.get(1, GET + [("host", "HELLO.test")]).status == 200
    assert c.get(3, [*GET[:2], GET[3], ("host", "hello.test")]).status == 200
    assert c.get(5, path("*", method="OPTIONS")).status == 200
    assert c.get(7, [*GET[:2], (":authority", "nowhere.test"), GET[3]]).status == 404
    assert c.get(9, [*GET[:2], (":authority", "other.test"), GET[3]]).status == 421
    assert c.get(11, [GET[0], (":scheme", "http"), *GET[2:]]).status == 200


def test_8_5_connect(c):
    c.send(c.head(1, [(":method", "CONNECT"), (":authority", "hello.test:443")], end=False))
    assert c.answer(1).status == 405
    assert c.get(3).status == 200


def test_limits_of_heads(c):
    assert c.get(1, GET + [("cookie", "x=1")] * 500).status == 200  # one field, in crumbs
    assert c.get(3, GET + [(f"x-{i}", "1") for i in range(130)]).status == 431
    big = [(f"x-{i}", "y" * 7000) for i in range(10)]
    fields = c.block(GET + big)
    pieces = [fields[i:i + 16000] for i in range(0, len(fields), 16000)]
    c.send(frame(HEADERS, END_STREAM, 5, pieces[0]),
           *(frame(CONTINUATION, END_HEADERS if p is pieces[-1] else 0, 5, p) for p in pieces[1:]))
    assert c.answer(5).status == 431
    assert c.get(7).status == 200


def test_large_heads_of_answers(c):
    a = c.get(1, path("/bighead/65000"))
    assert a.body == b"ok" and len([k for k in a.head if k.startswith("x-")]) == 125
    assert c.get(3, path("/bighead/70000")).status == 502  # over max_header_size
    assert c.get(5).status == 200


def test_streams_side_by_side(c):
    for i in range(32):
        c.send(c.head(2 * i + 1, path(f"/echo/{i}")))
    bodies, over = {}, set()
    while len(over) < 32:
        f = c.until(lambda f: f.kind == DATA)
        bodies[f.stream] = bodies.get(f.stream, b"") + f.payload
        if f.flags & END_STREAM:
            over.add(f.stream)
    for i in range(32):
        assert json.loads(bodies[2 * i + 1])["target"] == f"/echo/{i}"


def test_rfc8441_websocket(c, agent):
    def ask(p, *more):
        return path(p, (":protocol", "websocket"), ("sec-websocket-version", "13"), *more, method="CONNECT")
    c.send(c.head(1, ask("/websocket", ("sec-websocket-protocol", "chat")), end=False))
    f = c.until(lambda f: f.kind == HEADERS)
    assert f.fields[":status"] == "200" and f.fields["sec-websocket-protocol"] == "chat"
    assert not {"upgrade", "connection", "sec-websocket-accept"} & set(f.fields)
    got = b""
    for part in (b"one ", b"two "):
        c.send(frame(DATA, 0, 1, part))
        while not got.endswith(part):
            got += c.until(lambda f: f.kind == DATA).payload
    assert got == b"welcome one two "
    head = agent.connections[-1]["requests"][-1]
    assert head["method"] == "GET" and head["headers"]["upgrade"] == "websocket"
    assert len(base64.b64decode(head["headers"]["sec-websocket-key"])) == 16
    # The client ends: so does the target's connection, and the stream.
    c.send(frame(DATA, END_STREAM, 1, b""))
    agent.heard("gone")
    c.until(lambda f: f.kind == DATA and f.flags & END_STREAM)
    # The target ends.
    c.send(c.head(3, ask("/websocket"), end=False), frame(DATA, 0, 3, b"bye"))
    assert c.answer(3).body == b"welcome bye"
    # Neither a wrong proof nor another protocol passes; what is no 101 does.
    c.send(c.head(5, ask("/websocket/wrong"), end=False))
    assert c.answer(5).status == 502
    c.send(c.head(7, path("/", (":protocol", "telnet"), method="CONNECT"), end=False))
    assert c.answer(7).status == 501
    c.send(c.head(9, ask("/echo"), end=False))
    assert c.answer(9).status == 200
    assert c.get(11).status == 200


def test_client_that_ends_its_side(gw, agent):
    """Behind a whole request it still gets its answer (as with HTTP/1)."""
    c = connect(gw)
    with c.sock as sock:
        c.send(c.head(1, path("/slowstart/0.3")))
        socket.socket.shutdown(sock, socket.SHUT_WR)
        assert c.answer(1).body == b"ok"


def test_http2_off(agent):
    with base.running(http2="off") as g, g.tls(set_alpn_protocols=["h2", "http/1.1"]) as sock:
        assert sock.selected_alpn_protocol() == "http/1.1"
        assert base.Client(sock).get("/echo").status == 200


def test_6_8_drain(agent):
    """A notice first, then the last stream; what is in flight ends, and so does the connection."""
    with base.running() as g:
        c = connect(g)
        with c.sock:
            c.send(c.head(1, path("/trickle")))
            c.until(lambda f: f.kind == DATA)
            g.proc.send_signal(signal.SIGTERM)
            f = c.until(lambda f: f.kind == GOAWAY)
            assert (f.last, f.code) == (0x7fffffff, h.NO_ERROR)
            f = c.until(lambda f: f.kind == GOAWAY)
            assert (f.last, f.code) == (1, h.NO_ERROR)
            c.send(c.head(3))  # too late: not answered
            agent.uploads.put("go")
            f = c.until(lambda f: f.kind == DATA and f.flags & END_STREAM)
            assert f.stream == 1
            with pytest.raises(Closed):
                while True:
                    assert c.recv().stream == 0


def test_timers(agent):
    """Silence ends a connection with GOAWAY(NO_ERROR), a head that does not come on with another."""
    with base.running(idle_timeout="3s", header_timeout="3s", body_timeout="3s") as g, contextlib.ExitStack() as stack:
        def conn(*args, **kw):
            c = connect(g, *args, **kw)
            stack.enter_context(c.sock)
            return c
        mute = conn(preface=False)
        idle = conn()
        half = conn()
        half.send(half.head(1, flags=0))
        full = conn((h.INITIAL_WINDOW_SIZE, 0))  # an answer that is not taken
        full.send(full.head(1, path("/bytes/100000")))
        with pytest.raises(Closed):  # nothing was ever said
            while True:
                mute.recv()
        assert idle.goaway() == h.NO_ERROR
        assert half.goaway() == h.ENHANCE_YOUR_CALM
        assert full.until(lambda f: f.kind == RST_STREAM).code in (h.CANCEL, h.INTERNAL_ERROR)
        assert full.goaway() == h.NO_ERROR
