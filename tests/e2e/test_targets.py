# SPDX-License-Identifier: MIT
"""Targets that speak TLS or HTTP/2, real servers behind the whole tunnel:

    stranger --https--> gatewayd ==WireGuard==> agentd --> nginx (https, with and without HTTP/2),
                                                           nghttpd and grpc (h2c, and HTTP/2 in TLS)

TLS with an https target is gatewayd's; the agent moves its bytes."""
import concurrent.futures
import hashlib
import json
import pathlib
import subprocess

import pytest

from tests.lab import net
from tests.lab.proc import patience
from tests.lab.system import ROOT

NGINX = """
daemon off; master_process off; worker_processes 1; pid {d}/nginx.pid; error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0; keepalive_timeout 60s;
  client_body_temp_path {d}/body; proxy_temp_path {d}/t1; fastcgi_temp_path {d}/t2; uwsgi_temp_path {d}/t3;
  scgi_temp_path {d}/t4; root {d}/files; ssl_protocols {protocols};
  {servers}
}}
"""
SERVER = """
  server {{
    listen 127.0.0.1:{port} ssl{h2}; ssl_certificate {pem}; ssl_certificate_key {pem};
    location /said {{ default_type text/plain;
      return 200 "$ssl_server_name $ssl_session_reused $host $http_x_forwarded_proto $ssl_protocol $server_protocol"; }}
    location /put {{ dav_methods PUT; alias {d}/put; create_full_put_path on; }}
  }}
"""


def certificate(folder, name, san, ca=None, days=30):
    """Key and certificate in one file; by `ca` (a folder with ca.crt and ca.key), else by itself."""
    pem = folder / f"{name}.pem"
    how = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
           "-keyout", f"{pem}.key", "-addext", f"subjectAltName={san}"]
    if ca is None:
        how += ["-x509", "-days", str(days), "-out", f"{pem}.crt"]
        subprocess.run(how, check=True, capture_output=True)
    else:
        subprocess.run([*how, "-out", f"{pem}.csr"], check=True, capture_output=True)
        (folder / "ext").write_text(f"subjectAltName={san}\n")
        when = ["-days", str(days)]
        sign = ["openssl", "x509", "-req", "-in", f"{pem}.csr", "-CA", f"{ca}/ca.crt", "-CAkey", f"{ca}/ca.key",
                "-CAcreateserial", "-extfile", str(folder / "ext"), "-out", f"{pem}.crt"]
        if days < 0:  # ended that many days ago
            sign = ["openssl", "ca", "-batch", "-notext", "-md", "sha256", "-in", f"{pem}.csr", "-cert", f"{ca}/ca.crt",
                    "-keyfile", f"{ca}/ca.key", "-outdir", str(folder), "-startdate", "20200101000000Z", "-enddate",
                    "20200201000000Z", "-extfile", str(folder / "ext"), "-config", str(folder / "ca.conf"),
                    "-out", f"{pem}.crt"]
            when = []
            (folder / "index").write_text("")
            (folder / "serial").write_text("0a\n")
            (folder / "ca.conf").write_text(
                f"[ca]\ndefault_ca=c\n[c]\ndatabase={folder}/index\nserial={folder}/serial\npolicy=p\n"
                "[p]\ncommonName=supplied\n")
        subprocess.run([*sign, *when], check=True, capture_output=True)
    pem.write_text(pathlib.Path(f"{pem}.key").read_text() + pathlib.Path(f"{pem}.crt").read_text())
    return pem


@pytest.fixture(scope="module")
def targets(system):
    """All of them behind one domain, a tunnel for each path."""
    s = system
    d = s.dir / "targets"
    (d / "files").mkdir(parents=True)
    (d / "files" / "big").write_bytes(hashlib.sha256(b"big").digest() * 98304)
    (d / "files" / "small").write_text("small\n")
    own = certificate(d, "nas.local", "DNS:nas.local")
    pems = {8443: own, 8444: certificate(d, "by-ca", "DNS:nas.local,DNS:localhost", s.dir),
            8445: certificate(d, "old", "DNS:nas.local", s.dir, days=-1),
            8446: certificate(d, "address", "IP:127.0.0.1", s.dir), 8447: own}
    servers = "".join(SERVER.format(port=port, pem=pem, d=d, h2=" http2" if port == 8447 else "")
                      for port, pem in pems.items())
    (d / "nginx.conf").write_text(NGINX.format(d=d, servers=servers, protocols="TLSv1.2 TLSv1.3"))
    s.start("nginx", s.net.agent, "nginx", "-c", d / "nginx.conf", "-p", d)
    s.start("nghttpd", s.net.agent, "nghttpd", "--no-tls", "--echo-upload", "--trailer=x-behind: yes", "-m", "20",
            "-d", d / "files", "8090")
    s.start("grpc", s.net.agent, "/usr/bin/python3", ROOT / "tests/lab/grpcpeer.py", "serve", 8091).wait_log("grpc listens")
    key = [f"{own}.key", f"{own}.crt"]
    s.start("nghttpd-tls", s.net.agent, "nghttpd", "--echo-upload", "--trailer=x-behind: yes", "-m", "20", "-d", d / "files",
            "8448", *key)
    s.start("grpc-tls", s.net.agent, "/usr/bin/python3", ROOT / "tests/lab/grpcpeer.py", "serve", 8449,
            *key).wait_log("grpc listens")
    ca = (s.dir / "ca.crt").read_text()
    nas = {"tlsServerName": "nas.local", "stripPath": True}
    for path, target, protocol, options in (
            ("/pinned", "127.0.0.1:8443", "https", {**nas, "tlsCa": pathlib.Path(f"{own}.crt").read_text()}),
            ("/any", "127.0.0.1:8443", "https", {"tlsVerify": False, "stripPath": True, "hostHeader": "target"}),
            ("/self", "127.0.0.1:8443", "https", nas),
            ("/ca", "localhost:8444", "https", {"stripPath": True, "tlsCa": ca}),
            ("/unknown-ca", "localhost:8444", "https", {"stripPath": True}),
            ("/name", "127.0.0.1:8444", "https", {"stripPath": True, "tlsCa": ca}),
            ("/old", "127.0.0.1:8445", "https", {**nas, "tlsCa": ca}),
            ("/address", "127.0.0.1:8446", "https", {"stripPath": True, "tlsCa": ca}),
            ("/plain", "127.0.0.1:8080", "https", {"tlsVerify": False}),
            ("/few", "127.0.0.1:8443", "https", {"tlsVerify": False, "stripPath": True, "maxConnections": 2}),
            ("/h2c", "127.0.0.1:8090", "h2c", {"stripPath": True}),
            ("/no-h2c", "127.0.0.1:8080", "h2c", {"stripPath": True}),
            ("/Peer", "127.0.0.1:8091", "h2c", {}),
            ("/h2", "127.0.0.1:8447", "https", {**nas, "tlsCa": pathlib.Path(f"{own}.crt").read_text()}),
            ("/h2-self", "127.0.0.1:8447", "https", nas),
            ("/h2-few", "127.0.0.1:8447", "https", {"tlsVerify": False, "stripPath": True, "maxConnections": 1}),
            ("/h2-tls", "127.0.0.1:8448", "https", {"tlsVerify": False, "stripPath": True}),
            ("/Tls", "127.0.0.1:8449", "https", {"tlsVerify": False})):
        s.create_tunnel(path=path, target=target, targetProtocol=protocol, options=options)
    s.wait_status(s.domain, "/any/said", 200)
    s.wait_status(s.domain, "/h2c/small", 200)
    s.wait_status(s.domain, "/h2-tls/small", 200)
    s.wait_status(s.domain, "/Peer/None", 200)
    s.wait_status(s.domain, "/Tls/None", 200)
    yield s


def everything(sock):
    """What has come until there is an end of chunks."""
    data = b""
    while not (b"\r\n0\r\n" in data and data.endswith(b"\r\n\r\n")):
        more = sock.recv(65536)
        assert more, data
        data += more
    return data


def metric(s, name):
    text = s.net.gateway.exec("curl", "-s", "http://127.0.0.1:9101/metrics")
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in text.splitlines()
               if line.startswith((f"{name} ", f"{name}{{")))


@pytest.mark.parametrize("path,said", [
    ("/pinned", "nas.local"), ("/any", "-"), ("/ca", "localhost"), ("/address", "-"), ("/h2", "nas.local")])
def test_certificates_that_are_accepted(targets, path, said):
    s = targets
    a = s.wait_status(s.domain, f"{path}/said", 200)
    sni, reused, host, proto, version, http = (a.text + " ").replace("  ", " - ").split()[:6] if a.text[0] != " " else \
        ("-" + a.text).split()[:6]
    assert (sni, proto, version, http) == (said, "https", "TLSv1.3", "HTTP/2.0" if path == "/h2" else "HTTP/1.1")
    assert host == ("127.0.0.1" if path == "/any" else s.domain)


@pytest.mark.parametrize("path,why,reason", [
    ("/self", "the target's certificate is self-signed", "self_signed"),
    ("/h2-self", "the target's certificate is self-signed", "self_signed"),
    ("/unknown-ca", "by a CA that is not trusted", "untrusted"),
    ("/name", "the target's certificate is for another name (nas.local, localhost)", "name"),
    ("/old", "the target's certificate has expired (2020-02-01T00:00:00Z)", "time"),
    ("/plain", "the target does not speak TLS", "protocol")])
def test_certificates_that_are_refused(targets, path, why, reason):
    s = targets
    series = f'kakuremichi_upstream_tls_failures_total{{reason="{reason}"}}'

    def count():
        text = s.net.gateway.exec("curl", "-s", "http://127.0.0.1:9101/metrics")
        return sum(int(line.split()[-1]) for line in text.splitlines() if line.startswith(series))
    before = count()
    assert s.get(f"{path}/said").status == 502
    assert count() == before + 1
    s.procs["gatewayd"].wait_log(why)


def test_bodies_and_sessions_through_tls(targets):
    s = targets
    big = (s.dir / "targets/files/big").read_bytes()
    assert s.get("/pinned/big").body == big
    conn = s.stranger()
    conn.request("PUT", "/pinned/put/up", big)
    a = conn.getresponse()
    a.read()
    assert a.status in (201, 204)
    assert (s.dir / "targets/put/up").read_bytes() == big
    conn.close()
    # Many at once need several connections; all but the first of each worker resume a session.
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        said = list(pool.map(lambda _: s.get("/pinned/said").text.split()[1], range(48)))
    assert "r" in said


@pytest.mark.parametrize("path", ["/h2c", "/h2-tls"])
def test_http_2(targets, path):
    s = targets
    big = (s.dir / "targets/files/big").read_bytes()
    opened, reused = (metric(s, f"kakuremichi_upstream_{n}_total") for n in ("connections", "reused"))
    assert s.get(f"{path}/small").text == "small\n"
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: s.get(f"{path}/{'big' if i % 4 == 0 else 'small'}"), range(64)))
    assert all(a.body == (big if i % 4 == 0 else b"small\n") for i, a in enumerate(answers))
    # They shared few: nghttpd takes 20 requests at once on one.
    assert metric(s, "kakuremichi_upstream_connections_total") - opened <= 6
    assert metric(s, "kakuremichi_upstream_reused_total") - reused >= 50
    conn = s.stranger()
    conn.request("POST", f"{path}/echo", big)
    a = conn.getresponse()
    assert a.status == 200 and a.read() == big
    conn.request("POST", f"{path}/echo", iter([b"in ", b"pieces"]), encode_chunked=True,
                 headers={"Transfer-Encoding": "chunked"})
    a = conn.getresponse()
    assert a.read() == b"in pieces"
    conn.request("HEAD", f"{path}/small")
    a = conn.getresponse()
    assert a.status == 200 and a.read() == b"" and a.headers["content-length"] == "6"
    # As many fields as a client may send (Host and Accept-Encoding among them), and what the gateway adds.
    conn.request("GET", f"{path}/small", headers={f"X-{i}": "y" for i in range(126)})
    a = conn.getresponse()
    assert a.status == 200 and a.read() == b"small\n"
    conn.request("GET", f"{path}/none")
    a = conn.getresponse()
    assert a.status == 404 and a.read()
    conn.close()


def test_a_load_of_http_2_on_both_sides(targets):
    """What many clients ask for at once goes over few connections, and none of it is lost."""
    s = targets
    for path in ("/h2c", "/h2-tls"):
        before = metric(s, "kakuremichi_upstream_connections_total")
        out = s.net.stranger.exec("h2load", "-n2000", "-c4", "-m32", f"https://{s.domain}{path}/small")
        assert "2000 succeeded, 0 failed, 0 errored" in out and "status codes: 2000 2xx" in out, out
        assert metric(s, "kakuremichi_upstream_connections_total") - before <= 16
    before = metric(s, "kakuremichi_upstream_waited_total")
    out = s.net.stranger.exec("h2load", "-n1000", "-c4", "-m32", f"https://{s.domain}/few/small")
    assert "status codes: 1000 2xx" in out, out
    assert metric(s, "kakuremichi_upstream_waited_total") > before
    assert metric(s, "kakuremichi_upstream_waiting") == 0


@pytest.mark.parametrize("path", ["/h2c", "/h2-tls"])
def test_trailers_reach_who_wants_them(targets, path):
    s = targets
    out = s.net.stranger.exec("nghttp", "-nv", f"https://{s.domain}{path}/small")
    assert "content-length: 6" in out and "x-behind: yes" in out
    conn = s.stranger()
    conn.putrequest("GET", f"{path}/small")
    conn.putheader("TE", "trailers")
    conn.putheader("Connection", "TE")
    conn.endheaders()
    assert b"x-behind: yes\r\n\r\n" in everything(conn.sock)
    conn.close()


def test_a_target_that_does_not_speak_h2c(targets):
    s = targets
    assert s.get("/no-h2c/").status == 502
    s.procs["gatewayd"].wait_log("no answer from the target")
    assert s.get("/h2c/small").status == 200


@pytest.mark.parametrize("service", ["Peer", "Tls"])
def test_grpc(targets, service):
    s = targets
    out = json.loads(s.net.stranger.exec(
        "timeout", str(patience(60)), "/usr/bin/python3", str(ROOT / "tests/lab/grpcpeer.py"), "call",
        f"{net.GATEWAY}:443", s.domain, str(s.dir / "ca.crt"), service))
    assert out["unary"][:3] == ["cba", "OK", "1"]
    assert out["unary"][3]["x-last"] == "q" and out["unary"][3]["x-bytes-bin"] == "00ff"
    assert out["big"]
    assert out["failing"] == ["FAILED_PRECONDITION", "no – not now: ü"]
    assert out["down"] == [2000, sum(len(f"{i}:") + i % 3000 for i in range(2000))]
    assert out["up"] == "2000 2000000"
    assert out["both"] and out["cancelled"] == ["tick"] * 3
    assert out["deadline"] == "DEADLINE_EXCEEDED"
    assert out["many"] == 300


def test_targets_that_come_and_go(targets):
    """A connection that the target has closed, or a target that is gone for a moment, is nobody's for long."""
    s = targets
    assert s.get("/h2c/small").status == 200
    s.stop("nghttpd")
    assert s.get("/h2c/small").status == 502
    d = s.dir / "targets"
    s.start("nghttpd", s.net.agent, "nghttpd", "--no-tls", "-d", d / "files", "8090")
    assert s.wait_status(s.domain, "/h2c/small", 200).text == "small\n"
