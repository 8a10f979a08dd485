# SPDX-License-Identifier: MIT
"""What operators wish of a tunnel beyond its place, set through REST and seen on the wire, in HTTP/1.1 and HTTP/2:

    stranger .10, and .11, a proxy that is trusted ── gateway ══WireGuard══ agent ── hello 8080, api 8090

Each test has a domain of its own, so that none waits for another's changes."""
import json
import re
import time

import pytest

from tests.lab import net
from tests.lab.proc import LabError, patience

PROXY = "203.0.113.11"
DOMAINS = ("paths.demo.test", "only.demo.test", "rules.demo.test", "rates.demo.test", "from.demo.test", "both.demo.test",
           "modes.demo.test")


@pytest.fixture(scope="module")
def s(bare):
    bare.net.stranger.ip("addr", "add", f"{PROXY}/24", "dev", "eth0")
    for d in DOMAINS:
        bare.add_certificate(d)
    bare.up(gateway={"trusted_proxies": f"{PROXY} 192.0.2.0/24"})
    bare.start_target(8090, "api", name="api")
    return bare


class Seen:
    """An answer as curl has printed it."""

    def __init__(self, out):
        head, _, self.body = out.replace("\r\n", "\n").partition("\n\n")
        lines = head.split("\n")
        self.status = int(lines[0].split()[1])
        self.fields = [(k.lower(), v) for k, _, v in (line.partition(": ") for line in lines[1:])]
        self.headers = dict(self.fields)

    def __repr__(self):
        return f"<{self.status} {self.fields} {self.body[:300]!r}>"

    def target(self):
        """What the target saw: the path, and its fields by name in lower case."""
        seen = json.loads(self.body)
        names = [k.lower() for k, _ in seen["headers"]]
        assert len(names) == len(set(names)), f"twice: {seen}"
        return seen["path"], {k.lower(): v for k, v in seen["headers"]}


def ask(s, domain, path="/seen", *headers, scheme="https", version="1.1", via=None, more=()):
    args = [x for h in headers for x in ("-H", h)]
    if via:
        args += ["--interface", via]
    return Seen(s.net.stranger.exec(
        "curl", "-sS", "-i", "--path-as-is", "--max-time", "10", f"--http{version}", "--cacert", f"{s.dir}/ca.crt",
        "--resolve", f"{domain}:443:{net.GATEWAY}", "--resolve", f"{domain}:80:{net.GATEWAY}",
        *args, *more, f"{scheme}://{domain}{path}"))


def until(s, domain, path, fits, **how):
    """Changes take a moment to come to the gateway: before, a new domain has no TLS either."""
    end = time.monotonic() + patience(20)
    while True:
        try:
            a = ask(s, domain, path, **how)
            if fits(a):
                return a
        except LabError as e:
            a = e
        assert time.monotonic() < end, a
        time.sleep(0.05)


def change(s, tunnel, **what):
    s.api("PATCH", f"/api/tunnels/{tunnel['id']}", what, expect=200)


def test_paths(s):
    d = "paths.demo.test"
    s.create_tunnel(d)
    s.create_tunnel(d, "127.0.0.1:8090", path="/api", options={"stripPath": True})
    s.create_tunnel(d, "127.0.0.1:8090", path="/api/v2")
    until(s, d, "/api/v2/x", lambda a: a.body == "api\n")
    for version in ("1.1", "2"):
        for path, whose in (("/", "hello"), ("/x", "hello"), ("/apix", "hello"), ("/API", "hello"), ("/api", "api"),
                            ("/api/", "api"), ("/api?x", "api"), ("/api/v2/y", "api"), ("/caf%c3%a9", "hello"),
                            ("/x//y/../z", "hello"), ("/api/x%2Fy", "api")):
            a = ask(s, d, path, version=version)
            assert (a.status, a.body) == (200, whose + "\n"), (path, a)
        for path in ("/api/../x", "/api/%2e%2e/x", "/x/../api", "//api", "/api%2fx", "/api/..%2fx", "/%61pi", "/api;a/x",
                     "/api/..;/x", "/api/..%5cx", "/api/v2/../x", "/api//x"):
            assert ask(s, d, path, version=version).status == 400, path
        path, fields = ask(s, d, "/api/seen?q=/a", "X-Forwarded-Prefix: /evil", version=version).target()
        assert path == "/seen?q=/a" and fields["x-forwarded-prefix"] == "/api"
        path, fields = ask(s, d, "/api?seen", version=version).target()
        assert path == "/?seen"
        path, fields = ask(s, d, "/api/v2/seen", "X-Forwarded-Prefix: /evil", version=version).target()
        assert path == "/api/v2/seen" and "x-forwarded-prefix" not in fields


def test_tls_of_a_domain_with_several_tunnels(s):
    """It changes for all of them, and no request goes to another tunnel's target on the way."""
    d = "modes.demo.test"
    one = s.create_tunnel(d)
    s.create_tunnel(d, "127.0.0.1:8090", path="/api")
    until(s, d, "/api/x", lambda a: a.body == "api\n")
    change(s, one, tls="off")
    until(s, d, "/api/x", lambda a: a.status == 200 and a.body == "api\n" or a.status != 301 and pytest.fail(repr(a)), scheme="http")
    until(s, d, "/", lambda a: a.body == "hello\n", scheme="http")
    end = time.monotonic() + patience(20)
    while s.api("GET", f"/api/gateways/{s.gateway_id}", expect=200)["configError"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_domain_of_which_only_a_part_is_served(s):
    d = "only.demo.test"
    one = s.create_tunnel(d, path="/only")
    until(s, d, "/only/x", lambda a: a.status == 200)
    for version in ("1.1", "2"):
        assert ask(s, d, "/", version=version).status == 404
        assert ask(s, d, "/onlyx", version=version).status == 404
        assert ask(s, d, "/only/../x", version=version).status == 400
    assert ask(s, d, "/", scheme="http").headers["location"] == f"https://{d}/"
    change(s, one, path=None)
    until(s, d, "/", lambda a: a.status == 200)
    assert not s.api("GET", f"/api/gateways/{s.gateway_id}", expect=200)["configError"]


def test_headers_host_redirects_and_maintenance(s):
    d = "rules.demo.test"
    t = s.create_tunnel(d, options={
        "hostHeader": "inner.test:81",
        "requestHeaders": {"set": {"X-Key": "s3cret", "User-Agent": "gateway"}, "remove": ["Cookie"]},
        "responseHeaders": {"set": {"X-Frame-Options": "DENY", "Content-Type": "text/x"}, "remove": ["Server"]},
        "hsts": {"maxAge": 300, "includeSubDomains": True},
        "redirects": [{"from": "/old/*", "to": "https://new.test/n/*", "status": 308}, {"from": "/x", "to": "/y?z"},
                      {"from": "/up/*", "to": "/*"}]})
    hsts = "max-age=300; includeSubDomains"
    until(s, d, "/", lambda a: a.status == 200)
    for version in ("1.1", "2"):
        a = ask(s, d, "/seen", "X-Key: mine", "x-key: again", "X_Key: mine", "X.key: mine", "Cookie: a=b",
                "Cookie: c=d", version=version)
        assert [v for k, v in a.fields if k == "content-type"] == ["text/x"]
        assert a.headers["x-frame-options"] == "DENY" and "server" not in a.headers
        assert a.headers["strict-transport-security"] == hsts
        _, fields = a.target()
        assert (fields["x-key"], fields["user-agent"], fields["host"]) == ("s3cret", "gateway", "inner.test:81")
        assert not {"cookie", "x_key", "x.key"} & set(fields) and fields["x-forwarded-host"] == d
        for path, status, to in (("/old/a/b?q=1", 308, "https://new.test/n/a/b?q=1"), ("/x?q", 302, "/y?z"),
                                 ("/up//evil.test/", 302, "/evil.test/"), ("/up/", 302, "/")):
            a = ask(s, d, path, version=version)
            assert (a.status, a.headers["location"]) == (status, to), a
            assert a.headers["strict-transport-security"] == hsts
        assert ask(s, d, "/old", version=version).status == 200
    assert "strict-transport-security" not in ask(s, d, scheme="http").headers
    change(s, t, options={**t["options"], "maintenance": {"title": "<Pause>", "text": "back & better", "retryAfter": 60}})
    until(s, d, "/", lambda a: a.status == 503)
    for version in ("1.1", "2"):
        a = ask(s, d, "/old/x", "Accept: text/html", version=version)
        assert a.status == 503 and "<h1>&lt;Pause&gt;</h1>" in a.body and "back &amp; better" in a.body
        assert a.headers["retry-after"] == "60" and a.headers["content-type"].startswith("text/html")
        assert a.headers["strict-transport-security"] == hsts
        a = ask(s, d, "/", version=version)
        assert a.body == "<Pause>\n\nback & better\n" and a.headers["content-type"].startswith("text/plain")
    change(s, t, options=None)
    a = until(s, d, "/old/seen", lambda a: a.status == 200)
    assert "server" in a.headers and "strict-transport-security" not in a.headers
    assert a.target()[1]["host"] == d


def test_rates(s):
    d = "rates.demo.test"
    t = s.create_tunnel(d)
    until(s, d, "/", lambda a: a.status == 200)
    change(s, t, options={"addressRateLimit": {"rate": "3/1h"}})
    a = until(s, d, "/", lambda a: a.status == 429)
    assert 1 <= int(a.headers["retry-after"]) <= 1200 and a.body.startswith("Too Many Requests")
    for version in ("1.1", "2"):
        assert ask(s, d, version=version).status == 429
        # Another address has a bucket of its own, behind the proxy too; and a stranger cannot say that it is another.
        for i in range(3):
            assert ask(s, d, "/", f"X-Forwarded-For: 198.51.100.{version[0]}", via=PROXY).status == 200
        assert ask(s, d, "/", f"X-Forwarded-For: 198.51.100.{version[0]}", via=PROXY, version=version).status == 429
        assert ask(s, d, "/", "X-Forwarded-For: 198.51.100.9", version=version).status == 429
    gateway = s.procs["gatewayd"]
    assert f"client={net.STRANGER}" in gateway.wait_log("too many requests", t["id"])
    metrics = s.net.gateway.exec("curl", "-sS", "http://127.0.0.1:9101/metrics")
    assert int(re.search(r"^kakuremichi_requests_limited_total (\d+)", metrics, re.M)[1]) >= 5
    change(s, t, options={"rateLimit": {"rate": "1/1h", "burst": 2}, "addressRateLimit": None})
    until(s, d, "/", lambda a: a.status == 429, via=PROXY)
    assert ask(s, d).status == 429, "the tunnel's bucket is everybody's"


def test_clients_and_proxies(s):
    d = "from.demo.test"
    s.create_tunnel(d)
    until(s, d, "/", lambda a: a.status == 200)
    lie = ("X-Forwarded-For: 1.1.1.1", "X-Real-IP: 1.1.1.1", "X-Forwarded-Proto: ftp", "X-Forwarded-Host: evil.test",
           "Forwarded: for=1.1.1.1", "X_Forwarded_For: 1.1.1.1", "X.Forwarded~For: 1.1.1.1", "Proxy: http://1.1.1.1")
    for version in ("1.1", "2"):
        _, f = ask(s, d, "/seen", *lie, version=version).target()
        assert (f["x-forwarded-for"], f["x-real-ip"], f["x-forwarded-proto"], f["x-forwarded-host"], f["forwarded"]) == (
            net.STRANGER, net.STRANGER, "https", d, f'for={net.STRANGER};proto=https;host="{d}"')
        assert not {"x_forwarded_for", "proxy"} & set(f) and "1.1.1.1" not in json.dumps(f)
        _, f = ask(s, d, "/seen", "X-Forwarded-For: 1.1.1.1, 198.51.100.7:99", "X-Forwarded-For: 192.0.2.9",
                   "X-Forwarded-Proto: http", "X-Forwarded-Host: asked.test", version=version, via=PROXY).target()
        assert (f["x-forwarded-for"], f["x-real-ip"], f["x-forwarded-proto"], f["x-forwarded-host"], f["forwarded"]) == (
            f"198.51.100.7, 192.0.2.9, {PROXY}", "198.51.100.7", "http", "asked.test",
            'for=198.51.100.7;proto=http;host="asked.test"')
        _, f = ask(s, d, "/seen", 'Forwarded: for="[2001:db8::7]:1";proto=https', version=version, via=PROXY).target()
        assert (f["x-real-ip"], f["x-forwarded-for"]) == ("2001:db8::7", f"2001:db8::7, {PROXY}")
    # Who ends the client's TLS before us is not redirected to it; anybody else is.
    said = "X-Forwarded-Proto: https"
    a = ask(s, d, "/seen", said, scheme="http", via=PROXY)
    assert a.status == 200 and a.target()[1]["x-forwarded-proto"] == "https"
    assert ask(s, d, "/seen", said, scheme="http").status == 301
    assert ask(s, d, "/seen", scheme="http", via=PROXY).status == 301


def test_what_control_should_not_have_sent(s):
    """A gateway takes no option that could split an answer, whoever writes it into control's database."""
    d = "both.demo.test"
    t = s.create_tunnel(d, options={"responseHeaders": {"set": {"X-A": "b"}}})
    until(s, d, "/", lambda a: a.headers.get("x-a") == "b")
    s.sql("UPDATE tunnels SET options = replace(options::text, '\"b\"', '\"b\\r\\nSet-Cookie: c\"')::jsonb "
          f"WHERE id = '{t['id']}'")
    s.api("PATCH", f"/api/tunnels/{t['id']}", {"enabled": False}, expect=200)
    end = time.monotonic() + patience(20)
    while "not a header's value" not in (s.api("GET", f"/api/gateways/{s.gateway_id}", expect=200)["configError"] or ""):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert f"{d}: header X-A: not a header's value" in s.procs["gatewayd"].wait_log("not a header's value")
