# SPDX-License-Identifier: MIT
"""controld alone, on loopback: REST and the hub, with the real embedded database.

    urllib, raw TLS ──HTTPS──▶ controld ──▶ its PostgreSQL
    python3-websockets ──WSS──▶    │
"""
import asyncio
import base64
import concurrent.futures
import contextlib
import datetime
import http.client
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time

import pytest
import websockets

from tests.lab.proc import patience
from tests.lab.system import postgres

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("KM_BUILD", "build")
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NOBODY = "00000000-0000-4000-8000-00000000dead"
numbers = itertools.count(1)


def until(what, seconds=20.0):
    """Waits for what() to be true and gives its value."""
    end = time.monotonic() + patience(seconds)
    while True:
        v = what()
        if v:
            return v
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Answer:
    def __init__(self, r, data):
        self.status, self.headers, self.data = r.status, r.headers, data

    @property
    def json(self):
        return json.loads(self.data)

    @property
    def fields(self):
        return {d["field"] for d in self.json["details"]}

    def __repr__(self):
        return f"{self.status} {self.data[:500]!r}"


class Control:
    def __init__(self, **settings):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="kmapi"))
        self.dir.chmod(0o755)
        self.state = self.dir / "state"
        self.rest_port, self.link_port = self.free_port(), self.free_port()
        (self.dir / "control.conf").write_text(
            f"state_dir = {self.state}\nrest_listen = 127.0.0.1:{self.rest_port}\n"
            f"link_listen = 127.0.0.1:{self.link_port}\nlog_level = debug\ndatabase_program_dir = {postgres(self.dir)}\n"
            + "".join(f"{k} = {v}\n" for k, v in settings.items()))
        self.log_path = self.dir / "log"
        self.proc = None

    @staticmethod
    def free_port():
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    def start(self):
        mark = len(self.log())
        with open(self.log_path, "ab") as log:
            self.proc = subprocess.Popen([BUILD / "controld", "-c", self.dir / "control.conf"],
                                         stdout=log, stderr=log)
        until(lambda: "control ready" in self.log()[mark:] or self.proc.poll() is not None, 90)
        assert self.proc.poll() is None, self.log()
        if (self.state / "admin.token").exists():
            self.token = (self.state / "admin.token").read_text().strip()
        self.tls = ssl.create_default_context(cafile=self.state / "root.crt")

    def stop(self, sig=signal.SIGTERM):
        self.proc.send_signal(sig)
        return self.proc.wait(patience(60))

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def connection(self):
        return http.client.HTTPSConnection("localhost", self.rest_port, context=self.tls, timeout=patience(20))

    def request(self, method, path, body=None, token=None, headers=None, conn=None):
        h = {"Authorization": f"Bearer {token or self.token}"}
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if body is not None:
            h["Content-Type"] = "application/json"
        h.update(headers or {})
        c = conn or self.connection()
        c.request(method, path, body, {k: v for k, v in h.items() if v is not None})
        r = c.getresponse()
        a = Answer(r, r.read())
        if not conn:
            c.close()
        return a

    def ok(self, method, path, body=None, status=None):
        a = self.request(method, path, body)
        assert a.status == (status or {"POST": 201, "DELETE": 204}.get(method, 200)), a
        return a.json if a.data else None

    def raw(self, data):
        with socket.create_connection(("127.0.0.1", self.rest_port), patience(20)) as s:
            with self.tls.wrap_socket(s, server_hostname="localhost") as t:
                with contextlib.suppress(OSError):
                    t.sendall(data)
                got = b""
                with contextlib.suppress(OSError):
                    while piece := t.recv(65536):
                        got += piece
                return got

    def sql(self, text):
        return subprocess.run(["psql", "-h", self.state / "postgres/run", "-U", "postgres", "-Atc", text, "kakuremichi"],
                              check=True, capture_output=True, text=True).stdout.strip()

    # ---- things ----
    def agent(self, **kw):
        return self.ok("POST", "/api/agents", {"name": f"agent-{next(numbers)}", **kw})

    def gateway(self, **kw):
        return self.ok("POST", "/api/gateways", {"name": f"gateway-{next(numbers)}", **kw})

    def tunnel(self, agent, **kw):
        return self.ok("POST", "/api/tunnels", {"domain": f"t{next(numbers)}.example.com",
                                                "agentId": agent["id"], "target": "127.0.0.1:8080", **kw})

    def connect(self, kind):
        return websockets.connect(f"wss://localhost:{self.link_port}/ws?type={kind}", ssl=self.tls,
                                  compression=None, ping_interval=None, close_timeout=patience(5), max_size=None)


def key():
    return base64.b64encode(os.urandom(32)).decode()


class Link:
    """One link of an agent or a gateway, authenticated by `with`."""
    def __init__(self, ctl, who, public_key=None, epoch="", revision=0, **auth):
        self.ctl, self.who = ctl, who
        self.kind = "agent" if who["apiKey"].startswith("agt_") else "gateway"
        self.auth = {"apiKey": who["apiKey"], "version": "0", "hostname": "host", "epoch": epoch,
                     "revision": revision, **auth}
        if public_key:
            self.auth["wireguardPublicKey"] = public_key

    async def __aenter__(self):
        self.ws = await self.ctl.connect(self.kind)
        await self.send("auth", **self.auth)
        self.first = await self.get()
        if self.first[0] == "auth_success":
            assert self.first[1][f"{self.kind}Id"] == self.who["id"]
        return self

    async def __aexit__(self, *_):
        await self.ws.close()

    async def send(self, type_, **data):
        await self.ws.send(json.dumps({"type": type_, "data": data}))

    async def get(self, *types, seconds=None):
        while True:
            m = json.loads(await asyncio.wait_for(self.ws.recv(), seconds or patience(15)))
            if m["type"] in types or (not types and m["type"] not in ("trust", "identity")):
                return m["type"], m["data"]

    async def data(self, type_, seconds=None):
        return (await self.get(type_, seconds=seconds))[1]

    async def next_is(self, type_):
        m = await self.get()
        assert m[0] == type_, m
        return m[1]

    async def closed(self):
        async def drain():
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    await self.ws.recv()
        await asyncio.wait_for(drain(), patience(15))


def run(coro, seconds=60):
    return asyncio.run(asyncio.wait_for(coro, patience(seconds)))


async def rest(ctl, *args):
    return await asyncio.get_running_loop().run_in_executor(None, lambda: ctl.ok(*args))


@pytest.fixture(scope="module")
def ctl():
    c = Control()
    try:
        c.start()
        yield c
        status = c.stop()
        assert status == 0, c.log()[-8000:]
    finally:
        if c.proc and c.proc.poll() is None:
            c.stop(signal.SIGKILL)
        shutil.rmtree(c.dir, ignore_errors=True)


@pytest.fixture(autouse=True)
def logs(request, ctl):
    mark = len(ctl.log())
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed != failed:
        print(ctl.log()[mark:][-8000:])


# ---- REST: what is right ------------------------------------------------------------------------

def test_agents_life(ctl):
    a = ctl.agent()
    assert UUID.fullmatch(a["id"]) and re.fullmatch(r"agt_[\w-]{43}", a["apiKey"])
    assert a["virtualIp"] == a["subnet"].replace(".0/24", ".100") and a["status"] == "offline"
    got = ctl.ok("GET", f"/api/agents/{a['id']}")
    assert "apiKey" not in got and got["apiKeyPrefix"] == a["apiKey"][:8]
    assert ctl.ok("PATCH", f"/api/agents/{a['id']}", {"name": "renamed"})["name"] == "renamed"
    assert ctl.ok("PATCH", f"/api/agents/{a['id']}", {})["name"] == "renamed"
    assert ctl.request("POST", "/api/agents", {"name": "renamed"}).status == 409
    ctl.ok("DELETE", f"/api/agents/{a['id']}")
    again = ctl.request("DELETE", f"/api/agents/{a['id']}")
    assert again.status == 404 and again.json["code"] == "NOT_FOUND"
    assert ctl.request("GET", f"/api/agents/{a['id']}").status == 404
    assert ctl.request("PATCH", f"/api/agents/{a['id']}", {"name": "x"}).status == 404
    b = ctl.agent()
    assert b["virtualIp"] != a["virtualIp"], "a number was given twice"
    ctl.ok("DELETE", f"/api/agents/{b['id']}")


def test_gateways_life(ctl):
    g = ctl.gateway(publicIp=["192.0.2.1", "2001:db8::1", "gw.example.com"], region="eu")
    assert re.fullmatch(r"gtw_[\w-]{43}", g["apiKey"]) and g["region"] == "eu"
    assert g["publicIp"] == ["192.0.2.1", "2001:db8::1", "gw.example.com"]
    path = f"/api/gateways/{g['id']}"
    assert ctl.ok("PATCH", path, {"publicIp": "192.0.2.9"})["publicIp"] == ["192.0.2.9"]
    p = ctl.ok("PATCH", path, {"publicIp": None, "region": None})
    assert p["publicIp"] == [] and p["region"] is None and p["name"] == g["name"]
    for bad in ([1], "no spaces", ["x"] * 9, {"a": 1}, "1.2.3.4:5"):
        a = ctl.request("PATCH", path, {"publicIp": bad})
        assert a.status == 400 and any(f.startswith("publicIp") for f in a.fields), a
    ctl.ok("DELETE", path)


def test_tunnels_life(ctl):
    a, b = ctl.agent(), ctl.agent()
    t = ctl.ok("POST", "/api/tunnels", {"domain": "Hello.BÜCHER.Example.", "agentId": a["id"],
                                        "target": "localhost:80", "description": "d"})
    assert t["domain"] == "hello.xn--bcher-kva.example" and t["enabled"] is True
    assert t["match"] == {"domain": t["domain"], "path": None, "port": None, "protocol": "http"}
    assert t["targets"][0]["target"] == t["target"] == "localhost:80"
    assert t["status"] == "unknown" and t["targets"][0]["id"] == t["targetId"]
    path = f"/api/tunnels/{t['id']}"
    p = ctl.ok("PATCH", path, {"enabled": False, "agentId": b["id"], "target": "[::1]:81"})
    assert (p["enabled"], p["agentId"], p["target"], p["description"]) == (False, b["id"], "[::1]:81", "d")
    again = ctl.request("POST", "/api/tunnels", {"domain": "HELLO.xn--bcher-kva.example",
                                                 "agentId": a["id"], "target": "unix:/run/x"})
    assert again.status == 409 and again.json["code"] == "CONFLICT" and again.fields == {"domain"}
    busy = ctl.request("DELETE", f"/api/agents/{b['id']}")
    assert busy.status == 409 and busy.json["code"] == "CONFLICT"
    full = ctl.ok("POST", "/api/tunnels", {
        "match": {"domain": "*.wild.example", "protocol": "http"},
        "targets": [{"agentId": a["id"], "target": "unix:/run/app.sock", "weight": 1}]})
    assert full["domain"] == "*.wild.example" and full["target"] == "unix:/run/app.sock"
    for x in (path, f"/api/tunnels/{full['id']}", f"/api/agents/{a['id']}", f"/api/agents/{b['id']}"):
        ctl.ok("DELETE", x)
    assert ctl.request("DELETE", path).status == 404


def test_how_a_tunnel_has_its_tls(ctl):
    a = ctl.agent()
    plain = ctl.tunnel(a)
    assert plain["tls"] == "auto"
    for tls in ("auto", "own", "passthrough", "off"):
        t = ctl.ok("POST", "/api/tunnels", {"domain": f"*.{tls}.example", "agentId": a["id"], "target": "a:1", "tls": tls})
        assert t["tls"] == tls == ctl.ok("GET", f"/api/tunnels/{t['id']}")["tls"]
        ctl.ok("DELETE", f"/api/tunnels/{t['id']}")
    path = f"/api/tunnels/{plain['id']}"
    assert ctl.ok("PATCH", path, {"tls": "own"})["tls"] == "own"
    assert ctl.ok("PATCH", path, {"enabled": False})["tls"] == "own", "what is not named stays"
    for bad in ("letsencrypt", "", "AUTO", None, 1, ["auto"]):
        r = ctl.request("PATCH", path, {"tls": bad})
        assert r.status == 400 and r.fields == {"tls"}, r
        if isinstance(bad, str):
            assert all(f'"{x}"' in r.json["details"][0]["message"] for x in ("auto", "own", "passthrough", "off"))
    assert ctl.ok("GET", path)["tls"] == "own"
    row = [x for x in ctl.ok("GET", "/api/audit?limit=50")["items"] if x["action"] == "tunnel.update"][0]
    assert row["details"] == {"enabled": False}

    async def main():
        g = ctl.gateway()
        async with Link(ctl, g) as link:
            config = await link.data("config")
            assert [t["tls"] for t in config["tunnels"] if t["id"] == plain["id"]] == ["own"]
            await rest(ctl, "PATCH", path, {"tls": "passthrough"})
            assert (await link.next_is("tunnel_update"))["tunnel"]["tls"] == "passthrough"
            await rest(ctl, "PATCH", path, {"tls": "passthrough", "description": "nothing new"})
            await rest(ctl, "PATCH", path, {"tls": "auto"})
            assert (await link.next_is("tunnel_update"))["tunnel"]["tls"] == "auto"
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    run(main())
    ctl.ok("DELETE", path)
    ctl.ok("DELETE", f"/api/agents/{a['id']}")


def test_tokens_and_me(ctl):
    t = ctl.ok("POST", "/api/tokens", {"name": "ci", "expiresAt": "2099-01-01T00:00:00Z"})
    assert re.fullmatch(r"kmt_[\w-]{43}", t["token"]) and t["prefix"] == t["token"][:8]
    me = ctl.request("GET", "/api/auth/me", token=t["token"]).json
    assert me["token"]["id"] == t["id"] and me["role"] == "admin" and "token" not in me["token"]
    listed = ctl.request("GET", "/api/tokens")
    assert t["id"] in {x["id"] for x in listed.json["items"]} and t["token"].encode() not in listed.data
    ctl.ok("DELETE", f"/api/tokens/{t['id']}")
    assert ctl.request("GET", "/api/auth/me", token=t["token"]).status == 401
    assert ctl.request("DELETE", f"/api/tokens/{t['id']}").status == 404
    past = ctl.request("POST", "/api/tokens", {"name": "x", "expiresAt": "2001-01-01T00:00:00Z"})
    assert past.status == 400 and past.fields == {"expiresAt"}


def test_the_last_administrators_token_stays(ctl):
    first = ctl.ok("GET", "/api/auth/me")["token"]["id"]
    before = ctl.token
    ctl.sql(f"CREATE TABLE kept AS SELECT * FROM tokens WHERE id = '{first}'")
    refused = ctl.request("DELETE", f"/api/tokens/{first}")
    try:
        assert refused.status == 409 and refused.json["code"] == "CONFLICT"
        assert "last administrator's token" in refused.json["error"]
        # neither an expired one nor one that only reads counts
        old, reader = (ctl.ok("POST", "/api/tokens", {"name": n}) for n in ("old", "reader"))
        ctl.sql(f"UPDATE tokens SET expires_at = now() WHERE id = '{old['id']}'")
        ctl.sql(f"UPDATE tokens SET role = 'viewer' WHERE id = '{reader['id']}'")
        assert ctl.request("DELETE", f"/api/tokens/{first}").status == 409
        ctl.ok("DELETE", f"/api/tokens/{old['id']}")
        ctl.ok("DELETE", f"/api/tokens/{reader['id']}")
        # two administrators who delete each other at once: one of them is left
        left = {"id": first, "token": ctl.token}
        for _ in range(10):
            other = ctl.ok("POST", "/api/tokens", {"name": "other"})
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                one = pool.submit(ctl.request, "DELETE", f"/api/tokens/{other['id']}", token=left["token"])
                two = pool.submit(ctl.request, "DELETE", f"/api/tokens/{left['id']}", token=other["token"])
                got = sorted((one.result().status, two.result().status))
            # the one who comes late is refused for the conflict, or is nobody any more
            assert got[0] == 204 and got[1] in (401, 409), got
            left = left if one.result().status == 204 else other
            ctl.token = left["token"]
            assert ctl.ok("GET", "/api/auth/me")["role"] == "admin"
    finally:
        ctl.sql("INSERT INTO tokens SELECT * FROM kept ON CONFLICT DO NOTHING; DROP TABLE kept")
        ctl.token = before


def test_the_database_cannot_write(ctl):
    """As with a full disk: what changes something is refused for now, what reads goes on."""
    mark = len(ctl.log())
    ctl.sql("CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION USING ERRCODE = '53100', MESSAGE = 'no space left'; END $$;"
            + "".join(f"CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON {t} EXECUTE FUNCTION full_disk();"
                      for t in ("agents", "tokens")))
    try:
        ctl.sql("ALTER TABLE tokens DISABLE TRIGGER full_disk; UPDATE tokens SET last_used_at = NULL;"
                "ALTER TABLE tokens ENABLE TRIGGER full_disk")
        for _ in range(6):
            r = ctl.request("POST", "/api/agents", {"name": "later"})
            assert r.status == 503 and r.json["code"] == "UNAVAILABLE", r
            assert int(r.headers["Retry-After"]) > 0
            assert ctl.request("GET", "/api/agents").status == 200
    finally:
        ctl.sql("DROP FUNCTION full_disk CASCADE")
    log = ctl.log()[mark:]
    lines = [x for x in log.splitlines() if "database cannot serve a request now" in x]
    assert 1 <= len(lines) <= 3 and "sqlstate=53100" in lines[0], lines
    assert "no space left" in lines[0]
    ctl.ok("DELETE", f"/api/agents/{ctl.ok('POST', '/api/agents', {'name': 'later'})['id']}")


def test_pages(ctl):
    made = [ctl.agent()["id"] for _ in range(5)]
    seen, cursor, pages = [], None, 0
    while True:
        page = ctl.ok("GET", "/api/agents?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        assert len(page["items"]) <= 2 and page["total"] >= 5
        seen += [x["id"] for x in page["items"]]
        cursor, pages = page["next"], pages + 1
        if not cursor:
            break
    assert pages >= 3 and len(seen) == len(set(seen)) == page["total"]
    assert [x for x in seen if x in made] == made, "not in the order of creation"
    for query in ("limit=0", "limit=1001", "limit=x", "cursor=nonsense", "colour=red", f"cursor=x_{NOBODY}"):
        assert ctl.request("GET", "/api/agents?" + query).status == 400, query
    for x in made:
        ctl.ok("DELETE", f"/api/agents/{x}")


def test_audit_names_who_and_what_but_no_secret(ctl):
    a = ctl.agent()
    ctl.ok("PATCH", f"/api/agents/{a['id']}", {"name": "audited"})
    ctl.ok("DELETE", f"/api/agents/{a['id']}")
    log = ctl.request("GET", "/api/audit?limit=3")
    items = log.json["items"]
    assert [x["action"] for x in items] == ["agent.delete", "agent.update", "agent.create"]
    assert all(x["entityId"] == a["id"] and x["actor"] == "token " + ctl.token[:8] and
               x["address"] == "127.0.0.1" for x in items)
    assert items[1]["details"] == {"name": "audited"}
    everything = ctl.request("GET", "/api/audit?limit=1000").data
    assert a["apiKey"].encode() not in everything and ctl.token.encode() not in everything
    assert ctl.token not in ctl.log() and a["apiKey"] not in ctl.log()
    second = ctl.ok("GET", f"/api/audit?limit=1&cursor={ctl.ok('GET', '/api/audit?limit=1')['next']}")
    assert second["items"][0]["action"] == "agent.update"


def test_health_and_metrics(ctl):
    assert ctl.request("GET", "/healthz", headers={"Authorization": None}).json == {"status": "ok"}
    assert ctl.request("GET", "/readyz", headers={"Authorization": None}).json == {"status": "ready"}
    assert ctl.request("GET", "/metrics", headers={"Authorization": None}).status == 401
    a = ctl.agent()
    m = ctl.request("GET", "/metrics")
    assert m.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert f'kakuremichi_agent_online{{agent="{a["name"]}"}} 0' in m.data.decode()
    assert 'kakuremichi_rest_requests_total{status="200"}' in m.data.decode()
    ctl.ok("DELETE", f"/api/agents/{a['id']}")


# ---- REST: the document is the interface --------------------------------------------------------

def routes():
    """What the source routes: {(method, path)}."""
    text = (ROOT / "controld/api/route.c").read_text()
    return {(m, p.replace(":id", "{id}")) for m, p in
            re.findall(r'\{EVHTTP_REQ_(\w+), "([^"]+)", \w+,', text)}


def test_openapi_and_routes_are_the_same(ctl):
    doc = ctl.request("GET", "/api/openapi.json", headers={"Authorization": None}).json
    assert doc == json.loads((ROOT / "proto/openapi.json").read_text()) and doc["openapi"].startswith("3.1")
    named = {(m.upper(), p) for p, item in doc["paths"].items() for m in item if m != "parameters"}
    assert named == routes()
    for method, path in sorted(named):
        a = ctl.request(method, path.replace("{id}", NOBODY), headers={"Authorization": None})
        item = doc["paths"][path][method.lower()]
        assert a.status == (200 if item.get("security") == [] else 401), (method, path, a)
        assert str(a.status) in item["responses"]


def test_answers_have_the_shape_of_the_document(ctl):
    doc = json.loads((ROOT / "proto/openapi.json").read_text())["components"]["schemas"]
    a, g = ctl.agent(), ctl.gateway()
    t = ctl.tunnel(a)
    for name, path in (("Agent", f"/api/agents/{a['id']}"), ("Gateway", f"/api/gateways/{g['id']}"),
                       ("Tunnel", f"/api/tunnels/{t['id']}")):
        assert set(ctl.ok("GET", path)) == set(doc[name]["properties"]), name
    assert set(ctl.ok("GET", "/api/tokens")["items"][0]) == set(doc["Token"]["properties"])
    assert set(ctl.ok("GET", "/api/audit")["items"][0]) == set(doc["AuditEntry"]["properties"])
    for x in (f"tunnels/{t['id']}", f"agents/{a['id']}", f"gateways/{g['id']}"):
        ctl.ok("DELETE", "/api/" + x)


# ---- REST: what is wrong ------------------------------------------------------------------------

@pytest.mark.parametrize("body,where", [
    (b'{"name": ', "line 1, column"), (b"", "line 1"), (b'{"name":"x"}\n}', "line 2, column 1"),
    (b"[]", "object"), (b'"x"', ""), (b'{"name":"a","name":"b"}', "duplicate"), (b'{"name":"\xff"}', "line 1"),
    (b'{"name":"a\\u0000b"}', "line 1"), (b"[" * 5000, "line 1"),
    (b'{"name":' + "\u00fc".encode() * 500, "line 1"), (b'{"name":"a"} ' + "\u4f8b".encode() * 500, "line 1")])
def test_invalid_json(ctl, body, where):
    a = ctl.request("POST", "/api/agents", body)
    assert a.status == 400 and a.json["code"] == "VALIDATION_ERROR" and where in a.json["error"], a


def test_every_mistake_at_once(ctl):
    a = ctl.request("POST", "/api/tunnels", {"domain": "x..y", "target": "nowhere", "enabled": 1,
                                             "description": 5, "colour": "red", "path": "a"})
    assert a.status == 400 and a.json["code"] == "VALIDATION_ERROR"
    assert a.fields == {"domain", "agentId", "target", "enabled", "description", "colour", "path"}
    assert all(d["message"] for d in a.json["details"])


@pytest.mark.parametrize("domain", ["", "com", "a..b", ".a.b", "a.b..", "-a.b", "a-.b", "a_b.c", "a b.c",
                                    "*.com", "a.*.b", "*", "**.a.b", "a*.b.c", "1.2.3.4", "[::1]", "a" * 64 + ".b",
                                    ".".join(["a" * 60] * 5), "xn--a.example", "a.b/c", "a.b:80", "\u2028.b"])
def test_bad_domains(ctl, domain):
    a = ctl.request("POST", "/api/tunnels", {"domain": domain, "agentId": NOBODY, "target": "a:1"})
    assert a.status == 400 and a.fields == {"domain"}, a


@pytest.mark.parametrize("target", ["", "nonsense", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", ":80",
                                    "unix:relative", "[::1]", "a b:80", "x" * 400 + ":80", "80"])
def test_bad_targets(ctl, target):
    a = ctl.request("POST", "/api/tunnels", {"domain": "a.b", "agentId": NOBODY, "target": target})
    assert a.status == 400 and a.fields == {"target"}, a


def test_unknown_agent_is_named(ctl):
    a = ctl.request("POST", "/api/tunnels", {"domain": "a.b", "agentId": NOBODY, "target": "a:1"})
    assert a.status == 400 and a.fields == {"agentId"}, a


@pytest.mark.parametrize("more,field", [
    ({"protocol": "tcp"}, "protocol"), ({"port": 80}, "port"),
    ({"targets": [{"agentId": NOBODY, "target": "a:1"}] * 2}, "targets"), ({"targets": []}, "targets"),
    ({"match": {"domain": "x.y", "port": 1}}, "match.port"), ({"match": 1}, "match"),
    ({"targets": [{"agentId": NOBODY, "target": "a:1", "weight": 5}]}, "targets[0].weight"),
    ({"targets": [{"agentId": NOBODY, "target": "a:1", "protocol": "tcp"}]}, "targets[0].protocol")])
def test_what_is_not_built_yet_is_refused(ctl, more, field):
    body = {"domain": "a.b", "agentId": NOBODY, "target": "a:1", **more}
    if "match" in more:
        del body["domain"]
    if "targets" in more:
        del body["agentId"], body["target"]
    a = ctl.request("POST", "/api/tunnels", body)
    assert a.status == 400 and field in a.fields, a


@pytest.mark.parametrize("method,path,status", [
    ("GET", "/", 404), ("GET", "/api", 404), ("GET", "/api/agents/", 404), ("GET", "/api/nope", 404),
    ("GET", "/api/agents/1", 404), ("GET", f"/api/agents/{NOBODY.upper()}", 404),
    ("GET", f"/api/agents/{NOBODY}/x", 404), ("PUT", "/api/agents", 405), ("DELETE", "/api/agents", 405),
    ("POST", f"/api/agents/{NOBODY}", 405), ("POST", "/healthz", 405), ("OPTIONS", "/api/tunnels", 405),
    ("GET", f"/api/agents/{NOBODY}/approve-key", 405)])
def test_paths_and_methods(ctl, method, path, status):
    a = ctl.request(method, path)
    assert a.status == status and a.json["error"], a
    if status == 405:
        assert method not in a.headers["Allow"].split(", ") and a.json["code"] == "METHOD_NOT_ALLOWED"
    else:
        assert a.json["code"] == "NOT_FOUND"


def test_content_type_must_be_json(ctl):
    for t in (None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        a = ctl.request("POST", "/api/agents", b'{"name":"x"}', headers={"Content-Type": t})
        assert a.status == 400 and "Content-Type" in a.json["error"], (t, a)
    a = ctl.request("POST", "/api/agents", b'{}', headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert a.fields == {"name"}


def test_body_bound(ctl):
    big = b'{"name":"' + b"a" * (1 << 20) + b'"}'
    a = ctl.request("POST", "/api/agents", big)
    assert a.status == 413 and a.json["code"] == "TOO_LARGE", a
    fits = b'{"name":"' + b"a" * ((1 << 20) - 11) + b'"}'
    assert ctl.request("POST", "/api/agents", fits).fields == {"name"}
    head = b"POST /api/agents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for data in (head + b"Content-Length: 10485760\r\n\r\n" + b"x" * (10 << 20),
                 head + b"Transfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 160):
        with socket.create_connection(("127.0.0.1", ctl.rest_port), patience(20)) as s:
            with ctl.tls.wrap_socket(s, server_hostname="localhost") as t:
                with contextlib.suppress(OSError):
                    t.sendall(data)
                got = t.recv(65536)
        assert got.startswith(b"HTTP/1.1 413 ") and b'"TOO_LARGE"' in got, got
    assert ctl.request("GET", "/healthz").status == 200


def test_bad_http(ctl):
    for data, status in ((b"nonsense\r\n\r\n", 400), (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 100000 + b"\r\n\r\n", 400),
                         (b"BREW /healthz HTTP/1.1\r\n\r\n", 501),
                         (b"POST /api/agents HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
                          b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400)):
        got = ctl.raw(data)
        assert got.startswith(b"HTTP/1.1 %d " % status), got
        head, body = got.split(b"\r\n\r\n", 1)
        assert b"\r\nContent-Type: application/json\r\n" in head and b"<" not in got, got
        assert b"\r\nContent-Length: %d" % len(body) in head and b"\r\nConnection: close" in head, got
        assert set(json.loads(body)) == {"error", "code", "details"}, got
    # after a good request on the same connection, sent together with it; and after a 100 Continue
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    got = ctl.raw(ask + ask + b"nonsense\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 ") == 2 and got.count(b'{"status":"ok"}') == 2, got
    assert b"HTTP/1.1 400 " in got and b"VALIDATION_ERROR" in got and b"<" not in got, got
    body = json.dumps({"name": "continued"}).encode()
    with socket.create_connection(("127.0.0.1", ctl.rest_port), patience(20)) as s:
        with ctl.tls.wrap_socket(s, server_hostname="localhost") as t:
            t.sendall(b"POST /api/agents HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                      b"Authorization: Bearer " + ctl.token.encode() + b"\r\nExpect: 100-continue\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body))
            assert t.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
            t.sendall(body)
            assert t.recv(4096).startswith(b"HTTP/1.1 201 ")
    with socket.create_connection(("127.0.0.1", ctl.rest_port), patience(20)) as s:
        s.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")  # without TLS
        with contextlib.suppress(OSError):
            assert b"200" not in s.recv(100)
    assert ctl.request("GET", "/healthz").status == 200


def test_chunked_keep_alive_and_head(ctl):
    c = ctl.connection()
    body = json.dumps({"name": "chunky"}).encode()
    c.request("POST", "/api/agents", iter([body[:3], body[3:]]),
              {"Authorization": f"Bearer {ctl.token}", "Content-Type": "application/json"}, encode_chunked=True)
    r = c.getresponse()
    a = json.loads(r.read())
    assert r.status == 201 and a["name"] == "chunky"
    sock = c.sock
    h = ctl.request("HEAD", f"/api/agents/{a['id']}", conn=c)
    g = ctl.request("GET", f"/api/agents/{a['id']}", conn=c)
    assert h.status == 200 and h.data == b"" and int(h.headers["Content-Length"]) == len(g.data)
    assert ctl.request("DELETE", f"/api/agents/{a['id']}", conn=c).status == 204
    assert ctl.request("GET", "/healthz", conn=c).status == 200 and c.sock is sock
    c.close()


def test_client_that_leaves_before_the_answer(ctl):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", ctl.rest_port), patience(20)) as s:
            with ctl.tls.wrap_socket(s, server_hostname="localhost") as t:
                t.sendall(b"GET /api/agents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
                          + ctl.token.encode() + b"\r\n\r\n")
    assert ctl.request("GET", "/api/agents").status == 200


def test_idle_connections_shut_nobody_out(ctl):
    with contextlib.ExitStack() as stack:
        mine = ctl.connection()
        assert ctl.request("GET", "/api/agents", conn=mine).status == 200
        sock = mine.sock
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", ctl.rest_port), patience(20)))
        start = time.monotonic()
        assert ctl.request("GET", "/api/agents").status == 200
        assert time.monotonic() - start < 20  # they are not waited for
        # Who has shown a token is not the first to go.
        assert ctl.request("GET", "/api/agents", conn=mine).status == 200 and mine.sock is sock
        mine.close()


def test_tls_versions(ctl):
    for version, fine in ((ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_1, False)):
        tls = ssl.create_default_context(cafile=ctl.state / "root.crt")
        tls.set_ciphers("DEFAULT:@SECLEVEL=0")
        tls.minimum_version = tls.maximum_version = version
        try:
            with socket.create_connection(("127.0.0.1", ctl.rest_port), patience(20)) as s:
                tls.wrap_socket(s, server_hostname="localhost").close()
            assert fine
        except OSError:
            assert not fine


# ---- the hub ------------------------------------------------------------------------------------

def test_configs_and_changes(ctl):
    async def main():
        a, b, g, h = ctl.agent(), ctl.agent(), ctl.gateway(), ctl.gateway(publicIp="192.0.2.7")
        ka, kg = key(), key()
        async with Link(ctl, a, ka) as la, Link(ctl, g, kg, wireguardPort=51999, publicIp=["198.51.100.1"]) as lg:
            assert la.first[0] == lg.first[0] == "auth_success"
            ca, cg = await la.data("config"), await lg.data("config")
            assert ca["agent"] == {k: a[k] for k in ("id", "name", "virtualIp", "subnet")}
            assert {x["id"] for x in ca["gateways"]} >= {g["id"], h["id"]} and ca["tunnels"] == []
            assert cg["gateway"] == {"id": g["id"], "name": g["name"], "virtualIps": g["virtualIps"],
                                     "publicIp": ["198.51.100.1"]}
            me = [x for x in cg["agents"] if x["id"] == a["id"]][0]
            assert {k: v for k, v in me.items() if k != "certificate"} == {"id": a["id"], "name": a["name"], "virtualIp": a["virtualIp"],
                          "subnet": a["subnet"], "wireguardPublicKey": ka}
            assert g["id"] not in {x["id"] for x in cg["gateways"]}
            assert [x["publicIp"] for x in cg["gateways"] if x["id"] == h["id"]] == [["192.0.2.7"]]
            # The gateway's key came after the agent's configuration: an update for the agent.
            u = await la.data("gateway_update")
            assert u["gateway"]["wireguardPublicKey"] == kg and u["gateway"]["wireguardPort"] == 51999
            assert u["gateway"]["publicIp"] == ["198.51.100.1"]
            assert (u["epoch"], u["previous"]) == (ca["epoch"], ca["revision"])

            t = await rest(ctl, "POST", "/api/tunnels", {"domain": "hub.example.com", "agentId": a["id"], "target": "[::1]:9"})
            xa, xg = await la.next_is("tunnel_create"), await lg.next_is("tunnel_create")
            assert xa["previous"] == u["revision"] and xg["previous"] == cg["revision"]
            want = {"id": t["id"], "domain": "hub.example.com", "target": "[::1]:9", "targetId": t["targetId"],
                    "enabled": True, "tls": "auto"}
            for x in (xa, xg):
                assert want.items() <= x["tunnel"].items()
            assert xg["tunnel"]["agentVirtualIp"] == a["virtualIp"]

            # What does not concern the agent is not sent to it, and `previous` is what it was sent.
            other = await rest(ctl, "POST", "/api/tunnels", {"domain": "other.example.com", "agentId": b["id"], "target": "a:1"})
            assert (await lg.next_is("tunnel_create"))["tunnel"]["id"] == other["id"]
            await rest(ctl, "PATCH", f"/api/tunnels/{t['id']}", {"description": "seen by nobody"})
            await rest(ctl, "PATCH", f"/api/tunnels/{t['id']}", {"enabled": False})
            ya, yg = await la.next_is("tunnel_update"), await lg.next_is("tunnel_update")
            assert ya["tunnel"]["enabled"] is False and ya["previous"] == xa["revision"]
            assert yg["previous"] == ya["previous"] + 1 == ya["revision"] - 1

            # From one agent to the other.
            async with Link(ctl, b, key()) as lb:
                cb = await lb.data("config")
                assert [x["id"] for x in cb["tunnels"]] == [other["id"]]
                await lg.next_is("agent_update")
                await rest(ctl, "PATCH", f"/api/tunnels/{t['id']}", {"agentId": b["id"]})
                gone, come = await la.next_is("tunnel_delete"), await lb.next_is("tunnel_create")
                both = await lg.next_is("tunnel_update")
                assert gone["id"] == t["id"] == come["tunnel"]["id"] == both["tunnel"]["id"]
                assert both["tunnel"]["agentVirtualIp"] == b["virtualIp"]
                assert gone["previous"] == ya["revision"] and come["previous"] == cb["revision"]
                await rest(ctl, "DELETE", f"/api/tunnels/{t['id']}")
                assert (await lb.next_is("tunnel_delete"))["id"] == t["id"]
                assert (await lg.next_is("tunnel_delete"))["id"] == t["id"]

                # Revoked: the link ends, gateways are told.
                await rest(ctl, "DELETE", f"/api/agents/{a['id']}")
                assert (await la.next_is("auth_error"))["message"]
                await la.closed()
                assert (await lg.next_is("agent_delete"))["id"] == a["id"]
                await rest(ctl, "DELETE", f"/api/gateways/{h['id']}")
                assert (await lb.next_is("gateway_delete"))["id"] == h["id"]
                assert (await lg.next_is("gateway_delete"))["id"] == h["id"]
                await rest(ctl, "DELETE", f"/api/gateways/{g['id']}")
                await lg.next_is("auth_error")
                await lg.closed()
                async with Link(ctl, a) as again:
                    assert again.first[0] == "auth_error"
                await rest(ctl, "DELETE", f"/api/tunnels/{other['id']}")
                await rest(ctl, "DELETE", f"/api/agents/{b['id']}")
    run(main())


def test_gateways_are_told_of_themselves_and_of_one_another(ctl):
    async def main():
        g, h = ctl.gateway(), ctl.gateway()
        gk, hk = key(), key()
        me, path = {"id": g["id"], "name": g["name"], "virtualIps": g["virtualIps"]}, f"/api/gateways/{g['id']}"
        async with Link(ctl, g, gk) as lg:
            c = await lg.data("config")
            assert c["gateway"] == {**me, "publicIp": ["127.0.0.1"]}, "the address of its connection"
            assert [x for x in c["gateways"] if x["id"] == h["id"]]
            async with Link(ctl, h, hk, publicIp=["198.51.100.9"], wireguardPort=5000) as lh:
                other = [x for x in (await lh.data("config"))["gateways"] if x["id"] == g["id"]][0]
                assert other["wireguardPublicKey"] == gk and "BEGIN NEBULA" in other["certificate"]
                u = (await lg.next_is("gateway_update"))["gateway"]
                assert (u["id"], u["wireguardPublicKey"], u["publicIp"]) == (h["id"], hk, ["198.51.100.9"])
                assert "BEGIN NEBULA" in u["certificate"] and u["wireguardPort"] == 5000
                assert u["virtualIps"] == h["virtualIps"]

                # What the operator says has precedence; each hears of itself by a configuration.
                await rest(ctl, "PATCH", path, {"publicIp": ["192.0.2.1", "gw.example.com"]})
                u = await lh.next_is("gateway_update")
                assert u["gateway"]["publicIp"] == ["192.0.2.1", "gw.example.com"]
                c = await lg.next_is("config")
                assert c["gateway"]["publicIp"] == ["192.0.2.1", "gw.example.com"] and c["revision"] == u["revision"]
                await rest(ctl, "PATCH", path, {"region": "somewhere"})  # nobody is told
                await rest(ctl, "PATCH", path, {"publicIp": None})
                assert (await lg.next_is("config"))["gateway"]["publicIp"] == ["127.0.0.1"]
                assert (await lh.next_is("gateway_update"))["gateway"]["publicIp"] == ["127.0.0.1"]
                new = f"renamed-{next(numbers)}"
                await rest(ctl, "PATCH", path, {"name": new})
                c = await lg.next_is("config")
                assert c["gateway"]["name"] == new
                n = await lh.next_is("gateway_update")
                assert n["gateway"]["name"] == new

                # Revisions go on from there.
                x = await rest(ctl, "POST", "/api/gateways", {"name": f"gateway-{next(numbers)}"})
                created = await lg.next_is("gateway_create")
                assert created["gateway"]["id"] == x["id"] and created["previous"] == c["revision"]
                await lh.next_is("gateway_create")

                # Revoked: it is gone for the others, and its key with it.
                await rest(ctl, "POST", f"/api/gateways/{x['id']}/revoke", {}, 200)
                assert (await lg.next_is("gateway_delete"))["id"] == x["id"]
                at = (await lh.next_is("gateway_delete"))
                assert at["id"] == x["id"]
            ctl.ok("DELETE", f"/api/gateways/{x['id']}")

        # One that was away, and now says that it is elsewhere.
        async with Link(ctl, g, gk, epoch=at["epoch"], revision=at["revision"], publicIp=["198.51.100.77"]) as lg:
            assert (await lg.data("config"))["gateway"]["publicIp"] == ["198.51.100.77"]
        for x in (g, h):
            ctl.ok("DELETE", f"/api/gateways/{x['id']}")
    run(main())


def test_catching_up(ctl):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        k = key()
        async with Link(ctl, g, k) as l:
            c = await l.data("config")
        t1 = ctl.tunnel(a)
        ctl.ok("PATCH", f"/api/agents/{a['id']}", {"name": f"later-{a['id'][:8]}"})
        async with Link(ctl, g, k, c["epoch"], c["revision"]) as l:
            x = await l.next_is("tunnel_create")
            y = await l.next_is("agent_update")
            assert x["tunnel"]["id"] == t1["id"] and x["previous"] == c["revision"] and y["previous"] == x["revision"]
            t2 = await rest(ctl, "POST", "/api/tunnels", {"domain": "more.example.com", "agentId": a["id"], "target": "a:1"})
            assert (await l.next_is("tunnel_create"))["previous"] == y["revision"]
        for epoch, revision in ((NOBODY, c["revision"]), (c["epoch"], 10**9), ("", 0), (c["epoch"], 0)):
            async with Link(ctl, g, k, epoch, revision) as l:
                d = await l.next_is("config")
                # A whole configuration names things as single changes do.
                assert x["tunnel"] in d["tunnels"] and y["agent"] in d["agents"]
                assert {t1["id"], t2["id"]} <= {t["id"] for t in d["tunnels"]} and d["epoch"] == c["epoch"]
        async with Link(ctl, g, k, d["epoch"], d["revision"]) as l:  # nothing missed: nothing sent
            await rest(ctl, "DELETE", f"/api/tunnels/{t2['id']}")
            assert (await l.next_is("tunnel_delete"))["previous"] == d["revision"]
        for x in (f"tunnels/{t1['id']}", f"agents/{a['id']}", f"gateways/{g['id']}"):
            ctl.ok("DELETE", "/api/" + x)
    run(main())


def test_push_is_quick(ctl):
    """From POST to both pushes: by a notice, not at a turn of a timer of seconds. The median is printed with -s."""
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        took, made = [], []
        async with Link(ctl, a) as la, Link(ctl, g) as lg:
            await la.data("config")
            await lg.data("config")
            conn = ctl.connection()
            conn.connect()
            for i in range(20):
                body = {"domain": f"quick{i}.example.com", "agentId": a["id"], "target": "a:1"}
                start = time.monotonic()
                r = await asyncio.get_running_loop().run_in_executor(
                    None, lambda: ctl.request("POST", "/api/tunnels", body, conn=conn))
                await la.data("tunnel_create")
                await lg.data("tunnel_create")
                took.append(time.monotonic() - start)
                made.append(r.json["id"])
            conn.close()
        for t in made:
            ctl.ok("DELETE", f"/api/tunnels/{t}")
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
        return sorted(took)
    took = run(main())
    print(f"POST to both pushes: median {took[10] * 1000:.1f} ms")
    assert took[0] < 0.5


def test_keys(ctl):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        path = f"/api/agents/{a['id']}"
        first, second = key(), key()
        assert ctl.request("POST", path + "/approve-key").status == 409
        async with Link(ctl, g) as lg:
            c = await lg.data("config")
            assert "wireguardPublicKey" not in [x for x in c["agents"] if x["id"] == a["id"]][0]
            async with Link(ctl, a, first):
                assert (await lg.next_is("agent_update"))["agent"]["wireguardPublicKey"] == first
            async with Link(ctl, a, second) as la:
                assert la.first[0] == "auth_success"
                assert (await la.data("error"))["code"] == "KEY_PENDING"
                await la.data("config")
                got = ctl.ok("GET", path)
                assert (got["wireguardPublicKey"], got["pendingPublicKey"]) == (first, second)
                done = await rest(ctl, "POST", path + "/approve-key", None, 200)
                assert (done["wireguardPublicKey"], done["pendingPublicKey"]) == (second, None)
                assert (await lg.next_is("agent_update"))["agent"]["wireguardPublicKey"] == second
            async with Link(ctl, a, second) as la:
                await la.next_is("config")
            async with Link(ctl, a, first) as la:
                assert (await la.data("error"))["code"] == "KEY_PENDING"
            async with Link(ctl, a, second) as la:  # it thought better of it
                await la.next_is("config")
            assert ctl.ok("GET", path)["pendingPublicKey"] is None
            b = await rest(ctl, "POST", "/api/agents", {"name": "same-key"})
            async with Link(ctl, b, second) as lb:
                assert lb.first[0] == "auth_error" and "another host" in lb.first[1]["message"]
        path = f"/api/gateways/{g['id']}"
        async with Link(ctl, g, key()):
            pass
        async with Link(ctl, g, first) as lg:  # a gateway's key is approved in the same way
            assert (await lg.data("error"))["code"] == "KEY_PENDING"
            done = await rest(ctl, "POST", path + "/approve-key", None, 200)
            assert (done["wireguardPublicKey"], done["pendingPublicKey"]) == (first, None)
        assert ctl.request("POST", path + "/approve-key").status == 409
        actions = [x["action"] for x in ctl.ok("GET", "/api/audit?limit=20")["items"]]
        assert "agent.approve-key" in actions and "agent.bind-key" in actions
        assert "gateway.approve-key" in actions and "gateway.bind-key" in actions
        for x in (f"agents/{a['id']}", f"agents/{b['id']}", f"gateways/{g['id']}"):
            ctl.ok("DELETE", "/api/" + x)
    run(main())


@contextlib.contextmanager
def locked(ctl, table, id_):
    """The row is locked meanwhile; gives a function that runs more SQL in the same transaction."""
    p = subprocess.Popen(["psql", "-h", ctl.state / "postgres/run", "-U", "postgres", "-Atq", "kakuremichi"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(sql):
        p.stdin.write(sql + "\n\\echo done\n")
        p.stdin.flush()
        while p.stdout.readline().strip() != "done":
            assert p.poll() is None
    try:
        say(f"BEGIN; SELECT id FROM {table} WHERE id = '{id_}' FOR UPDATE;")
        yield say
        say("COMMIT;")
    finally:
        p.stdin.close()
        p.wait(patience(20))
        p.stdout.close()


def waiters(ctl):
    return int(ctl.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid <> pg_backend_pid()"))


async def join(ctl, token, public_key, kind="agent", **more):
    async with ctl.connect(kind) as ws:
        await ws.send(json.dumps({"type": "join", "data": {"token": token.split(".")[0],
                                                           "wireguardPublicKey": public_key, **more}}))
        m = json.loads(await asyncio.wait_for(ws.recv(), patience(20)))
        return m["type"], m["data"]


def test_one_of_two_joins_at_once(ctl):
    a, keys = ctl.agent(), [key(), key()]

    async def main():
        with locked(ctl, "agents", a["id"]):  # both have found the token when the first one uses it up
            both = [asyncio.ensure_future(join(ctl, a["joinToken"], k)) for k in keys]
            while await asyncio.to_thread(waiters, ctl) < 2:
                assert not any(b.done() for b in both), both
        return await asyncio.gather(*both)
    answers = run(main())
    assert sorted(t for t, _ in answers) == ["join_error", "join_success"], answers
    won = answers[0][0] == "join_success"
    assert answers[won][1]["code"] == "USED"
    winner = keys[0 if won else 1]
    assert ctl.ok("GET", f"/api/agents/{a['id']}")["wireguardPublicKey"] == winner
    # The loser has left nothing behind, and has blocked nothing.
    rows = ctl.sql(f"SELECT public_key, blocked_at IS NULL FROM host_certificates WHERE host_id = '{a['id']}'")
    assert rows == f"{winner}|t"
    assert ctl.sql(f"SELECT count(*) FROM audit_log WHERE entity_id = '{a['id']}' AND action = 'agent.join'") == "1"
    ctl.ok("DELETE", f"/api/agents/{a['id']}")


def test_a_token_that_is_taken_away_while_it_is_used(ctl):
    a = ctl.agent()

    async def main():
        with locked(ctl, "agents", a["id"]) as say:
            joining = asyncio.ensure_future(join(ctl, a["joinToken"], key()))
            while not await asyncio.to_thread(waiters, ctl):
                assert not joining.done(), joining
            say(f"UPDATE agents SET join_token_hash = NULL, join_token_prefix = NULL, revoked_at = now() WHERE id = '{a['id']}';")
        return await joining
    answer = run(main())
    assert answer[0] == "join_error" and answer[1]["code"] == "INVALID_TOKEN", answer
    assert ctl.ok("GET", f"/api/agents/{a['id']}")["status"] == "revoked"
    ctl.ok("DELETE", f"/api/agents/{a['id']}")


def test_what_a_joining_gateway_says_of_itself_is_checked(ctl):
    g = ctl.gateway()
    for bad in ("a,b", "two words", '"', "{", "a\nb"):
        answer = run(join(ctl, g["joinToken"], key(), "gateway", publicIp=["192.0.2.1", bad]))
        assert answer[0] == "join_error" and "publicIp[1]" in answer[1]["message"], answer
    answer = run(join(ctl, g["joinToken"], key(), "gateway", publicIp=["192.0.2.1", "gw.example.com"]))
    assert answer[0] == "join_success", answer
    assert ctl.ok("GET", f"/api/gateways/{g['id']}")["publicIp"] == ["192.0.2.1", "gw.example.com"]
    ctl.ok("DELETE", f"/api/gateways/{g['id']}")


def test_nobody_takes_the_key_of_another_host(ctl):
    async def main():
        a, b, g = ctl.agent(), ctl.agent(), ctl.gateway()
        mine, other = key(), key()
        async with Link(ctl, a, mine) as la, Link(ctl, b, other) as lb:
            await lb.data("config")
            await lb.send("key_update", wireguardPublicKey=mine)
            assert (await lb.data("error"))["code"] == "KEY_IN_USE"
            async with Link(ctl, g, mine) as lg:  # nor does a gateway the key of an agent
                assert lg.first[0] == "auth_error" and "another host" in lg.first[1]["message"]
            # A next key belongs to its host as the present one does.
            await la.send("key_update", wireguardPublicKey=(second := key()))
            assert (await la.data("key_ready"))["wireguardPublicKey"] == second
            await lb.send("key_update", wireguardPublicKey=second)
            assert (await lb.data("error"))["code"] == "KEY_IN_USE"
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
        async with Link(ctl, b, other) as lb:  # who is deleted has none any more
            await lb.send("key_update", wireguardPublicKey=mine)
            assert (await lb.data("key_ready"))["wireguardPublicKey"] == mine
        for x in (f"agents/{b['id']}", f"gateways/{g['id']}"):
            ctl.ok("DELETE", "/api/" + x)
        assert ctl.sql(f"SELECT count(*) FROM wireguard_keys WHERE host_id IN ('{a['id']}', '{b['id']}')") == "0"
    run(main())


def test_that_a_host_has_switched_is_not_lost(ctl):
    async def main():
        a = ctl.agent()
        async with Link(ctl, a, key()) as la:
            await la.data("config")
            await la.send("key_update", wireguardPublicKey=(second := key()))
            await la.data("key_ready")
            path = f"/api/agents/{a['id']}"
            with locked(ctl, "agents", a["id"]):  # told once, while the database cannot take it
                await la.send("key_update", wireguardPublicKey=second, switched=True)
                await asyncio.to_thread(until, lambda: "key not made the present one" in ctl.log())
            until(lambda: ctl.ok("GET", path)["wireguardPublicKey"] == second)
            assert ctl.ok("GET", path)["nextPublicKey"] is None
        ctl.ok("DELETE", path)
    run(main())


def test_too_many_next_keys(ctl):
    async def main():
        a = ctl.agent()
        async with Link(ctl, a, key()) as la:
            await la.data("config")
            for _ in range(20):
                await la.send("key_update", wireguardPublicKey=(k := key()))
                assert (await la.data("key_ready"))["wireguardPublicKey"] == k
            await la.send("key_update", wireguardPublicKey=key())
            assert (await la.data("error"))["code"] == "TOO_MANY"
        assert ctl.sql(f"SELECT count(*) FROM host_certificates WHERE host_id = '{a['id']}'") == "21"
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main())


def test_numbers(ctl):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:  # each gets one of its own
        gateways = list(pool.map(lambda _: ctl.gateway(), range(8)))
    assert len({g["virtualIps"][0] for g in gateways}) == 8
    for g in gateways:
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    a = ctl.agent()
    for _ in range(3):  # a name that is taken uses none up
        refused = ctl.request("POST", "/api/agents", {"name": a["name"]})
        assert refused.status == 409 and refused.fields == {"name"}, refused
    b = ctl.agent()
    assert int(b["subnet"].split(".")[2]) == (int(a["subnet"].split(".")[2]) + 1) % 256
    for x in (a, b):
        ctl.ok("DELETE", f"/api/agents/{x['id']}")


def test_a_ca_that_is_retired_before_its_time(ctl):
    async def main():
        a, k = ctl.agent(), key()
        path = f"/api/agents/{a['id']}"
        async with Link(ctl, a, k) as la:
            await la.data("config")
            old = ctl.ok("GET", path)["certificate"]
            authority = [x for x in ctl.ok("GET", "/api/authorities?limit=1000")["items"] if x["state"] == "active"][0]
            with locked(ctl, "agents", a["id"]):  # so its certificate cannot be renewed
                await rest(ctl, "POST", "/api/authorities/rotate", {}, 201)
                await asyncio.to_thread(until, lambda: "certificates not renewed" in ctl.log())
            await rest(ctl, "DELETE", f"/api/authorities/{authority['id']}")
            await la.closed()
        async with Link(ctl, a, k) as la:
            await la.data("config")
        new = ctl.ok("GET", path)["certificate"]
        assert new and new != old
        ctl.ok("DELETE", path)
    run(main())


def test_a_host_moves_to_another_installation(tmp_path):
    """`join -f` replaces the trust in an installation by that in another one."""
    conf = tmp_path / "agent.conf"
    conf.write_text(f"api_key_file = {tmp_path}/key\nstate_dir = {tmp_path}/state\nruntime_dir = {tmp_path}/run\n"
                    f"warden = {BUILD}/km-warden\n")
    for more in ([], ["-f"]):
        c = Control(names="localhost")
        try:
            c.start()
            text = c.agent()["joinToken"]
            p = subprocess.run([BUILD / "agentd", "join", *more, "-c", conf], input=text, capture_output=True, text=True)
            assert p.returncode == 0, p.stderr
            bundle = c.ok("GET", "/api/trust")["bundle"]
            assert (tmp_path / "state/trust.pem").read_text().strip() == bundle.strip()
            assert c.stop() == 0
        finally:
            if c.proc and c.proc.poll() is None:
                c.stop(signal.SIGKILL)
            shutil.rmtree(c.dir, ignore_errors=True)


@contextlib.contextmanager
def one_more(**settings):
    c = Control(**settings)
    try:
        yield c
        assert c.stop() == 0
    finally:
        if c.proc and c.proc.poll() is None:
            c.stop(signal.SIGKILL)
        shutil.rmtree(c.dir, ignore_errors=True)


def test_the_rest_interface_has_a_certificate_of_the_operators(tmp_path):
    from tests.lab.system import make_ca, make_certificate
    theirs = ssl.create_default_context(cafile=make_ca(tmp_path, "the operator's CA"))
    make_certificate(tmp_path, "localhost", tmp_path)
    one, cert, key_file = tmp_path / "localhost", tmp_path / "cert.pem", tmp_path / "key.pem"

    def put(pem, cert_to=cert, key_to=key_file):
        private, _, public = pem.partition("-----BEGIN CERT")
        for text, path, mode in ((private, key_to, 0o600), ("-----BEGIN CERT" + public, cert_to, 0o644)):
            new = path.with_suffix(".new")
            new.write_text(text)
            new.chmod(mode)
            new.rename(path)

    def serial(ctl, tls):
        with socket.create_connection(("127.0.0.1", ctl.rest_port), patience(20)) as s, tls.wrap_socket(s, server_hostname="localhost") as t:
            return t.getpeercert()["serialNumber"]

    def refused(ctl, tls):
        try:
            return not serial(ctl, tls)
        except ssl.SSLCertVerificationError:
            return True

    put(one.read_text())
    with one_more(certificate_file=cert, certificate_key_file=key_file) as c:
        c.start()
        own, c.tls = c.tls, theirs
        first = serial(c, theirs)
        assert refused(c, own) and c.ok("GET", "/api/auth/me")["role"] == "admin"

        async def link(tls):
            c.tls = tls
            async with Link(c, g) as lg:
                return await lg.data("config")
        g = c.gateway()
        assert run(link(own))["gateway"]["id"] == g["id"], "the link has its own, under the pinned root"
        with pytest.raises(ssl.SSLCertVerificationError):
            run(link(theirs))
        c.tls = theirs

        # Replaced: taken, without a restart.
        make_certificate(tmp_path, "localhost", tmp_path)
        put(one.read_text())
        second = until(lambda: (s := serial(c, theirs)) != first and s)
        assert c.ok("GET", "/api/auth/me")

        # Broken, or only one half: the one before goes on, and the log says why.
        for break_, says in ((lambda: cert.write_text("nothing\n"), f"{cert} with {key_file}: no certificate in PEM"),
                             (lambda: cert.unlink(), f"{cert}: No such file"),
                             (lambda: put((make_certificate(tmp_path, "localhost", tmp_path), one.read_text())[1],
                                          key_to=tmp_path / "elsewhere"), "the private key is not that of the certificate")):
            mark = len(c.log())
            break_()
            until(lambda: "not taken, the one before goes on" in c.log()[mark:] and says in c.log()[mark:])
            assert serial(c, theirs) == second
        put(one.read_text())
        until(lambda: serial(c, theirs) not in (first, second))
        assert "kakuremichi_rest_certificate_not_after_seconds" in c.request("GET", "/metrics").data.decode()

        # Both in one file.
        assert c.stop() == 0
        conf = c.dir / "control.conf"
        conf.write_text(conf.read_text().replace(f"certificate_key_file = {key_file}\n", "").replace(str(cert), str(one)))
        c.start()
        c.tls = theirs
        assert c.ok("GET", "/api/auth/me")

    # Checked at the start.
    run_ = lambda *a: subprocess.run([str(x) for x in a], check=True, capture_output=True)
    run_("openssl", "pkey", "-in", one, "-aes256", "-passout", "pass:x", "-out", tmp_path / "locked.pem")
    (tmp_path / "open.pem").write_bytes(one.read_bytes())
    (tmp_path / "open.pem").chmod(0o644)
    (tmp_path / "empty.pem").write_text("")
    (tmp_path / "empty.pem").chmod(0o600)
    run_("openssl", "genrsa", "-out", tmp_path / "rsa.pem", "2048")
    for settings, says in (
            (dict(certificate_file=tmp_path / "absent.pem"), "absent.pem: No such file or directory"),
            (dict(certificate_file=tmp_path / "open.pem"), "open.pem: everybody may read this private key"),
            (dict(certificate_file=tmp_path / "empty.pem"), "empty.pem: no certificate in PEM"),
            (dict(certificate_file=cert, certificate_key_file=tmp_path / "locked.pem"), "locked.pem: no private key in PEM without a passphrase"),
            (dict(certificate_file=cert, certificate_key_file=tmp_path / "rsa.pem"), "the private key is not that of the certificate"),
            (dict(certificate_key_file=key_file), "certificate_key_file is set, and certificate_file is not")):
        c = Control(**settings)
        try:
            r = subprocess.run([BUILD / "controld", "-c", c.dir / "control.conf"], capture_output=True, text=True, timeout=patience(60))
            assert r.returncode == 1 and says in r.stdout + r.stderr, r
        finally:
            shutil.rmtree(c.dir, ignore_errors=True)


def test_short_lifetimes_end_no_sweep():
    c = Control(certificate_lifetime="10s")

    async def main():
        a = c.agent()
        path = f"/api/agents/{a['id']}"
        async with Link(c, a, key()) as la:
            await la.data("config")
            first = c.ok("GET", path)["certificateNotAfter"]
            await asyncio.to_thread(until, lambda: c.ok("GET", path)["certificateNotAfter"] != first, 60)
        ends = c.sql(f"SELECT not_after FROM host_certificates WHERE host_id = '{a['id']}' ORDER BY not_after LIMIT 2")
        return [datetime.datetime.fromisoformat(x + ":00") for x in ends.splitlines()]
    try:
        c.start()
        first, second = run(main(), 90)
        assert (second - first).total_seconds() >= 6  # a third was left, and not more
        assert c.stop() == 0
    finally:
        if c.proc and c.proc.poll() is None:
            c.stop(signal.SIGKILL)
        shutil.rmtree(c.dir, ignore_errors=True)


def test_status_is_seen(ctl):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        t, *others = ctl.tunnel(a), ctl.tunnel(a, domain="good.example.com"), ctl.tunnel(a, domain="bad.example.com")
        now, soon = "2026-11-21T07:02:13.123Z", "2099-01-01T00:00:00.000Z"
        cert = (ctl.state / "root.crt").read_text()
        agent, tunnel = f"/api/agents/{a['id']}", f"/api/tunnels/{t['id']}"
        async with Link(ctl, a) as la, Link(ctl, g) as lg:
            c = await la.data("config")
            assert ctl.ok("GET", agent)["status"] == "online"
            await la.send("config_ack", epoch=c["epoch"], revision=c["revision"], success=True)
            await la.send("status", tunnels=[{"id": t["id"], "domain": t["domain"], "status": "unhealthy",
                                              "error": "refused"}],
                          peers=[{"gatewayId": g["id"], "lastHandshakeAt": now, "rxBytes": 1, "txBytes": 2}])
            await lg.send("status", peers=[{"agentId": a["id"], "endpoint": "192.0.2.1:1", "lastHandshakeAt": now}],
                          tunnels=[{"id": t["id"], "requests": 7, "bytesIn": 10, "bytesOut": 20, "errors": 1}],
                          certificates=[{"domain": "bad.example.com", "status": "error", "error": "no",
                                         "nextTryAt": soon}])
            await lg.send("certificate_obtained", domain="good.example.com", certificate=cert, expiresAt=soon)
            loop = asyncio.get_running_loop()
            wait = lambda what: loop.run_in_executor(None, until, what)
            await wait(lambda: ctl.ok("GET", agent)["appliedRevision"] == c["revision"])
            await wait(lambda: ctl.ok("GET", tunnel)["traffic"]["requests"] == 7)
            x = ctl.ok("GET", agent)
            assert x["appliedEpoch"] == c["epoch"] and x["configError"] is None
            assert x["lastHandshakeAt"] == now and x["peers"][0]["rxBytes"] == 1 and x["lastSeenAt"]
            y = ctl.ok("GET", tunnel)
            assert (y["status"], y["statusError"]) == ("unhealthy", "refused")
            assert y["traffic"] == {"requests": 7, "bytesIn": 10, "bytesOut": 20, "errors": 1}
            certs = {k["domain"]: k for k in ctl.ok("GET", "/api/certificates?limit=100")["items"]}
            good, bad = certs["good.example.com"], certs["bad.example.com"]
            assert good["status"] == "ready" and len(good["fingerprint"]) == 64 and good["notAfter"] and good["issuer"]
            assert (bad["status"], bad["error"], bad["nextTryAt"]) == ("error", "no", soon)
            page = ctl.ok("GET", "/api/certificates?limit=1")
            assert ctl.ok("GET", f"/api/certificates?limit=1&cursor={page['next']}")["items"]

            await la.send("status", tunnels=[{"id": t["id"], "status": "healthy"}])
            await la.send("config_ack", epoch=c["epoch"], revision=c["revision"], success=False, error="tunnel x: no")
            await wait(lambda: ctl.ok("GET", tunnel)["status"] == "healthy")
            await wait(lambda: ctl.ok("GET", agent)["configError"] == "tunnel x: no")
            assert ctl.ok("GET", tunnel)["statusError"] is None
            assert f'kakuremichi_tunnel_healthy{{tunnel="{t["domain"]}"}} 1' in ctl.request("GET", "/metrics").data.decode()
            await lg.send("certificate_obtained", domain="x.example.com", expiresAt=soon,
                          certificate="-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n" + cert)
            assert (await lg.data("error"))["code"] == "INVALID_MESSAGE"
        await wait(lambda: ctl.ok("GET", agent)["status"] == "offline")
        assert ctl.ok("GET", tunnel)["status"] == "unknown"
        for x in (*(f"tunnels/{x['id']}" for x in (t, *others)), f"agents/{a['id']}", f"gateways/{g['id']}"):
            ctl.ok("DELETE", "/api/" + x)
    run(main())


# ---- leases -------------------------------------------------------------------------------------

@contextlib.contextmanager
def domains(ctl, *names, tls="auto"):
    a = ctl.agent()
    made = [ctl.tunnel(a, domain=n, tls=tls) for n in names]
    yield made
    for t in made:
        ctl.request("DELETE", f"/api/tunnels/{t['id']}")
    ctl.ok("DELETE", f"/api/agents/{a['id']}")


async def lease(link, domain, **more):
    await link.send("lease", domain=domain, **more)
    m = await link.data("lease_result")
    assert m["domain"] == domain
    return m


async def live(ctl, link):
    """Whoever is told its configuration is online for the database, too."""
    await link.data("config")
    return link


def unanswered(ctl):
    found = re.search(r'^kakuremichi_certificate_leases_total{result="unanswered"} (\d+)',
                      ctl.request("GET", "/metrics").data.decode(), re.M)
    return int(found[1]) if found else 0


def seconds_left(m):
    until_ = datetime.datetime.fromisoformat(m["until"].replace("Z", "+00:00"))
    return (until_ - datetime.datetime.now(datetime.timezone.utc)).total_seconds()


def test_a_lease_has_one_holder(ctl):
    async def main():
        g, h = ctl.gateway(), ctl.gateway()
        with domains(ctl, "lease.example.com", "*.lease.example.com") as (t, wild):
            async with Link(ctl, g) as lg, Link(ctl, h) as lh:
                await live(ctl, lg), await live(ctl, lh)
                m = await lease(lg, t["domain"])
                assert m["granted"] and m["holder"] == g["id"] and 100 < seconds_left(m) <= 121
                held = await lease(lh, t["domain"])
                assert held == {"domain": t["domain"], "granted": False, "holder": g["id"], "until": m["until"]}
                again = await lease(lg, t["domain"])
                assert again["granted"] and again["until"] > m["until"], "asking again renews it"
                assert (await lease(lh, wild["domain"]))["granted"], "another domain is another lease"

                # Only its holder gives a lease back, and is not answered.
                await lh.send("lease", domain=t["domain"], release=True)
                assert not (await lease(lh, t["domain"]))["granted"]
                await lg.send("lease", domain=t["domain"], release=True)
                await loop_until(lambda: ctl.sql("SELECT count(*) FROM certificate_leases WHERE domain = 'lease.example.com'") == "0")
                assert (await lease(lh, t["domain"]))["holder"] == h["id"]

                # When it has expired it is anybody's.
                ctl.sql("UPDATE certificate_leases SET expires_at = now() - interval '1 ms'")
                assert (await lease(lg, t["domain"]))["granted"]
                assert not (await lease(lh, t["domain"]))["granted"]
            # A gateway that has gone holds nothing.
            await loop_until(lambda: ctl.ok("GET", f"/api/gateways/{g['id']}")["status"] == "offline")
            async with Link(ctl, h) as lh:
                await live(ctl, lh)
                m = await lease(lh, t["domain"])
                assert m["granted"] and m["holder"] == h["id"]
        assert ctl.sql("SELECT count(*) FROM certificate_leases") == "0", "they go with their tunnels"
        for x in (g, h):
            ctl.ok("DELETE", f"/api/gateways/{x['id']}")
    run(main())


async def loop_until(what):
    return await asyncio.get_running_loop().run_in_executor(None, until, what)


def test_of_gateways_that_ask_at_once_one_gets_the_lease(ctl):
    async def main():
        names = [f"race{i}.example.com" for i in range(60)]
        gateways = [ctl.gateway() for _ in range(4)]
        with domains(ctl, *names):
            async with contextlib.AsyncExitStack() as stack:
                links = [await stack.enter_async_context(Link(ctl, g)) for g in gateways]
                for link in links:
                    await live(ctl, link)

                async def ask(link, order):
                    for n in order:
                        await link.send("lease", domain=n)
                    return {m["domain"]: m for m in [await link.data("lease_result") for _ in order]}
                for _ in range(3):
                    orders = (names, names[::-1], names[30:] + names[:30], names[::2] + names[1::2])
                    got = await asyncio.gather(*(ask(*x) for x in zip(links, orders)))
                    for n in names:
                        holders = {m[n]["holder"] for m in got}
                        winners = [g["id"] for g, m in zip(gateways, got) if m[n]["granted"]]
                        assert len(winners) == 1 and holders == set(winners), (n, [m[n] for m in got])
                    ctl.sql("DELETE FROM certificate_leases")
        for g in gateways:
            ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    run(main())


def test_who_gets_no_lease(ctl):
    async def main():
        g, a = ctl.gateway(), ctl.agent()
        with domains(ctl, "one.lease.example.com") as (t,):
            async with Link(ctl, g) as lg, Link(ctl, a) as la:
                await live(ctl, lg), await live(ctl, la)
                for domain in ("stranger.example.com", "lease.example.com", "", "*", "ONE.lease.example.com", "'; --"):
                    assert await lease(lg, domain) == {"domain": domain, "granted": False}
                await la.send("lease", domain=t["domain"])
                assert (await la.data("error"))["code"] == "INVALID_MESSAGE"
                for bad in ({}, {"domain": "x" * 254}, {"domain": 1}, {"domain": t["domain"], "release": "yes"}):
                    await lg.send("lease", **bad)
                    assert (await lg.data("error"))["code"] == "INVALID_MESSAGE"

                # What is not of this message goes nowhere.
                secret = "kL3-secret-0123456789"
                more = {"key": f"-----BEGIN PRIVATE KEY-----{secret}", "token": secret, "keyAuthorization": [secret]}
                assert (await lease(lg, t["domain"], **more))["granted"]
                dump = subprocess.run(["pg_dump", "-h", ctl.state / "postgres/run", "-U", "postgres", "kakuremichi"],
                                      check=True, capture_output=True, text=True).stdout
                assert t["domain"] in dump and secret not in dump and secret not in ctl.log()

                # Revoked: its leases are anybody's, and the link that asked is gone.
                assert ctl.sql("SELECT count(*) FROM certificate_leases") == "1"
                await rest(ctl, "POST", f"/api/gateways/{g['id']}/revoke", {}, 200)
                assert ctl.sql("SELECT count(*) FROM certificate_leases") == "0"
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main())


def test_leases_are_bounded_and_limited(ctl):
    async def main():
        g = ctl.gateway()
        with domains(ctl, "full.lease.example.com") as (t,):
            ctl.sql("INSERT INTO certificate_leases SELECT 'x' || i, '" + g["id"] + "', now() + interval '1 minute' "
                    "FROM generate_series(1, 999) i")
            async with Link(ctl, g) as lg:
                await live(ctl, lg)
                assert (await lease(lg, t["domain"]))["granted"]
                assert (await lease(lg, t["domain"]))["granted"], "one that it has is renewed"
                ctl.sql("UPDATE certificate_leases SET domain = 'x0' WHERE domain = '" + t["domain"] + "'")
                assert await lease(lg, t["domain"]) == {"domain": t["domain"], "granted": False}
                ctl.sql("DELETE FROM certificate_leases WHERE domain = 'x0'")
                assert (await lease(lg, t["domain"]))["granted"]
                ctl.sql("DELETE FROM certificate_leases")

                # Too many are not answered, and the link stays.
                n, answers = 3000, 0
                for _ in range(n):
                    await lg.send("lease", domain=t["domain"])
                await lg.send("nonsense")
                while (m := await lg.get("lease_result", "error"))[0] == "lease_result":
                    answers += 1
                assert m[0] == "error"
                assert "lease not answered" in ctl.log() and unanswered(ctl) > n / 2
                with contextlib.suppress(asyncio.TimeoutError):
                    while True:
                        await lg.get("lease_result", seconds=1)
                        answers += 1
                assert 0 < answers < n / 2
                async with Link(ctl, ctl.gateway()) as other:
                    await live(ctl, other)
                    assert "granted" in await lease(other, t["domain"]), "the limit is one gateway's"
                    ctl.ok("DELETE", f"/api/gateways/{other.who['id']}")
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    run(main())


def test_a_lease_that_the_database_cannot_give_is_not_answered(ctl):
    async def main():
        g = ctl.gateway()
        with domains(ctl, "slow.lease.example.com") as (t,):
            async with Link(ctl, g) as lg:
                await live(ctl, lg)
                ctl.sql("ALTER TABLE certificate_leases RENAME TO elsewhere")
                try:
                    was = unanswered(ctl)
                    await lg.send("lease", domain=t["domain"])
                    await loop_until(lambda: unanswered(ctl) == was + 1)
                    await lg.send("nonsense")
                    assert (await lg.get("lease_result", "error"))[0] == "error"
                finally:
                    ctl.sql("ALTER TABLE elsewhere RENAME TO certificate_leases")
                assert (await lease(lg, t["domain"]))["granted"], "and the next one is"
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    run(main())


# ---- certificates -------------------------------------------------------------------------------

def certificates(ctl, query=""):
    page = ctl.ok("GET", "/api/certificates?limit=1000" + query)
    assert page["total"] == len(page["items"]) and page["next"] is None
    return {(c["domain"], c["gatewayName"]): c for c in page["items"]}


def kmctl(ctl, *args):
    (ctl.dir / "token").write_text(ctl.token)
    (ctl.dir / "token").chmod(0o600)
    return subprocess.run([BUILD / "kmctl", *args, "-control", f"https://localhost:{ctl.rest_port}", "-ca-file",
                           ctl.state / "root.crt", "-token-file", ctl.dir / "token"], capture_output=True, text=True)


def test_certificates_of_every_gateway(ctl):
    async def main():
        g, h, gone = ctl.gateway(), ctl.gateway(), ctl.gateway()
        later, much = "2099-01-01T00:00:00.000Z", "2099-02-01T00:00:00.000Z"
        names = ["a.cert.example.com", "b.cert.example.com", "*.cert.example.com"]
        with domains(ctl, *names) as tunnels:
            async with Link(ctl, g) as lg, Link(ctl, h) as lh, Link(ctl, gone) as lx:
                await lg.send("status", certificates=[
                    {"domain": names[0], "status": "ready", "notAfter": much},
                    {"domain": names[1], "status": "error", "error": "acme: rateLimited \x1b[2J", "nextTryAt": later},
                    {"domain": "no.tunnel.example.com", "status": "ready", "notAfter": much}])
                await lh.send("status", certificates=[{"domain": names[0], "status": "issuing"},
                                                      {"domain": names[2], "status": "pending"}])
                await lx.send("status", certificates=[{"domain": names[1], "status": "pending"}])
                await loop_until(lambda: len(certificates(ctl)) == 5)
                c = certificates(ctl)
                assert set(c) == {(names[0], g["name"]), (names[1], g["name"]), (names[0], h["name"]),
                                  (names[2], h["name"]), (names[1], gone["name"])}
                x = c[names[1], g["name"]]
                assert (x["status"], x["error"], x["nextTryAt"], x["notAfter"]) == \
                    ("error", "acme: rateLimited \x1b[2J", later, None)
                doc = json.loads((ROOT / "proto/openapi.json").read_text())["components"]["schemas"]
                assert set(x) == set(doc["Certificate"]["properties"])

                for query, want in ((f"&domain={names[0]}", 2), ("&domain=A.Cert.example.com.", 2), (f"&gateway={g['name']}", 2),
                                    (f"&gateway={h['id']}", 2), ("&status=pending", 2), ("&domain=*.cert.example.com", 1),
                                    (f"&status=pending&gateway={h['name']}", 1), ("&status=renewal_due", 0),
                                    ("&domain=no.tunnel.example.com", 0)):
                    assert len(certificates(ctl, query)) == want, query
                seen, cursor = [], ""
                while cursor is not None:
                    page = ctl.ok("GET", f"/api/certificates?status=pending&limit=1&cursor={cursor}" if cursor else
                                  "/api/certificates?status=pending&limit=1")
                    assert page["total"] == 2
                    seen, cursor = seen + [i["domain"] for i in page["items"]], page["next"]
                assert sorted(seen) == sorted([names[1], names[2]])
                for query in ("status=fine", "gateway=a%20b", "domain=a_b", "colour=red"):
                    assert ctl.request("GET", "/api/certificates?" + query).fields == {query.split("=")[0]}
                assert ctl.request("GET", "/api/tunnels?status=ready").status == 400
                assert 'kakuremichi_certificates{status="pending"} 2' in ctl.request("GET", "/metrics").data.decode()

                # The operator's command.
                r = kmctl(ctl, "certificates", "-json", "-gateway", g["name"])
                assert r.returncode == 0 and [i["domain"] for i in json.loads(r.stdout)] == names[:2], r
                r = kmctl(ctl, "certificates")
                lines = r.stdout.splitlines()
                assert r.returncode == 0 and lines[0].split() == ["DOMAIN", "GATEWAY", "STATUS", "UNTIL", "NEXT", "TRY", "ERROR"]
                assert len(lines) == 6 and "\x1b" not in r.stdout
                assert any(names[0] in x and "2099-02-01 (in " in x and "ready" in x for x in lines)
                assert any("acme: rateLimited" in x and "2099-01-01" in x for x in lines)
                assert kmctl(ctl, "certificates", "-domain", "*.cert.example.com").stdout.count("\n") == 2
                assert kmctl(ctl, "certificates", "-status", "renewal_due").stdout == "There are none.\n"
                r = kmctl(ctl, "certificates", "-status", "fine")
                assert r.returncode == 1 and "renewal_due" in r.stderr
                assert kmctl(ctl, "certificates", "revoke", "x").returncode == 1

                # Mended; and what was said of it within one second belongs together.
                cert = (ctl.state / "root.crt").read_text()
                await lg.send("certificate_obtained", domain=names[1], certificate=cert, expiresAt=later)
                not_after = await loop_until(lambda: certificates(ctl)[names[1], g["name"]]["notAfter"])
                x = certificates(ctl)[names[1], g["name"]]
                assert x["status"] == "ready" and x["error"] is None and x["nextTryAt"] is None and x["fingerprint"]
                for _ in range(2):
                    await lh.send("certificate_obtained", domain=names[1], certificate=cert, expiresAt=later)
                    await lh.send("status", certificates=[{"domain": names[1], "status": "renewal_due", "notAfter": not_after}])
                    await loop_until(lambda: certificates(ctl).get((names[1], h["name"]), {}).get("status") == "renewal_due")
                    y = certificates(ctl)[names[1], h["name"]]
                    assert (y["fingerprint"], y["issuer"], y["notAfter"]) == (x["fingerprint"], x["issuer"], not_after)
                # Another one now, of which only the end is known; then none any more.
                await lg.send("status", certificates=[{"domain": names[1], "status": "ready", "notAfter": much}])
                await loop_until(lambda: certificates(ctl)[names[1], g["name"]]["notAfter"] == much)
                assert certificates(ctl)[names[1], g["name"]]["fingerprint"] is None
                await lg.send("status", certificates=[{"domain": names[1], "status": "pending"}])
                await loop_until(lambda: certificates(ctl)[names[1], g["name"]]["notAfter"] is None)

                # A gateway that is revoked or deleted takes its rows along, whatever it says last.
                assert (names[1], gone["name"]) in certificates(ctl)
                await lx.send("status", certificates=[{"domain": names[1], "status": "issuing"}])
                await rest(ctl, "POST", f"/api/gateways/{gone['id']}/revoke", {}, 200)
                await lx.closed()
                assert not certificates(ctl, f"&gateway={gone['name']}")
                await lh.send("status", certificates=[{"domain": names[0], "status": "pending"}])
                await loop_until(lambda: certificates(ctl)[names[0], h["name"]]["status"] == "pending")
                assert not certificates(ctl, f"&gateway={gone['name']}"), "the flush after that one wrote nothing of it"
            await rest(ctl, "DELETE", f"/api/gateways/{h['id']}")
            assert {n for _, n in certificates(ctl)} == {g["name"]}

            # And a domain with its last tunnel.
            assert {n for n, _ in certificates(ctl)} == set(names[:2])
            ctl.ok("PATCH", f"/api/tunnels/{tunnels[0]['id']}", {"domain": "other.cert.example.com"})
            assert {n for n, _ in certificates(ctl)} == {names[1]}
            ctl.ok("DELETE", f"/api/tunnels/{tunnels[1]['id']}")
            assert not certificates(ctl)
        for x in (g, gone):
            ctl.ok("DELETE", f"/api/gateways/{x['id']}")
    run(main())


def test_messages_that_mean_nothing(ctl):
    async def main():
        a = ctl.agent()
        async with Link(ctl, a) as l:
            await l.data("config")
            for text in ('{"type":"no_such_type","data":{}}', "{", "[]", "null", '{"type":5}', '{"data":{}}',
                         '{"type":"config","data":{}}', '{"type":"status","data":{"tunnels":[{"id":"x"}]}}',
                         '{"type":"config_ack","data":{"epoch":"e","revision":"one","success":true}}',
                         '{"type":"auth","data":{"apiKey":"again"}}', '{"type":"heartbeat","data":null}'):
                await l.ws.send(text)
                m = await l.next_is("error")
                assert m["code"] == "INVALID_MESSAGE" and m["message"], text
            await l.send("heartbeat", timestamp=1, unknown="field")
            with pytest.raises(websockets.ConnectionClosed):
                await l.ws.send("x" * (10 << 20))
                while True:
                    await l.ws.recv()
        async with Link(ctl, a) as l:
            assert l.first[0] == "auth_success"
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main())


def test_before_auth(ctl):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        for kind, text in (("agent", '{"type":"heartbeat","data":{"timestamp":1}}'),
                           ("agent", '{"type":"whatever","data":{}}'), ("agent", '{"type":"auth","data":{}}'),
                           ("gateway", json.dumps({"type": "auth", "data": {"apiKey": a["apiKey"]}})),
                           ("gateway", json.dumps({"type": "auth", "data": {"apiKey": g["apiKey"],
                                                                            "publicIp": ["a,b}"]}}))):
            async with ctl.connect(kind) as ws:
                await ws.send(text)
                assert json.loads(await ws.recv())["type"] == "auth_error", text
                with pytest.raises(websockets.ConnectionClosed):
                    await ws.recv()
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    run(main())


def test_silence_before_auth(ctl):
    async def main():
        async with ctl.connect("agent") as ws:
            start = time.monotonic()
            with contextlib.suppress(websockets.ConnectionClosed):
                await asyncio.wait_for(ws.recv(), patience(20))
            return time.monotonic() - start
    assert 8 < run(main()) < 60


def test_newest_connection_wins_and_a_fight_is_throttled(ctl):
    async def main():
        a = ctl.agent()
        mark = len(ctl.log())
        async with contextlib.AsyncExitStack() as stack:
            links = []
            for i in range(9):
                links.append(await stack.enter_async_context(Link(ctl, a)))
                if links[-1].first[0] == "auth_error":
                    break
                if i:
                    assert (await links[i - 1].data("error"))["code"] == "CONFLICT"
                    await links[i - 1].closed()
            assert 4 <= i <= 7, i
            async with Link(ctl, a) as more:
                assert more.first[0] == "auth_error"
            await links[i - 1].send("nonsense")  # the last of the others goes on
            assert (await links[i - 1].data("error"))["code"] == "INVALID_MESSAGE"
        assert ctl.log()[mark:].count("two hosts use one key") == 1
        assert "kakuremichi_link_conflicts_total 2" in ctl.request("GET", "/metrics").data.decode()
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main())


def test_too_many_messages(ctl):
    async def main():
        a = ctl.agent()
        async with Link(ctl, a) as l:
            await l.data("config")
            with pytest.raises(websockets.ConnectionClosed):
                for _ in range(200000):
                    await l.ws.send('{"type":"heartbeat","data":{"timestamp":1}}')
                while True:
                    await l.ws.recv()
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main(), 120)


def test_changes_that_are_gone_and_another_epoch(ctl):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        k = key()
        async with Link(ctl, g, k) as l:
            c = await l.data("config")
        t = ctl.tunnel(a)
        ctl.sql("DELETE FROM changes WHERE revision <= (SELECT value FROM revision)")
        async with Link(ctl, g, k, c["epoch"], c["revision"]) as l:
            d = await l.next_is("config")
            assert t["id"] in {x["id"] for x in d["tunnels"]}
            new = ctl.sql("SELECT km_new_epoch()")
            e = await l.next_is("config")  # control looks every 5 s
            assert e["epoch"] == new != c["epoch"] and t["id"] in {x["id"] for x in e["tunnels"]}
            await rest(ctl, "DELETE", f"/api/tunnels/{t['id']}")
            x = await l.next_is("tunnel_delete")
            assert (x["epoch"], x["previous"]) == (new, e["revision"])
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    run(main())


@pytest.fixture(scope="module")
def second(ctl):
    """Another controld on ctl's database."""
    run_dir = str(ctl.state / "postgres/run").replace("/", "%2F")
    c = Control(database=f"postgresql://postgres@/kakuremichi?host={run_dir}",
                master_key_file=ctl.state / "master.key")
    try:
        try:
            c.start()
        finally:
            print(c.log())
        c.token = ctl.token
        yield c
        assert c.stop() == 0, c.log()[-8000:]
    finally:
        if c.proc and c.proc.poll() is None:
            c.stop(signal.SIGKILL)
        shutil.rmtree(c.dir, ignore_errors=True)


def test_two_controls_on_one_database(ctl, second):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        async with Link(ctl, a) as la, Link(second, g) as lg:
            await la.data("config")
            await lg.data("config")
            t = await rest(second, "POST", "/api/tunnels", {"domain": "two.example.com", "agentId": a["id"],
                                                           "target": "a:1"})
            assert (await la.data("tunnel_create"))["tunnel"]["id"] == t["id"]
            await rest(ctl, "DELETE", f"/api/tunnels/{t['id']}")
            assert (await lg.data("tunnel_create"))["tunnel"]["id"] == t["id"]
            assert (await lg.data("tunnel_delete"))["id"] == t["id"]
            await rest(second, "DELETE", f"/api/agents/{a['id']}")
            assert await la.data("auth_error")
            assert second.ok("GET", f"/api/gateways/{g['id']}") == ctl.ok("GET", f"/api/gateways/{g['id']}")
        ctl.ok("DELETE", f"/api/gateways/{g['id']}")
    run(main())
    assert (second.state / "root.pin").read_text() == (ctl.state / "root.pin").read_text()


def test_newest_connection_wins_across_controls(ctl, second):
    async def main():
        a = ctl.agent()
        marks = {c: len(c.log()) for c in (ctl, second)}
        async with contextlib.AsyncExitStack() as stack:
            links = []
            for i in range(16):
                links.append(await stack.enter_async_context(Link((ctl, second)[i % 2], a)))
                if links[-1].first[0] == "auth_error":
                    break
                if i:
                    assert (await links[i - 1].data("error"))["code"] == "CONFLICT"
                    await links[i - 1].closed()
                    assert ctl.ok("GET", f"/api/agents/{a['id']}")["status"] == "online"
            assert 9 <= i <= 14, i  # two hosts that take it from each other do not go on for ever
            await links[i - 1].send("nonsense")  # the last of the others goes on
            assert (await links[i - 1].data("error"))["code"] == "INVALID_MESSAGE"
        refusing = (ctl, second)[i % 2]
        assert refusing.log()[marks[refusing]:].count("two hosts use one key") == 1
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main())


def test_a_lost_note_of_a_newer_connection_is_made_good(ctl, second):
    async def main():
        a, mark = ctl.agent(), len(ctl.log())
        async with Link(ctl, a) as old:
            await old.data("config")
            # Whoever connects to the database anew waits for this lock; who is connected goes on.
            holder = subprocess.Popen(["psql", "-h", ctl.state / "postgres/run", "-U", "postgres", "-qAt",
                                       "kakuremichi"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                print("BEGIN; LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE; SELECT 'locked';",
                      file=holder.stdin, flush=True)
                assert holder.stdout.readline() == "locked\n"
                print("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                      "WHERE application_name = 'controld listener';", file=holder.stdin, flush=True)
                assert holder.stdout.readline() == "2\n"
                until(lambda: "database listener is away" in ctl.log()[mark:])
                async with Link(second, a) as new:
                    await new.send("nonsense")
                    assert (await new.data("error"))["code"] == "INVALID_MESSAGE"
                    await old.send("nonsense")  # it has not heard
                    assert (await old.data("error"))["code"] == "INVALID_MESSAGE"
                    print("COMMIT;", file=holder.stdin, flush=True)
                    assert (await old.data("error"))["code"] == "CONFLICT"
                    await old.closed()
                    await new.send("nonsense")
                    assert (await new.data("error"))["code"] == "INVALID_MESSAGE"
            finally:
                holder.communicate()
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main())


def test_an_older_links_note_is_answered(ctl):
    """Who hears of an older link of its id says again that it has a newer one."""
    async def main():
        a = ctl.agent()
        async with Link(ctl, a) as link:
            await link.data("config")
            psql = subprocess.Popen(["psql", "-h", ctl.state / "postgres/run", "-U", "postgres", "-qAt",
                                     "kakuremichi"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            try:
                print(f"LISTEN km_links; SELECT pg_notify('km_links', 'another {a['id']} 1');",
                      file=psql.stdin, flush=True)
                def answered():
                    print("SELECT 1;", file=psql.stdin, flush=True)
                    line = psql.stdout.readline()
                    return f" {a['id']} " in line and "another" not in line
                until(answered)
            finally:
                psql.communicate()
            await link.send("nonsense")
            assert (await link.data("error"))["code"] == "INVALID_MESSAGE"
        ctl.ok("DELETE", f"/api/agents/{a['id']}")
    run(main())


# ---- things that end and begin again; these come last ---------------------------------------------

def test_database_restart(ctl):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        async with Link(ctl, a) as la, Link(ctl, g) as lg:
            await la.data("config")
            await lg.data("config")
            # A request may wait out a short absence: the server is ended anew until one was refused.
            away, killed = None, set()
            end = time.monotonic() + patience(30)
            while time.monotonic() < end:
                with contextlib.suppress(OSError, IndexError, ValueError):
                    pid = int((ctl.state / "postgres/data/postmaster.pid").read_text().split()[0])
                    if not away and pid not in killed:
                        killed.add(pid)
                        os.kill(pid, signal.SIGQUIT)  # immediate: clients are cut
                r = await asyncio.get_running_loop().run_in_executor(
                    None, lambda: ctl.request("GET", "/api/agents"))
                if r.status == 503:
                    away = r
                    assert ctl.request("GET", "/healthz").status == 200
                elif away:
                    break
            assert r.status == 200 and away, (r, away)
            assert away.json["code"] == "UNAVAILABLE" and int(away.headers["Retry-After"]) > 0
            t = await rest(ctl, "POST", "/api/tunnels", {"domain": "restart.example.com", "agentId": a["id"], "target": "a:1"})
            assert (await la.data("tunnel_create"))["tunnel"]["id"] == t["id"]
            assert (await lg.data("tunnel_create"))["tunnel"]["id"] == t["id"]
        for x in (f"tunnels/{t['id']}", f"agents/{a['id']}", f"gateways/{g['id']}"):
            ctl.ok("DELETE", "/api/" + x)
    run(main())


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_control_restart(ctl, sig):
    async def main():
        a, g = ctl.agent(), ctl.gateway()
        k = key()
        async with Link(ctl, g, k) as l:
            c = await l.data("config")
            assert (await rest(ctl, "GET", f"/api/gateways/{g['id']}"))["status"] == "online"
            ctl.sql(f"UPDATE agents SET status = 'online', last_seen_at = now() - interval '2 minutes' WHERE id = '{a['id']}'; "
                    "INSERT INTO certificate_leases SELECT d, id, now() + t FROM gateways, (VALUES ('over.example.com', "
                    f"interval '-1 s'), ('held.example.com', '1 hour')) x (d, t) WHERE id = '{g['id']}'; "
                    f"INSERT INTO certificates (gateway_id, domain, status) VALUES ('{g['id']}', 'orphan.example.com', 'ready')")
            status = await asyncio.get_running_loop().run_in_executor(None, ctl.stop, sig)
            assert status == (0 if sig == signal.SIGTERM else -sig), ctl.log()[-8000:]
            await l.closed()
        ctl.start()
        # Who was linked is offline at once when control had time to say so, and else after 60 s.
        status = "offline" if sig == signal.SIGTERM else "online"
        assert ctl.ok("GET", f"/api/gateways/{g['id']}")["status"] == status
        until(lambda: ctl.sql(f"SELECT status FROM agents WHERE id = '{a['id']}'") == "offline")
        assert ctl.sql("SELECT domain FROM certificate_leases") == "held.example.com", "what has expired is removed"
        assert not ctl.ok("GET", "/api/certificates?domain=orphan.example.com")["items"]
        t = ctl.tunnel(a)
        async with Link(ctl, g, k, c["epoch"], c["revision"]) as l:
            x = await l.next_is("tunnel_create")
            assert x["previous"] == c["revision"] and x["epoch"] == c["epoch"] and x["tunnel"]["id"] == t["id"]
        for x in (f"tunnels/{t['id']}", f"agents/{a['id']}", f"gateways/{g['id']}"):
            ctl.ok("DELETE", "/api/" + x)
    run(main(), 120)


def test_failed_attempts_are_limited(ctl):
    """Who fails has to wait, but not those with a good token or key at the same address."""
    wrong = "kmt_" + "A" * 43
    answers = [ctl.request("GET", "/api/agents", token=wrong) for _ in range(15)]
    assert answers[0].status == 401 and answers[0].headers["WWW-Authenticate"] == "Bearer"
    assert answers[-1].status == 429 and answers[-1].json["code"] == "RATE_LIMITED"
    assert int(answers[-1].headers["Retry-After"]) > 0
    assert ctl.request("GET", "/api/agents", token="nonsense").status == 429
    assert ctl.request("GET", "/healthz", headers={"Authorization": None}).status == 200
    assert ctl.request("GET", "/api/agents").status == 200
    assert wrong not in ctl.log()
    a = ctl.agent()

    async def main():
        for _ in range(12):
            async with ctl.connect("agent") as ws:
                await ws.send(json.dumps({"type": "auth", "data": {"apiKey": "agt_" + "A" * 43}}))
                m = json.loads(await ws.recv())
                assert m["type"] == "auth_error"
        async with Link(ctl, a) as l:
            await l.data("config")
        return m["data"]["message"]
    assert "too many" in run(main())
    ctl.ok("DELETE", f"/api/agents/{a['id']}")
