# SPDX-License-Identifier: MIT
"""A gateway that is named by a host name with several addresses; names from a real DNS server.

      stranger .10 ─────┐
      gateway .2 and .5 ┼ 203.0.113.0/24 ── nat ── agent          (.66 is nobody)
      control .3 (DNS) ─┘
"""
import json

from tests.lab import net
from tests.lab.dns import Dns

NAME = "gw.demo.test"
NOBODY = "203.0.113.66"


def metric(s, name):
    text = s.net.agent.exec("curl", "-sS", "http://127.0.0.1:9102/metrics")
    value, = (line.split()[-1] for line in text.splitlines() if line.startswith(name + "{"))
    return float(value)


def cut_udp(s, address):
    """No UDP between the agent and this address any more, either way."""
    s.net.nat.exec("nft", "-f", "-", input=(
        "table ip cut {\n chain c {\n  type filter hook forward priority -10;\n"
        f"  meta l4proto udp ip daddr {address} drop\n"
        f"  meta l4proto udp ip saddr {address} drop\n }}\n}}\n"))


def test_a_name_with_several_addresses(fresh):
    s = fresh
    s.net.gateway.ip("addr", "add", f"{net.GATEWAY2}/24", "dev", "eth0")
    dns = Dns(s, s.net.control, net.CONTROL, {NAME: [NOBODY, net.GATEWAY]})
    dns.serve(s.net.agent)
    s.up(gateway=dict(public_ip=NAME))
    agent = s.procs["agentd"]
    s.create_tunnel()

    # the first address is dead
    agent.wait_log("gateway's address chosen", f"address={NOBODY}")
    _, seconds = s.wait_served(timeout=25)
    agent.wait_log("gateway is tried at another address", f"address={net.GATEWAY}", f"before={NOBODY}")
    print(f"\nfirst address dead: served {seconds:.1f} s after the tunnel was made")
    assert metric(s, "kakuremichi_agent_gateway_addresses") == 2
    assert metric(s, "kakuremichi_agent_gateway_moves_total") == 1

    # the name changes under a running system: what works stays …
    dns.change({NAME: [net.GATEWAY2]})
    mark = agent.mark()
    assert s.get().status == 200
    assert agent.count_log("tried at another address", since=mark) == 0
    # … until it is dead
    cut_udp(s, net.GATEWAY)
    agent.wait_log("gateway is tried at another address", f"address={net.GATEWAY2}", since=mark)
    _, seconds = s.wait_served(timeout=25)
    agent.wait_log("path to gateway is up", since=mark)
    print(f"name changed, old address dead: served again {seconds:.1f} s after the agent moved")
    assert metric(s, "kakuremichi_agent_gateway_moves_total") == 2

    # no DNS at all, and a restart: what is on disk is the way
    dns.stop()
    assert s.stop("agentd") == 0
    kept = json.loads((s.dir / "agent-state/endpoints.json").read_text())
    assert kept == {s.gateway_id: {"names": {NAME: [net.GATEWAY2]}, "worked": net.GATEWAY2}}
    agent = s.start_agent(wait=False)
    agent.wait_log("gateway's address chosen", f"address={net.GATEWAY2}")
    s.wait_served(timeout=25)
    agent.wait_log("gateway's name not resolved", NAME)
    assert metric(s, "kakuremichi_agent_resolve_failures_total") >= 1


def test_an_unreachable_family_is_passed_over(fresh):
    """The agent has no IPv6: of two addresses it takes the one to which it has a route, at once."""
    s = fresh
    dns = Dns(s, s.net.control, net.CONTROL, {NAME: ["2001:db8::2", net.GATEWAY]})
    dns.serve(s.net.agent)
    s.up(gateway=dict(public_ip=f"2001:db8::5 {NAME}"))
    s.create_tunnel()
    s.wait_served()
    agent = s.procs["agentd"]
    agent.wait_log("gateway's address chosen", f"address={net.GATEWAY}")
    assert agent.count_log("tried at another address") == 0
    assert metric(s, "kakuremichi_agent_gateway_addresses") == 3
