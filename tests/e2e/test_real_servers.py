# SPDX-License-Identifier: MIT
"""The tunnel in front of servers that people have, from Debian's archive:

    stranger --HTTP/1.1 or 2--> gatewayd ==WireGuard==> agentd --> nginx, Apache, Caddy, nghttpd, websockets

What is asked is what a proxy in between can spoil: ranges and conditions, HEAD, 100-continue, 103,
    events that must not
wait, long uploads, trailers, WebSocket over both versions. (gRPC and targets with TLS: test_targets.py.)"""
import hashlib
import os
import re
import ssl

import h2.config
import h2.connection
import h2.events
import pytest

from tests.lab import client, net, servers
from tests.lab.target import PATTERN, pattern_sha256

# Less under sanitizers.
UPLOAD = int(os.environ.get("KM_UPLOAD_MIB", "64" if "san-" in os.environ.get("KM_BUILD", "") else "256")) << 20


@pytest.fixture(scope="module")
def web(system):
    """One tunnel for each server, all seen to answer."""
    s = system
    s.apache = servers.start_apache(s, 8101)
    servers.start_nginx(s, 8102)
    servers.start_caddy(s, 8103)
    s.start_wsecho(8104)
    servers.start_nghttpd(s, 8105, "--trailer", "sum: of it", "--trailer", "set-cookie: no")
    for name, port, protocol in (("apache", 8101, "http"), ("nginx", 8102, "http"), ("caddy", 8103, "http"),
                                 ("ws", 8104, "http"), ("nghttpd", 8105, "h2c")):
        s.add_certificate(f"{name}.demo.test")
        s.create_tunnel(f"{name}.demo.test", f"127.0.0.1:{port}", targetProtocol=protocol)
    s.wait_served("/pattern", "apache.demo.test")
    s.wait_served("/pattern", "nginx.demo.test")
    s.wait_served("/", "caddy.demo.test")
    s.wait_served("/pattern", "nghttpd.demo.test")
    return s


def ask(s, server, method, path, headers=None, body=None):
    conn = s.stranger(f"{server}.demo.test", timeout=60)
    try:
        return client.request(conn, method, path, body, headers)
    finally:
        conn.close()


@pytest.mark.parametrize("server", ["nginx", "apache"])
def test_ranges_and_conditions(web, server):
    whole = ask(web, server, "GET", "/pattern")
    etag, modified = whole.headers["ETag"], whole.headers["Last-Modified"]
    assert whole.body == PATTERN and modified == "Tue, 14 Nov 2023 22:13:20 GMT"

    def get(method="GET", **headers):
        return ask(web, server, method, "/pattern", {k.replace("_", "-"): v for k, v in headers.items()})
    a = get(Range="bytes=1000-1999")
    assert a.status == 206 and a.body == PATTERN[1000:2000]
    assert a.headers["Content-Range"] == f"bytes 1000-1999/{len(PATTERN)}"
    assert get(Range="bytes=-7").body == PATTERN[-7:]
    a = get(Range="bytes=0-9,100-109")
    assert a.status == 206 and a.headers["Content-Type"].startswith("multipart/byteranges")
    parts = re.findall(rb"Content-range: bytes ([0-9-]+)/[0-9]+\r\n\r\n(.{10})\r\n", a.body, re.I | re.S)
    assert parts == [(b"0-9", PATTERN[:10]), (b"100-109", PATTERN[100:110])]
    a = get(Range=f"bytes={len(PATTERN)}-")
    assert a.status == 416
    if server == "nginx":  # Apache says no more
        assert a.headers["Content-Range"] == f"bytes */{len(PATTERN)}"
    a = get(If_None_Match=etag)
    assert a.status == 304 and not a.body and a.headers["ETag"] == etag
    assert get(If_None_Match='"other"').body == PATTERN
    assert get(If_Modified_Since=modified).status == 304
    assert get(If_Match='"other"').status == 412
    assert get(If_Unmodified_Since="Mon, 13 Nov 2023 00:00:00 GMT").status == 412
    a = get(If_Range=etag, Range="bytes=5-5")
    assert a.status == 206 and a.body == PATTERN[5:6]
    assert get(If_Range='"other"', Range="bytes=5-5").body == PATTERN
    a = get("HEAD")
    assert a.status == 200 and not a.body and a.headers["Content-Length"] == str(len(PATTERN))
    assert get("HEAD", If_None_Match=etag).status == 304


@pytest.mark.parametrize("server", ["nginx", "apache"])
def test_one_connection_for_answers_without_a_body(web, server):
    conn = web.stranger(f"{server}.demo.test")
    etag = client.request(conn, "GET", "/pattern").headers["ETag"]
    for _ in range(20):
        assert client.request(conn, "HEAD", "/pattern").status == 200
        assert client.request(conn, "GET", "/pattern", headers={"If-None-Match": etag}).status == 304
        assert client.request(conn, "GET", "/missing").status == 404
        assert client.request(conn, "GET", "/pattern", headers={"Range": "bytes=3-5"}).body == PATTERN[3:6]
    conn.close()


def raw(s, server):
    """A TLS connection to write on by hand."""
    conn = s.stranger(f"{server}.demo.test")
    conn.connect()
    return conn.sock, conn.sock.makefile("rb")


def head(f):
    status = int(f.readline().split()[1])
    fields = {}
    while (line := f.readline()) != b"\r\n":
        name, value = line.decode().rstrip("\r\n").split(": ", 1)
        fields[name.lower()] = value
    return status, fields


def test_continue_is_apaches_own(web):
    """Nobody says 100 Continue before Apache does, and it says nothing where it does not want the body."""
    sock, f = raw(web, "apache")
    sock.sendall(b"POST /cgi/sink HTTP/1.1\r\nHost: apache.demo.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert head(f) == (100, {})
    sock.sendall(b"abcde")
    status, fields = head(f)
    assert status == 200 and fields.get("transfer-encoding") == "chunked"
    n = int(f.readline(), 16)
    assert f.read(n).startswith(hashlib.sha256(b"abcde").hexdigest().encode())
    sock.close()
    sock, f = raw(web, "apache")
    sock.sendall(b"POST /denied HTTP/1.1\r\nHost: apache.demo.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    status, fields = head(f)
    assert status == 403 and fields["connection"] == "close"
    sock.close()


@pytest.mark.parametrize("server,path,body",
    [("caddy", "/hints", b"the answer"), ("apache", "/cgi/nph-hints", b"ok")])
def test_early_hints(web, server, path, body):
    sock, f = raw(web, server)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {server}.demo.test\r\n\r\n".encode())
    status, fields = head(f)
    assert status == 103 and fields["link"].startswith("</")
    status, fields = head(f)
    assert status == 200 and f.read(int(fields["content-length"])) == body
    # HTTP/1.0 knows no interim answers.
    sock.close()
    sock, f = raw(web, server)
    sock.sendall(f"GET {path} HTTP/1.0\r\nHost: {server}.demo.test\r\n\r\n".encode())
    assert head(f)[0] == 200
    sock.close()


def test_events_do_not_wait(web):
    """Each event is asked for only when the one before has come."""
    sock, f = raw(web, "apache")
    sock.sendall(b"GET /cgi/events HTTP/1.1\r\nHost: apache.demo.test\r\nAccept: text/event-stream\r\n\r\n")
    with open(web.dir / "apache" / "fifo", "w", buffering=1) as fifo:
        fifo.write("0\n")
        status, fields = head(f)
        assert status == 200 and fields["content-type"] == "text/event-stream"
        for i in range(200):
            n = int(f.readline(), 16)
            assert f.read(n + 2) == b"data: %d\n\n\r\n" % i
            fifo.write(f"{i + 1}\n")
    sock.close()


class Pattern:
    """So many bytes to read, which nobody has to hold."""

    def __init__(self, n):
        self.left = n

    def read(self, _):
        part = PATTERN[:self.left]
        self.left -= len(part)
        return part


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_long_upload(web, framing):
    """KM_UPLOAD_MIB (make soak-upload: 10 GiB); a quarter of it in chunks."""
    n = UPLOAD if framing == "length" else UPLOAD // 4
    conn = web.stranger("apache.demo.test", timeout=60 + n / 20e6)
    if framing == "length":
        conn.request("PUT", "/cgi/sink", Pattern(n), {"Content-Length": str(n)})
    else:
        source = Pattern(n)
        conn.request("PUT", "/cgi/sink", iter(lambda: source.read(0), b""), {"Transfer-Encoding": "chunked"},
                     encode_chunked=True)
    a = conn.getresponse()
    assert a.status == 200 and a.read().decode().split()[0] == pattern_sha256(n)
    conn.close()


# ---- HTTP/2 -------------------------------------------------------------------------------------

class Stranger2:
    """A connection with HTTP/2, one event after the other."""

    def __init__(self, s, domain):
        tls = ssl.create_default_context(cafile=s.dir / "ca.crt")
        tls.set_alpn_protocols(["h2"])
        self.sock = tls.wrap_socket(s.net.stranger.connect(net.GATEWAY, 443, 30), server_hostname=domain)
        assert self.sock.selected_alpn_protocol() == "h2"
        self.domain, self.events = domain, []
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def request(self, method, path, *fields, ended=True):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [(":method", method), (":scheme", "https"), (":authority", self.domain),
                                      (":path", path), *fields], end_stream=ended)
        self.flush()
        return stream

    def until(self, kind, stream):
        """The next event of this kind on this stream; those of others stay for later."""
        while True:
            for i, e in enumerate(self.events):
                if getattr(e, "stream_id", None) == stream and isinstance(e, (kind, h2.events.StreamReset)):
                    del self.events[i]
                    assert isinstance(e, kind), e
                    return e
            self.receive()

    def receive(self):
        """Data that comes is given back to the window."""
        data = self.sock.recv(65536)
        assert data, "the connection has ended"
        for e in self.h2.receive_data(data):
            assert not isinstance(e, h2.events.ConnectionTerminated), e
            if isinstance(e, h2.events.DataReceived):
                self.h2.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            self.events.append(e)
        self.flush()

    def answer(self, stream):
        headers = dict(self.until(h2.events.ResponseReceived, stream).headers)
        body = b""
        while True:
            e = self.until((h2.events.DataReceived, h2.events.StreamEnded), stream)
            if isinstance(e, h2.events.StreamEnded):
                return headers, body
            body += e.data


def frame(opcode, payload):
    """A WebSocket frame of a client's, with a mask that changes nothing."""
    assert len(payload) < 65536
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else bytes([0xfe]) + len(payload).to_bytes(2, "big")
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


def test_http_2_to_servers_of_http_1(web):
    c = Stranger2(web, "nginx.demo.test")
    streams = [c.request("GET", "/pattern", ("range", f"bytes={i}-{i + 9}")) for i in range(0, 500, 10)]
    for i, stream in zip(range(0, 500, 10), streams):
        headers, body = c.answer(stream)
        assert headers[":status"] == "206" and body == PATTERN[i:i + 10]
    headers, body = c.answer(c.request("GET", "/pattern"))
    assert body == PATTERN and headers["content-length"] == str(len(PATTERN))
    headers, body = c.answer(c.request("HEAD", "/pattern"))
    assert not body and headers["content-length"] == str(len(PATTERN))
    headers, body = c.answer(c.request("GET", "/pattern", ("if-none-match", headers["etag"])))
    assert headers[":status"] == "304" and not body
    c.sock.close()


def test_early_hints_over_http_2(web):
    c = Stranger2(web, "caddy.demo.test")
    stream = c.request("GET", "/hints")
    hints = dict(c.until(h2.events.InformationalResponseReceived, stream).headers)
    assert hints[":status"] == "103" and hints["link"].startswith("</style.css>")
    headers, body = c.answer(stream)
    assert headers[":status"] == "200" and body == b"the answer"
    c.sock.close()


def test_websocket_over_http_2(web):
    """RFC 8441: several on one connection, in front of a server that knows those of HTTP/1.1."""
    c = Stranger2(web, "ws.demo.test")
    while h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL not in c.h2.remote_settings:
        c.receive()
    streams = [c.request("CONNECT", "/", (":protocol", "websocket"), ("sec-websocket-version", "13"), ended=False)
               for _ in range(3)]
    for stream in streams:
        headers = dict(c.until(h2.events.ResponseReceived, stream).headers)
        assert headers[":status"] == "200" and "sec-websocket-accept" not in headers
    for i in range(100):
        for stream in streams:
            text = b"%d:%d:" % (i, stream) + b"x" * (i * 7)
            c.h2.send_data(stream, frame(1, text))
            c.flush()
            got, want = b"", 2 + 2 * (len(text) > 125) + len(text)
            while len(got) < want:
                got += c.until(h2.events.DataReceived, stream).data
            assert got[:1] == b"\x81" and got.endswith(text) and len(got) == want
    for stream in streams:
        c.h2.send_data(stream, frame(8, b"\x03\xe8"))
        c.flush()
        assert c.until(h2.events.DataReceived, stream).data[:1] == b"\x88"
        c.until(h2.events.StreamEnded, stream)
    c.sock.close()


# ---- targets of HTTP/2 --------------------------------------------------------------------------

@pytest.mark.parametrize("fields", ["", "TE: trailers\r\nConnection: TE\r\n"])
def test_trailers_to_http_1(web, fields):
    """nghttpd's, which it announces."""
    sock, f = raw(web, "nghttpd")
    for _ in range(2):
        sock.sendall(f"GET /pattern HTTP/1.1\r\nHost: nghttpd.demo.test\r\n{fields}\r\n".encode())
        status, got = head(f)
        assert status == 200 and got["transfer-encoding"] == "chunked" and "sum" in got["trailer"]
        body = b""
        while n := int(f.readline(), 16):
            body += f.read(n + 2)[:-2]
        assert body == PATTERN and f.readline() == b"sum: of it\r\n" and f.readline() == b"\r\n"
    sock.close()


def test_trailers_over_http_2(web):
    c = Stranger2(web, "nghttpd.demo.test")
    stream = c.request("GET", "/pattern", ("te", "trailers"))
    c.until(h2.events.ResponseReceived, stream)
    assert c.until(h2.events.TrailersReceived, stream).headers == [("sum", "of it")]
    c.sock.close()
