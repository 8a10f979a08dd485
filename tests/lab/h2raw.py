# SPDX-License-Identifier: MIT
"""HTTP/2 by the frame (RFC 9113): what no client library would send. Bytes are made here; heads go through
python3-hpack."""
import socket
import struct
import time

import hpack

from .proc import patience

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
(DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE,
 CONTINUATION) = range(10)
END_STREAM, END_HEADERS, PADDED, PRIORITIZED, ACK = 1, 4, 8, 0x20, 1
(NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED,
 FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM) = range(12)
(HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE,
 MAX_HEADER_LIST_SIZE) = range(1, 7)
ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES = 8, 9
GET = [(":method", "GET"), (":scheme", "https"), (":authority", "hello.test"), (":path", "/echo")]
POST = [(":method", "POST"), *GET[1:]]


def frame(kind, flags=0, stream=0, payload=b"", length=None):
    n = len(payload) if length is None else length
    return struct.pack("!I", n)[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def settings(*pairs, flags=0):
    return frame(SETTINGS, flags, 0, b"".join(struct.pack("!HI", k, v) for k, v in pairs))


def window_update(stream, n):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", n))


def rst(stream, code=CANCEL):
    return frame(RST_STREAM, 0, stream, struct.pack("!I", code))


class Frame:
    def __init__(self, kind, flags, stream, payload):
        self.kind, self.flags, self.stream, self.payload = kind, flags, stream, payload
        self.code = None
        if kind == RST_STREAM:
            self.code, = struct.unpack("!I", payload)
        elif kind == GOAWAY:
            self.last, self.code = struct.unpack("!II", payload[:8])

    def __repr__(self):
        return f"<frame {self.kind} flags={self.flags:#x} stream={self.stream} {self.payload[:40]!r} code={self.code}>"


class Closed(Exception):
    """The server has ended the connection."""


class Answer:
    def __init__(self):
        self.head, self.body, self.trailers, self.interim, self.code, self.sizes = {}, b"", None, [], None, []

    @property
    def status(self):
        assert self.code is None, f"reset with {self.code}"
        return int(self.head[":status"])


class Conn:
    """A client's side; nothing happens by itself but SETTINGS and PING acknowledgements."""

    def __init__(self, sock, *own, preface=True, auto=True):
        self.sock, self.buf, self.auto = sock, b"", auto
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder(1 << 20)
        self.settings = None
        self.window = 65535  # the connection's, as the server has opened it; who sends DATA counts down
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if preface:
            self.send(PREFACE, settings(*own))

    def send(self, *parts):
        self.sock.sendall(b"".join(parts))

    def block(self, fields):
        return self.encoder.encode([(n.encode("latin-1") if isinstance(n, str) else n,
                                     v.encode("latin-1") if isinstance(v, str) else v) for n, v in fields])

    def head(self, stream, fields=GET, end=True, flags=END_HEADERS, before=b"", after=b""):
        return frame(HEADERS, flags | (END_STREAM if end else 0), stream, before + self.block(fields) + after)

    def recv(self):
        """The next frame."""
        while len(self.buf) < 9 or len(self.buf) < 9 + int.from_bytes(self.buf[:3], "big"):
            try:
                data = self.sock.recv(65536)
            except (ConnectionError, OSError) as e:
                if isinstance(e, TimeoutError):
                    raise
                raise Closed from e
            if not data:
                raise Closed
            self.buf += data
        n = int.from_bytes(self.buf[:3], "big")
        kind, flags, stream = struct.unpack("!BBI", self.buf[3:9])
        f = Frame(kind, flags, stream & 0x7fffffff, self.buf[9:9 + n])
        self.buf = self.buf[9 + n:]
        if kind == SETTINGS and not flags & ACK:
            self.settings = dict(struct.unpack("!HI", f.payload[i:i + 6]) for i in range(0, n, 6))
            if self.auto:
                self.send(settings(flags=ACK))
        if kind == WINDOW_UPDATE and not f.stream:
            self.window += int.from_bytes(f.payload, "big")
        if kind == PING and not flags & ACK and self.auto:
            self.send(frame(PING, ACK, 0, f.payload))
        if kind == HEADERS:
            while not f.flags & END_HEADERS:
                more = self.recv()
                assert more.kind == CONTINUATION and more.stream == f.stream
                f.payload, f.flags = f.payload + more.payload, f.flags | more.flags
            f.fields = dict(self.decoder.decode(f.payload))
        return f

    def until(self, what, timeout=patience(15)):
        """Reads up to the first frame for which what(frame) is true."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            f = self.recv()
            if what(f):
                return f
        raise TimeoutError

    def answer(self, stream, window=False):
        """The whole answer on a stream, or how it was reset."""
        a = Answer()
        while True:
            f = self.until(lambda f: f.stream == stream or f.kind == GOAWAY and f.code)
            if f.kind == GOAWAY:
                raise AssertionError(f)
            if f.kind == RST_STREAM:
                a.code = f.code
                return a
            if f.kind == HEADERS:
                if ":status" not in f.fields:
                    a.trailers = f.fields
                elif f.fields[":status"][0] == "1":
                    a.interim.append(f.fields)
                else:
                    a.head = f.fields
            elif f.kind == DATA:
                a.body += f.payload
                a.sizes.append(len(f.payload))
                if window and f.payload:
                    self.send(window_update(0, len(f.payload)), window_update(stream, len(f.payload)))
            if f.flags & END_STREAM and f.kind in (HEADERS, DATA):
                return a

    def get(self, stream, fields=GET, **how):
        self.send(self.head(stream, fields))
        return self.answer(stream, **how)

    def alive(self):
        """The connection still answers."""
        self.send(frame(PING, 0, 0, b"are you?"))
        self.until(lambda f: f.kind == PING and f.flags & ACK and f.payload == b"are you?")

    def goaway(self):
        """The GOAWAY's code; the connection must end behind it."""
        f = self.until(lambda f: f.kind == GOAWAY)
        code = f.code
        try:
            while True:
                f = self.recv()
                if f.kind == GOAWAY:
                    code = f.code
        except Closed:
            return code
