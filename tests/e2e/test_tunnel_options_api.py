# SPDX-License-Identifier: MIT
"""Paths, targets' protocols and options of tunnels: what operators write, read back, and gateways are told.

    urllib ──HTTPS──▶ controld ──▶ its PostgreSQL
    python3-websockets (a gateway's link, an agent's) ──WSS──▶ │
"""
import asyncio
import concurrent.futures
import json

import pytest

from test_control_api import NOBODY, Link, ctl, logs, rest, run  # noqa: F401 (fixtures)

OPTIONS = {
    "stripPath": True, "hostHeader": "target", "tlsVerify": True, "tlsServerName": "nas.local",
    "requestHeaders": {"set": {"X-Key": "s3cret", "accept": ""}, "remove": ["Cookie"]},
    "responseHeaders": {"set": {}, "remove": ["Server", "X-Powered-By"]},
    "redirects": [{"from": "/p/old/*", "to": "https://b.example/*", "status": 308},
                  {"from": "/p/x", "to": "/p/y", "status": 302}],
    "hsts": {"maxAge": 31536000, "includeSubDomains": True}, "maintenance": {"text": "Back at five", "retryAfter": 60},
    "rateLimit": {"rate": "1000/s", "burst": 2000}, "addressRateLimit": {"rate": "300/5m", "burst": 300},
    "maxBody": 104857600, "maxConnections": 32}
SENT = {
    **OPTIONS, "requestHeaders": [{"name": "accept", "value": ""}, {"name": "Cookie"}, {"name": "X-Key", "value": "s3cret"}],
    "responseHeaders": [{"name": "Server"}, {"name": "X-Powered-By"}],
    "rateLimit": {"requests": 1000, "per": 1000, "burst": 2000},
    "addressRateLimit": {"requests": 300, "per": 300000, "burst": 300}}


@pytest.fixture(scope="module")
def agent(ctl):  # noqa: F811
    return ctl.agent()


def revision(ctl):
    return int(ctl.sql("SELECT value FROM revision"))


def test_what_is_written_is_read_and_sent(ctl, agent):
    short = {"domain": "all.example", "path": "/p/", "agentId": agent["id"], "target": "https://10.0.0.5:8443",
             "options": {**OPTIONS, "addressRateLimit": "300/5m", "maxBody": "100M",
                         "maintenance": {**OPTIONS["maintenance"], "title": None}}}
    full = {"match": {"domain": "all.example", "path": "/q", "protocol": "http"}, "options": {},
            "targets": [{"agentId": agent["id"], "target": "unix:/run/x", "protocol": "h2c"}]}
    t, u = ctl.ok("POST", "/api/tunnels", short), ctl.ok("POST", "/api/tunnels", full)
    path = f"/api/tunnels/{t['id']}"
    assert t["options"] == OPTIONS and u["options"] == {}
    assert (t["path"], t["target"], t["targetProtocol"]) == ("/p", "10.0.0.5:8443", "https")
    assert t["match"]["path"] == "/p" and t["targets"][0]["protocol"] == "https"
    assert (u["path"], u["target"], u["targetProtocol"]) == ("/q", "unix:/run/x", "h2c")

    async def main():
        g = ctl.gateway()
        async with Link(ctl, g) as gateway, Link(ctl, agent) as beside:
            told = {x["id"]: x for x in (await gateway.data("config"))["tunnels"]}
            assert told[t["id"]]["options"] == SENT and told[t["id"]]["targetProtocol"] == "https"
            assert told[t["id"]]["path"] == "/p" and "options" not in told[u["id"]]
            mine = {x["id"]: x for x in (await beside.data("config"))["tunnels"]}
            assert set(mine) == {t["id"], u["id"]} and all("options" not in x for x in mine.values())
            before = revision(ctl)
            await rest(ctl, "PATCH", path, {"options": t["options"]})
            back = {k: v for k, v in t.items() if k in ("match", "targets", "tls", "enabled", "options", "description")}
            assert (await rest(ctl, "PATCH", path, back))["targetId"] == t["targetId"]
            assert revision(ctl) == before, "what is read can be sent back and changes nothing"
            one = await rest(ctl, "PATCH", path, {"options": {"hsts": None, "maintenance": False, "maxBody": 0,
                                                              "redirects": []}})
            want = {k: v for k, v in SENT.items() if k not in ("hsts", "maintenance", "redirects")} | {"maxBody": 0}
            m = await gateway.next_is("tunnel_update")
            assert m["tunnel"]["options"] == want and m["tunnel"]["targetId"] == one["targetId"] == t["targetId"]
            m = await beside.next_is("tunnel_update")
            assert m["tunnel"]["targetProtocol"] == "https" and "options" not in m["tunnel"]
            one = await rest(ctl, "PATCH", path, {"target": "http://10.0.0.5", "path": None, "options": None})
            assert (one["target"], one["targetProtocol"], one["path"], one["options"]) == ("10.0.0.5:80", "http", None, {})
            m = (await gateway.next_is("tunnel_update"))["tunnel"]
            assert not {"path", "targetProtocol", "options"} & set(m) and m["targetId"] != t["targetId"]
            was = one["targetId"]
            one = await rest(ctl, "PATCH", path, {"targetProtocol": "h2c"})
            assert one["target"] == "10.0.0.5:80" and one["targetId"] != was, "another protocol is another target"
    run(main())
    rows = [x for x in ctl.ok("GET", "/api/audit?limit=20")["items"] if x["entityId"] == t["id"]]
    assert "s3cret" not in json.dumps(rows)
    assert {"target": "10.0.0.5:80", "targetProtocol": "http", "path": None, "options": None} in [r["details"] for r in rows]
    made = [r for r in rows if r["action"] == "tunnel.create"][0]["details"]
    assert sorted(made["options"]) == sorted(OPTIONS) and made["path"] == "/p"


def test_domain_and_path_are_one_tunnels(ctl, agent):
    def make(domain, **kw):
        return ctl.request("POST", "/api/tunnels", {"domain": domain, "agentId": agent["id"], "target": "a:1", **kw})
    assert make("one.example").status == make("one.example", path="/a").status == make("*.one.example", path="/a").status == 201
    b = make("one.example", path="/b").json
    for again, fields in ((make("ONE.example", path="/"), {"domain"}), (make("one.example", path="/%61/"), {"domain", "path"}),
                          (make("*.one.example", path="/a"), {"domain", "path"}),
                          (ctl.request("PATCH", f"/api/tunnels/{b['id']}", {"path": "/a"}), {"domain", "path"}),
                          (ctl.request("PATCH", f"/api/tunnels/{b['id']}", {"path": None}), {"domain"})):
        assert again.status == 409 and again.json["code"] == "CONFLICT" and again.fields == fields, again
        assert "one.example" in again.json["error"] and ("/a" in again.json["error"]) == ("path" in fields)
    assert ctl.ok("GET", f"/api/tunnels/{b['id']}")["path"] == "/b"


def test_tls_is_the_domains(ctl, agent):
    """A handshake comes before any path."""
    def make(path, domain="tls.example", **kw):
        return ctl.request("POST", "/api/tunnels", {"domain": domain, "path": path, "agentId": agent["id"], "target": "a:1", **kw})

    def everyones():
        return {t["tls"] for t in ctl.ok("GET", "/api/tunnels?domain=tls.example")["items"]}
    root = make(None, tls="own").json
    assert make("/a").json["tls"] == "own" and make("/b", tls="own", options={"hsts": True}).status == 201
    other = make("/c", tls="off")
    assert other.status == 409 and other.fields == {"tls"} and '"own"' in other.json["details"][0]["message"], other
    before = revision(ctl)
    assert ctl.ok("PATCH", f"/api/tunnels/{root['id']}", {"tls": "auto"})["tls"] == "auto"
    assert everyones() == {"auto"} and revision(ctl) == before + 3
    for tls in ("off", "passthrough"):
        a = ctl.request("PATCH", f"/api/tunnels/{root['id']}", {"tls": tls})
        assert a.status == 409 and a.fields == {"tls"} and everyones() == {"auto"}, a
    whole = make(None, "pass.example", tls="passthrough").json
    for more in ({}, {"tls": "auto"}, {"tls": "passthrough"}):
        a = make(None if more.get("tls") == "passthrough" else "/x", "pass.example", **more)
        assert a.status == 409 and a.fields == {"domain"}, a
    moved = ctl.request("PATCH", f"/api/tunnels/{whole['id']}", {"domain": "tls.example"})
    assert moved.status == 409 and moved.fields == {"tls"}, moved
    off = make("/x", "off.example", tls="off").json
    moved = ctl.request("PATCH", f"/api/tunnels/{off['id']}", {"domain": "tls.example"})
    assert moved.status == 409 and moved.fields == {"tls"}, moved
    assert ctl.ok("PATCH", f"/api/tunnels/{off['id']}", {"domain": "tls.example", "tls": "auto"})["path"] == "/x"


def test_one_tls_wins_when_several_come_at_once(ctl, agent):
    def make(n):
        return ctl.request("POST", "/api/tunnels", {"domain": "race.example", "path": f"/{n}", "agentId": agent["id"],
                                                    "target": "a:1", "tls": ("own", "auto", "off")[n % 3]})
    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(make, range(9)))
    assert sorted(a.status for a in answers) == [201] * 3 + [409] * 6, answers
    made = ctl.ok("GET", "/api/tunnels?domain=race.example")["items"]
    assert len(made) == 3 and len({t["tls"] for t in made}) == 1

    def turn(n):
        return ctl.request("PATCH", f"/api/tunnels/{made[n % 3]['id']}", {"tls": ("own", "auto", "off")[n % 3], "description": str(n)})
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert {a.status for a in pool.map(turn, range(12))} == {200}
    assert len({t["tls"] for t in ctl.ok("GET", "/api/tunnels?domain=race.example")["items"]}) == 1


def test_tunnels_of_a_domain(ctl, agent):
    for p in (None, "/1", "/2"):
        ctl.ok("POST", "/api/tunnels", {"domain": "listed.example", "path": p, "agentId": agent["id"], "target": "a:1"})
    got = ctl.ok("GET", "/api/tunnels?domain=LISTED.example")
    assert [t["path"] for t in got["items"]] == [None, "/1", "/2"] and got["total"] == 3 and got["next"] is None
    page = ctl.ok("GET", "/api/tunnels?domain=listed.example&limit=2")
    assert page["total"] == 3 and len(page["items"]) == 2
    rest_ = ctl.ok("GET", f"/api/tunnels?domain=listed.example&limit=2&cursor={page['next']}")
    assert [t["path"] for t in rest_["items"]] == ["/2"] and rest_["next"] is None
    assert ctl.ok("GET", "/api/tunnels?domain=nobody.example") == {"items": [], "total": 0, "next": None}
    for bad in ("domain=", "domain=a_b", "gateway=x", "status=ready", "path=/1"):
        a = ctl.request("GET", f"/api/tunnels?{bad}")
        assert a.status == 400 and a.fields == {bad.split("=")[0]}, a


def test_every_mistake_by_its_place(ctl, agent):
    a = ctl.request("POST", "/api/tunnels", {
        "domain": "bad.example", "path": "/a/../b", "agentId": agent["id"], "target": "ftp://x", "targetProtocol": "gopher",
        "options": {"colour": 1, "hsts": {"maxAge": -1}, "requestHeaders": {"set": {"Host": "x", "X-A": "a\nb"}},
                    "redirects": [{"from": "/a", "to": "/b"}, {"from": "b", "to": "//c", "status": 304}],
                    "rateLimit": "many"}})
    assert a.status == 400 and a.fields == {
        "path", "target", "targetProtocol", "options.colour", "options.hsts.maxAge", "options.requestHeaders.set.Host",
        "options.requestHeaders.set.X-A", "options.redirects[1].from", "options.redirects[1].to",
        "options.redirects[1].status", "options.rateLimit"}, a
    a = ctl.request("POST", "/api/tunnels", {
        "match": {"domain": "bad.example", "path": "a"}, "targets": [{"agentId": "x", "target": "https://x", "protocol": "h2c"}],
        "options": {"tlsVerify": False}})
    assert a.fields == {"match.path", "targets[0].agentId", "targets[0].protocol", "options.tlsVerify"}, a
    for body, fields in (({"path": "/x", "match": {"domain": "bad.example"}, "target": "a:1", "agentId": NOBODY}, {"match"}),
                         ({"protocol": "https", "domain": "bad.example", "target": "a:1", "agentId": NOBODY}, {"protocol"}),
                         ({"targetProtocol": "https", "domain": "bad.example", "targets": [{"target": "a:1", "agentId": NOBODY}]},
                          {"targets"})):
        a = ctl.request("POST", "/api/tunnels", body)
        assert a.status == 400 and a.fields == fields, a


def test_what_does_not_go_together(ctl, agent):
    """An update is judged by the tunnel that it makes."""
    t = ctl.ok("POST", "/api/tunnels", {"domain": "whole.example", "path": "/p", "agentId": agent["id"],
                                        "target": "https://10.0.0.5", "options": {
                                            "tlsVerify": False, "maintenance": True, "maxConnections": 5,
                                            "redirects": [{"from": "/p/a", "to": "https://other.example/p/a"}]}})
    path = f"/api/tunnels/{t['id']}"
    for body, fields in (
            ({"tls": "passthrough"}, {"path", "targetProtocol", "options.tlsVerify", "options.maintenance", "options.redirects"}),
            ({"tls": "passthrough", "path": None, "targetProtocol": "http", "options": {"tlsVerify": None}},
             {"options.maintenance", "options.redirects"}),
            ({"target": "http://10.0.0.5"}, {"options.tlsVerify"}), ({"domain": "other.example"}, {"options.redirects[0].to"}),
            ({"path": "/q"}, {"options.redirects[0].from"}), ({"options": {"tlsCa": "x"}}, {"options.tlsCa"})):
        a = ctl.request("PATCH", path, body)
        assert a.status == 400 and a.fields == fields, (body, a)
        assert ctl.ok("GET", path)["options"] == t["options"]
    p = ctl.ok("PATCH", path, {"tls": "passthrough", "path": None, "target": "10.0.0.5:443", "targetProtocol": "http",
                               "options": {"tlsVerify": None, "maintenance": False, "redirects": None}})
    assert (p["tls"], p["path"], p["targetProtocol"], p["options"]) == ("passthrough", None, "http", {"maxConnections": 5})
    for body, fields in (({"options": {"stripPath": True}}, {"options.stripPath"}), ({"path": "/p"}, {"path"}),
                         ({"target": "https://10.0.0.5"}, {"targetProtocol"})):
        a = ctl.request("PATCH", path, body)
        assert a.status == 400 and a.fields == fields and "passthrough" in a.json["details"][0]["message"], a
    assert ctl.request("PATCH", f"/api/tunnels/{NOBODY}", {"path": "/p"}).status == 404


def test_the_agent_that_a_tunnel_leaves_hears_last(ctl):
    """It ends at once what it does not serve, and a gateway that has not heard would still send there."""
    a, b, g = ctl.agent(), ctl.agent(), ctl.gateway()
    t = ctl.tunnel(a)
    path, heard = f"/api/tunnels/{t['id']}", []

    async def hear(name, link, *types):
        m = await link.get(*types)
        heard.append((name, m[0]))
        return m[1]

    async def main():
        async with Link(ctl, a) as la, Link(ctl, b) as lb, Link(ctl, g) as lg:
            for link in (la, lb, lg):
                await link.data("config")
            await rest(ctl, "PATCH", path, {"agentId": b["id"]})
            await asyncio.gather(hear("old", la, "tunnel_delete"), hear("new", lb, "tunnel_create"),
                                 hear("gateway", lg, "tunnel_update"))
            assert heard[-1] == ("old", "tunnel_delete"), heard
            # One that is to get something does not wait, and misses nothing.
            await rest(ctl, "PATCH", path, {"agentId": a["id"]})
            await lg.data("tunnel_update")
            back = await la.next_is("tunnel_create")
            again = await rest(ctl, "PATCH", path, {"agentId": b["id"]})
            gone, come = await lb.next_is("tunnel_delete"), await lb.next_is("tunnel_create")
            assert gone["revision"] == back["revision"] == come["previous"] and come["tunnel"]["targetId"] == again["targetId"]
            assert (await la.next_is("tunnel_delete"))["revision"] == come["revision"]
    run(main())


def test_updates_at_once_lose_nothing(ctl, agent):
    t = ctl.ok("POST", "/api/tunnels", {"domain": "busy.example", "agentId": agent["id"], "target": "a:1"})
    path = f"/api/tunnels/{t['id']}"
    wishes = [{"stripPath": True}, {"hostHeader": "target"}, {"hsts": True}, {"maintenance": True}, {"rateLimit": "5/s"},
              {"addressRateLimit": "5/s"}, {"maxBody": 1}, {"maxConnections": 1}, {"redirects": [{"from": "/a", "to": "/b"}]},
              {"requestHeaders": {"remove": ["A"]}}, {"responseHeaders": {"remove": ["A"]}}]
    with concurrent.futures.ThreadPoolExecutor(len(wishes)) as pool:
        list(pool.map(lambda o: ctl.ok("PATCH", path, {"options": o}), wishes))
    assert set(ctl.ok("GET", path)["options"]) == {k for o in wishes for k in o}


def test_the_document_names_every_option(ctl):
    doc = ctl.ok("GET", "/api/openapi.json")["components"]["schemas"]
    every = set(OPTIONS) | {"tlsCa"}
    for schema in ("TunnelOptions", "TunnelOptionsChange"):
        assert set(doc[schema]["properties"]) == every
    known = {"domain": "doc.example", "agentId": NOBODY, "target": "a:1", "options": {k: None for k in every}}
    assert ctl.request("POST", "/api/tunnels", known).fields == {"agentId"}
    for example in doc["TunnelCreate"]["examples"]:
        made = ctl.request("POST", "/api/tunnels", example)
        assert made.fields == {"agentId"}, f"the document's example is wrong in more than its agent: {made}"
