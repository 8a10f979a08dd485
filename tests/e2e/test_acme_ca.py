# SPDX-License-Identifier: MIT
"""What pebble cannot do (renewal information, profiles, alternate chains, accounts elsewhere, dns-persist-01) and
what CAs do wrong, with a CA stand-in of our own. It lives on a host of the lab's internet, asks knotd, and
connects to the gateway:

      stranger .10 ──┐
      gateway   .2 ──┼── inet
      control   .3 ──┤
      CA       .30 ──┤
      knotd    .31 ──┘

Waiting times of minutes are passed by starting the gateway again with its wall clock put forward."""
import itertools
import json
import threading
import time

import pytest

from tests.lab import client, fakeca, net, proofs
from tests.lab.acme import Handshakes, said, start
from tests.lab.dnsserver import DnsServer
from tests.lab.fakeca import FakeCa, held, instead, refuse, status, truncated, with_headers

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.fixture(scope="module")
def site(bare):
    s = bare
    s.dns = DnsServer(s, f"*.ok A {net.GATEWAY}")
    s.ca = FakeCa(s, s.dns)
    try:
        s.ca.resolve = lambda name: [net.GATEWAY]  # what it asks of the DNS server are TXT records
        s.use_ca(s.ca)
        s.clock("gatewayd")
        s.ahead = 0
        s.numbers = itertools.count()
        yield s.up()
    finally:
        s.ca.stop()


@pytest.fixture
def ca(site):
    """The CA, well behaved again after the test."""
    usual = {k: getattr(site.ca, k) for k in ("validity", "ari", "profiles", "eab", "offered", "valid", "everywhere",
                                              "processing", "nonce_lottery", "alternates", "windows")}
    yield site.ca
    site.ca.no_more_trouble()
    for k, v in usual.items():
        setattr(site.ca, k, v)


def restart(s, forward=0, **settings):
    """The gateway again, with its clock so many seconds further on (the CA's too)."""
    s.stop("gatewayd")
    s.ahead += forward
    s.ca.shift += forward
    s.clock("gatewayd", s.ahead)
    return start(s, **settings)


def new_name(s):
    return f"n{next(s.numbers)}.ok.demo.test"


def issue(s, name=None, timeout=60):
    """A tunnel of this name, served with a trusted certificate: (name, the certificate at the CA)."""
    name = name or new_name(s)
    s.create_tunnel(name)
    s.wait_served(domain=name, timeout=timeout)
    cert, = s.ca.of(name)
    assert proofs.der(cert.leaf) == s.leaf(name)
    return name, cert


def test_the_straight_way(site, ca):
    """One order, one certificate; the key is new, the request asks for nothing but the name."""
    name, cert = issue(site)
    assert cert.names == [name] and len(ca.orders_of(name)) == 1
    assert ca.count("newAccount") == 1
    c = site.wait_certificate("ready", name)
    assert "Fake Issuer R1" in c["issuer"]
    files = {p.name: p.stat().st_mode & 0o777 for p in (site.dir / "gateway-state/acme").iterdir()}
    assert files[name] == 0o600 and files["acme_account+key"] == 0o600


def test_renewal_information(site, ca):
    """The CA wants a certificate replaced at once: it is, and the order says what it replaces."""
    ca.windows = [(-20, -10)]
    name, first = issue(site)
    second = ca.wait(lambda: ca.of(name)[1:])[0]
    assert ca.orders_of(name)[1].replaces == proofs.ari_id(first.leaf)
    assert second.leaf.public_key().public_numbers() != first.leaf.public_key().public_numbers()
    site.wait_leaf(name, proofs.der(second.leaf))


def test_already_replaced(site, ca):
    """A CA that takes the predecessor for replaced gets an order without it."""
    ca.windows = [(-20, -10)]
    name, began = new_name(site), ca.mark()
    ca.trouble("newOrder", refuse("alreadyReplaced", 409), match=lambda r: bool(ca.of(name)))
    site.create_tunnel(name)
    ca.wait(lambda: ca.of(name)[1:])
    assert ca.orders_of(name)[1].replaces is None and ca.count("newOrder", began) == 3


def test_renewal_by_lifetime(site, ca):
    """Without renewal information: of a short-lived certificate at half its life; the old one serves until then."""
    ca.ari, ca.validity = False, 10 * HOUR
    restart(site)
    name, first = issue(site)
    restart(site, forward=4 * HOUR)
    assert site.leaf(name) == proofs.der(first.leaf) and len(ca.of(name)) == 1
    restart(site, forward=HOUR + MINUTE)
    second = ca.wait(lambda: ca.of(name)[1:])[0]
    site.wait_leaf(name, proofs.der(second.leaf))


def test_profile(site, ca):
    """A profile is asked for where the CA offers it, and only there."""
    ca.profiles = {"shortlived": "six days"}
    restart(site, acme_profile="shortlived")
    assert issue(site)[1].order.profile == "shortlived"
    ca.profiles = {"classic": "ninety"}
    restart(site, acme_profile="shortlived")
    assert issue(site)[1].order.profile is None


def test_alternate_chain(site, ca):
    """acme_chain chooses among the chains that the CA offers; the usual one is taken where none is so called."""
    ca.alternates = True
    restart(site, acme_chain="Fake Old Root")
    name, _ = issue_by(site, client.context(ca.old_root))
    with pytest.raises(OSError):
        site.get(domain=name)
    restart(site, acme_chain="Nobody's Root")
    issue(site)


def issue_by(s, tls):
    """issue, for a stranger who trusts another root."""
    usual, s.tls = s.tls, tls
    try:
        return issue(s)
    finally:
        s.tls = usual


def test_rate_limited(site, ca):
    """429 with Retry-After: a short one is waited for, for a long one the time of the next try is said."""
    ca.trouble("newOrder", refuse("rateLimited", 429, "too many of them", retry_after=3))
    began = ca.mark()
    name, _ = issue(site)
    first, second = ca.when("newOrder", began)
    assert second - first > 2.9 and len(ca.orders_of(name)) == 1
    ca.trouble("newOrder", refuse("rateLimited", 429, "far too many", retry_after=2 * HOUR))
    name = new_name(site)
    site.create_tunnel(name)
    c = site.wait_certificate("error", name, error="far too many")
    assert c["nextTryAt"] > time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ca.now() + 1.9 * HOUR))
    restart(site, forward=HOUR)
    assert not ca.orders_of(name)
    restart(site, forward=2 * HOUR)
    site.wait_served(domain=name)


TROUBLES = {
    "directory": status(503, retry_after=1), "nonce": status(500), "newOrder": truncated(30),
    "authz": instead(b"<html>"), "order": status(502), "challenge": status(504), "finalize": truncated(0),
    "cert": truncated(100),
}


def test_trouble_at_every_step(site, ca):
    """One bad answer at each step: all names are served in the end, with one certificate each."""
    restart(site)
    for kind, what in TROUBLES.items():
        ca.trouble(kind, what)
    names = [new_name(site) for _ in range(4)]
    for n in names:
        site.create_tunnel(n)
    for n in names:
        site.wait_served(domain=n, timeout=120)
    assert all(1 <= len(ca.of(n)) <= 2 for n in names)


def test_slow_answer_disturbs_nobody(site, ca):
    """While one order hangs another name is obtained, and what is there is served."""
    ready, _ = issue(site)
    release = threading.Event()
    ca.trouble("finalize", held(release))
    slow, quick = new_name(site), new_name(site)
    try:
        began = ca.mark()
        site.create_tunnel(slow)
        ca.wait(lambda: ca.count("finalize", began))
        with Handshakes(site, ready) as load:
            issue(site, quick)
        assert load.done and not load.failed
        site.wait_certificate("issuing", slow)
    finally:
        release.set()
    site.wait_served(domain=slow)
    assert len(ca.of(slow)) == 1


def test_order_that_takes_its_time(site, ca):
    """`processing` for some polls, with Retry-After."""
    ca.processing = 3
    ca.trouble("order", with_headers(Retry_After=1), times=20)
    issue(site)


def test_forgotten_account(site, ca):
    """The CA has lost the account: another is made, with the same key, by itself."""
    issue(site)
    ca.forget_accounts()
    began = ca.mark()
    issue(site)
    assert ca.count("newAccount", began) == 1
    assert len({json.dumps(a["jwk"], sort_keys=True) for a in ca.accounts.values()}) == 1


def test_forgotten_nonces(site, ca):
    """All nonces that the gateway keeps are stale, and then a half of the good ones are refused."""
    issue(site)
    ca.forget_nonces()
    lots = itertools.cycle([True, False])
    ca.nonce_lottery = lambda: next(lots)
    began = ca.mark()
    issue(site)
    assert ca.count("nonce", began) <= 2  # the refusal's own nonce is used


def test_account_elsewhere(site, ca):
    """externalAccountBinding: without it the operator is told what is needed."""
    ca.eab = {"kid-7": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"}
    ca.forget_accounts()
    restart(site)
    name = new_name(site)
    site.create_tunnel(name)
    said(site, name, "acme_eab_file")
    path = site.dir / "eab"
    path.write_text("kid-7 " + ca.eab["kid-7"])
    path.chmod(0o600)
    restart(site, acme_eab_file=path, forward=2 * DAY)
    site.wait_served(domain=name)


def test_failed_validation(site, ca):
    """It is said why, and tried again later, not sooner."""
    ca.valid = False
    name = new_name(site)
    site.create_tunnel(name)
    c = site.wait_certificate("error", name, error="no proof is good enough today")
    tried = len(ca.orders_of(name))
    ca.valid = True
    with pytest.raises(OSError):
        site.leaf(name)
    assert len(ca.orders_of(name)) == tried and c["nextTryAt"]
    restart(site, forward=2 * MINUTE)
    site.wait_served(domain=name)


def test_rejected_name(site, ca):
    """What the CA will never issue is not asked for again and again."""
    ca.trouble("newOrder", refuse("rejectedIdentifier", 403, "policy forbids it"), times=50)
    name, began = new_name(site), ca.mark()
    site.create_tunnel(name)
    said(site, name, "policy forbids it")
    restart(site, forward=HOUR)
    issue_elsewhere = ca.count("newOrder", began)
    assert issue_elsewhere == 1


def test_persistent_record(site, ca):
    """dns-persist-01: the record to publish is said; once it is there it serves for the wildcard too."""
    ca.offered = ["dns-persist-01"]
    restart(site, acme_challenges="dns-persist-01")
    site.create_tunnel("*.p.ok.demo.test")
    error = said(site, "*.p.ok.demo.test", "_validation-persist")
    account, = ca.accounts
    assert account in error and fakeca.ISSUER in error
    site.dns.update(f'add _validation-persist.p.ok 0 TXT "{fakeca.ISSUER}; accounturi={account}; policy=wildcard"')
    restart(site, acme_challenges="dns-persist-01", forward=2 * DAY)
    site.wait_served(domain="x.p.ok.demo.test")
    assert ca.of("*.p.ok.demo.test")[0].order.authzs[0].challenges[0].status == "valid"


def test_unfinished_order_is_taken_up(site, ca):
    """Killed after the order was made: the next start goes on with it, and orders nothing twice."""
    release = threading.Event()
    ca.trouble("authz", held(release))
    name = new_name(site)
    try:
        site.create_tunnel(name)
        ca.wait(lambda: ca.orders_of(name))
        ca.wait(lambda: ca.requests[-1][0] == "authz")
        site.procs["gatewayd"].kill()
    finally:
        release.set()
    site.procs.pop("gatewayd")
    start(site)
    site.wait_served(domain=name)
    assert len(ca.orders_of(name)) == 1 and len(ca.of(name)) == 1


def test_caa_forbids(site, ca):
    """A CAA record for another CA: no order, and the record is named; with one for this CA it goes on."""
    site.dns.update(f"add caa 0 A {net.GATEWAY}", 'add caa 0 CAA 0 issue "other.example"')
    began = ca.mark()
    site.create_tunnel("caa.demo.test")
    said(site, "caa.demo.test", "CAA")
    assert ca.count("newOrder", began) == 0
    site.dns.update(f'add caa 0 CAA 0 issue "{fakeca.ISSUER}"')
    site.wait_served(domain="caa.demo.test", timeout=60)
