# SPDX-License-Identifier: MIT
"""Which WireGuard device a daemon gets, and why it says that it does: `wireguard = auto` and `wireguard = kernel` on
a kernel with WireGuard (KM_BACKEND=kernel: the guest of tests/vm) and on one without (anywhere else)."""
import os

import pytest

from tests.lab.proc import patience

PRESENT = os.environ.get("KM_BACKEND") == "kernel"
HAS = "this kernel has WireGuard and lets this process use it"
HAS_NOT = "this kernel has no WireGuard, or has its module not loaded (Operation not supported)"
FORBIDDEN = "CAP_SYS_ADMIN and CAP_NET_ADMIN on the host, which this process has not"
EMBEDDED = ("embedded", FORBIDDEN)

# Who the agent is: user, what it lacks as root; what auto gives it where the kernel has WireGuard, where it has not.
AGENTS = {
    "root": (0, (), ("kernel", HAS), ("embedded", HAS_NOT)),
    "root-without-net-admin": (0, ("net_admin",), EMBEDDED, EMBEDDED),
    "root-without-sys-admin": (0, ("sys_admin",), EMBEDDED, EMBEDDED),
    "user": (65534, (), EMBEDDED, EMBEDDED),
}


@pytest.fixture(scope="module", autouse=True)
def any_backend(served):
    served.backends_vary = True
    # An agent that ends waits for the connections that its gateway keeps; these do it often.
    served.gateway_defaults = {**served.gateway_defaults, "pool_idle_timeout": "100ms"}
    assert served.stop("gatewayd") == 0
    assert served.stop("agentd") == 0
    served.start_gateway(wait=False)


@pytest.fixture
def become(served):
    def become(agent):
        served.agent_uid, served.agent_lacks = AGENTS[agent][:2]
    old = served.agent_uid, served.agent_lacks
    yield become
    if "agentd" in served.procs:
        assert served.stop("agentd") == 0
    served.agent_uid, served.agent_lacks = old


def chosen(s, role):
    """What a daemon's newest private network is made of, by its log; and by its link."""
    line = [x for x in s.procs[role].lines if "private network ready" in x][-1]
    backend = next(w for w in line.split() if w.startswith("wireguard=")).removeprefix("wireguard=")
    assert (backend == "kernel") == ("wireguard" in s.inside(role, "ip", "-d", "link")), line
    return backend, line


@pytest.mark.parametrize("agent", AGENTS)
def test_auto(served, become, agent):
    become(agent)
    served.start_agent(wait=False)
    assert served.wait_served()[0].text == "hello\n"
    for role, who in (("agentd", agent), ("gatewayd", "root")):
        want, why = AGENTS[who][2 if PRESENT else 3]
        backend, line = chosen(served, role)
        assert backend == want and why in line, line


@pytest.mark.parametrize("agent", AGENTS)
def test_kernel_by_name(served, become, agent):
    """It is the kernel's, or one error that names the ways out."""
    become(agent)
    p = served.start_agent(wait=False, wireguard="kernel")
    if PRESENT and agent == "root":
        assert served.wait_served()[0].text == "hello\n"
        assert chosen(served, "agentd")[0] == "kernel"
        return
    said = p.wait_log("agent cannot start")
    assert p.popen.wait(patience(20)) == 1
    del served.procs["agentd"]
    for words in ("wireguard = kernel", HAS_NOT if agent == "root" else FORBIDDEN, "Ways out: ",
                  "or wireguard = auto or embedded"):
        assert words in said, said


# What the gateway has, what the agent is and has.
PAIRS = [("kernel", "user", "auto"), ("kernel", "root", "embedded"), ("embedded", "root", "kernel"),
         ("kernel", "root", "kernel")] if PRESENT else [("embedded", "user", "auto"), ("embedded", "root", "auto")]


@pytest.mark.parametrize("gateway,agent,device", PAIRS, ids=map("-".join, PAIRS))
def test_mixed(served, become, gateway, agent, device):
    """The whole system on one backend at each end: a large body comes whole through both."""
    become(agent)
    assert served.stop("gatewayd") == 0
    served.start_gateway(wait=False, wireguard=gateway)
    served.start_agent(wait=False, wireguard=device)
    _, seconds = served.wait_served()
    assert len(served.get("/bytes/3000000").body) == 3000000
    print(f"\n{gateway} gateway, {device} agent ({agent}): served after {seconds:.2f} s")
    assert chosen(served, "gatewayd")[0] == gateway
    assert (chosen(served, "agentd")[0] == "kernel") == (device == "kernel")
