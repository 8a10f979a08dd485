# SPDX-License-Identifier: MIT
"""A control outage never stops traffic; what breaks on the way comes back by itself."""
import os
import select
import signal
import time

from tests.lab import client, net
from tests.lab.proc import patience


def postmaster(system):
    path = system.dir / "control/postgres/data/postmaster.pid"
    return int(path.read_text().split()[0])


def wait_gone(pid, timeout=20):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(patience(timeout) * 1000))
    finally:
        os.close(fd)


def test_control_killed_and_back(served):
    s = served
    pg = postmaster(s)
    s.procs["controld"].kill()
    conn = s.stranger()
    answers = [client.request(conn, "GET", "/").status for _ in range(1000)]
    conn.close()
    assert answers == [200] * 1000
    assert wait_gone(pg), "the database outlived its controld"

    assert s.stop("gatewayd") == 0
    began = time.monotonic()
    s.start_gateway(wait=False)
    s.wait_served()
    gateway_back = time.monotonic() - began

    assert s.stop("agentd") == 0
    began = time.monotonic()
    s.start_agent(wait=False)
    s.wait_served()
    print(f"\nwithout control: traffic {gateway_back:.2f} s after gatewayd's start, "
          f"{time.monotonic() - began:.2f} s after agentd's")

    s.start_control()
    for name in ("gatewayd", "agentd"):
        s.procs[name].wait_log("authenticated", timeout=30)
    want = s.api("PATCH", f"/api/tunnels/{s.tunnel['id']}", {"description": "again"}, expect=200)
    assert want["description"] == "again"
    end = time.monotonic() + patience(20)
    while True:
        a = s.api("GET", f"/api/agents/{s.agent_id}", expect=200)
        g = s.api("GET", f"/api/gateways/{s.gateway_id}", expect=200)
        if a["status"] == g["status"] == "online" and a.get("appliedRevision") \
                and g.get("appliedRevision"):
            break
        assert time.monotonic() < end, (a, g)


def back_within(s, what):
    answer, seconds = s.wait_served(timeout=25, attempt_timeout=2)
    print(f"\n{what}: back after {seconds:.2f} s")
    assert answer.text == "hello\n"
    return seconds


def test_gateway_killed_and_restarted(served):
    s = served
    s.procs["gatewayd"].kill()
    s.start_gateway(wait=False)
    back_within(s, "gatewayd killed and restarted")


def test_gateway_host_loses_everything_but_its_disk(served):
    """Daemon and warden gone at once, as when the host restarts."""
    s = served
    others = [p for p in s.family("gatewayd") if p != s.procs["gatewayd"].pid]
    assert len(others) >= 1
    s.procs["gatewayd"].kill()
    for pid in others:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        assert wait_gone(pid)
    s.start_gateway(wait=False)
    back_within(s, "gateway host restarted")


def test_gateway_warden_killed(served):
    s = served
    warden, = s.family("gatewayd", "km-warden")
    os.kill(warden, signal.SIGKILL)
    back_within(s, "gateway's warden killed")


def test_agent_warden_killed(served):
    s = served
    warden, = s.family("agentd", "km-warden")
    os.kill(warden, signal.SIGKILL)
    back_within(s, "agent's warden killed")


def test_agents_outer_address_changes(served):
    s = served
    s.net.agent.ip("addr", "flush", "dev", "eth0")
    s.net.agent.ip("addr", "add", "192.168.77.20/24", "dev", "eth0")
    s.net.agent.ip("route", "add", "default", "via", net.AGENT_ROUTER)
    back_within(s, "agent's address changed")


def test_nat_mapping_dropped(served):
    s = served
    s.net.drop_nat()
    back_within(s, "NAT mapping dropped")


def test_nat_router_gets_another_address(served):
    s = served
    s.net.nat.ip("addr", "flush", "dev", "eth0")
    s.net.nat.ip("addr", "add", "203.0.113.44/24", "dev", "eth0")
    s.net.drop_nat()
    back_within(s, "NAT router's address changed")
