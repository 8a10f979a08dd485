# SPDX-License-Identifier: MIT
"""What operators say of a tunnel, from REST to the answer: paths of one domain at different agents, and options.

    stranger --TLS--> gateway ==WireGuard==> agent 1 --> target :8080 "hello"
                         |                   agent 2 --> targets :8090 "two", :8443 over TLS, :8095 HTTP/2 alone
                      control <--REST-- operator

Agent 2 alone may dial 8090, 8443 and 8095, so an answer of theirs came through it."""
import concurrent.futures
import contextlib
import threading

import pytest

from tests.lab import client
from tests.lab.proc import until

PLAIN = "hello.demo.test"


@pytest.fixture(scope="module")
def s(bare):
    bare.up(agent={"allow_targets": "127.0.0.1:8080"})
    bare.second = bare.add_agent(2, allow_targets="127.0.0.1:8090 127.0.0.1:8443 127.0.0.1:8095")
    bare.issue("box.lan", bare.dir)
    bare.start_target(8090, "two", "target2")
    bare.start_target(8443, "secret", "target3", pem=bare.dir / "box.lan")
    bare.root = bare.create_tunnel()
    bare.two = bare.create_tunnel(path="/two", agentId=bare.second, target="127.0.0.1:8090")
    bare.wait_served()
    bare.wait_served("/two")
    return bare


def settled(s):
    """Until the gateway serves what control has, with nothing of it refused."""
    gateway = s.procs["gatewayd"]
    gateway.wait_log("configuration applied type=", f"revision={s.sql('SELECT value FROM revision')}")
    assert not gateway.count_log("configuration applied in part")


def change(s, tunnel, **body):
    t = s.api("PATCH", f"/api/tunnels/{tunnel['id']}", body, expect=200)
    settled(s)
    return t


def options(s, tunnel, **opts):
    return change(s, tunnel, options=opts)


def ask(s, method="GET", path="/two", body=None, headers=None):
    with contextlib.closing(s.stranger()) as conn:
        return client.request(conn, method, path, body, headers)


def seen(s, path="/two/headers", **headers):
    """The header fields that the target saw, by name in lower case."""
    return {k.lower(): v for k, v in ask(s, path=path, headers=headers).json()}


def test_paths_of_one_domain_lead_to_different_agents(s):
    settled(s)
    for path, text in (("/", "hello"), ("/two", "two"), ("/two/", "two"), ("/two/x?y", "two"), ("/twofold", "hello"),
                       ("/x/two", "hello"), ("/two?x", "two")):
        assert ask(s, path=path).text.strip() == text, path
    third = s.create_tunnel(path="/two/three", target="127.0.0.1:8080")
    settled(s)
    assert ask(s, path="/two/three/x").text.strip() == "hello" and ask(s, path="/two/thre").text.strip() == "two"
    s.api("DELETE", f"/api/tunnels/{third['id']}", expect=204)
    change(s, s.root, path="/rest")
    try:
        assert ask(s, path="/two/three").text.strip() == "two"
        assert ask(s, path="/").status == 404 and ask(s, path="/rest").text.strip() == "hello"
    finally:
        change(s, s.root, path=None)


def test_each_tunnel_has_its_own_status(s):
    t = s.create_tunnel(path="/nobody", agentId=s.second, target="127.0.0.1:8095")  # nothing listens yet
    try:
        def status(x):
            return s.api("GET", f"/api/tunnels/{x['id']}", expect=200)["status"]
        until(lambda: (status(s.root), status(s.two), status(t)) == ("healthy", "healthy", "unhealthy"))
        assert ask(s, path="/nobody").status == 502
    finally:
        s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204)


def test_what_the_target_sees(s):
    options(s, s.two, stripPath=True, hostHeader="inner.example",
            requestHeaders={"set": {"X-Key": "k"}, "remove": ["Cookie", "X-Gone"]},
            responseHeaders={"set": {"X-Frame-Options": "DENY"}, "remove": ["Server"]})
    h = seen(s, **{"Cookie": "a=b", "X-Key": "forged", "X-Stays": "1"})
    assert (h["host"], h["x-key"], h["x-stays"]) == ("inner.example", "k", "1") and "cookie" not in h
    a = ask(s)
    assert a.headers["X-Frame-Options"] == "DENY" and a.headers["Server"] is None
    options(s, s.two, hostHeader="target", stripPath=None, requestHeaders=None, responseHeaders=None)
    assert ask(s).headers["Server"]
    options(s, s.two, stripPath=True)
    assert seen(s)["host"] == "127.0.0.1:8090"
    options(s, s.two, hostHeader=None)
    assert seen(s)["host"] == PLAIN
    change(s, s.two, options=None)


def test_what_the_gateway_answers_itself(s):
    options(s, s.two, redirects=[{"from": "/two/old/*", "to": "https://b.example/*", "status": 308}], hsts=True,
            maxBody=100)
    a = ask(s, path="/two/old/x/y?z=1")
    assert (a.status, a.headers["Location"]) == (308, "https://b.example/x/y?z=1")
    assert ask(s).headers["Strict-Transport-Security"] == "max-age=31536000"
    assert ask(s, path="/").headers["Strict-Transport-Security"] is None
    assert ask(s, "POST", "/two/sink", b"x" * 101).status == 413
    assert ask(s, "POST", "/two/sink", b"x" * 100).json()["length"] == 100
    options(s, s.two, maintenance={"title": "Closed", "text": "Back at <five>", "retryAfter": 90}, redirects=None)
    a = ask(s, path="/two/old/x", headers={"Accept": "text/html"})
    assert (a.status, a.headers["Retry-After"]) == (503, "90") and "Back at &lt;five&gt;" in a.text
    assert ask(s, path="/").status == 200
    options(s, s.two, maintenance=False, addressRateLimit={"rate": "1/d", "burst": 3})
    got = [ask(s) for _ in range(5)]
    assert [a.status for a in got] == [200] * 3 + [429] * 2 and int(got[-1].headers["Retry-After"]) > 0
    assert ask(s, path="/").status == 200
    change(s, s.two, options=None)
    assert ask(s).status == 200


def test_targets_that_speak_tls(s):
    ca = (s.dir / "ca.crt").read_text()
    t = s.create_tunnel(path="/box", agentId=s.second, target="https://127.0.0.1:8443")
    settled(s)
    try:
        assert ask(s, path="/box").status == 502, "its certificate is for another name, by an unknown CA"
        options(s, t, tlsVerify=False)
        assert ask(s, path="/box").text.strip() == "secret"
        options(s, t, tlsVerify=None, tlsCa=ca)
        assert ask(s, path="/box").status == 502, "a connection made without verification is not used again"
        options(s, t, tlsServerName="box.lan")
        assert ask(s, path="/box").text.strip() == "secret"
        options(s, t, tlsCa=None)
        assert ask(s, path="/box").status == 502
    finally:
        s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204)


def test_targets_that_speak_http2_alone(s):
    folder = s.dir / "h2"
    folder.mkdir()
    (folder / "hello.txt").write_text("over HTTP/2\n")
    p = s.start("nghttpd", s.net.agent, "nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", folder, "-v", 8095)
    p.wait_log("listen")
    t = s.create_tunnel(path="/h2", agentId=s.second, target="h2c://127.0.0.1:8095", options={"stripPath": True})
    settled(s)
    try:
        assert ask(s, path="/h2/hello.txt").text == "over HTTP/2\n"
        change(s, t, targetProtocol="http")
        assert ask(s, path="/h2/hello.txt").status == 502
        change(s, t, target="h2c://127.0.0.1:8095")
        assert ask(s, path="/h2/hello.txt").text == "over HTTP/2\n"
    finally:
        s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204)


def test_changes_interrupt_no_request(s):
    """Requests without end on both paths while options come and go, and the tunnel moves to the other agent
    and back."""
    stop, wrong = threading.Event(), []
    count = {"/": 0, "/two": 0}

    def load(path):
        with contextlib.closing(s.stranger()) as conn:
            while not stop.is_set():
                try:
                    a = client.request(conn, "GET", path)
                except OSError as e:
                    wrong.append((path, repr(e)))
                    return
                if a.status != 200 or (path == "/" and a.text != "hello\n"):
                    wrong.append((path, a))
                count[path] += 1

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for path in ("/", "/two") * 2:
            pool.submit(load, path)
        try:
            for n in range(6):
                before = dict(count)
                options(s, s.two, responseHeaders={"set": {"X-N": str(n)}}, hsts={"maxAge": n}, maxConnections=10 + n)
                a = ask(s)
                assert (a.headers["X-N"], a.headers["Strict-Transport-Security"]) == (str(n), f"max-age={n}")
                until(lambda: all(count[p] > before[p] + 3 for p in count) or wrong)
            for target in ({"agentId": s.agent_id, "target": "127.0.0.1:8080"},
                           {"agentId": s.second, "target": "127.0.0.1:8090"}):
                before = dict(count)
                change(s, s.two, **target)
                until(lambda: all(count[p] > before[p] + 3 for p in count) or wrong)
        finally:
            stop.set()
    assert not wrong, wrong[:5]
    change(s, s.two, options=None)


def test_a_gateway_starts_with_paths_and_options_without_control(s):
    options(s, s.two, responseHeaders={"set": {"X-Kept": "yes"}})
    assert s.stop("controld") == 0
    assert s.stop("gatewayd") == 0
    s.start_gateway(wait=False)
    a, _ = s.wait_served("/two")
    assert a.text.strip() == "two" and a.headers["X-Kept"] == "yes" and s.wait_served("/")[0].text.strip() == "hello"
    s.start_control()
