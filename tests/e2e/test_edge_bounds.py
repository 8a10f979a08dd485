# SPDX-License-Identifier: MIT
"""What keeps one stranger from the room of others: PROXY headers in front, connections of one address and
in all, clients that are slow on purpose. The gateway and its stand-in agent are those of test_edge.py."""
import concurrent.futures
import contextlib
import os
import select
import socket
import ssl
import struct
import subprocess

import pytest

import test_edge as base
from test_edge import Client
from tests.lab import h2raw as h

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
GET = b"GET /echo HTTP/1.1\r\nHost: hello.test\r\n\r\n"


@pytest.fixture(scope="module")
def agent():
    a = base.Agent()
    yield a
    a.close()


# ---- PROXY headers ------------------------------------------------------------------------------

def v2(command=0x21, family=0x11, body=socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1") +
       struct.pack("!HH", 4711, 443), length=None):
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


def tls_over(raw, sni="hello.test"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(raw, server_hostname=sni)


@pytest.fixture(scope="module")
def proxied(agent):
    ports = base.free_port(), base.free_port()
    with base.running(proxy_https_listen=f"127.0.0.1:{ports[0]}", proxy_http_listen=f"127.0.0.1:{ports[1]}",
                      proxy_protocol_from="127.0.0.1 127.0.0.3") as g:
        g.proxied_https, g.proxied_http = ports
        yield g


def connect(port, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", port), timeout=base.WAIT, source_address=(source, 0))


def forwarded_for(sock):
    c = Client(sock)
    c.send(GET)
    a = c.answer()
    assert a.status == 200
    return base.json.loads(a.body)["headers"]["x-forwarded-for"]


def refused(g, reason="proxy"):
    return g.metric(f'kakuremichi_connections_refused_total{{reason="{reason}"}}')


def is_cut(sock):
    with sock:
        try:
            return sock.recv(1) == b""
        except ConnectionResetError:
            return True


def cut_at_once(port, source, data=GET):
    """Even before connect, or send, returns."""
    try:
        s = connect(port, source)
        s.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        return True
    return is_cut(s)


@pytest.mark.parametrize("header, client", [
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", "203.0.113.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 4711 443\r\n", "203.0.113.7"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    (v2(), "203.0.113.7"),
    (v2(0x20, 0, b""), "127.0.0.1"),
    (v2(0x20), "127.0.0.1"),
    (v2(0x21, 0, b""), "127.0.0.1"),
    (v2(0x21, 0x31, bytes(216)), "127.0.0.1"),
], ids=["v1-tcp4", "v1-tcp6", "v1-mapped", "v1-unknown", "v2-tcp4", "v2-local", "v2-local-addresses",
        "v2-unspec", "v2-unix"])
def test_a_load_balancer_names_the_client(proxied, header, client):
    with tls_over_after(proxied, header) as s:
        assert forwarded_for(s) == client


def tls_over_after(g, header, pieces=1, source="127.0.0.1"):
    raw = connect(g.proxied_https, source)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    n = -(-len(header) // pieces)
    for i in range(0, len(header), n):
        raw.sendall(header[i:i + n])
    return tls_over(raw)


def test_a_header_in_pieces(proxied):
    with tls_over_after(proxied, v2(), pieces=len(v2()), source="127.0.0.3") as s:
        assert forwarded_for(s) == "203.0.113.7"


def test_a_header_together_with_what_follows(proxied):
    with connect(proxied.proxied_http) as s:
        s.sendall(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        a = Client(s).answer()
        assert (a.status, a.headers["location"]) == (301, f"https://hello.test:{proxied.https}/")


@pytest.mark.parametrize("bytes_", [
    b"\x16\x03\x01\x02\x00\x01\x00", GET, b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n", b"PROXY " + b"x" * 102, v2(0x31), v2(0x22), v2(0x21, 0x12),
    v2(0x21, 0x11, bytes(11)), v2(length=65535), v2(body=bytes(12) + b"\x03\x00\x04\x00\x00\x00\x00"),
], ids=["tls", "http", "v1-lf", "v1-short", "v1-long", "v2-version", "v2-command", "v2-udp", "v2-cut", "v2-long",
        "v2-crc"])
def test_what_is_no_proper_header_ends_the_connection(proxied, bytes_):
    before = refused(proxied)
    s = connect(proxied.proxied_https)
    s.sendall(bytes_)
    assert is_cut(s)
    assert refused(proxied) == before + 1


def test_who_may_not_say_for_whom_is_refused(proxied):
    before = refused(proxied)
    assert cut_at_once(proxied.proxied_https, "127.0.0.2", v2())
    assert refused(proxied) == before + 1
    proxied.wait_log("connection refused client=")


def test_half_a_header(proxied):
    before = refused(proxied)
    s = connect(proxied.proxied_https)
    s.sendall(v2()[:20])
    s.shutdown(socket.SHUT_WR)
    assert is_cut(s)
    assert refused(proxied) == before + 1


def test_half_a_header_takes_header_timeout_at_most(agent):
    port = base.free_port()
    with base.running(proxy_https_listen=f"127.0.0.1:{port}", header_timeout="300ms") as g:
        s = connect(port)
        s.sendall(v2()[:20])
        assert is_cut(s)
        assert refused(g) == 1


def test_elsewhere_a_header_is_no_header(proxied):
    with proxied.plain() as s:
        s.sendall(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n" + GET)
        assert Client(s).answer().status == 400


# ---- connections --------------------------------------------------------------------------------

def test_connections_of_one_address(agent):
    port = base.free_port()
    with base.running(max_connections_per_address=4, proxy_http_listen=f"127.0.0.1:{port}") as g:
        held = [connect(g.http) for _ in range(4)]
        g.until(lambda: g.metric("kakuremichi_connections") == 4)
        assert cut_at_once(g.http, "127.0.0.1") and refused(g, "address") == 1
        other = connect(g.http, "127.0.0.2")
        other.sendall(GET)
        assert other.recv(12) == b"HTTP/1.1 301"
        held.pop().close()
        g.until(lambda: not cut_at_once(g.http, "127.0.0.1"))
        # Behind a load balancer the client is whom the header names; the balancer may have any number.
        inside = [connect(port) for _ in range(6)]
        for i, s in enumerate(inside):
            s.sendall(b"PROXY TCP6 2001:db8::%d 2001:db8::1 1 80\r\n" % i + GET)
        assert sorted(answers(inside)) == [b""] * 2 + [b"HTTP/1.1 301"] * 4
        for s in (*held, other, *inside):
            s.close()


def test_connections_of_a_trusted_proxy(agent):
    """They are those of all its clients."""
    with base.running(max_connections_per_address=4, trusted_proxies="127.0.0.2") as g:
        held = [connect(g.http, "127.0.0.2") for _ in range(6)]
        for s in held:
            s.sendall(GET)
        assert list(answers(held)) == [b"HTTP/1.1 301"] * 6
        held += [connect(g.http) for _ in range(4)]
        g.until(lambda: g.metric("kakuremichi_connections") == 10)
        assert cut_at_once(g.http, "127.0.0.1") and refused(g, "address") == 1
        for s in held:
            s.close()


def answers(socks):
    for s in socks:
        try:
            yield s.recv(12)
        except ConnectionResetError:
            yield b""


def test_idle_connections_make_room(agent):
    with base.running(max_connections=32, idle_timeout="60s", workers=2) as g:
        idle = []
        for _ in range(30):  # the last 2 of 32 are spare
            c = Client(g.tls())
            assert c.get("/echo").status == 200
            idle.append(c)
        g.until(lambda: g.metric("kakuremichi_connections") == 30)
        for _ in range(20):
            c = Client(g.tls())
            assert c.get("/echo").status == 200
            idle.append(c)
        assert g.metric("kakuremichi_connections_shed_total") >= 18
        # The longest idle have gone, of whichever worker; the newest have not.
        assert idle[-1].get("/echo").status == 200
        g.until(lambda: g.metric("kakuremichi_connections") <= 31)
        for c in idle:
            c.sock.close()


def test_idle_connections_of_http_2_make_no_more_room_than_is_needed(agent):
    with base.running(max_connections=64, idle_timeout="60s", workers=1) as g:
        idle = []
        for _ in range(60):  # the last 4 of 64 are spare
            c = h.Conn(g.tls(set_alpn_protocols=["h2"]))
            assert c.get(1).status == 200
            idle.append(c)
        for _ in range(4):
            c = Client(g.tls())
            assert c.get("/echo").status == 200
            idle.append(c)
        assert 4 <= g.metric("kakuremichi_connections_shed_total") <= 8
        for c in idle[:4]:
            c.goaway()
        for c in idle[8:60]:
            c.alive()
        for c in idle:
            c.sock.close()


# ---- slow on purpose, and long ------------------------------------------------------------------

def slow(g, what):
    return g.metric(f'kakuremichi_slow_clients_total{{what="{what}"}}')


def pause(seconds):
    select.select([], [], [], seconds)


def trickle(sock, data, every):
    """A byte in so many seconds, as long as the other side takes them."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
        for i in range(len(data)):
            sock.sendall(data[i:i + 1])
            pause(every)


LIMIT = 3  # seconds: time enough for who does as he should, on a busy machine
SCENES = {}


def scene(sending=0, reading=0):
    """A client that is looked at for longer than LIMIT. So many of its requests are found too slow."""
    def add(play):
        SCENES[play.__name__] = play, sending, reading
        return play
    return add


@pytest.fixture(scope="module")
def scenes(agent):
    """All are played at once, as they pause most of the time."""
    with base.running(body_timeout=f"{LIMIT}s", body_min_rate="1K", header_timeout=f"{LIMIT}s", idle_timeout="10m",
                      upstream_timeout="10m") as g, concurrent.futures.ThreadPoolExecutor(len(SCENES)) as pool:
        played = {name: pool.submit(play, g) for name, (play, _, _) in SCENES.items()}
        concurrent.futures.wait(played.values())
        yield g, played


@pytest.mark.parametrize("name", [
    "a_body_that_trickles", "a_head_that_trickles", "a_body_that_trickles_and_says_te_trailers",
    "an_answer_that_is_read_slowly", "a_modem_is_fast_enough", "a_window_that_trickles",
    "a_stream_that_is_read_steadily", "a_body_that_trickles_over_http_2",
    "a_target_that_pauses_is_not_the_clients_fault"])
def test_in_its_time(scenes, name):
    scenes[1][name].result()


def test_who_is_too_slow_is_counted(scenes):
    g, played = scenes
    assert not [name for name, p in played.items() if p.exception()]
    assert slow(g, "sending") == sum(n for _, n, _ in SCENES.values())
    assert slow(g, "reading") == sum(n for _, _, n in SCENES.values())


@scene(sending=1)
def a_body_that_trickles(g):
    with g.tls() as s:
        c = Client(s)
        c.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 100000\r\n\r\n")
        trickle(s, b"x" * 50, LIMIT / 30)
        assert c.answer().status == 408 and c.closed()


@scene()
def a_head_that_trickles(g):
    with g.plain() as s:  # its time is one over all
        trickle(s, GET[:25], LIMIT / 20)
        assert Client(s).answer().status == 408


@scene(sending=1)
def a_body_that_trickles_and_says_te_trailers(g):
    """Which excuses gRPC, but that goes to no target of HTTP/1.1, whose connection would be held."""
    with g.tls() as s:
        c = Client(s)
        c.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nTE: trailers\r\nConnection: TE\r\n"
               "Transfer-Encoding: chunked\r\n\r\n")
        trickle(s, b"1\r\na\r\n" * 20, LIMIT / 30)
        assert c.answer().status == 408 and c.closed()


def downloading(g):
    """A stranger whose kernel takes little ahead, and its request for 100 MB."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(base.WAIT)
    raw.connect(("127.0.0.1", g.https))
    s = tls_over(raw)
    s.sendall(b"GET /bytes/100000000 HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    return s


def sip(s, n):
    """Out of the kernel, past TLS, which would wait for a whole record."""
    assert select.select([s], [], [], base.WAIT)[0]
    return os.read(s.fileno(), n)


def is_reset(s, seconds=0):
    p = select.poll()
    p.register(s, 0)
    return bool(p.poll(seconds * 1000))


@scene(reading=1)
def an_answer_that_is_read_slowly(g):
    with downloading(g) as s:
        while not is_reset(s):
            sip(s, 100)
            pause(0.2)


@scene(reading=1)
def a_modem_is_fast_enough(g):
    """The kernel of the gateway takes more only when much of its buffer is free, which at this pace is
    later than body_timeout."""
    with downloading(g) as s:
        for _ in range(18 * LIMIT):
            assert sip(s, 4096)
            pause(0.1)
        assert not is_reset(s)
        assert is_reset(s, base.WAIT)


# HTTP/2: a stream for itself.

def h2_conn(g, *own):
    c = h.Conn(g.tls(set_alpn_protocols=["h2"]), *own)
    c.until(lambda f: f.kind == h.SETTINGS and f.flags & h.ACK)
    return c


def wants(path, method="GET"):
    return [(":method", method), *h.GET[1:3], (":path", path)]


@scene(reading=1)
def a_window_that_trickles(g):
    c = h2_conn(g, (h.INITIAL_WINDOW_SIZE, 100))
    with c.sock:
        c.send(c.head(1, wants("/bytes/100000")))
        while c.until(lambda f: f.kind in (h.DATA, h.RST_STREAM) and f.stream == 1).kind == h.DATA:
            pause(0.1)
            c.send(h.window_update(1, 20))
        c.send(h.settings((h.INITIAL_WINDOW_SIZE, 65535)))
        assert c.get(3).status == 200


@scene()
def a_stream_that_is_read_steadily(g):
    c = h2_conn(g, (h.INITIAL_WINDOW_SIZE, 2000))
    with c.sock:
        c.send(c.head(1, wants("/bytes/50000")))
        got = 0
        while got < 50000:  # 25 times
            f = c.until(lambda f: f.kind == h.DATA)
            got += len(f.payload)
            pause(LIMIT / 15)
            c.send(h.window_update(1, len(f.payload)))


@scene(sending=1)
def a_body_that_trickles_over_http_2(g):
    c = h2_conn(g)
    with c.sock:
        c.send(c.head(1, wants("/echo", "POST") + [("content-length", "1000")], end=False))
        while not select.select([c.sock], [], [], 0.05)[0]:
            c.send(h.frame(h.DATA, 0, 1, b"x"))
        assert c.answer(1).status == 408
        assert c.get(3).status == 200


@scene()
def a_target_that_pauses_is_not_the_clients_fault(g):
    with g.tls() as s:
        assert Client(s).get(f"/slowstart/{LIMIT * 1.3}").status == 200


def test_the_time_of_a_request_in_all(agent):
    with base.running(request_timeout="500ms") as g:
        with g.tls() as s:
            assert Client(s).get("/silent").status == 504
        with g.tls() as s:
            c = Client(s)
            c.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 100000\r\n\r\n")
            trickle(s, b"x" * 30, 0.03)
            assert c.answer().status == 408 and c.closed()
    with base.running(request_timeout="2s") as g:
        with g.tls() as s, g.tls() as raw:  # as long as it likes between requests, and once it is upgraded
            c, upgraded = Client(s), Client(raw)
            assert c.get("/echo").status == 200
            upgraded.send("GET /upgrade HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
            assert upgraded.head()[0] == 101 and upgraded.s.exactly(8) == b"welcome "
            assert not select.select([s, raw], [], [], 2.3)[0]
            assert c.get("/echo").status == 200
            upgraded.send("still here")
            assert upgraded.s.exactly(10) == b"still here"


def test_the_longest_body(agent):
    def chunked(n):
        return "POST /echo HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\n" + \
            f"{n:x}\r\n{'x' * n}\r\n0\r\n\r\n"
    with base.running(max_body_size="10K") as g:
        with g.tls() as s:
            c = Client(s)
            c.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 10240\r\n\r\n" + "x" * 10240)
            assert c.answer().status == 200
            c.send(chunked(10240))
            assert c.answer().status == 200
            done = sum(len(x["requests"]) for x in agent.connections)
            c.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nExpect: 100-continue\r\n"
                   "Content-Length: 10241\r\n\r\n")
            assert c.answer().status == 413 and c.closed()
        assert sum(len(x["requests"]) for x in agent.connections) == done
        with g.tls() as s:
            c = Client(s)
            c.send(chunked(10241))
            assert c.answer().status == 413 and c.closed()


# ---- slowhttptest -------------------------------------------------------------------------------

class PlainToo(base.Gateway):
    """With a tunnel for http://localhost: slowhttptest names no server in its TLS."""

    def tunnels(self):
        return [*super().tunnels(), base.tunnel("localhost", base.uuid.uuid4(), tls="off")]


SLOW = {"heads": ("/echo", "-H", "-i", "1", "-x", "10"),
        "bodies": ("/echo", "-B", "-t", "PUT", "-s", "8192", "-i", "1", "-x", "10"),
        "ranges": ("/bytes/3000", "-R", "-t", "GET", "-a", "1", "-b", "500"),
        "reading": ("/bytes/1000000", "-X", "-w", "512", "-y", "1024", "-n", "1", "-z", "600")}


def test_slowhttptest_in_all_its_modes_at_once(agent):
    with base.running(PlainToo, header_timeout="2s", body_timeout="2s", body_min_rate="1K",
                      max_connections_per_address="2000") as g, contextlib.ExitStack() as stack:
        def begin(path, *how):
            p = subprocess.Popen(["slowhttptest", *how, "-c", "200", "-r", "200", "-l", "40", "-v", "1", "-u",
                                  f"http://localhost:{g.http}{path}"], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            stack.callback(p.kill)
            return p
        attacks = {name: begin(*how) for name, how in SLOW.items()}
        most = 0
        while any(p.poll() is None for p in attacks.values()):
            with g.tls() as s:  # everybody else
                assert Client(s).get("/echo").status == 200
            most = max(most, g.metric("kakuremichi_connections"))
        ends = {name: p.communicate()[0] for name, p in attacks.items()}
        for name, text in ends.items():
            assert "No open connections left" in text, (name, text[-800:])
        assert most > 300
        assert slow(g, "sending") >= 200 and slow(g, "reading") >= 200
        assert g.metric("kakuremichi_bad_requests_total") >= 200  # 408
        g.until(lambda: g.metric("kakuremichi_connections") == 0)
