# SPDX-License-Identifier: MIT
"""What `wireguard = auto` picks where the kernel has WireGuard, and the kernel's device against the
embedded one, in both roles. (What else runs in the guest runs on auto: see guest.sh.)"""
import pytest


def backends(s):
    """The backend of each role's newest warden."""
    found = []
    for role in ("gatewayd", "agentd"):
        line = [x for x in s.procs[role].lines if "warden started" in x][-1]
        found.append(next(w for w in line.split() if w.startswith("backend=")).removeprefix("backend="))
    return tuple(found)


def test_auto_is_the_kernel(served):
    assert backends(served) == ("kernel", "kernel")
    for role in ("gatewayd", "agentd"):
        assert "wireguard" in served.inside(role, "ip", "-d", "link")


@pytest.mark.parametrize("gateway,agent", [("kernel", "embedded"), ("embedded", "kernel")])
def test_kernel_against_embedded(served, gateway, agent):
    for name in ("agentd", "gatewayd"):
        assert served.stop(name) == 0
    served.start_gateway(wait=False, wireguard=gateway)
    served.start_agent(wait=False, wireguard=agent)
    answer, seconds = served.wait_served()
    print(f"\n{gateway} gateway, {agent} agent: served after {seconds:.2f} s")
    assert answer.text == "hello\n"
    assert [b == "kernel" for b in backends(served)] == [gateway == "kernel", agent == "kernel"]
