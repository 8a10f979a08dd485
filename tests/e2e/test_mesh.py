# SPDX-License-Identifier: MIT
"""Gateways as WireGuard peers of one another, and what they have to say to each other inside.

    gateway ══ gateway2 ══ gateway3     each with each, through inet
         ╚════ agent (behind NAT)
"""
import re
import signal
import time

import pytest

from tests.lab import System, net
from tests.lab.proc import LabError, patience, until

PORT = 4437
# What a connection to it meets, said by whoever tries.
PROBE = """
import socket, sys
s = socket.socket()
s.settimeout(20)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(bytes.fromhex(sys.argv[3]))
    print("heard", s.recv(100))
except OSError as e:
    print(type(e).__name__)
"""
HELLO = "0000001c" "01" "0200000001" "01" "0300000010"  # and the id


@pytest.fixture(scope="module")
def s(request):
    system = System("kmme")
    try:
        system.up()
        for n in (2, 3):
            system.add_gateway(n)
        for n in (1, 2, 3):
            wait_mesh(system, n, 2)
        yield system
    finally:
        if request.session.testsfailed:
            system.dump_logs()
        complaints = system.close()
    assert not complaints, complaints


def role(n):
    return "gateway" if n == 1 else f"gateway{n}"


def gateway(s, n):
    return s.procs[f"{role(n)}d"]


def metric(s, n, name):
    text = s.net.ns[role(n)].exec("curl", "-sS", "http://127.0.0.1:9101/metrics")
    return [int(v) for v in re.findall(rf"^{re.escape(name)} (\d+)$", text, re.M)]


def restart(s, n, **settings):
    """With the configuration that it has on disk; connected to control again."""
    p = s.start_gateway(number=n, wait=False, **settings)
    p.wait_log("authenticated")
    return p


def wait_mesh(s, n, alive, timeout=30):
    """Until gateway n hears so many others."""
    end = time.monotonic() + patience(timeout)
    while (is_ := metric(s, n, "kakuremichi_mesh_peers")) != [alive]:
        if time.monotonic() > end:
            raise LabError(f"gateway {n} hears {is_} others instead of {alive}")


def key_of(s, n):
    return s.api("GET", f"/api/gateways/{s.gateway_ids[n]}", expect=200)["wireguardPublicKey"]


def address_of(s, n):
    return s.sql(f"SELECT host(virtual_ip) FROM gateways WHERE id = '{s.gateway_ids[n]}'")


def probe(s, who, address, gateway_id):
    return s.inside(who, "/usr/bin/python3", "-c", PROBE, address, PORT, HELLO + gateway_id.replace("-", ""))


def test_each_is_a_peer_of_each(s):
    keys = {n: key_of(s, n) for n in (1, 2, 3)}
    for n in (1, 2, 3):
        assert {keys[k] for k in keys if k != n} < s.wg_peers(role(n))
        allowed = dict(line.split(None, 1) for line in
                       s.inside(f"{role(n)}d", "wg", "show", s.device(role(n)), "allowed-ips").strip().split("\n"))
        for k in keys:
            if k != n:  # its own address and nothing else
                assert allowed[keys[k]].split() == [f"{address_of(s, k)}/32"]
        assert metric(s, n, "kakuremichi_mesh_refused_total") == [0]
    # Three connections, not six; each has two ends. One of two that crossed may live a moment longer.
    until(lambda: sum(s.inside(f"{role(n)}d", "ss", "-Htn", "state", "established").count(f":{PORT}")
                      for n in (1, 2, 3)) == 6)


def test_an_agent_is_refused(s):
    """Whatever it says: its address is no gateway's."""
    for n in (1, 2):
        before = metric(s, n, "kakuremichi_mesh_refused_total")[0]
        mark = gateway(s, n).mark()
        end = time.monotonic() + patience(30)
        # The agent's path to the gateway may be a moment old.
        while "TimeoutError" in (met := probe(s, "agentd", address_of(s, n), s.gateway_ids[3])):
            assert time.monotonic() < end
        assert met.strip() in ("ConnectionResetError", "BrokenPipeError"), met
        assert metric(s, n, "kakuremichi_mesh_refused_total")[0] > before
        gateway(s, n).wait_log("connection to the mesh refused", "from=10.1.", since=mark)
        wait_mesh(s, n, 2)
    # And from outside there is nothing at all.
    with pytest.raises(ConnectionRefusedError):
        s.net.stranger.connect(net.GATEWAY, PORT)


def test_a_silent_one_is_dead(s):
    """Its connections stay open, its warden answers: only the daemon says nothing."""
    marks = {n: gateway(s, n).mark() for n in (1, 3)}
    gateway(s, 2).signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        for n in (1, 3):
            gateway(s, n).wait_log("connection to gateway lost", f"gateway={s.gateway_ids[2]}", "why=silent",
                                   since=marks[n])
        print(f"silent: taken for dead by both others {time.monotonic() - began:.1f} s after it was stopped")
        for n in (1, 3):
            wait_mesh(s, n, 1)
    finally:
        gateway(s, 2).signal(signal.SIGCONT)
    for n in (1, 2, 3):
        wait_mesh(s, n, 2)


def test_a_killed_one_comes_back(s):
    s.procs["gateway2d"].kill()
    wait_mesh(s, 1, 1)
    s.procs.pop("gateway2d")
    restart(s, 2)
    for n in (1, 2, 3):
        wait_mesh(s, n, 2)


def test_without_control(s):
    """Who starts while control is away finds the others by what is on disk."""
    s.stop("controld")
    s.stop("gateway3d")
    wait_mesh(s, 1, 1)
    s.start_gateway(number=3, wait=False)
    for n in (1, 2, 3):
        wait_mesh(s, n, 2)
    s.start_control()
    gateway(s, 3).wait_log("authenticated")


def test_keys_change_under_it(s):
    """Nobody loses anybody while a gateway changes its key twice."""
    s.stop("gatewayd")
    restart(s, 1, key_rotation="4s")
    for n in (1, 2, 3):
        wait_mesh(s, n, 2)
    marks = {n: gateway(s, n).mark() for n in (1, 2, 3)}
    end = time.monotonic() + patience(60)
    for _ in range(2):
        was = key_of(s, 1)
        while key_of(s, 1) == was:
            assert time.monotonic() < end
        for n in (2, 3):
            while was in s.wg_peers(role(n)):
                assert time.monotonic() < end
    lost = [line for n in (2, 3) for line in gateway(s, n).lines[marks[n]:] if "connection to gateway lost" in line]
    s.stop("gatewayd")
    restart(s, 1)
    assert not lost, lost
    for n in (1, 2, 3):
        wait_mesh(s, n, 2)


def test_alone_by_setting(s):
    """share_certificates = off: a peer still, but it neither listens nor dials."""
    s.stop("gateway3d")
    restart(s, 3, share_certificates="off")
    assert metric(s, 3, "kakuremichi_mesh_peers") == []
    wait_mesh(s, 1, 1)
    assert key_of(s, 3) in s.wg_peers("gateway")
    assert probe(s, "gatewayd", address_of(s, 3), s.gateway_ids[1]).strip() == "ConnectionRefusedError"
    s.stop("gateway3d")
    restart(s, 3)
    wait_mesh(s, 1, 2)


def test_a_revoked_one_is_cut_off(s):
    """At once by who is connected; by who was away as soon as it hears of it. It is told from one that is removed."""
    key, gone = key_of(s, 3), s.gateway_ids[3]
    s.stop("gateway2d")
    wait_mesh(s, 1, 1)
    began = time.monotonic()
    s.api("POST", f"/api/gateways/{gone}/revoke", expect=200)
    # Not only when nothing more is heard of it.
    gateway(s, 1).wait_log("connection to gateway lost", gone, "no gateway of ours any more")
    while key in s.wg_peers("gateway"):
        assert time.monotonic() < began + patience(10)
    print(f"revoked: no peer of another gateway's {(time.monotonic() - began) * 1000:.0f} ms after POST …/revoke began")
    gateway(s, 1).wait_log("gateway revoked", f"gateway={gone}")
    assert gateway(s, 1).count_log("gateway revoked") == 1
    back = restart(s, 2)
    back.wait_log("gateway revoked", f"gateway={gone}")
    assert key not in s.wg_peers("gateway2")
    wait_mesh(s, 2, 1)
    # It is told once.
    s.stop("gateway2d")
    back = restart(s, 2)
    wait_mesh(s, 2, 1)
    assert back.count_log("gateway revoked") == 0
