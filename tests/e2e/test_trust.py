# SPDX-License-Identifier: MIT
"""Hosts with identities: who joins gets a certificate, who is revoked is cut off at once and stays out.

    stranger ── gateway ══ WireGuard ══ (NAT) agent ── target
                    └── control ──┘
"""
import contextlib
import time

import pytest

from tests.lab import System, net
from tests.lab.proc import LabError, patience


@pytest.fixture()
def s(request):
    system = System("kmtr")
    try:
        system.up(agent={"drain_timeout": "1s"})
        yield system
    finally:
        if request.node.stash.get("failed", False):
            system.dump_logs()
        complaints = system.close()
    assert not complaints, complaints


def upgraded(s):
    """A connection that has left HTTP and echoes, through the tunnel."""
    s.start_upgrade_target()
    s.add_certificate("ws.demo.test")
    s.create_tunnel("ws.demo.test", "127.0.0.1:8082")
    s.wait_status("ws.demo.test", "/", 426)
    sock = s.tls.wrap_socket(s.net.stranger.connect(net.GATEWAY, 443), server_hostname="ws.demo.test")
    sock.sendall(b"GET / HTTP/1.1\r\nHost: ws.demo.test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    return sock


def test_a_joined_host_has_a_certificate(s):
    for kind, host in (("agents", s.agent_id), ("gateways", s.gateway_id)):
        h = s.api("GET", f"/api/{kind}/{host}", expect=200)
        assert h["certificate"].startswith("-----BEGIN NEBULA CERTIFICATE V2-----"), h
        assert h["certificateNotAfter"] and h["joinTokenExpiresAt"] is None
    trust = s.api("GET", "/api/trust", expect=200)
    assert trust["signed"] and trust["number"] >= 1
    for role in ("agent", "gateway"):
        state = s.dir / f"{role}-state"
        assert (state / "trust.pem").stat().st_mode & 0o077 == 0
        assert (state / "identity.pem").read_text().startswith("-----BEGIN NEBULA CERTIFICATE V2")
    # A token is of use once, and its refusal says why.
    ag = s.api("POST", "/api/agents", {"name": "other"}, expect=201)
    first = s.dir / "other.conf"
    first.write_text(f"api_key_file = {s.dir}/other.key\nstate_dir = {s.dir}/other-state\n"
                     f"runtime_dir = {s.dir}/other-run\nwarden = {s.build}/km-warden\n")
    out = s.join("agent", ag["joinToken"], conf=first)
    assert "other" in out and "kakuremichi-agentd" in out
    with pytest.raises(LabError, match="has joined before"):
        s.join("agent", ag["joinToken"], conf=first)
    s.join("agent", ag["joinToken"], "-f", conf=first)  # the same key: an answer may have been lost
    second = s.dir / "thief.conf"
    second.write_text(first.read_text().replace("other", "thief"))
    with pytest.raises(LabError, match="used already, by another key"):
        s.join("agent", ag["joinToken"], conf=second)
    assert not (s.dir / "thief.key").exists()
    with pytest.raises(LabError, match="this join token is for an agent"):
        s.join("gateway", ag["joinToken"], "-f")
    with pytest.raises(LabError, match="no join token"):
        s.join("agent", "nonsense", conf=second)


@pytest.mark.parametrize("how", ["revoke", "delete"])
def test_cut_off_at_once(s, how):
    t = s.create_tunnel()
    s.wait_served()
    if how == "delete":
        s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204)
        s.api("DELETE", f"/api/agents/{s.agent_id}", expect=204)
    else:
        held = upgraded(s)
        s.api("POST", f"/api/agents/{s.agent_id}/revoke", expect=200)
        began = time.monotonic()
        held.settimeout(patience(10))
        with contextlib.suppress(OSError):
            assert held.recv(1) == b""
        cut = time.monotonic() - began
        held.close()
        s.wait_status(s.domain, "/", 502)
        print(f"revoked: a connection that ran was cut {cut * 1000:.0f} ms, and requests refused "
              f"{(time.monotonic() - began) * 1000:.0f} ms after the answer to POST …/revoke")
        h = s.api("GET", f"/api/agents/{s.agent_id}", expect=200)
        assert h["status"] == "revoked" and h["certificate"] is None
    s.procs["gatewayd"].wait_log("trust bundle taken")
    s.procs["agentd"].wait_log("control refuses this host")
    if how == "revoke":
        # A new join token lets it in again, with a certificate of its own.
        token = s.api("POST", f"/api/agents/{s.agent_id}/join-token", expect=201)["joinToken"]
        s.stop("agentd")
        s.join("agent", token, "-f")
        # Root has joined; the state is still the agent's own.
        assert {p.stat().st_uid for p in (s.dir / "agent-state").iterdir()} == {s.agent_uid}
        s.start_agent(wait=False)
        s.wait_served()


def test_every_gateway_cuts_off(s):
    """A second gateway that is connected hears of a revocation at once, and one that was away hears of it before
    anything else when it comes back."""
    agents, = s.wg_peers("gateway")
    s.add_gateway(2)
    assert agents in s.wg_peers("gateway2")
    s.stop("gatewayd")
    s.api("POST", f"/api/agents/{s.agent_id}/revoke", expect=200)
    began = time.monotonic()
    while agents in s.wg_peers("gateway2"):
        assert time.monotonic() - began < patience(10)
    print(f"revoked: a second gateway has no such peer {(time.monotonic() - began) * 1000:.0f} ms after the answer")
    back = s.start_gateway(wait=False)
    back.wait_log("configuration applied", timeout=30)
    assert agents not in s.wg_peers("gateway")
