# SPDX-License-Identifier: MIT
"""How strangers' TLS is ended, tunnel by tunnel: by the gateway, by the target, or not at all.

    stranger --TLS--> gatewayd (wireguard = none, configuration on disk) --> stand-in agent 127.x.y.100:80

For pass.test the stand-in ends TLS itself, with a certificate of its own; after a first byte that is no
handshake's it echoes."""
import contextlib
import hashlib
import json
import os
import pathlib
import re
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import uuid

import pytest

import test_edge as base
from test_edge import Client, Gone, Stream

MODES = {"hello.test": "auto", "own.test": "own", "pass.test": "passthrough", "*.through.test": "passthrough",
         "raw.test": "passthrough", "gone.test": "passthrough", "quiet.test": "passthrough", "off.test": "off",
         "stopped.test": "off"}
ID = {d: str(uuid.uuid5(uuid.NAMESPACE_DNS, d)) for d in MODES}
ENDS_TLS = ("pass.test", "*.through.test")


class Agent(base.Agent):
    """For ENDS_TLS it is the target with its own certificate; for raw.test it takes all up to the client's
    end, then says what it was; for quiet.test it says nothing; others are base.Agent's."""

    def __init__(self, folder):
        self.folder = folder
        path = base.make_certificate(folder, "target", "pass.test", "*.through.test")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(path)
        self.cert = ssl.PEM_cert_to_DER_cert(re.search("-----BEGIN CERT.*?END CERTIFICATE-----",
                                                       path.read_text(), re.S)[0])
        super().__init__()

    def take_header(self, sock):
        """Not a byte more than the header's."""
        head = sock.recv(16, socket.MSG_WAITALL)
        if len(head) < 16:
            raise Gone
        rest = sock.recv(struct.unpack("!H", head[14:16])[0], socket.MSG_WAITALL)
        return super().header(self.Given(head + rest)) if head[12] == 0x20 else self.proxied(head, rest)

    class Given(Stream):
        def __init__(self, data):
            self.sock, self.buf = None, data

    def proxied(self, head, rest):
        assert head[:12] == base.PROXY_SIGNATURE
        info = {"command": head[12], "family": head[13], "src": socket.inet_ntoa(rest[:4]),
                "dst": socket.inet_ntoa(rest[4:8]), "ports": struct.unpack("!HH", rest[8:12])}
        rest = rest[12:]
        while rest:
            kind, n = struct.unpack("!BH", rest[:3])
            info[kind] = rest[3:3 + n]
            rest = rest[3 + n:]
        return info

    def serve(self, sock):
        with sock, contextlib.suppress(Gone, OSError):
            info = self.take_header(sock)
            info["requests"] = []
            with self.lock:
                self.connections.append(info)
            domain = next(d for d, i in ID.items() if uuid.UUID(i).bytes == info[0xE0])
            if domain in ENDS_TLS:
                with self.context.wrap_socket(sock, server_side=True) as tls:
                    s = Stream(tls)
                    while self.request(s, info):
                        pass
            elif domain == "raw.test":
                digest = hashlib.sha256()
                while data := sock.recv(65536):
                    digest.update(data)
                sock.sendall(digest.hexdigest().encode())
            elif domain == "quiet.test":
                while sock.recv(65536):
                    pass
            else:
                s = Stream(sock)
                while self.request(s, info):
                    pass


class Gateway(base.Gateway):
    def tunnels(self):
        return [base.tunnel(d, ID[d], enabled=d != "stopped.test", tls=mode,
                            agentVirtualIp="127.255.0.9" if d == "gone.test" else base.VIP) for d, mode in MODES.items()]


def make_folder():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kmedgetls-"))
    (folder / "certificates").mkdir()
    base.make_certificate(folder / "certificates", "hello.test", "hello.test", "pass.test", "off.test")
    base.make_certificate(folder / "certificates", "own.test")
    base.make_certificate(folder / "certificates", "off.test")
    return folder


def running(**settings):
    return base.running(Gateway, make_folder, **{"acme": "off", **settings})


@pytest.fixture(scope="module")
def agent():
    with tempfile.TemporaryDirectory(prefix="kmedgetls-") as folder:
        a = Agent(folder)
        yield a
        a.close()


@pytest.fixture(scope="module")
def gw(agent):
    with running() as g:
        yield g


def hello(sni):
    """A ClientHello: its record, and the means to go on with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(into, out, server_hostname=sni)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read(), tls, into, out


def shake(sock, tls, into, out):
    while True:
        try:
            tls.do_handshake()
            sock.sendall(out.read())
            return
        except ssl.SSLWantReadError:
            if out.pending:
                sock.sendall(out.read())
            data = sock.recv(65536)
            if not data:
                raise Gone
            into.write(data)


def dial(gw):
    return socket.create_connection(("127.0.0.1", gw.https), timeout=base.WAIT)


# ---- passthrough --------------------------------------------------------------------------------

@pytest.mark.parametrize("sni", ["pass.test", "a.through.test", "PASS.test"])
def test_the_target_ends_tls(gw, agent, sni):
    with gw.tls(sni) as s:
        assert s.getpeercert(True) == agent.cert
        c = Client(s)
        for _ in range(3):
            assert json.loads(c.get("/echo", host=sni).body)["headers"]["host"] == sni
        info = agent.connections[-1]
        assert info["command"] == 0x21 and info["family"] == 0x11
        assert (info["src"], info["ports"][0]) == s.getsockname()
        assert (info["dst"], info["ports"][1]) == ("127.0.0.1", gw.https)
        domain = "*.through.test" if "through" in sni else "pass.test"
        assert info[0xE0] == uuid.UUID(ID[domain]).bytes and info[0xE1] == uuid.UUID(base.TARGET).bytes
        # What the gateway would add is not there: it reads none of it.
        assert "x-forwarded-for" not in info["requests"][-1]["headers"]


def test_other_names_beside_it(gw):
    for _ in range(3):
        with gw.tls() as s:
            assert Client(s).get("/echo").status == 200
    with gw.tls("own.test") as s:
        assert Client(s).get("/echo", host="own.test").status == 200
    for sni in ("nobody.test", None, "through.test", "a.b.through.test"):
        with pytest.raises(ssl.SSLError) as e:
            gw.tls(sni)
        assert "UNRECOGNIZED_NAME" in str(e.value)


@pytest.mark.parametrize("sni", ["pass.test", "hello.test"])
@pytest.mark.parametrize("records", [16384, 50, 1])
def test_a_hello_in_pieces(gw, agent, sni, records):
    """Byte by byte, and cut into many records."""
    first, tls, into, out = hello(sni)
    body = first[5:]
    with dial(gw) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(body), records):
            piece = body[i:i + records]
            for b in b"\x16\x03\x01" + struct.pack("!H", len(piece)) + piece:
                s.send(bytes([b]))
        shake(s, tls, into, out)
        assert (tls.getpeercert(True) == agent.cert) == (sni == "pass.test")


def test_no_hello_at_all(gw):
    for what in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05\x02\0\0\x01\0", b"\0" * 20, b"\x16\x03\x01\xff\xff"):
        with dial(gw) as s:
            s.sendall(what)
            with contextlib.suppress(ConnectionResetError):
                while s.recv(100):
                    pass
    with dial(gw) as s:  # half a hello, and gone
        s.sendall(hello("pass.test")[0][:60])
    with dial(gw) as s:  # a hello without end
        block = b"\x16\x03\x01\x40\x00" + b"U" * 16384
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            s.sendall(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" + block * 20)
            while s.recv(100):
                pass
    gw.until(lambda: gw.metric("kakuremichi_connections") == 0)


def test_half_a_hello_takes_header_timeout_at_most(agent):
    with running(header_timeout="300ms") as g:
        with dial(g) as s:
            s.sendall(hello("pass.test")[0][:60])
            assert Client(s).closed()


def test_bytes_are_not_looked_at_and_ends_are_passed_on(gw):
    first = hello("raw.test")[0]
    data = first + os.urandom(20_000_000)
    with dial(gw) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while piece := s.recv(1000):
            got += piece
        assert got.decode() == hashlib.sha256(data).hexdigest()


def test_much_both_ways(gw, agent):
    with gw.tls("pass.test") as s:
        c = Client(s)
        c.send("GET /upgrade HTTP/1.1\r\nHost: pass.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert c.head()[0] == 101 and c.s.until(b"welcome ")
        blob = os.urandom(3_000_000)
        assert base.full_duplex(s, blob) == blob


def test_agent_that_is_not_there(gw):
    errors = 'kakuremichi_upstream_errors_total{reason="connect"}'
    before = gw.metric(errors)
    with pytest.raises((ConnectionResetError, ssl.SSLError)):
        gw.tls("gone.test")
    assert gw.metric(errors) == before + 1
    assert "no connection to the agent" in gw.text()


def test_a_silent_one_ends(agent):
    with running(upgrade_timeout="1s") as g:
        with dial(g) as s:
            s.sendall(hello("quiet.test")[0])
            with pytest.raises(ConnectionResetError):
                s.recv(1)
                s.send(b"x")
                s.recv(1)
            g.until(lambda: g.metric("kakuremichi_connections") == 0)


def test_draining_waits_for_it_and_cuts_it(agent):
    with running(drain_timeout="3s") as g:
        with g.tls("pass.test") as s:
            c = Client(s)
            assert c.get("/echo", host="pass.test").status == 200
            g.proc.terminate()
            g.wait_log("draining")
            assert c.get("/echo", host="pass.test").status == 200
            assert g.proc.wait(base.WAIT) == 0
        assert "draining took too long" in g.text()


def test_clients_that_leave_and_targets_that_leave(gw, agent):
    for _ in range(30):
        with gw.tls("pass.test") as s:
            Client(s).send("GET /bytes/3000000 HTTP/1.1\r\nHost: pass.test\r\n\r\n")
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for path in ("/short", "/drop", "/reset"):
        with gw.tls("pass.test") as s:
            c = Client(s)
            c.send(f"GET {path} HTTP/1.1\r\nHost: pass.test\r\n\r\n")
            with pytest.raises((Gone, OSError)):
                c.answer()
    gw.until(lambda: gw.metric("kakuremichi_connections") == 0)


# ---- hosts of tunnels of another mode, and port 80 ----------------------------------------------

@pytest.mark.parametrize("host", ["pass.test", "off.test"])
def test_hosts_that_are_served_elsewhere(gw, host):
    """The certificate of hello.test names them too."""
    with gw.tls() as s:
        c = Client(s)
        a = c.get("/echo", host=host)
        assert (a.status, a.body) == (421, b"Misdirected Request\n")
        assert c.get("/echo").status == 200


def test_without_tls(gw, agent):
    with pytest.raises(ssl.SSLError) as e:
        gw.tls("off.test")
    assert "UNRECOGNIZED_NAME" in str(e.value)
    with gw.plain() as s:
        c = Client(s)
        for path in ("/echo", "/echo/.well-known", "/.well-known/acme-challenge/x"):
            r = json.loads(c.get(path, host="off.test").body)
            assert r["target"] == path and r["headers"]["x-forwarded-proto"] == "http"
        assert agent.connections[-1]["command"] == 0x20
        c.send("POST /echo HTTP/1.1\r\nHost: off.test\r\nContent-Length: 5\r\n\r\nabcde")
        assert json.loads(c.answer().body)["length"] == 5
        # Others on the same connection are what they always are.
        assert c.get("/", host="hello.test").status == 301
        a = c.get("/", host="stopped.test")
        assert (a.status, a.body) == (503, b"Tunnel disabled\n")
        assert c.get("/", host="nobody.test").status == 404


def test_port_80_of_the_others(gw):
    with gw.plain() as s:
        c = Client(s)
        for host in ("pass.test", "a.through.test", "own.test"):
            a = c.get("/x", host=host)
            assert a.status == 301 and a.headers["location"] == f"https://{host}:{gw.https}/x"
            assert c.get("/.well-known/acme-challenge/x", host=host).status == 404


# ---- TLS itself ---------------------------------------------------------------------------------

def s_client(gw, *argv, sni="hello.test", send=""):
    r = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{gw.https}", "-servername", sni, *argv],
                       input=send, capture_output=True, text=True, timeout=60)
    return r.stdout + r.stderr


def test_a_challenge_that_is_not_open(gw):
    for sni in ("hello.test", "nobody.test"):
        assert "no application protocol" in s_client(gw, "-alpn", "acme-tls/1", sni=sni)
    # together with another protocol it is no question for a challenge
    assert "ALPN protocol: http/1.1" in s_client(gw, "-alpn", "acme-tls/1,http/1.1")


def test_no_renegotiation_and_nothing_old(gw):
    out = s_client(gw, "-tls1_2", send="R\n")
    assert "Secure Renegotiation IS supported" in out and "no renegotiation" in out
    for old in ("-tls1", "-tls1_1"):
        assert "Cipher is (NONE)" in s_client(gw, old, "-cipher", "DEFAULT@SECLEVEL=0")
    for weak in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES128-SHA", "aNULL", "DHE"):
        assert "Cipher is (NONE)" in s_client(gw, "-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0"), weak
    assert "OCSP response: no response sent" in s_client(gw, "-status")
    assert "Compression: NONE" in s_client(gw)


def test_sessions_are_resumed_by_whichever_worker(agent):
    with running(workers=4) as g:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            session, held = None, []
            for i in range(24):
                s = context.wrap_socket(dial(g), server_hostname="hello.test", session=session)
                assert Client(s).get("/echo").status == 200
                assert s.session_reused == (i > 0)
                session = s.session
                held.append(s)  # so that the busy worker is not the only one that accepts
            for s in held:
                s.close()
            # Nobody takes it to another name, however little its client minds.
            with context.wrap_socket(dial(g), server_hostname="own.test", session=session) as s:
                assert not s.session_reused
                assert Client(s).get("/echo", host="own.test").status == 200


# ---- unknown names ------------------------------------------------------------------------------

def test_a_flood_of_unknown_names(agent):
    """The short form of make bench-sni: no file, bounded log, and those who are known are served."""
    with running() as g:
        def files():
            return sorted(str(p) for p in g.dir.rglob("*"))
        before, refused = files(), g.metric('kakuremichi_tls_refused_total{reason="name"}')
        failed = []

        def flood(k):
            for i in range(150):
                try:
                    g.tls(f"n{k}-{i}.nobody.test").close()
                    failed.append("served")
                except ssl.SSLError as e:
                    if "UNRECOGNIZED_NAME" not in str(e):
                        failed.append(str(e))
        threads = [threading.Thread(target=flood, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for _ in range(20):
            with g.tls() as s:
                assert Client(s).get("/echo").status == 200
        for t in threads:
            t.join()
        assert not failed
        assert g.metric('kakuremichi_tls_refused_total{reason="name"}') == refused + 600
        g.until(lambda: g.metric("kakuremichi_tls_waiting") == 0)
        assert files() == before
        assert g.text().count("no such name") <= 5 * 12


def test_nothing_is_left_open(gw):
    gw.until(lambda: gw.metric("kakuremichi_connections") == 0)
    assert not re.search(r"(ERROR|runtime error)", gw.text())
