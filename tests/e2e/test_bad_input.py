# SPDX-License-Identifier: MIT
"""Bad input gets its clear error; nothing else notices; the log names it once."""
import asyncio
import json
import ssl
import time

import pytest
import websockets

from tests.lab import client, net
from tests.lab.proc import patience


# ---- the link ---------------------------------------------------------------------------------

def link_tls():
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_NONE
    return c


def talk(s, script, kind="agent"):
    """Runs script(ws) against control's link from the stranger's host."""
    async def main():
        sock = s.net.stranger.connect(net.CONTROL, 3001)
        async with websockets.connect(f"wss://control.demo.test:3001/ws?type={kind}", sock=sock,
                                      ssl=link_tls(), server_hostname="control.demo.test",
                                      compression=None, max_size=None, ping_interval=None) as ws:
            return await asyncio.wait_for(script(ws), patience(20))
    return asyncio.run(main())


def message(type_, **data):
    return json.dumps({"type": type_, "data": data})


async def answer(ws, type_):
    while True:
        m = json.loads(await ws.recv())
        if m["type"] == type_:
            return m["data"]


def undisturbed(s):
    """The tunnel still answers and the agent's link was not touched."""
    assert s.get("/").status == 200
    assert s.procs["agentd"].count_log("link closed", since=s.marks["agentd"]) == 0
    assert s.procs["gatewayd"].count_log("link closed", since=s.marks["gatewayd"]) == 0


@pytest.fixture
def s(served):
    if not hasattr(served, "spare"):
        served.spare = served.api("POST", "/api/agents", {"name": "spare"}, expect=201)
    served.marks = {n: served.procs[n].mark() for n in ("agentd", "gatewayd", "controld")}
    yield served
    undisturbed(served)


def logged_once(s, *words, name="controld"):
    s.procs[name].wait_log(*words, since=s.marks[name], timeout=10)
    assert s.procs[name].count_log(*words, since=s.marks[name]) == 1


def test_wrong_key(s):
    async def script(ws):
        await ws.send(message("auth", apiKey="agt_" + "A" * 43))
        return await answer(ws, "auth_error"), await ws.wait_closed()
    assert talk(s, script)[0]["message"]
    logged_once(s, "auth refused")


def test_gateway_key_at_an_agents_door(s):
    g = s.api("POST", "/api/gateways", {"name": "spare-gw"}, expect=201)

    async def script(ws):
        await ws.send(message("auth", apiKey=g["apiKey"]))
        return await answer(ws, "auth_error")
    assert talk(s, script)["message"]
    s.api("DELETE", f"/api/gateways/{g['id']}", expect=204)


def test_second_host_with_the_same_key(s):
    """The newest connection of an id wins; the older one is told and closed."""
    async def main():
        async def connect():
            sock = s.net.stranger.connect(net.CONTROL, 3001)
            return await websockets.connect("wss://control.demo.test:3001/ws?type=agent", sock=sock,
                                            ssl=link_tls(), server_hostname="control.demo.test",
                                            compression=None, ping_interval=None)
        first, second = await connect(), await connect()
        try:
            await first.send(message("auth", apiKey=s.spare["apiKey"]))
            await answer(first, "auth_success")
            await second.send(message("auth", apiKey=s.spare["apiKey"]))
            await answer(second, "auth_success")
            error = await answer(first, "error")
            await asyncio.wait_for(first.wait_closed(), patience(10))
            await second.send(message("heartbeat", timestamp=1))
            return error
        finally:
            await first.close()
            await second.close()
    assert asyncio.run(asyncio.wait_for(main(), patience(30)))["message"]
    logged_once(s, "takes over")


def test_two_hosts_fighting_over_one_id_are_throttled(s):
    async def script(ws):
        await ws.send(message("auth", apiKey=s.spare["apiKey"]))
        while True:
            m = json.loads(await ws.recv())
            if m["type"] in ("auth_success", "auth_error"):
                return m
    seen = [talk(s, script) for _ in range(12)]
    # One after the other is no fight: each had closed before the next came.
    assert seen[0]["type"] == "auth_success"


def authenticated(s, then):
    async def script(ws):
        await ws.send(message("auth", apiKey=s.spare["apiKey"]))
        await answer(ws, "auth_success")
        return await then(ws)
    return talk(s, script)


@pytest.mark.parametrize("text", [
    message("no_such_type"), "{", "[]", "null", '{"type": 5}', '{"data": {}}',
    '{"type": "status", "data": {"tunnels": [{"id": "x"}]}}',
    '{"type": "config_ack", "data": {"epoch": "e", "revision": "one"}}',
    '{"type": "heartbeat", "data": {"timestamp": 1, "timestamp": 2}}',
    b"\x00\x01binary"], ids=lambda t: repr(t)[:40])
def test_messages_that_mean_nothing(s, text):
    async def then(ws):
        await ws.send(text)
        e = await answer(ws, "error")
        await ws.send(message("heartbeat", timestamp=1))
        await (await ws.ping())  # the connection stays
        return e
    e = authenticated(s, then)
    assert e["code"] == "INVALID_MESSAGE" and e["message"]


def test_ten_mebibytes(s):
    async def then(ws):
        with pytest.raises(websockets.ConnectionClosed):
            await ws.send("x" * (10 << 20))
            while True:  # trust and configuration may be on their way
                await ws.recv()
        return ws.close_code
    assert authenticated(s, then) in (1009, 1006)


def test_a_truncated_frame(s):
    """A frame that promises more than comes, then the end."""
    sock = link_tls().wrap_socket(s.net.stranger.connect(net.CONTROL, 3001))
    sock.sendall(b"GET /ws?type=agent HTTP/1.1\r\nHost: control.demo.test:3001\r\nUpgrade: websocket\r\n"
                 b"Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                 b"Sec-WebSocket-Version: 13\r\n\r\n")
    assert b" 101 " in sock.recv(4096)
    sock.sendall(b"\x81\xfe\x10\x00\x00\x00\x00\x00{")
    sock.close()


def test_nothing_before_auth(s):
    async def script(ws):
        await ws.send(message("heartbeat", timestamp=1))
        return await answer(ws, "auth_error")
    assert talk(s, script)["message"]


# ---- REST -------------------------------------------------------------------------------------

def rest(s, method, path, data, headers=None):
    conn = s.api_connection()
    try:
        return client.request(conn, method, path, data, {"Authorization": f"Bearer {s.token}",
                                                         "Content-Type": "application/json",
                                                         **(headers or {})})
    finally:
        conn.close()


def test_rest_invalid_json(s):
    a = rest(s, "POST", "/api/tunnels", b'{"domain": ')
    assert a.status == 400 and a.json()["code"] == "VALIDATION_ERROR"


def test_rest_duplicate_domain(s):
    a = s.api("POST", "/api/tunnels", {"domain": s.domain.upper(), "agentId": s.agent_id,
                                       "target": "127.0.0.1:1"})
    assert a.status == 409 and a.json()["code"] == "CONFLICT" and "domain" in a.text


@pytest.mark.parametrize("target", ["", "nonsense", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536",
                                    "unix:relative", "[::1]", "a b:80", "x" * 400 + ":80"])
def test_rest_bad_target(s, target):
    a = s.api("POST", "/api/tunnels", {"domain": "bad.demo.test", "agentId": s.agent_id,
                                       "target": target})
    assert a.status == 400, a
    assert any(d["field"] == "target" and d["message"] for d in a.json()["details"])


def test_rest_chunked_body(s):
    body = json.dumps({"domain": "chunked.demo.test", "agentId": s.agent_id,
                       "target": "127.0.0.1:8080"}).encode()
    conn = s.api_connection()
    conn.request("POST", "/api/tunnels", iter([body[:10], body[10:]]),
                 {"Authorization": f"Bearer {s.token}", "Content-Type": "application/json",
                  "Transfer-Encoding": "chunked"}, encode_chunked=True)
    r = conn.getresponse()
    made = json.loads(r.read())
    assert r.status == 201 and made["domain"] == "chunked.demo.test"
    conn.close()
    s.api("DELETE", f"/api/tunnels/{made['id']}", expect=204)


def test_rest_without_a_token(s):
    a = s.api("GET", "/api/tunnels", token="kmt_" + "A" * 43)
    assert a.status == 401 and a.json()["code"] == "UNAUTHORIZED"


# ---- the edge ---------------------------------------------------------------------------------

def raw(s, data, domain=None, reads=1 << 16):
    sock = s.tls.wrap_socket(s.net.stranger.connect(net.GATEWAY, 443, timeout=patience(20)),
                             server_hostname=domain or s.domain)
    try:
        try:
            sock.sendall(data)
        except OSError:
            pass  # answered and closed before all was taken
        got = b""
        try:
            while b"\r\n\r\n" not in got:
                piece = sock.recv(reads)
                if not piece:
                    break
                got += piece
        except OSError:
            pass
        return got
    finally:
        sock.close()


HOST = b"Host: hello.demo.test\r\n"


@pytest.mark.parametrize("head,status", [
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (1 << 20) + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    (b"GET / HTTP/1.1\nHost: hello.demo.test\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: unknown.demo.test\r\n\r\n", 404),
    (b"\x16\x03\x01\x00\x05hello", 400),
], ids=["no host", "two hosts", "length and chunked", "header of 1 MiB", "two lengths", "bare LF",
        "unknown host", "garbage"])
def test_edge(s, head, status):
    got = raw(s, head)
    assert got.startswith(b"HTTP/1.1 %d " % status), got[:200]


def test_host_outside_the_connections_certificate(s):
    t = s.create_tunnel("other.demo.test")
    s.procs["gatewayd"].wait_log("configuration applied", "tunnel_create", since=s.marks["gatewayd"])
    got = raw(s, b"GET / HTTP/1.1\r\nHost: other.demo.test\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 421 "), got[:200]
    s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204)


@pytest.mark.parametrize("name", [None, "nobody.demo.test"])
def test_unknown_server_name(s, name):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError) as e:
        c.wrap_socket(s.net.stranger.connect(net.GATEWAY, 443), server_hostname=name)
    assert "UNRECOGNIZED_NAME" in str(e.value).upper(), e.value


# ---- the agent --------------------------------------------------------------------------------

def test_target_outside_the_agents_own_list(s):
    """Whatever control says: the agent's settings list what it may be asked for."""
    s.add_certificate("scan.demo.test")
    t = s.create_tunnel("scan.demo.test", f"{net.AGENT_ROUTER}:22")
    a = s.wait_status("scan.demo.test", "/", 502)
    assert net.AGENT_ROUTER not in a.text and "agent" not in a.text.lower()
    s.procs["agentd"].wait_log("refused", f"{net.AGENT_ROUTER}:22", since=s.marks["agentd"])
    got = wait_agent(s, lambda a: a["configError"])
    assert f"{net.AGENT_ROUTER}:22" in got["configError"]
    # A later change is applied; what stands refused is still told.
    before = got["appliedRevision"]
    other = s.create_tunnel("fine.demo.test")
    got = wait_agent(s, lambda a: a["appliedRevision"] > before)
    assert f"{net.AGENT_ROUTER}:22" in got["configError"]
    s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204)
    assert wait_agent(s, lambda a: not a["configError"])["appliedRevision"] > before
    s.api("DELETE", f"/api/tunnels/{other['id']}", expect=204)


def wait_agent(s, good):
    end = time.monotonic() + patience(20)
    while True:
        got = s.api("GET", f"/api/agents/{s.agent_id}", expect=200)
        if good(got):
            return got
        assert time.monotonic() < end, got


def test_agents_door_wants_the_header_and_a_gateways_address(s):
    vip = s.api("GET", f"/api/agents/{s.agent_id}", expect=200)["virtualIp"]
    ask = ("import socket\ntry:\n s=socket.create_connection(('%s',80),60)\n s.settimeout(60)\n"
           " s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')\n print(repr(s.recv(100)))\n"
           "except ConnectionError: print('reset')\n")
    # From the gateway's side, without the header.
    assert s.inside("gatewayd", "/usr/bin/python3", "-c", ask % vip).strip() in ("b''", "reset")
    s.procs["agentd"].wait_log("refused", since=s.marks["agentd"])
    # From the agent's own address, which is no gateway's.
    assert s.inside("agentd", "/usr/bin/python3", "-c", ask % vip).strip() in ("b''", "reset")
