# SPDX-License-Identifier: MIT
"""Certificates from a real ACME server (pebble), names from a real DNS server (knotd):

      stranger .10 ──┐
      gateway   .2 ──┤
      control   .3 ──┼── inet        pebble asks knotd for addresses and TXT records, and connects to
      pebble   .30 ──┤               the gateway; the gateway asks knotd before it orders
      knotd    .31 ──┘
"""
import os
import statistics
import time

import pytest

from tests.lab import net
from tests.lab.acme import renewals, start
from tests.lab.dnsserver import DnsServer
from tests.lab.pebble import Pebble
from tests.lab.proc import until

LIFE = int(os.environ.get("KM_ACME_LIFE", 12))
RENEWALS = int(os.environ.get("KM_ACME_RENEWALS", 2))
NAMES = [*(f"c{i}" for i in range(3)), "hello", "late", *(f"m{i}" for i in range(5)), "r0", "r100", "x.wild", "y.wild"]


@pytest.fixture(scope="module")
def site(bare):
    """Control, gateway, agent, with certificates from pebble, which refuses a fifth of all good nonces, takes its
    time, and uses authorizations again half of the time."""
    s = bare
    s.dns = DnsServer(s, "\n".join(f"{n} A {net.GATEWAY}" for n in NAMES if n != "late"))
    s.ca = Pebble(s, s.dns, bad_nonces=20, reuse=50, sleeps=1)
    s.use_ca(s.ca, dns_provider="rfc2136", dns_provider_file=s.dns.rfc2136_file())
    return s.up()


def restart_ca(s, **options):
    """Pebble forgets everything, accounts too."""
    s.ca.stop()
    s.ca.set(**options)
    s.ca.start()
    s.tls = s.ca.tls


def restart_gateway(s, **settings):
    s.stop("gatewayd")
    return start(s, **settings)


@pytest.mark.parametrize("number, challenge", enumerate(["http-01", "tls-alpn-01", "dns-01"]))
def test_every_challenge(site, number, challenge):
    """A tunnel's name alone brings a trusted certificate for it, by each challenge."""
    name, before = f"c{number}.demo.test", site.ca.proc.mark()
    restart_gateway(site, acme_challenges=challenge)
    tunnel = site.create_tunnel(name)
    site.wait_served(domain=name, timeout=90)
    assert bool(site.ca.proc.count_log("validate w/ HTTP", since=before)) == (challenge == "http-01")
    assert len(site.ca.issued(before)) == 1
    c = site.wait_certificate("ready", name)
    assert "Pebble Intermediate" in c["issuer"] and c["error"] is None
    # taken away again, beside what else is done
    until(lambda: not site.dns.lookup(f"_acme-challenge.c{number}", "TXT"), why="the record stays")
    site.api("DELETE", f"/api/tunnels/{tunnel['id']}", expect=204)


def test_wildcard(site):
    """*.wild.demo.test by dynamic update of the zone: one certificate for every name below."""
    restart_gateway(site)
    before = site.ca.proc.mark()
    site.create_tunnel("*.wild.demo.test")
    for name in ("x.wild.demo.test", "y.wild.demo.test"):
        site.wait_served(domain=name, timeout=90)
    assert len(site.ca.issued(before)) == 1
    assert site.leaf("x.wild.demo.test") == site.leaf("y.wild.demo.test")
    site.wait_certificate("ready", "*.wild.demo.test")


def test_name_that_points_elsewhere(site):
    """It is said, no order is wasted; once it points here it is served."""
    name, orders = "late.demo.test", site.ca.orders()
    site.dns.addresses("late", net.STRANGER)
    site.create_tunnel(name)
    site.wait_certificate("pending", name, error=net.STRANGER)
    assert site.ca.orders() == orders
    site.dns.addresses("late", net.GATEWAY)
    site.wait_served(domain=name, timeout=60)
    assert site.ca.orders() == orders + 1


def test_nothing_for_a_stranger(site):
    """Names that no tunnel has get a failed handshake: no order, whatever is asked for."""
    orders = site.ca.orders()
    for name in ("nobody.demo.test", "demo.test", "wild.demo.test", "a.b.wild.demo.test"):
        with pytest.raises(OSError):
            site.leaf(name)
    assert site.ca.orders() == orders


@pytest.mark.parametrize("reuse", [0, 100])
def test_renewal_under_load(site, reuse):
    """Certificates of a few seconds (KM_ACME_LIFE) are renewed KM_ACME_RENEWALS times while connections go on,
    with and without authorizations that are still good: no handshake fails, none is ordered twice."""
    name = f"r{reuse}.demo.test"
    site.stop("gatewayd")
    restart_ca(site, validity=LIFE, reuse=reuse, sleeps=0)
    start(site)
    tunnel = site.create_tunnel(name)
    site.wait_served(domain=name, timeout=60)
    done = renewals(site, name, RENEWALS, LIFE)
    print(f"\nreuse {reuse} %: {done} connections over {RENEWALS} renewals, 0 failed")
    site.api("DELETE", f"/api/tunnels/{tunnel['id']}", expect=204)


def test_first_answer(site):
    """From POST /api/tunnels to a trusted answer, with a CA that does not dawdle: reported, not judged."""
    site.stop("gatewayd")
    restart_ca(site, validity=90 * 86400, bad_nonces=0, reuse=0, sleeps=0)
    start(site)
    took = []
    for i in range(5):
        name = f"m{i}.demo.test"
        began = time.monotonic()
        site.create_tunnel(name)
        site.wait_served(domain=name, timeout=60)
        took.append(time.monotonic() - began)
    print(f"\nPOST /api/tunnels to a trusted answer: median {statistics.median(took):.3f} s of "
          + " ".join(f"{t:.3f}" for t in took))
