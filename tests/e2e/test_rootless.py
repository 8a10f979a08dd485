# SPDX-License-Identifier: MIT
"""The agent and its warden as an ordinary user without any capability. (The other modules run it so,
too; here is what only concerns that.)

    agentd (host's network) ── km-warden (host's network: UDP socket, engine)
                                   └─ km-inside (the private network: makes sockets)
"""
import json
import os
import pathlib
import re
import select
import signal
import subprocess

import pytest

from tests.lab import System, net
from tests.lab.system import SANITIZER_ENV

UID = 65534


@pytest.fixture(scope="module", autouse=True)
def agent_user():
    old = os.environ.get("KM_LAB_AGENT_UID")
    os.environ["KM_LAB_AGENT_UID"] = str(UID)
    yield
    if old is None:
        del os.environ["KM_LAB_AGENT_UID"]
    else:
        os.environ["KM_LAB_AGENT_UID"] = old


def status_lines(pid, word):
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status"):
        yield from (line for line in path.read_text().splitlines() if line.startswith(word))


def host_side(ns):
    """Links, addresses, routes and rules of a host, without what changes by itself."""
    parts = [ns.ip("-o", "link"), ns.ip("-o", "addr"), ns.ip("route", "show", "table", "all"),
             ns.ip("-6", "route", "show", "table", "all"), ns.ip("rule")]
    return re.sub(r" (valid_lft|preferred_lft|expires) \S+", "", "\n".join(parts))


def wait_gone(pid):
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(20000), f"process {pid} lives on"
    os.close(fd)


def family(s):
    pids = {comm: s.family("agentd", comm) for comm in ("agentd", "km-warden", "km-inside")}
    assert all(len(p) == 1 for p in pids.values()), pids
    assert sorted(p for p, in pids.values()) == s.family("agentd")
    return {comm: p for comm, (p,) in pids.items()}


def test_served_without_a_capability(served):
    assert served.get("/").text == "hello\n"
    for comm, pid in family(served).items():
        caps = list(status_lines(pid, "Cap"))
        assert len(caps) >= 5 and all(line.split()[1] == "0" * 16 for line in caps), (comm, caps)
        assert all(line.split()[1:] == [str(UID)] * 4 for line in status_lines(pid, "Uid")), comm


def test_auto_is_embedded_and_says_why(served):
    line = served.procs["agentd"].wait_log("private network ready")
    assert "wireguard=embedded" in line
    assert "CAP_NET_ADMIN" in line


def test_warden_stays_outside(served):
    """The warden and the agent are in the host's namespaces; only km-inside is not, and it is nobody."""
    pids = family(served)
    where = {comm: (os.readlink(f"/proc/{p}/ns/user"), os.readlink(f"/proc/{p}/ns/net"))
             for comm, p in pids.items()}
    assert where["agentd"] == where["km-warden"]
    assert where["km-inside"][0] != where["agentd"][0]
    assert where["km-inside"][1] != where["agentd"][1]
    assert pathlib.Path(f"/proc/{pids['km-inside']}/uid_map").read_text().split() == ["0", str(UID), "1"]


def test_agents_host_is_untouched(served):
    s = served
    during = host_side(s.net.agent)
    links = sorted(x["ifname"] for x in json.loads(s.net.agent.ip("-j", "link")))
    assert links == ["eth0", "lo"]
    assert s.stop("agentd") == 0
    assert s.family("agentd") == []
    assert host_side(s.net.agent) == during
    s.start_agent(wait=False)
    s.wait_served()
    assert host_side(s.net.agent) == during


@pytest.mark.parametrize("comm", ["km-warden", "km-inside"])
def test_back_after_a_kill(served, comm):
    pids = family(served)
    mark = served.procs["agentd"].mark()
    os.kill(pids[comm], signal.SIGKILL)
    wait_gone(pids["km-warden"])
    wait_gone(pids["km-inside"])
    served.procs["agentd"].wait_log("private network ready", since=mark, timeout=20)
    _, seconds = served.wait_served(timeout=25, attempt_timeout=2)
    print(f"\n{comm} killed: back after {seconds:.2f} s")
    assert family(served)["agentd"] == pids["agentd"]


def test_agent_killed_and_restarted(served):
    """The warden waits for the next agent, which finds its sessions."""
    pids = family(served)
    served.procs["agentd"].kill()
    p = served.start_agent(wait=False)
    assert "reused=1" in p.wait_log("private network ready")
    served.wait_served()
    assert {c: p for c, p in family(served).items() if c != "agentd"} == \
        {c: p for c, p in pids.items() if c != "agentd"}


def test_agents_outer_address_changes(served):
    s = served
    s.net.agent.ip("addr", "flush", "dev", "eth0")
    s.net.agent.ip("addr", "add", "192.168.77.20/24", "dev", "eth0")
    s.net.agent.ip("route", "add", "default", "via", net.AGENT_ROUTER)
    _, seconds = s.wait_served(timeout=25, attempt_timeout=2)
    print(f"\nagent's address changed: back after {seconds:.2f} s")


# ---- where it is forbidden -------------------------------------------------------------------------


def refused(s, tun_mode="0666", before="", **settings):
    """Starts an agent that cannot start; its standard error. The limits that it meets are those of
    namespaces of its own: nothing is changed on this machine."""
    d = s.dir / "refused"
    for p in (d, d / "state", d / "run"):
        p.mkdir(exist_ok=True, mode=0o700)
        os.chown(p, UID, UID)
    conf = s.conf("refused", state_dir=d / "state", runtime_dir=d / "run", log_level="info",
                  warden=s.program("km-warden"), metrics_listen="127.0.0.1:9199", **settings)
    argv = s.unprivileged("unshare", "-U", f"--map-user={UID}", f"--map-group={UID}", "--keep-caps",
                          "sh", "-ec", before + 'exec setpriv --inh-caps=-all --ambient-caps=-all -- "$@"',
                          "sh", s.program("agentd"), "-c", conf, tun_mode=tun_mode)
    r = subprocess.run(s.net.agent.argv(*map(str, argv)), capture_output=True, text=True, timeout=60,
                       env={**os.environ, **SANITIZER_ENV})
    assert r.returncode == 1, (r.returncode, r.stderr)
    lines = [line for line in r.stderr.splitlines() if " error:" in line or " warn:" in line]
    assert len(lines) == 1, "not one clear message:\n" + r.stderr
    assert not list((d / "run").iterdir()), "something was left"
    return lines[0]


@pytest.mark.parametrize("limit", ["max_user_namespaces", "max_net_namespaces"])
def test_namespaces_forbidden(served, limit):
    said = refused(served, before=f"echo 0 > /proc/sys/user/{limit}; ")
    for words in (f"user.{limit} is 0", f"sysctl user.{limit}=", "run as root", "network = host"):
        assert words in said, said


def test_tun_forbidden(served):
    said = refused(served, tun_mode="0600")
    for words in ("/dev/net/tun cannot be used by uid 65534", "chmod 0666", "--device /dev/net/tun"):
        assert words in said, said


def test_kernel_device_forbidden(served):
    said = refused(served, wireguard="kernel")
    assert "wireguard = kernel needs CAP_SYS_ADMIN and CAP_NET_ADMIN" in said


# ---- as root ---------------------------------------------------------------------------------------


def test_root_needs_no_user_namespace():
    s = System("kmroot", agent_uid=0)
    try:
        s.up()
        s.create_tunnel()
        s.wait_served()
        assert s.family("agentd", "km-inside") == []
        warden, = s.family("agentd", "km-warden")
        assert os.readlink(f"/proc/{warden}/ns/user") == os.readlink("/proc/self/ns/user")
    except BaseException:
        s.dump_logs()
        s.close()
        raise
    assert s.close() == []
