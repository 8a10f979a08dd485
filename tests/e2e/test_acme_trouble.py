# SPDX-License-Identifier: MIT
"""Many tunnels at once, a full disk, a disk that cannot be written, wrong clocks, a CA that is away for a day.
KM_ACME_TUNNELS (60) says how many "many" is; make soak-acme has a thousand. The CA is our stand-in."""
import os

import pytest

from tests.lab import proofs
from tests.lab.acme import Handshakes, said, start
from tests.lab.fakeca import FakeCa
from tests.lab.proc import run

TUNNELS = int(os.environ.get("KM_ACME_TUNNELS", 60))
HOUR, DAY = 3600, 86400


@pytest.fixture(scope="module")
def site(bare):
    """The gateway's state_dir is a small file system of its own, /etc/hosts gives the names."""
    s = bare
    state = s.dir / "gateway-state"
    state.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "none", str(state))
    try:
        s.ca = FakeCa(s)
        s.use_ca(s.ca, acme_preflight="off")
        s.clock("gatewayd")
        yield s.up()
    finally:
        s.ca.stop()
        s.procs["gatewayd"].stop()
        run("umount", "-l", str(state))


def restart(s, at=0, **settings):
    """The gateway again, with its clock (and the CA's) so many seconds ahead."""
    s.stop("gatewayd")
    s.ca.shift = at
    s.clock("gatewayd", at)
    return start(s, **settings)


def issue(s, name):
    s.create_tunnel(name)
    s.wait_served(domain=name, timeout=60)
    return s.ca.of(name)[0]


def asked(ca, authz):
    return any(kind == "authz" and authz.url.endswith(path) for kind, path, *_ in ca.requests)


def test_many_at_once(site):
    """Throttled as set, others undisturbed, all served in the end; a restart in the middle orders nothing twice."""
    burst, every = max(TUNNELS // 4, 1), 5  # so many orders in so many seconds
    settings = dict(acme_order_rate=f"{burst}/{every}s", acme_jobs=8)
    restart(site, **settings)
    issue(site, "ready.demo.test")
    began = site.ca.mark()
    names = [f"many{i}.demo.test" for i in range(TUNNELS)]
    with Handshakes(site, "ready.demo.test") as load:
        conn = site.api_connection()
        for n in names:
            site.create_tunnel(n, conn=conn)
        conn.close()
        site.ca.wait(lambda: len(site.ca.certificates) > TUNNELS // 3, timeout=120)
    assert load.done and not load.failed, load.failed[:3]
    restart(site, **settings)
    with Handshakes(site, "ready.demo.test") as load:
        site.ca.wait(lambda: all(site.ca.of(n) for n in names), timeout=60 + 4 * TUNNELS)
    assert load.done and not load.failed, load.failed[:3]
    for n in names:
        site.wait_served(domain=n)
        # The gateway has never heard of an order whose answer was under way at the restart, and one is over whose
        # proof the CA looked for meanwhile.
        *lost, _ = site.ca.orders_of(n)
        assert len(lost) <= 1 and all(o.status == "invalid" or not any(asked(site.ca, z) for z in o.authzs)
                                      for o in lost), (n, [o.status for o in lost])
    times = site.ca.when("newOrder", began)
    for i, t in enumerate(times):
        within = sum(t <= u < t + every for u in times[i:])
        # Twice the burst; what a busy machine has held back may come together with what is due.
        assert within <= 3 * burst, f"{within} orders in {every} s"
    print(f"\n{TUNNELS} tunnels: {times[-1] - times[0]:.1f} s, {burst} orders in {every} s allowed")


def fill(folder):
    """A file that takes what is free."""
    path = folder / "ballast"
    with open(path, "wb") as f:
        try:
            while True:
                f.write(bytes(1 << 16))
                f.flush()
        except OSError:
            pass
    return path


def test_full_disk(site):
    """What is there is served; a new name is an error that says why, and comes once there is room."""
    restart(site)
    old = issue(site, "before.demo.test")
    ballast = fill(site.dir / "gateway-state")
    name = "full.demo.test"
    site.create_tunnel(name)
    site.wait_certificate("error", name, error="No space left")
    assert site.leaf("before.demo.test") == proofs.der(old.leaf)
    ballast.unlink()
    restart(site, at=HOUR)
    site.wait_served(domain=name, timeout=60)
    assert len(site.ca.of(name)) == 1
    restart(site, at=HOUR)
    site.wait_served(domain=name)
    assert len(site.ca.of(name)) == 1


def test_read_only_cache(site):
    """A gateway whose folder of certificates cannot be written serves what is in it, and says what it misses."""
    restart(site)
    old = issue(site, "writable.demo.test")
    folder, name = str(site.dir / "gateway-state/acme"), "readonly.demo.test"
    site.stop("gatewayd")
    run("mount", "--bind", folder, folder)
    try:
        run("mount", "-o", "remount,bind,ro", folder)
        start(site)
        site.create_tunnel(name)
        said(site, name, "Read-only file system")
        assert site.leaf("writable.demo.test") == proofs.der(old.leaf)
        site.stop("gatewayd")
    finally:
        run("umount", "-l", folder)
    start(site)
    restart(site, at=2 * DAY)
    site.wait_served(domain=name, timeout=60)


def test_clock_a_month_off(site):
    """Put forward and back by a month while it runs: what is there is served, nothing is ordered for it. What is due
    by a clock that was put forward is not renewed all at once, but at the next start it is; and what is not valid
    yet by a clock that was put back is served."""
    site.ca.ari = False
    gateway, name = restart(site), "clock.demo.test"
    first = issue(site, name)
    for days in (30, -30, 65):
        seen = gateway.mark()
        site.clock("gatewayd", days * DAY)
        gateway.wait_log("the clock has been moved", since=seen, timeout=60)
        assert site.get(domain=name).status == 200 and site.leaf(name) == proofs.der(first.leaf)
    assert len(site.ca.orders_of(name)) == 1
    gateway = restart(site, at=65 * DAY)
    second = site.ca.wait(lambda: site.ca.of(name)[1:], timeout=60)[0]
    site.wait_leaf(name, proofs.der(second.leaf))
    seen = gateway.mark()
    site.clock("gatewayd", 0)
    gateway.wait_log("the clock has been moved", since=seen, timeout=60)
    gateway = restart(site)
    assert site.leaf(name) == proofs.der(second.leaf)
    assert len(site.ca.orders_of(name)) == 2


def test_ca_away_for_a_day(site):
    """A renewal that the CA does not answer: the old certificate is served all day, tries become rare, and after
    its return one order is enough."""
    site.ca.ari = False
    restart(site)
    name = "away.demo.test"
    first = issue(site, name)
    site.ca.stop()
    try:
        for hours in (0, 1, 6, 12, 24):
            restart(site, at=62 * DAY + hours * HOUR)
            assert site.leaf(name) == proofs.der(first.leaf)
            c = site.wait_certificate("renewal_due", name, error="ca.demo.test", timeout=60)
            assert c["nextTryAt"]
    finally:
        site.ca.start()
    restart(site, at=63 * DAY + 12 * HOUR)
    second = site.ca.wait(lambda: site.ca.of(name)[1:], timeout=60)[0]
    site.wait_leaf(name, proofs.der(second.leaf))
    assert len(site.ca.orders_of(name)) == 2
