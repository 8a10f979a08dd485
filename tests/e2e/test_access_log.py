# SPDX-License-Identifier: MIT
"""What each request leaves behind at a gateway: a line of the access log, and counts among its metrics."""
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import time

import pytest

from tests.lab import System, client, net, prometheus
from tests.lab.proc import patience, until
from tests.lab.system import make_certificate

SECRET = "only-the-target-may-know"


class Log:
    """The access log's file, read while it grows."""

    def __init__(self, path):
        self.path = path

    def lines(self):
        return self.path.read_text().splitlines() if self.path.exists() else []

    def wait(self, *words, since=0):
        """The first line, from this one on, with all words."""
        end = time.monotonic() + patience(10)
        while True:
            for line in self.lines()[since:]:
                if all(w in line for w in words):
                    return line
            assert time.monotonic() < end, f"no line with {words} in {self.lines()[-20:]}"
            time.sleep(0.02)

    def entry(self, *words, since=0):
        return json.loads(self.wait(*words, since=since))


@pytest.fixture(scope="module")
def logged(request):
    from tests.e2e.conftest import _finish
    s = System("kmal")
    s.access = Log(s.dir / "access.log")
    try:
        s.up(gateway={"access_log": s.access.path, "access_log_format": "json", "workers": 2, "drain_timeout": "1s"},
             agent={"drain_timeout": "1s", "allow_targets": f"127.0.0.1:* {net.GATEWAY}:80"})
        s.tunnel = s.create_tunnel()
        s.wait_served()
        s.add_certificate("dead.demo.test")
        s.create_tunnel("dead.demo.test", target="127.0.0.1:9")
        s.add_certificate("ws.demo.test")
        s.start_upgrade_target(8082)
        s.upgraded = s.create_tunnel("ws.demo.test", target="127.0.0.1:8082")
        folder = s.dir / "target-certificates"
        folder.mkdir(mode=0o700)
        make_certificate(s.dir, "other.demo.test", folder)
        s.start_target(8443, "secret", name="secret", pem=folder / "other.demo.test")
        s.passed = s.create_tunnel("other.demo.test", "127.0.0.1:8443", tls="passthrough",
                                   options={"maxConnections": 2})
        s.wait_served(domain="other.demo.test")
    except BaseException:
        s.dump_logs()
        s.close()
        raise
    yield s
    _finish(s, request)


def plain(s, text, port=80):
    """What port 80 answers to these bytes."""
    sock = s.net.stranger.connect(net.GATEWAY, port, 10)
    try:
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        got = b""
        while more := sock.recv(65536):
            got += more
        return got
    finally:
        sock.close()


def scrape(s):
    return s.net.gateway.exec("curl", "-sSf", "http://127.0.0.1:9101/metrics")


def metrics(s):
    text = scrape(s)
    prometheus.check(text)
    return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}


def test_a_request(logged):
    conn = logged.stranger()
    headers = {"User-Agent": 'probe "1"', "Referer": "https://elsewhere.test/?x", "Cookie": f"a={SECRET}",
               "Authorization": f"Bearer {SECRET}"}
    for path in ("/page?first", "/page?second"):
        assert client.request(conn, "GET", path, headers=headers).status == 200
    assert client.request(conn, "PUT", "/sink?third", body=b"x" * 5000).status == 200
    conn.close()
    first, second = (logged.access.entry(f"?{w}") for w in ("first", "second"))
    third = logged.access.entry("?third")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    for key in ("duration_ms", "first_byte_ms"):
        assert 0 <= first.pop(key) < 20000
    tls = first.pop("tls")
    assert tls in ("TLSv1.2", "TLSv1.3")
    first.pop("upstream")
    assert first == {"client": net.STRANGER, "version": "HTTP/1.1", "method": "GET", "host": logged.domain,
                     "path": "/page?first", "status": 200, "bytes_in": 0, "bytes_out": 6,
                     "tunnel": logged.tunnel["id"], "user_agent": 'probe "1"', "referer": "https://elsewhere.test/?x"}
    assert second["upstream"] == "reused" and second["bytes_out"] == 6
    assert third["method"] == "PUT" and third["bytes_in"] == 5000
    assert SECRET not in logged.access.path.read_text()


def test_http2(logged):
    logged.net.stranger.exec("curl", "-sSf", "--http2", "--cacert", str(logged.dir / "ca.crt"), "-A", "two", "-o", "/dev/null",
                             f"https://{logged.domain}/over?two")
    e = logged.access.entry("/over?two")
    assert (e["version"], e["status"], e["user_agent"], e["bytes_out"]) == ("HTTP/2", 200, "two", 6)
    assert e["tls"] == "TLSv1.3" and e["tunnel"] == logged.tunnel["id"]


def test_own_answers(logged):
    host = logged.domain.encode()
    assert b" 301 " in plain(logged, b"GET /moved?1 HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    assert b" 404 " in plain(logged, b"GET /nobody HTTP/1.1\r\nHost: nobody.test\r\n\r\n")
    assert b" 400 " in plain(logged, b"GET /bad HTTP/1.1\r\nHost : x\r\n\r\n")
    conn = logged.stranger()
    assert client.request(conn, "GET", "/astray", headers={"Host": "dead.demo.test"}).status == 421
    conn.close()
    assert logged.get("/dead", domain="dead.demo.test").status == 502
    for words, status, error in ((("/moved?1",), 301, "redirect"), (("/nobody",), 404, "no tunnel"),
                                 (("/astray",), 421, "misdirected"), (("/dead",), 502, None)):
        e = logged.access.entry(*words)
        assert e["status"] == status and (e["error"] == error if error else e["error"])
    bad = logged.access.entry('"status":400')
    assert bad["client"] == net.STRANGER and bad["error"] and "path" not in bad and "tls" not in bad


def test_format_of_metrics(logged):
    """Of every daemon: what promtool would say, that all of it has names as usual, and the process itself."""
    s = logged
    for name, ns, port in (("gatewayd", s.net.gateway, 9101), ("agentd", s.net.agent, 9102)):
        families = prometheus.check(ns.exec("curl", "-sSf", f"http://127.0.0.1:{port}/metrics"))
        assert all(f.startswith(("kakuremichi_", "process_")) for f in families)
        value = {f: next(iter(families[f].series.values())) for f in families if f.startswith("process_")}
        assert abs(value["process_start_time_seconds"] - time.time()) < 600
        assert value["process_cpu_seconds_total"] > 0 and value["process_resident_memory_bytes"] > 1 << 20
        assert 3 < value["process_open_fds"] <= value["process_max_fds"]
        (_, labels), = families["kakuremichi_build_info"].series
        assert dict(labels)["program"] == name and dict(labels)["version"]
    prometheus.check(s.api("GET", "/metrics").text)


def test_any_bytes(logged):
    sock = logged.net.stranger.connect(net.GATEWAY, 80, 10)
    sock.sendall(b"GET /bytes HTTP/1.1\r\nHost: nobody.test\r\nUser-Agent: \xff\xc3\xa9\x80\"\\\t\r\n\r\n")
    sock.recv(4096)
    sock.close()
    assert logged.access.entry('"path":"/bytes"')["user_agent"] == '\ufffd\u00e9\ufffd"\\'
    for line in logged.access.lines():
        json.loads(line)


def test_moved_away(logged):
    """The one that is told of it, and the one that is not."""
    gateway = logged.procs["gatewayd"]
    for n, told in enumerate((True, False)):
        old = Log(logged.access.path.with_suffix(f".{n}"))
        os.rename(logged.access.path, old.path)
        if told:
            gateway.signal(signal.SIGHUP)
        end = time.monotonic() + patience(10)
        while not logged.access.path.exists():
            assert time.monotonic() < end
            assert logged.get(f"/moved/{n}").status == 200
        logged.access.wait(f"/moved/{n}")
        for line in old.lines():
            json.loads(line)


def test_metrics(logged):
    was = metrics(logged)
    name = f'kakuremichi_tunnel_requests_total{{domain="{logged.domain}",class="2xx"}}'
    dead = 'kakuremichi_tunnel_requests_total{domain="dead.demo.test",class="5xx"}'
    for _ in range(3):
        assert logged.get("/counted").status == 200
    assert logged.get("/", domain="dead.demo.test").status == 502
    assert b" 404 " in plain(logged, b"GET / HTTP/1.1\r\nHost: stranger.test\r\n\r\n")
    for word, n in (("/counted", 3), ("stranger.test", 1)):  # what is written has been counted
        until(lambda: sum(word in line for line in logged.access.lines()) == n)
    until(lambda: metrics(logged).get(dead, 0) > was.get(dead, 0))
    now = metrics(logged)
    assert now[name] - was[name] == 3
    assert now[dead] - was.get(dead, 0) == 1
    took = f'kakuremichi_tunnel_request_duration_seconds_count{{domain="{logged.domain}"}}'
    assert now[took] - was[took] == 3
    unanswered = 'kakuremichi_upstream_errors_total{reason="silent"}'
    assert now[unanswered] - was[unanswered] == 1
    all_404 = 'kakuremichi_responses_total{class="4xx"}'
    assert now[all_404] - was[all_404] == 1
    assert now["kakuremichi_access_log_lost_total"] == 0
    assert now[f'kakuremichi_tunnel_active{{domain="{logged.domain}"}}'] == 0
    assert not [k for k in now if "stranger.test" in k or '"other"' in k]


class Passed:
    """TLS with the target, through a tunnel that passes it on, and how many bytes went each way."""

    def __init__(self, s, domain="other.demo.test"):
        self.sock = s.net.stranger.connect(net.GATEWAY, 443, 10)
        self.sent = self.received = 0
        self.of_them, self.to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = s.tls.wrap_bio(self.of_them, self.to_them, server_hostname=domain)
        self.do(self.tls.do_handshake)

    def do(self, what, *args):
        while True:
            try:
                return what(*args)
            except ssl.SSLWantReadError:
                self.push()
                more = self.sock.recv(65536)
                self.received += len(more)
                self.of_them.write(more) if more else self.of_them.write_eof()
            finally:
                self.push()

    def push(self):
        out = self.to_them.read()
        self.sock.sendall(out)
        self.sent += len(out)

    def get(self, path):
        self.do(self.tls.write, f"GET {path} HTTP/1.1\r\nHost: other.demo.test\r\nConnection: close\r\n\r\n".encode())
        while True:
            try:
                if not self.do(self.tls.read, 65536):
                    return
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return

    def rest(self):
        """What comes until the other side has ended."""
        while more := self.sock.recv(65536):
            self.received += len(more)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_passed_through(logged):
    """One line when it is over, with the bytes of the connection, and how it ended."""
    s = logged
    since, was = len(s.access.lines()), metrics(s)
    whole = Passed(s)
    whole.get("/whole")
    whole.sock.shutdown(socket.SHUT_WR)
    whole.rest()
    whole.sock.close()
    e = s.access.entry('"passthrough"', since=since)
    assert 0 <= e.pop("first_byte_ms") <= e.pop("duration_ms") < 20000 and e.pop("time")
    assert e == {"client": net.STRANGER, "host": "other.demo.test", "status": 200, "bytes_in": whole.sent,
                 "bytes_out": whole.received, "tunnel": s.passed["id"], "upstream": "new", "tls": "passthrough"}
    since = len(s.access.lines())
    cut = Passed(s)
    reset(cut.sock)
    e = s.access.entry('"passthrough"', since=since)
    assert (e["status"], e["error"], e["bytes_in"]) == (200, "client reset", cut.sent)
    since = len(s.access.lines())
    held = [Passed(s), Passed(s)]
    with pytest.raises(OSError):  # a reset, while reading or while writing
        Passed(s)
    e = s.access.entry('"passthrough"', since=since)
    assert e["status"] == 503 and "as many connections" in e["error"] and "upstream" not in e
    now = metrics(s)

    def grown(name):
        return now[name] - was.get(name, 0)
    of = '{domain="other.demo.test"}'
    assert now["kakuremichi_tunnel_active" + of] == 2
    assert grown("kakuremichi_tunnel_passthrough_total" + of) == 3
    assert grown("kakuremichi_tunnel_request_bytes_total" + of) == whole.sent + cut.sent
    assert grown("kakuremichi_tunnel_upstream_errors_total" + of) == 1
    since = len(s.access.lines())
    for p in held:
        p.sock.close()
    for _ in held:
        s.access.wait('"passthrough"', since=since)
        since += 1


def upgraded(s, path):
    sock = s.tls.wrap_socket(s.net.stranger.connect(net.GATEWAY, 443, 10), server_hostname="ws.demo.test")
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: ws.demo.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    sock.sendall(b"x" * 3000)
    left = 3000
    while left:
        left -= len(sock.recv(left))
    return sock


def test_upgraded(logged):
    """The line comes with the end, and says how long it lasted and what it carried, not the first answer's."""
    s = logged
    s.wait_status("ws.demo.test", "/", 426)
    since, began = len(s.access.lines()), time.monotonic()
    sock = upgraded(s, "/ends")
    before = len(s.access.lines())
    assert not [line for line in s.access.lines()[since:] if "/ends" in line]
    sock.unwrap().close()
    e = s.access.entry("/ends", since=before)
    assert (e["status"], e["bytes_in"], e["bytes_out"]) == (101, 3000, 3000) and "error" not in e
    assert 0 <= e["first_byte_ms"] <= e["duration_ms"] <= (time.monotonic() - began) * 1000 + 1
    reset(upgraded(s, "/reset"))
    e = s.access.entry("/reset")
    assert (e["status"], e["bytes_out"], e["error"]) == (101, 3000, "client gone")
    sock = upgraded(s, "/killed")
    s.procs.pop("upgrade").kill()
    e = s.access.entry("/killed")
    assert (e["status"], e["bytes_in"], e["bytes_out"]) == (101, 3000, 3000)
    sock.close()
    s.start_upgrade_target(8082)


def test_requests_that_come_round(logged):
    """The target of one tunnel is the gateway itself, those of two others lead to each other. The fourth time that a
    tunnel has a request is one too many. What targets are told for it:"""
    s = logged
    fields = dict(json.loads(s.get("/seen").text)["headers"])
    assert fields["CDN-Loop"] == f"kakuremichi; t={s.tunnel['id'].replace('-', '')[:16]}" and "Via" not in fields
    for n, status in ((2, "200"), (3, "508")):
        assert status == s.net.stranger.exec("curl", "-sS", "--http2", "--cacert", str(s.dir / "ca.crt"), "-o", "/dev/null",
                                             "-w", "%{http_code}", "-H", "CDN-Loop: " + ", ".join([fields["CDN-Loop"]] * n),
                                             f"https://{s.domain}/h2")
    s.create_tunnel("ring.demo.test", f"{net.GATEWAY}:80", tls="off")
    s.create_tunnel("ping.demo.test", f"{net.GATEWAY}:80", tls="off", options={"hostHeader": "pong.demo.test"})
    s.create_tunnel("pong.demo.test", f"{net.GATEWAY}:80", tls="off", options={"hostHeader": "ping.demo.test"})
    for host, passed in (("ring", 3), ("ping", 6)):
        ask = f"GET /round HTTP/1.1\r\nHost: {host}.demo.test\r\nConnection: close\r\n\r\n".encode()
        end = time.monotonic() + patience(20)
        while plain(s, ask)[9:12] in (b"404", b"502"):  # gateway and agent hear of them at different times
            assert time.monotonic() < end
        since, was = len(s.access.lines()), metrics(s)
        answer = plain(s, ask)
        now = metrics(s)
        grown = {k: now[k] - was[k] for k in ("kakuremichi_requests_total", "kakuremichi_requests_looped_total")}
        assert answer.startswith(b"HTTP/1.1 508 Loop Detected\r\n"), (answer, grown)
        assert list(grown.values()) == [passed + 1, 1]
        assert s.access.entry('"status":508', '"error":"loop"', since=since)["host"].endswith("demo.test")
        assert s.procs["gatewayd"].wait_log("request comes round again", "tunnel=")


COMBINED = re.compile(r'(\S+) - - \[(\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000)\] "(\S+) (\S+) (HTTP/\S+)" (\d{3}) (\d+) '
                      r'"([^"]*)" "([^"]*)" time=(\S+) host="(\S+)" .* error=(-|".*")')


def test_text_without_queries_sampled(logged):
    """Other settings: errors are there however few are, and no query. What the gateway's end cuts is said to be so."""
    held = Passed(logged), upgraded(logged, "/cut")
    logged.stop("gatewayd")
    assert logged.access.entry("/cut")["error"] == "gateway ends"
    assert logged.access.entry('"passthrough"', '"gateway ends"')["bytes_in"] == held[0].sent
    for p in (held[0].sock, held[1]):
        p.close()
    log = Log(logged.dir / "combined.log")
    logged.start_gateway(wait=False, access_log=log.path, access_log_sample="0.0001%", access_log_query="off", metrics_tunnels=1,
                         metrics_tunnels_keep="1s", via="on")
    logged.wait_served()
    assert dict(json.loads(logged.get("/seen").text)["headers"])["Via"] == "1.1 kakuremichi"
    for n in range(20):
        assert logged.get(f"/left/out/{n}").status == 200
    assert logged.get(f"/dead?token={SECRET}", domain="dead.demo.test").status == 502
    m = COMBINED.fullmatch(log.wait("/dead"))
    assert (m[1], m[3], m[4], m[5], m[6], m[11]) == (net.STRANGER, "GET", "/dead", "HTTP/1.1", "502", "dead.demo.test")
    assert m[12] != "-"
    text = log.path.read_text()
    assert SECRET not in text and "/left/out" not in text
    now = metrics(logged)
    tunnels = {re.search('domain="([^"]+)"', k)[1] for k in now if k.startswith("kakuremichi_tunnel_requests_total")}
    assert len(tunnels) == 2 and "other" in tunnels


def test_the_busiest_tunnel_has_series(logged):
    """metrics_tunnels=1 still: the series go to who is asked for, nothing goes back, and who comes again goes on."""
    seen = {}

    def look():
        now = {re.search('domain="([^"]+)"', k)[1]: v for k, v in metrics(logged).items()
               if k.startswith("kakuremichi_tunnel_request_duration_seconds_count")}
        assert len(now) == 2 and "other" in now
        for k, v in now.items():
            assert v >= seen.get(k, 0), (k, seen, now)
        seen.update(now)
        return now

    for domain in ("dead.demo.test", logged.domain, "dead.demo.test"):
        end = time.monotonic() + patience(20)
        while domain not in look():
            assert time.monotonic() < end, (domain, seen)
            for _ in range(20):
                logged.get("/", domain=domain)
    assert metrics(logged)["kakuremichi_tunnel_series_moved_total"] >= 2


def test_who_waits_for_a_revoked_agent(logged):
    """What runs there and what waits for a connection to it ends at once, and the log says why."""
    s = logged
    log = Log(s.dir / "combined.log")
    s.api("PATCH", f"/api/tunnels/{s.upgraded['id']}", {"options": {"maxConnections": 1}}, expect=200)

    def waiting():
        return metrics(s)["kakuremichi_upstream_waiting"]
    held = upgraded(s, "/held")
    asking = []
    end = time.monotonic() + patience(20)
    while waiting() < 3:  # the first may come before the new maximum
        assert time.monotonic() < end
        sock = s.tls.wrap_socket(s.net.stranger.connect(net.GATEWAY, 443, 10), server_hostname="ws.demo.test")
        sock.sendall(f"GET /waits/{len(asking)} HTTP/1.1\r\nHost: ws.demo.test\r\n\r\n".encode())
        sock.settimeout(0.2)
        try:
            sock.recv(4096)
            sock.close()
        except TimeoutError:
            sock.settimeout(10)
            asking.append(sock)
    since = len(log.lines())
    s.api("POST", f"/api/agents/{s.agent_id}/revoke", expect=200)
    for sock in asking:
        assert sock.recv(4096).startswith(b"HTTP/1.1 502 ")
        sock.close()
    with contextlib.suppress(ConnectionResetError):
        assert not held.recv(1)
    held.close()
    assert metrics(s)['kakuremichi_upstream_errors_total{reason="lost"}'] == len(asking)
    for n in range(len(asking)):
        assert 'error="the agent is no longer one of ours"' in log.wait(f"/waits/{n} ", since=since)
