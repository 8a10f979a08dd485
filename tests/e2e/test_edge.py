# SPDX-License-Identifier: MIT
"""What strangers get from gatewayd, without control and without WireGuard:

    stranger --TLS--> gatewayd (wireguard = none, configuration on disk) --> stand-in agent 127.x.y.100:80

The stand-in reads the PROXY v2 header and plays the target; the path of a request says how.
"""
import contextlib
import email.utils
import hashlib
import http.client
import itertools
import json
import os
import pathlib
import queue
import re
import select
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import uuid

import pytest

from tests.lab.proc import patience

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KM_BUILD", ROOT / "build")).resolve()
VIP = f"127.{100 + os.getpid() // 256 % 100}.{os.getpid() % 256}.100"
TUNNEL = {n: str(uuid.uuid5(uuid.NAMESPACE_DNS, n)) for n in
          ("hello.test", "other.test", "off.test", "*.wild.test", "nocert.test", "dead.test")}
TARGET = str(uuid.uuid4())
PROXY_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
WAIT = patience(15)  # for anything that must come


# ---- the stand-in agent -------------------------------------------------------------------------

class Gone(Exception):
    pass


class Stream:
    """A connection with a buffer."""

    def __init__(self, sock):
        self.sock, self.buf = sock, b""

    def more(self):
        data = self.sock.recv(65536)
        if not data:
            raise Gone
        self.buf += data

    def exactly(self, n):
        while len(self.buf) < n:
            self.more()
        out, self.buf = self.buf[:n], self.buf[n:]
        return out

    def until(self, mark):
        while mark not in self.buf:
            self.more()
        i = self.buf.index(mark) + len(mark)
        out, self.buf = self.buf[:i], self.buf[i:]
        return out


def trailers(s):
    """What stands behind the last chunk."""
    fields = {}
    while (line := s.until(b"\r\n")) != b"\r\n":
        name, value = line[:-2].decode("latin-1").split(": ", 1)
        fields[name.lower()] = value
    return fields


class Agent:
    def __init__(self, address=VIP, port=80):
        self.server = socket.create_server((address, port), backlog=512)
        self.connections = []  # {tunnel, target, command, requests: [...]} in the order of arrival
        self.lock = threading.Lock()
        self.uploads = queue.Queue()
        self.events = queue.Queue()
        self.late = 0  # how often it took so long to close that it seemed to keep the connection
        threading.Thread(target=self.accept, daemon=True).start()

    def close(self):
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def heard(self, what):
        """Until this event comes."""
        while self.events.get(timeout=WAIT) != what:
            pass

    def serve(self, sock):
        with sock, contextlib.suppress(Gone, OSError):
            s = Stream(sock)
            info = self.header(s)
            info["requests"] = []
            with self.lock:
                self.connections.append(info)
            while self.request(s, info):
                pass

    def header(self, s):
        head = s.exactly(16)
        assert head[:12] == PROXY_SIGNATURE
        rest = s.exactly(struct.unpack("!H", head[14:16])[0])
        info = {"command": head[12], "family": head[13]}
        while rest:
            kind, n = struct.unpack("!BH", rest[:3])
            info[kind] = rest[3:3 + n]
            rest = rest[3 + n:]
        return info

    def body(self, s, headers, sink):
        if headers.get("transfer-encoding") == "chunked":
            while True:
                n = int(s.until(b"\r\n").strip(), 16)
                if n == 0:
                    return trailers(s)
                sink(s.exactly(n))
                assert s.exactly(2) == b"\r\n"
        left = int(headers.get("content-length", 0))
        while left:
            if not s.buf:
                s.more()
            data, s.buf = s.buf[:left], s.buf[left:]
            left -= len(data)
            sink(data)
        return {}

    def request(self, s, info):
        head = s.until(b"\r\n\r\n")
        line, *fields = head[:-4].decode("latin-1").split("\r\n")
        method, target, version = line.split(" ")
        pairs = [tuple(f.split(": ", 1)) for f in fields]
        headers = {k.lower(): v for k, v in pairs}
        r = {"method": method, "target": target, "version": version, "pairs": pairs, "headers": headers}
        info["requests"].append(r)
        name, _, arg = target.lstrip("/").partition("/")
        name = name.partition("?")[0]
        return getattr(self, "do_" + (name or "echo"), self.do_echo)(s, r, arg)

    # Each plays one behaviour; True: the connection is kept.

    def do_echo(self, s, r, arg):
        digest, n = hashlib.sha256(), 0

        def sink(data):
            nonlocal n
            digest.update(data)
            n += len(data)
        if r["headers"].get("expect") == "100-continue":
            s.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        behind = self.body(s, r["headers"], sink)
        out = json.dumps({**r, "length": n, "sha256": digest.hexdigest(), "trailers": behind}).encode()
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
                       % len(out) + (b"" if r["method"] == "HEAD" else out))
        return True

    def do_bytes(self, s, r, arg):
        left, sent = int(arg), 0
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        block = bytes(range(256)) * 256
        while left:
            n = s.sock.send(block[:left] if sent % 65536 == 0 else block[sent % 65536:][:left])
            left, sent = left - n, sent + n
            self.events.put(("sent", sent)) if arg == "104857600" else None
        return True

    def do_chunked(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n")
        for i in range(int(arg)):
            s.sock.sendall(b"5;ext=\"x\"\r\nabcde\r\n")
        s.sock.sendall(b"0\r\nX-T: 1\r\n\r\n")
        return True

    def do_trailers(self, s, r, arg):
        """Announces none."""
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\nAge: 1\r\n\r\n")
        return True

    def do_untilclose(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"z" * int(arg))
        return False

    def do_status(self, s, r, arg):
        s.sock.sendall(f"HTTP/1.1 {arg} Whatever\r\n".encode() +
                       (b"\r\n" if arg in ("204", "304") else b"Content-Length: 0\r\n\r\n"))
        return True

    def do_headbody(self, s, r, arg):
        """Sends a body where none may be: it looks like an answer of its own."""
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n")
        time.sleep(0.0005)
        s.sock.sendall(b"HTTP/1.1 200 WRONG\r\nContent-Length: 5\r\n\r\nwrong")
        return True

    def do_short(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
        return False

    def do_shortchunk(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n")
        return False

    def do_shortreset(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
        return self.do_reset(s, r, arg)

    def do_drop(self, s, r, arg):
        return False

    def do_reset(self, s, r, arg):
        s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    def do_once(self, s, r, arg):
        """Answers as if the connection were kept, and closes it at the next request without a word."""
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        s.until(b"\r\n\r\n")
        return False

    def do_early(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        s.sock.shutdown(socket.SHUT_WR)
        time.sleep(0.2)
        return False

    def do_closing(self, s, r, arg):
        """Closes after each answer without having said so."""
        self.body(s, r["headers"], lambda data: None)
        answered = time.monotonic()
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        time.sleep(0.001)
        self.late += time.monotonic() - answered > 0.2
        return False

    def do_hints(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
                       b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    def do_upgrade(self, s, r, arg):
        s.sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " +
                       r["headers"].get("upgrade", "none").encode() + b"\r\n\r\nwelcome ")
        while True:
            if s.buf:
                s.sock.sendall(s.buf)
            s.buf = b""
            s.more()

    def do_silent(self, s, r, arg):
        s.more()

    def do_raw(self, s, r, arg):
        s.sock.sendall(bytes.fromhex(arg))
        return False

    def do_slowstart(self, s, r, arg):
        time.sleep(float(arg))
        s.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        return True

    def do_sip(self, s, r, arg):
        """Reads nothing of the body until told."""
        self.events.put("sip")
        self.uploads.get(timeout=WAIT)
        return self.do_echo(s, r, arg)


# ---- the gateway --------------------------------------------------------------------------------

def make_certificate(folder, name, *sans, days=30):
    sans = sans or (name,)
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:P-256", "-nodes", "-days", str(days), "-subj", f"/CN={name}",
                        "-addext", "subjectAltName=" + ",".join(f"DNS:{s}" for s in sans),
                        "-keyout", f"{tmp}/key", "-out", f"{tmp}/crt"], check=True, capture_output=True)
        text = pathlib.Path(f"{tmp}/crt").read_text() + pathlib.Path(f"{tmp}/key").read_text()
    path = pathlib.Path(folder) / name
    (path.parent / f".{path.name}.new").write_text(text)
    os.replace(path.parent / f".{path.name}.new", path)
    return path


_ports = itertools.count(os.getpid() * 97)


def free_port():
    """Of those that the system gives to no connection, and none twice."""
    while True:
        port = 10000 + next(_ports) % 20000
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def tunnel(domain, id, **more):
    return {"id": str(id), "domain": domain, "protocol": "http", "enabled": True, "agentVirtualIp": VIP,
            "targetId": TARGET, "target": "localhost:8080", **more}


class Gateway:
    """Has the tunnels that tunnels() gives: there is no control."""

    under = ()  # the command that runs it

    def __init__(self, folder, **settings):
        self.dir = pathlib.Path(folder)
        self.https, self.http, self.metrics = free_port(), free_port(), free_port()
        (self.dir / "state").mkdir(mode=0o700, exist_ok=True)
        self.write_config()
        conf = dict(state_dir=self.dir / "state", runtime_dir=self.dir / "run", wireguard="none",
                    https_listen=f"127.0.0.1:{self.https}", http_listen=f"127.0.0.1:{self.http}",
                    certificate_dir=self.dir / "certificates", workers=2,
                    metrics_listen=f"127.0.0.1:{self.metrics}")
        conf.update(settings)
        (self.dir / "gateway.conf").write_text("".join(f"{k} = {v}\n" for k, v in conf.items()))
        self.log = open(self.dir / "log", "ab+")
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:exitcode=99",
               "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1"}
        self.proc = subprocess.Popen([*self.under, BUILD / "gatewayd", "-c", self.dir / "gateway.conf"],
                                     stderr=self.log, env=env)
        self.wait_log("gateway ready")

    def tunnels(self):
        return [tunnel(d, i, enabled=d != "off.test", agentVirtualIp="127.255.0.9" if d == "dead.test" else VIP)
                for d, i in TUNNEL.items()]

    def write_config(self):
        config = {"snapshot": str(uuid.uuid4()), "epoch": "e1", "revision": 7,
                  "gateway": {"id": str(uuid.uuid4()), "name": "g", "virtualIps": ["10.0.0.1"]},
                  "agents": [], "gateways": [], "tunnels": self.tunnels()}
        path = self.dir / "state" / "config.json"
        path.write_text(json.dumps(config))
        path.chmod(0o600)

    def text(self):
        return (self.dir / "log").read_text(errors="replace")

    def wait_log(self, what, timeout=WAIT):
        end = time.monotonic() + timeout
        while what not in self.text():
            assert self.proc.poll() is None, f"gatewayd ended: {self.text()}"
            assert time.monotonic() < end, f"no '{what}' in {self.text()}"
            select.select([], [], [], 0.02)

    def metric(self, name):
        c = http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=WAIT)
        c.request("GET", "/metrics")
        for line in c.getresponse().read().decode().splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return int(line.split()[-1])
        return 0

    def until(self, what, timeout=WAIT):
        end = time.monotonic() + timeout
        while not what():
            assert time.monotonic() < end
            select.select([], [], [], 0.02)

    def rss(self):
        for line in pathlib.Path(f"/proc/{self.proc.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024

    def stop(self, timeout=patience(40)):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        status = self.proc.wait(timeout)
        self.log.close()
        return status

    # ---- strangers

    def plain(self, timeout=WAIT):
        return socket.create_connection(("127.0.0.1", self.http), timeout=timeout)

    def tls(self, sni="hello.test", timeout=WAIT, **how):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for k, v in how.items():
            getattr(context, k)(v) if callable(getattr(context, k)) else setattr(context, k, v)
        raw = socket.create_connection(("127.0.0.1", self.https), timeout=timeout)
        try:
            return context.wrap_socket(raw, server_hostname=sni)
        except BaseException:
            raw.close()
            raise


class Answer:
    def __init__(self, status, headers, body, clean, trailers=None):
        self.status, self.headers, self.body, self.clean = status, headers, body, clean
        self.trailers = trailers or {}


def read_answer(sock, method="GET"):
    r = http.client.HTTPResponse(sock, method=method)
    r.begin()
    body = r.read()
    return Answer(r.status, {k.lower(): v for k, v in r.getheaders()}, body, True)


class Client:
    """One connection; reads answers by hand, so that what is behind one stays for the next."""

    def __init__(self, sock):
        self.s = Stream(sock)
        self.sock = sock

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def head(self):
        lines = self.s.until(b"\r\n\r\n").decode("latin-1")[:-4].split("\r\n")
        headers = {}
        for f in lines[1:]:
            k, v = f.split(": ", 1)
            headers[k.lower()] = v
        return int(lines[0].split(" ")[1]), headers

    def answer(self, method="GET"):
        status, headers = self.head()
        body, clean, behind = b"", True, None
        if method == "HEAD" or status in (204, 304) or status < 200:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while True:
                n = int(self.s.until(b"\r\n"), 16)
                if not n:
                    behind = trailers(self.s)
                    break
                body += self.s.exactly(n)
                assert self.s.exactly(2) == b"\r\n"
        elif "content-length" in headers:
            body = self.s.exactly(int(headers["content-length"]))
        else:
            with contextlib.suppress(Gone):
                while True:
                    self.s.more()
            body, self.s.buf = self.s.buf, b""
        return Answer(status, headers, body, clean, behind)

    def get(self, path="/", host="hello.test", extra=""):
        self.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{extra}\r\n")
        return self.answer()

    def closed(self):
        """Waits for the end; nothing may come any more."""
        try:
            return self.sock.recv(1) == b""
        except (ConnectionResetError, ssl.SSLError):
            return True


@pytest.fixture(scope="module")
def agent():
    a = Agent()
    yield a
    a.close()


def make_folder():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kmedge-"))
    (folder / "certificates").mkdir()
    for name in ("hello.test", "other.test", "off.test", "dead.test"):
        make_certificate(folder / "certificates", name)
    make_certificate(folder / "certificates", "*.wild.test")
    return folder


@contextlib.contextmanager
def running(kind=Gateway, folder=make_folder, **settings):
    """A gateway of this kind, in what folder() makes; its log is printed when the test fails."""
    folder = folder()
    g = None
    try:
        g = kind(folder, **settings)
        yield g
        assert g.stop() == 0, g.text()
    except BaseException:
        print((folder / "log").read_text(errors="replace") if (folder / "log").exists() else "no log")
        raise
    finally:
        if g and g.proc.poll() is None:
            g.proc.kill()
            g.proc.wait()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def gw(agent):
    with running(log_level="debug") as g:
        yield g


@pytest.fixture
def client(gw):
    with gw.tls() as sock:
        yield Client(sock)


# ---- what a stranger gets -----------------------------------------------------------------------

def test_request_reaches_the_target(gw, client, agent):
    a = client.get("/echo?x=1")
    assert a.status == 200
    r = json.loads(a.body)
    assert r["target"] == "/echo?x=1" and r["method"] == "GET" and r["version"] == "HTTP/1.1"
    info = agent.connections[-1]
    assert info["command"] == 0x20 and info["family"] == 0
    assert info[0xE0] == uuid.UUID(TUNNEL["hello.test"]).bytes and info[0xE1] == uuid.UUID(TARGET).bytes


def test_client_headers(client):
    a = client.get("/echo", extra="X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
                   "X_Forwarded_For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\nConnection: x-private, keep-alive\r\n"
                   "X-Private: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: keep-alive\r\nX-Own: 1\r\n")
    h = json.loads(a.body)["headers"]
    assert h["x-forwarded-for"] == h["x-real-ip"] == "127.0.0.1"
    assert h["x-forwarded-proto"] == "https" and h["x-forwarded-host"] == "hello.test"
    assert h["forwarded"] == 'for=127.0.0.1;proto=https;host="hello.test"'
    assert h["x-own"] == "1"
    for gone in ("x_forwarded_for", "x-private", "keep-alive", "proxy-connection"):
        assert gone not in h
    assert h["te"] == "trailers" and h["connection"] == "TE"
    assert "6.6.6.6" not in a.body.decode()


def test_answers_have_a_date(client):
    """The gateway's own, and a target's that has none; one that it has stays."""
    for path, host in (("/echo", "hello.test"), ("/", "nobody.test")):
        before = time.time()
        date = email.utils.parsedate_to_datetime(client.get(path, host=host).headers["date"]).timestamp()
        assert before - 2 <= date <= time.time() + 1
    old = "Thu, 01 Jan 1970 00:00:00 GMT"
    a = client.get("/raw/" + f"HTTP/1.1 200 OK\r\ndate: {old}\r\nContent-Length: 0\r\n\r\n".encode().hex())
    assert a.headers["date"] == old


def test_unknown_and_missing_sni(gw):
    before = gw.metric('kakuremichi_tls_refused_total{reason="name"}')
    for sni in ("nobody.test", None):
        with pytest.raises(ssl.SSLError) as e:
            gw.tls(sni)
        assert "UNRECOGNIZED_NAME" in str(e.value)
    assert gw.metric('kakuremichi_tls_refused_total{reason="name"}') == before + 2
    for _ in range(50):
        with pytest.raises(ssl.SSLError):
            gw.tls("nobody.test")
    assert gw.text().count("tls refused, no such name") < 26  # of 52; some at once, then one in ten seconds


def test_served_name_without_certificate(gw):
    with pytest.raises(ssl.SSLError):
        gw.tls("nocert.test")
    assert "no certificate for a served name" in gw.text()


def test_wildcard(gw):
    with gw.tls("a.wild.test") as s:
        assert Client(s).get("/echo", host="A.wild.TEST").status == 200
    for sni in ("a.b.wild.test", "wild.test"):
        with pytest.raises(ssl.SSLError):
            gw.tls(sni)


def test_tls_versions(gw):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        with gw.tls(maximum_version=version, minimum_version=version) as s:
            assert Client(s).get("/echo").status == 200
    with gw.tls(set_alpn_protocols=["h2", "http/1.1"]) as s:
        assert s.selected_alpn_protocol() == "h2"
    with gw.tls(set_alpn_protocols=["http/1.1"]) as s:
        assert s.selected_alpn_protocol() == "http/1.1"
    with pytest.raises(ssl.SSLError):
        gw.tls(set_alpn_protocols=["h3"])


def test_session_resumption(gw):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    session = None
    for i in range(4):
        raw = socket.create_connection(("127.0.0.1", gw.https), timeout=WAIT)
        with context.wrap_socket(raw, server_hostname="hello.test", session=session) as s:
            assert Client(s).get("/echo").status == 200
            assert s.session_reused == (i > 0)
            session = s.session


def test_request_together_with_the_end_of_the_handshake(gw):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for _ in range(50):
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(into, out, server_hostname="hello.test")
        with socket.create_connection(("127.0.0.1", gw.https), timeout=WAIT) as s:
            def more(call):
                while True:
                    try:
                        return call()
                    except ssl.SSLWantReadError:
                        if out.pending:
                            s.sendall(out.read())
                        into.write(s.recv(65536))
            more(tls.do_handshake)  # the last flight stays in `out`
            tls.write(b"GET /bytes/3 HTTP/1.1\r\nHost: hello.test\r\n\r\n")
            s.sendall(out.read())
            assert more(lambda: tls.read(100)).startswith(b"HTTP/1.1 200")


class HalfClosing:
    """A TLS client that can end its side, in either way, and goes on reading."""

    def __init__(self, gw):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname="hello.test")
        self.sock = socket.create_connection(("127.0.0.1", gw.https), timeout=WAIT)
        self.more(self.tls.do_handshake)

    def more(self, call):
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                if self.out.pending:
                    self.sock.sendall(self.out.read())
                data = self.sock.recv(65536)
                if not data:
                    return b""
                self.into.write(data)

    def ask_and_end(self, text, notify, fin):
        self.tls.write(text.encode())
        if notify:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.unwrap()
        self.sock.sendall(self.out.read())
        if fin:
            self.sock.shutdown(socket.SHUT_WR)

    def all(self):
        got = b""
        with contextlib.suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while piece := self.more(lambda: self.tls.read(65536)):
                got += piece
        return got


@pytest.mark.parametrize("notify,fin", [(True, False), (False, True), (True, True)])
def test_a_client_that_has_ended_its_side_gets_its_answers(gw, agent, notify, fin):
    ask = "GET {} HTTP/1.1\r\nHost: hello.test\r\n\r\n".format
    c = HalfClosing(gw)
    with c.sock:
        c.ask_and_end(ask("/sip") + ask("/bytes/300000"), notify, fin)
        agent.heard("sip")
        agent.uploads.put("go")
        got = c.all()
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 2, got[:1000]
    assert len(got.split(b"\r\n\r\n")[2]) == 300000
    # with a body that was whole
    c = HalfClosing(gw)
    with c.sock:
        c.ask_and_end("POST /sip HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 3\r\n\r\nabc", notify, fin)
        agent.heard("sip")
        agent.uploads.put("go")
        assert b'"length": 3' in c.all()


@pytest.mark.parametrize("notify,fin", [(True, False), (False, True)])
def test_half_a_request_is_dropped_with_its_client(gw, agent, notify, fin):
    before = gw.metric("kakuremichi_connections")
    c = HalfClosing(gw)
    with c.sock:
        c.ask_and_end("POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 3\r\n\r\nab", notify, fin)
        with contextlib.suppress(ConnectionResetError):
            assert c.all() == b""
        gw.until(lambda: gw.metric("kakuremichi_connections") <= before)


def test_a_reset_behind_the_end_is_noticed(gw, agent):
    def asked():
        return sum(r["target"] == "/silent" for x in agent.connections for r in x["requests"])
    gw.until(lambda: gw.metric("kakuremichi_connections") == 0)  # those of other tests have gone
    silent = asked()
    c = HalfClosing(gw)
    c.ask_and_end("GET /silent HTTP/1.1\r\nHost: hello.test\r\n\r\n", True, True)
    gw.until(lambda: asked() > silent)
    assert gw.metric("kakuremichi_connections") == 1
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.sock.close()
    gw.until(lambda: gw.metric("kakuremichi_connections") == 0)


def test_only_allowed_domains_are_opened(agent):
    with running(allow_domains="hello.test *.wild.test") as g:
        with g.tls() as s:
            assert Client(s).get("/echo").status == 200
        with g.tls("x.wild.test") as s:
            assert Client(s).get("/echo", host="x.wild.test").status == 200
        with pytest.raises(ssl.SSLError):
            g.tls("other.test")
        with g.plain() as s:
            assert Client(s).get("/", host="other.test").status == 404


@pytest.mark.parametrize("host,status,text", [
    ("nobody.test", 404, "Tunnel not found\n"),
    ("other.test", 421, "Misdirected Request\n"),
])
def test_other_hosts(gw, client, host, status, text):
    a = client.get("/", host=host)
    assert (a.status, a.body.decode()) == (status, text)
    assert a.headers["content-type"].startswith("text/plain")
    assert client.get("/echo").status == 200  # the connection lives on


def test_disabled(gw):
    with gw.tls("off.test") as s:
        a = Client(s).get("/", host="off.test")
        assert (a.status, a.body) == (503, b"Tunnel disabled\n")


def test_unreachable(gw):
    with gw.tls("dead.test") as s:
        c = Client(s)
        for _ in range(2):
            a = c.get("/", host="dead.test")
            assert (a.status, a.body) == (502, b"Bad Gateway\n")


def test_html_where_preferred(gw, client):
    a = client.get("/", host="nobody.test",
                   extra="Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\n")
    assert a.status == 404 and a.headers["content-type"].startswith("text/html")
    assert b"<h1>Tunnel not found</h1>" in a.body
    a = client.get("/", host="nobody.test", extra="Accept: */*\r\n")
    assert a.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("how", ["drop", "reset", "raw/00", "raw/485454502f312e3120", "raw/" + (
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx").hex(), "raw/" + (
    b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n").hex(), "raw/" + (
    b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").hex()])
def test_target_that_does_not_answer(client, how):
    a = client.get("/" + how)
    assert (a.status, a.body) == (502, b"Bad Gateway\n")
    assert client.get("/echo").status == 200


def test_port_80(gw):
    with gw.plain() as s:
        c = Client(s)
        a = c.get("/a/b?c=d", host="hello.test:8080")
        assert a.status == 301 and a.headers["location"] == f"https://hello.test:{gw.https}/a/b?c=d"
        assert c.get("/", host="off.test").status == 301
        a = c.get("/", host="nobody.test")
        assert (a.status, a.body) == (404, b"Tunnel not found\n")
        assert c.get("/.well-known/acme-challenge/x").status == 404
        c.send("GET http://hello.test?q HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        assert c.answer().headers["location"] == f"https://hello.test:{gw.https}/?q"
        c.send("HEAD / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        assert c.answer("HEAD").status == 301
        c.send("POST / HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 5\r\n\r\nabcde")
        a = c.answer()
        assert a.status == 301 and a.headers["connection"] == "close" and c.closed()


# ---- bodies -------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [0, 1, 100, 65535, 65536, 65537, 1 << 20, 5_000_001])
def test_bodies_of_known_length(client, n):
    data = os.urandom(n)
    client.send(b"POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: %d\r\n\r\n" % n)
    client.send(data)
    r = json.loads(client.answer().body)
    assert r["length"] == n and r["sha256"] == hashlib.sha256(data).hexdigest()
    a = client.get(f"/bytes/{n}")
    assert len(a.body) == n and a.headers["content-length"] == str(n)
    assert a.body == (bytes(range(256)) * (n // 256 + 1))[:n]


def test_chunked_request(client):
    client.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n")
    data = b""
    for i in range(200):
        part = os.urandom(i * 37 + 1)
        data += part
        client.send(b"%X;name=value\r\n%s\r\n" % (len(part), part))
    client.send("0\r\nX-T: 1\r\nContent-Length: 5\r\n\r\n")
    r = json.loads(client.answer().body)
    assert r["length"] == len(data) and r["sha256"] == hashlib.sha256(data).hexdigest()
    assert r["headers"]["transfer-encoding"] == "chunked" and r["headers"]["trailer"] == "X-T"
    assert r["trailers"] == {"x-t": "1"}
    assert client.get("/echo").status == 200


def test_chunked_answer(client):
    a = client.get("/chunked/1000")
    assert a.body == b"abcde" * 1000 and a.headers["transfer-encoding"] == "chunked"
    assert a.headers["trailer"] == "X-T" and a.trailers == {"x-t": "1"}
    assert client.get("/echo").status == 200


def test_trailers_for_who_takes_them(client):
    a = client.get("/trailers", extra="TE: trailers\r\nConnection: TE\r\n")
    assert a.body == b"ok" and a.trailers == {"x-t": "1"}
    a = client.get("/trailers")
    assert a.body == b"ok" and a.trailers == {}
    a = client.get("/trailers", extra="TE: trailers\r\n")
    assert a.body == b"ok" and a.trailers == {"x-t": "1"}


def test_answer_until_close_becomes_chunked(client):
    a = client.get("/untilclose/100000")
    assert a.body == b"z" * 100000 and a.headers["transfer-encoding"] == "chunked"
    assert client.get("/echo").status == 200


def test_http_1_0(gw):
    for path, body in (("/chunked/10", b"abcde" * 10), ("/untilclose/10", b"z" * 10), ("/bytes/3", b"\0\1\2")):
        with gw.tls() as s:
            c = Client(s)
            c.send(f"GET {path} HTTP/1.0\r\nHost: hello.test\r\n\r\n")
            a = c.answer()
            assert a.body == body and a.headers["connection"] == "close"
            assert "transfer-encoding" not in a.headers and c.closed()
    with gw.tls() as s:
        c = Client(s)
        for _ in range(3):
            c.send("GET /bytes/3 HTTP/1.0\r\nHost: hello.test\r\nConnection: keep-alive\r\n\r\n")
            a = c.answer()
            assert a.body == b"\0\1\2" and a.headers["connection"] == "keep-alive"


def test_no_body(client):
    for status in (204, 304):
        assert client.get(f"/status/{status}").status == status
    client.send("HEAD /echo HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    a = client.answer("HEAD")
    assert a.status == 200 and int(a.headers["content-length"]) > 10
    assert client.get("/echo").status == 200


def test_a_body_behind_the_answer_to_head_is_nobodys_answer(gw):
    done = threading.Event()

    def ask_for_heads():
        with gw.tls() as sock:
            c = Client(sock)
            while not done.is_set():
                c.send("HEAD /headbody HTTP/1.1\r\nHost: hello.test\r\n\r\n")
                assert c.answer("HEAD").status == 200
    threads = [threading.Thread(target=ask_for_heads) for _ in range(3)]
    for t in threads:
        t.start()
    try:
        with gw.tls() as sock:
            c = Client(sock)
            for _ in range(1000):
                assert c.get("/hints").status == 103 and c.answer().body == b"ok"
    finally:
        done.set()
        for t in threads:
            t.join()


def test_interim_answers(client):
    client.send("GET /hints HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    status, headers = client.head()
    assert status == 103 and headers["link"] == "</a>"
    assert client.answer().body == b"ok"


def test_expect_continue(client):
    client.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    assert client.head()[0] == 100
    client.send("body")
    assert json.loads(client.answer().body)["length"] == 4
    client.send("POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 4\r\nExpect: miracles\r\n\r\n")
    assert client.answer().status == 417 and client.closed()


def test_early_answer_to_a_large_upload(gw):
    with gw.tls() as s:
        c = Client(s)
        c.send("POST /early HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 100000000\r\n\r\n")
        c.send(b"x" * 100000)
        a = c.answer()
        assert (a.status, a.body) == (413, b"big") and a.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/short", "/shortchunk"])
def test_short_answer_is_cut(gw, path):
    with gw.tls() as s:
        c = Client(s)
        c.send(f"GET {path} HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        with pytest.raises((Gone, ConnectionResetError, ssl.SSLError)):
            c.answer()


def test_reset_right_behind_bytes_is_noticed(gw):
    """Both may come in one turn of the loop: nobody waits for the body timeout then."""
    for _ in range(50):
        with gw.tls() as s:
            c = Client(s)
            c.send("GET /shortreset HTTP/1.1\r\nHost: hello.test\r\n\r\n")
            with pytest.raises((Gone, ConnectionResetError, ssl.SSLError)):
                c.answer()


def test_pipelining(client):
    client.send("".join(f"GET /echo?{i} HTTP/1.1\r\nHost: hello.test\r\n\r\n" for i in range(20)))
    for i in range(20):
        assert json.loads(client.answer().body)["target"] == f"/echo?{i}"


def test_byte_by_byte(client):
    for b in b"\r\nPOST /echo HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
        client.send(bytes([b]))
    assert json.loads(client.answer().body)["length"] == 3


def test_absolute_form(client):
    client.send("GET https://hello.test/echo?1 HTTP/1.1\r\nHost: hello.test\r\n\r\n")
    r = json.loads(client.answer().body)
    assert r["target"] == "/echo?1" and r["headers"]["host"] == "hello.test"


def test_keep_alive_and_pool(client, agent):
    client.get("/echo")
    before = len(agent.connections)
    for _ in range(50):
        assert client.get("/echo").status == 200
    assert len(agent.connections) - before <= 1


def test_connections_to_an_agent_that_ends_are_not_kept(agent):
    """A refused connection says that the agent drains: it waits for the end of all that it has."""
    def idle():
        return g.metric("kakuremichi_upstream_idle")
    with running(workers=1, pool_idle_timeout="10m") as g:
        with g.tls() as a, g.tls() as b, g.tls() as c, g.tls("other.test") as other:
            clients = [Client(x) for x in (a, b, c)]
            assert Client(other).get("/echo", host="other.test").status == 200
            for x in clients[:2]:
                x.send("GET /sip HTTP/1.1\r\nHost: hello.test\r\n\r\n")
                agent.heard("sip")
            assert idle() == 1
            agent.close()
            try:
                refused = clients[2].get("/echo")
                assert refused.status == 502
                assert idle() == 0  # another tunnel's, but of the same agent
                for x in clients[:2]:
                    agent.uploads.put("go")
                assert [x.answer().status for x in clients[:2]] == [200, 200]
                assert clients[2].get("/echo").status == 502  # and not on one of those
                assert idle() == 0
            finally:
                agent.__init__()
        # When it is there again, connections are kept as before: soon.
        with g.tls() as s:
            x = Client(s)
            g.until(lambda: x.get("/echo").status == 200 and idle() == 1)


def test_target_that_closes_after_each_answer(gw, agent):
    with gw.tls(sni="other.test") as sock:
        c, wrong = Client(sock), 0
        for i in range(200):
            method = "GET" if i % 5 == 0 else "POST"
            c.send(f"{method} /closing HTTP/1.1\r\nHost: other.test\r\nContent-Length: 0\r\n\r\n")
            wrong += c.answer().status != 200
        assert wrong <= agent.late
        # One that keeps its connections is soon known to: then requests of every kind go out on them.
        end = time.monotonic() + WAIT
        reused = gw.metric("kakuremichi_upstream_reused_total")
        while gw.metric("kakuremichi_upstream_reused_total") < reused + 20:
            c.send("POST /echo HTTP/1.1\r\nHost: other.test\r\nContent-Length: 0\r\n\r\n")
            assert c.answer().status == 200 and time.monotonic() < end


def test_retry_on_a_connection_that_was_closed(gw, client, agent):
    for _ in range(5):
        assert client.get("/once").body == b"ok"
        assert client.get("/echo").status == 200
    assert behind_once(client) == 502


def behind_once(client, host="hello.test"):
    """The status of a request that cannot be sent twice, on a connection that is closed then. It is sent there only
    within a second: who is slower tries again."""
    while True:
        began = time.monotonic()
        assert client.get("/once", host).body == b"ok"
        client.send(f"POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\r\nx")
        status = client.answer().status
        if status != 200 or time.monotonic() - began < 1:
            return status


def full_duplex(sock, blob):
    """Sends blob while it reads as much back. On one thread: a TLS socket bears no two at once."""
    sock.settimeout(0)
    got, sent = bytearray(), 0
    while len(got) < len(blob):
        wait = [[], []]
        try:
            data = sock.recv(65536)
            if not data:
                raise Gone
            got += data
            continue
        except ssl.SSLWantReadError:
            wait[0].append(sock)
        if sent < len(blob):
            try:
                sent += sock.send(blob[sent:sent + 16384])
                continue
            except ssl.SSLWantWriteError:
                wait[1].append(sock)
        assert any(select.select(*wait, [], WAIT)), "neither way moves"
    sock.settimeout(WAIT)
    return bytes(got)


def test_upgrade(gw, client):
    client.send("GET /upgrade HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly ")
    status, headers = client.head()
    assert status == 101 and headers["upgrade"] == "websocket" and headers["connection"] == "Upgrade"
    assert client.s.exactly(14) == b"welcome early "
    blob = os.urandom(3_000_000)
    assert full_duplex(client.s.sock, blob) == blob


@pytest.mark.parametrize("protocol", ["h2c", "HTTP/2.0", "a, b"])
def test_upgrades_that_are_not_passed_on(client, protocol):
    a = client.get("/echo", extra=f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAA\r\n")
    h = json.loads(a.body)["headers"]
    assert "upgrade" not in h and "http2-settings" not in h


def test_slow_reader_holds_back_the_target(gw, agent):
    with gw.tls() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        c = Client(s)
        c.send("GET /bytes/104857600 HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        c.head()
        sent, end = 0, time.monotonic() + WAIT
        while time.monotonic() < end:  # until nothing more is sent for half a second
            try:
                sent = agent.events.get(timeout=0.5)[1]
            except queue.Empty:
                break
        assert sent < 30_000_000
        got = len(c.s.buf)
        while got < 104857600:
            got += len(s.recv(1 << 20))
        assert got == 104857600


def test_slow_target_holds_back_the_sender(gw, agent):
    with gw.tls() as s:
        c = Client(s)
        block = b"x" * 65536
        c.send(b"POST /sip HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 104857600\r\n\r\n" + block)
        agent.heard("sip")
        s.settimeout(2)
        sent = len(block)
        with pytest.raises((TimeoutError, socket.timeout, ssl.SSLWantWriteError)):
            while sent < 104857600:
                s.sendall(block)
                sent += len(block)
        assert sent < 30_000_000
    agent.uploads.put("go")


# ---- bad requests -------------------------------------------------------------------------------

OK = "GET /echo HTTP/1.1\r\nHost: hello.test\r\n"


BAD_REQUESTS = [
    ("GET /echo HTTP/1.1\r\n\r\n", 400),
    (OK + "Host: hello.test\r\n\r\n", 400),
    (OK + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (OK + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde", 400),
    (OK + "Content-Length: +5\r\n\r\nabcde", 400),
    (OK + "Transfer-Encoding: gzip\r\n\r\n", 501),
    (OK + "Transfer-Encoding : chunked\r\n\r\n", 400),
    (OK + "A: b\r\n c\r\n\r\n", 400),
    (OK + "A: b\n\r\n", 400),
    (OK + "A: b\0c\r\n\r\n", 400),
    ("GET  /echo HTTP/1.1\r\nHost: hello.test\r\n\r\n", 400),
    ("GET /echo HTTP/2.0\r\nHost: hello.test\r\n\r\n", 505),
    ("GET http://other.test/ HTTP/1.1\r\nHost: hello.test\r\n\r\n", 400),
    ("CONNECT hello.test:443 HTTP/1.1\r\nHost: hello.test\r\n\r\n", 405),
    ("\x16\x03\x01", 400),
    (OK + "X: " + "a" * 70000, 431),
    (OK + "".join(f"X{i}: a\r\n" for i in range(200)) + "\r\n", 431),
    ("GET /" + "a" * 70000, 414),
    ("POST /echo HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ("POST /echo HTTP/1.1\r\nHost: hello.test\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400),
]


# Port 80 reads no bodies.
@pytest.mark.parametrize("secure,text,status", [(True, *bad) for bad in BAD_REQUESTS] + [
    (False, *bad) for bad in BAD_REQUESTS if "POST" not in bad[0]])
def test_bad_requests(gw, secure, text, status):
    with gw.tls() if secure else gw.plain() as s:
        c = Client(s)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            c.send(text)
        a = c.answer()
        assert a.status == status and a.headers["connection"] == "close"
        assert c.closed()
    with gw.tls() as s:
        assert Client(s).get("/echo").status == 200


def test_a_header_of_1_mib(gw):
    with gw.tls() as s:
        c = Client(s)
        with contextlib.suppress(OSError):
            c.send(OK + "X: " + "a" * (1 << 20) + "\r\n\r\n")
        assert c.answer().status == 431


# ---- time, room, reload -------------------------------------------------------------------------

def test_timeouts(agent):
    with contextlib.ExitStack() as stack:
        g = stack.enter_context(running(header_timeout="3s", idle_timeout="3500ms", body_timeout="3s",
                                        upstream_timeout="3s"))

        def says(text):
            c = Client(stack.enter_context(g.tls()))
            c.send(text)
            return c
        mute = Client(stack.enter_context(g.plain()))
        head = says("GET / HTTP/1.1\r\nHost:")
        body = says("POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: 10\r\n\r\nabc")
        silent = says("GET /silent HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        idle = says("GET /echo HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        assert idle.answer().status == 200
        began = time.monotonic()
        assert mute.closed()  # nothing was ever said
        assert head.answer().status == 408 and head.closed()  # a head that does not end
        assert body.answer().status == 408 and body.closed()  # a body that does not come
        a = silent.answer()  # a target that says nothing
        assert (a.status, a.body) == (504, b"Gateway Timeout\n")
        assert g.metric('kakuremichi_upstream_errors_total{reason="timeout"}') == 1
        assert idle.closed() and time.monotonic() - began > 3  # idle after an answer


def test_full_house_makes_the_next_wait(agent):
    with running(max_connections=16, header_timeout="60s") as g:
        held = [g.plain() for _ in range(16)]
        g.until(lambda: g.metric("kakuremichi_connections") == 16)
        with g.plain(timeout=0.7) as late:
            late.sendall(b"GET / HTTP/1.1\r\nHost: hello.test\r\n\r\n")
            with pytest.raises(TimeoutError):
                late.recv(1)
            held.pop().close()
            late.settimeout(WAIT)
            assert late.recv(12) == b"HTTP/1.1 301"
        for s in held:
            s.close()


def test_replaced_certificate_is_noticed(gw):
    def serial():
        with gw.tls() as s:
            return hashlib.sha256(s.getpeercert(True)).digest()
    before = serial()
    make_certificate(gw.dir / "certificates", "hello.test")
    gw.until(lambda: serial() != before)
    after = serial()
    (gw.dir / "certificates" / "hello.test").write_text("not a certificate")
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert serial() == after  # the last good one serves on
    make_certificate(gw.dir / "certificates", "hello.test")
    gw.until(lambda: serial() != after)


def test_memory_of_idle_connections(agent):
    assert "san-" not in str(BUILD), "memory is judged on the plain build (make check-bulk)"
    with running(workers=1, header_timeout="60s") as g:
        socks = [g.tls() for _ in range(200)]
        for s in socks:
            assert Client(s).get("/bytes/100000").status == 200
        base = g.rss()
        socks += [g.tls() for _ in range(400)]
        for s in socks[200:]:
            assert Client(s).get("/bytes/100000").status == 200
        per = (g.rss() - base) / 400
        assert per < 6_000, per  # OpenSSL keeps 14,000
        for s in socks:
            s.close()


# ---- the end ------------------------------------------------------------------------------------

def test_drain_under_load(agent):
    with running(drain_timeout="10m") as g:
        stop, ok, lost, refused = threading.Event(), [], [], []

        def stranger():
            while not stop.is_set():
                try:
                    s = g.tls()
                except (OSError, ssl.SSLError):
                    refused.append(1)
                    stop.wait(0.05)
                    continue
                with s:
                    try:
                        c = Client(s)
                        a = c.get("/bytes/50000")
                        assert a.status == 200 and len(a.body) == 50000
                        ok.append(1)
                    except BaseException as e:
                        lost.append(repr(e))
        threads = [threading.Thread(target=stranger) for _ in range(8)]
        for t in threads:
            t.start()
        slow = g.tls()
        c = Client(slow)
        g.until(lambda: len(ok) > 50)
        c.send("GET /sip HTTP/1.1\r\nHost: hello.test\r\n\r\n")
        agent.heard("sip")
        with g.tls() as idle:
            idle_client = Client(idle)
            assert idle_client.get("/echo").status == 200
            g.proc.send_signal(signal.SIGTERM)
            g.wait_log("draining")
            a = idle_client.get("/echo")  # one more request is answered, and the connection ends
            assert a.status == 200 and a.headers["connection"] == "close"
        g.until(lambda: refused)
        agent.uploads.put("go")
        a = c.answer()
        assert a.status == 200 and a.headers["connection"] == "close"
        slow.close()
        assert g.proc.wait(WAIT) == 0
        stop.set()
        for t in threads:
            t.join()
        assert not lost


def test_second_sigterm_ends_at_once(agent):
    with running(drain_timeout="10m") as g:
        with g.tls() as s:
            c = Client(s)
            c.send("GET /upgrade HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert c.head()[0] == 101
            g.proc.send_signal(signal.SIGTERM)
            g.wait_log("draining")
            c.send("still here")
            assert c.s.until(b"still here")
            g.proc.send_signal(signal.SIGTERM)
            assert g.proc.wait(WAIT) == 0


def test_drain_timeout_cuts_upgraded_connections(agent):
    with running(drain_timeout="500ms") as g:
        with g.tls() as s:
            c = Client(s)
            c.send("GET /upgrade HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert c.head()[0] == 101
            g.proc.send_signal(signal.SIGTERM)
            assert g.proc.wait(WAIT) == 0
        assert "draining took too long" in g.text()


def test_nothing_is_left_open(gw):
    gw.until(lambda: gw.metric("kakuremichi_connections") == 0)
    assert not re.search(r"(ERROR|runtime error)", gw.text())
