# SPDX-License-Identifier: MIT
"""Many gateways behind one name (round robin): the CA fetches every proof from each of them, and counts orders.

      stranger .10 ──┐                     knotd gives the addresses of all gateways in turn;
      gateway   .2 ──┤                     the CA (our own stand-in) knows who asked it what
      gateway2 .22 ──┼── inet
         …           │
      gateway5 .25 ──┤
      control   .3, CA .30, knotd .31
"""
import itertools
import signal
import threading
import time

import pytest

from tests.lab import net, proofs
from tests.lab.acme import start
from tests.lab.dnsserver import DnsServer
from tests.lab.fakeca import FakeCa, held
from tests.lab.proc import patience, run


@pytest.fixture(scope="module")
def site(bare):
    """Two gateways; gateways(s, 5) makes them five."""
    s = bare
    s.dns = DnsServer(s, "\n".join(f"*.n{n} A {net.GATEWAYS[g]}" for n in (2, 5) for g in range(1, n + 1)))
    s.ca = FakeCa(s, s.dns)
    s.ca.everywhere = True
    s.numbers = itertools.count()
    try:
        s.use_ca(s.ca)
        s.up()
        gateways(s, 2)
        yield s
    finally:
        s.ca.stop()


def gateways(s, n):
    """n gateways that know each other."""
    for number in range(1, n + 1):
        if number not in s.gateway_ids:
            s.add_gateway(number)
    s.wait_mesh()


def new_name(s, n):
    return f"x{next(s.numbers)}.n{n}.demo.test"


def all_serve(s, name, numbers):
    """Every gateway serves the one certificate; how long after the CA gave it to the first."""
    cert = s.ca.wait(lambda: s.ca.of(name), timeout=60)[-1]
    given = time.monotonic()
    for number in numbers:
        s.wait_leaf(name, proofs.der(cert.leaf), number)
    took = time.monotonic() - given
    for number in numbers:
        s.wait_served(domain=name, number=number)
    return cert, took


@pytest.mark.parametrize("n", [2, 5])
def test_one_order_for_all(site, n):
    """One order in all, proofs answered by every gateway at the first try, the same certificate on each."""
    gateways(site, n)
    took = []
    for challenge in ("tls-alpn-01", "http-01"):
        site.ca.offered = [challenge]
        for _ in range(3):
            name = new_name(site, n)
            site.create_tunnel(name)
            took.append(all_serve(site, name, range(1, n + 1))[1])
            assert len(site.ca.orders_of(name)) == 1 and len(site.ca.of(name)) == 1
    site.ca.offered = ["tls-alpn-01", "http-01", "dns-01"]
    print(f"\n{n} gateways: all with the certificate {max(took):.3f} s after it was issued, at most (of {len(took)})")


def test_work_is_shared(site):
    """Who orders depends on the name: with many names everybody does."""
    n = len(site.gateway_ids)
    began = site.ca.mark()
    names = [new_name(site, n) for _ in range(8 * n)]
    for name in names:
        site.create_tunnel(name)
    for name in names:
        all_serve(site, name, site.gateway_ids)
        assert len(site.ca.orders_of(name)) == 1
    assert len(site.ca.who("newOrder", began)) > 1


def test_orderer_killed(site):
    """The gateway that orders dies in the middle: another one goes on at once. When the first is back it orders
    nothing, and in the end all have the same certificate."""
    n, release = len(site.gateway_ids), threading.Event()
    name, began = new_name(site, n), site.ca.mark()
    site.ca.trouble("finalize", held(release))
    usual = site.ca.resolve
    try:
        site.create_tunnel(name)
        site.ca.wait(lambda: site.ca.count("finalize", began))
        address, = site.ca.who("newOrder", began)
        victim = next(g for g in site.gateway_ids if net.GATEWAYS[g] == address)
        others = [g for g in site.gateway_ids if g != victim]
        site.ca.resolve = lambda _name: [net.GATEWAYS[g] for g in others]
        process = site.daemon(victim)
        process.kill()
        del site.procs[process.name]
        second = site.ca.wait(lambda: [c for c in site.ca.of(name) if c.order is not site.ca.orders_of(name)[0]],
                              timeout=60)[0]
    finally:
        release.set()
        site.ca.resolve = usual
    for g in others:
        site.wait_leaf(name, proofs.der(second.leaf), g)
    start(site, number=victim)
    site.wait_mesh()
    end = time.monotonic() + patience(30)
    while len({site.leaf(name, g) for g in site.gateway_ids}) > 1:
        assert time.monotonic() < end, "not all gateways show the same certificate"
        time.sleep(0.05)
    assert len(site.ca.orders_of(name)) == 2


def test_control_away(site):
    """A renewal while control is away: one order in all, the same certificate on all."""
    n = len(site.gateway_ids)
    name = new_name(site, n)
    site.ca.windows = [(8, 9)]
    site.create_tunnel(name)
    first, _ = all_serve(site, name, site.gateway_ids)
    site.procs["controld"].signal(signal.SIGSTOP)
    try:
        second = site.ca.wait(lambda: site.ca.of(name)[1:], timeout=60)[0]
        for g in site.gateway_ids:
            site.wait_leaf(name, proofs.der(second.leaf), g)
    finally:
        site.procs["controld"].signal(signal.SIGCONT)
    assert len(site.ca.orders_of(name)) == 2
    assert site.ca.orders_of(name)[1].replaces == proofs.ari_id(first.leaf)


def test_control_knows_no_secret(site):
    """Nothing that control has stored is a private key or belongs to a challenge."""
    dump = run("pg_dump", "-h", str(site.dir / "control/postgres/run"), "-U", "postgres", "kakuremichi")
    log = (site.logs / "controld.log").read_text()
    tokens = [c.token for o in site.ca.orders for z in o.authzs for c in z.challenges]
    keys = []
    for g in site.gateway_ids:
        role = "gateway" if g == 1 else f"gateway{g}"
        for f in (site.dir / f"{role}-state/acme").iterdir():
            text = f.read_text()
            if "PRIVATE KEY" in text:
                keys.append(text.split("PRIVATE KEY-----\n")[1].split("\n")[0])
    assert len(tokens) > 10 and len(keys) > 10 and "demo.test" in dump
    for text in (dump, log):
        assert not [x for x in (*tokens, *keys) if x in text]


def test_gateway_revoked(site):
    """What a revoked gateway knew is obtained anew with other keys, and the old certificates are revoked."""
    n = max(site.gateway_ids)
    name = new_name(site, n)
    site.create_tunnel(name)
    first, _ = all_serve(site, name, site.gateway_ids)
    gone = site.gateway_ids.pop(n)
    for g in range(1, n + 1):  # proofs come from where gateways are
        site.dns.update(f"del *.n{n} A", *(f"add *.n{n} 0 A {net.GATEWAYS[g]}" for g in site.gateway_ids))
    site.api("DELETE", f"/api/gateways/{gone}", expect=204)
    second = site.ca.wait(lambda: [c for c in site.ca.of(name) if c is not first], timeout=60)[0]
    assert second.leaf.public_key().public_numbers() != first.leaf.public_key().public_numbers()
    for g in site.gateway_ids:
        site.wait_leaf(name, proofs.der(second.leaf), g)
    site.ca.wait(lambda: first.revoked is not None)
    site.stop(f"gateway{n}d")


def test_each_its_own(site):
    """share_certificates = off: every gateway obtains its own, and orders none while the name leads to another."""
    for g in (1, 2):
        site.stop("gatewayd" if g == 1 else f"gateway{g}d")
    for g in list(site.gateway_ids):
        if g > 2:
            site.stop(f"gateway{g}d")
    for g in (1, 2):
        start(site, number=g, share_certificates="off")
    site.ca.everywhere = False
    name = "own.n2.demo.test"
    site.dns.addresses("own.n2", net.GATEWAY)
    site.create_tunnel(name)
    site.wait_served(domain=name)
    site.daemon(2).wait_log("no certificate is ordered", name, "does not point here")
    site.dns.addresses("own.n2", net.GATEWAYS[2])
    site.wait_served(domain=name, number=2, timeout=60)
    assert len(site.ca.orders_of(name)) == len(site.ca.of(name)) == 2
    assert site.leaf(name, 1) != site.leaf(name, 2)
