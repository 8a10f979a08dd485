# SPDX-License-Identifier: MIT
"""Wall clocks that are a year behind, or a year ahead. Certificates last 90 days.

    stranger ── gateway ══ WireGuard ══ (NAT) agent ── target
                    └── control ──┘
"""
import itertools
import ssl

import pytest

from tests.lab import System

YEAR = 365 * 86400
numbers = itertools.count(1)


class Clocks(System):
    def __init__(self, *daemons, control=None, **settings):
        super().__init__("kmck")
        for d in daemons:
            self.clock(d)
        self.up(control, gateway=settings, agent=settings)
        self.create_tunnel()
        self.wait_served()

    def new_trust(self, role):
        """A host comes and is revoked: the others look at everybody's certificate again."""
        name = f"passer-by-{next(numbers)}"
        host = self.api("POST", "/api/agents", {"name": name}, expect=201)
        conf = self.dir / "passer-by.conf"
        state = self.dir / name
        conf.write_text(f"api_key_file = {state}.key\nstate_dir = {state}\nruntime_dir = {state}.run\n"
                        f"warden = {self.build}/km-warden\n")
        self.join("agent", host["joinToken"], conf=conf)
        mark = self.procs[f"{role}d"].mark()
        self.api("POST", f"/api/agents/{host['id']}/revoke", expect=200)
        self.procs[f"{role}d"].wait_log("trust bundle taken", since=mark)
        return mark

    def metric(self, role, name):
        port = {"gateway": 9101, "agent": 9102}[role]
        text = getattr(self.net, role).exec("curl", "-sSf", f"http://127.0.0.1:{port}/metrics")
        return int(float(next(line.split()[-1] for line in text.split("\n") if line.startswith(name))))

    def restart(self, role, seconds):
        self.stop(f"{role}d")
        self.clock(f"{role}d", seconds)
        {"gateway": self.start_gateway, "agent": self.start_agent}[role](wait=False)

    def nobody_was_cut_off(self):
        for p in (p for name, p in self.started if name in ("agentd", "gatewayd")):
            lost = [x for x in p.lines if "peer cut off" in x or "peer refused" in x]
            assert not [x for x in lost if "passer-by" not in x], lost


@pytest.fixture
def clocks(request):
    made = []

    def make(*daemons, **kw):
        made.append(Clocks(*daemons, **kw))
        return made[0]

    failed = request.session.testsfailed
    yield make
    for s in made:
        if request.session.testsfailed > failed:
            s.dump_logs()
        complaints = s.close()
        assert not complaints, complaints


@pytest.mark.parametrize("role", ["agent", "gateway"])
def test_a_host_whose_clock_is_wrong(clocks, role):
    s = clocks(f"{role}d")
    daemon = s.procs[f"{role}d"]

    # A year ahead: everybody else looks expired, and is borne with; the more so after a restart.
    s.clock(f"{role}d", YEAR)
    mark = s.new_trust(role)
    daemon.wait_log("peers' certificates look expired", since=mark)
    assert s.metric(role, f"kakuremichi_{role}_certificates_borne") == 1
    assert s.get("/").status == 200
    s.restart(role, YEAR)
    daemon = s.procs[f"{role}d"]
    s.wait_served()
    # TLS towards control looks at the clock too, and says so; traffic does not wait for control.
    daemon.wait_log("link closed", "certificate has expired")
    s.nobody_was_cut_off()

    # Put right in time: as if nothing had been.
    s.clock(f"{role}d", 0)
    daemon.wait_log("authenticated")
    mark = s.new_trust(role)
    daemon.wait_log("the clock was put", "seconds=-31", since=mark)
    assert s.metric(role, f"kakuremichi_{role}_certificates_borne") == 0
    assert s.get("/").status == 200

    # A year behind: nothing is valid yet, which is no reason to refuse anybody.
    s.restart(role, -YEAR)
    daemon = s.procs[f"{role}d"]
    daemon.wait_log("the clock stands before the time at which this host ran last")
    s.wait_served()
    daemon.wait_log("link closed", "certificate is not yet valid")
    assert s.get("/").status == 200
    s.clock(f"{role}d", 0)
    daemon.wait_log("authenticated")
    s.new_trust(role)
    assert s.metric(role, f"kakuremichi_{role}_certificates_borne") == 0
    assert s.get("/").status == 200
    s.nobody_was_cut_off()


@pytest.mark.parametrize("role", ["agent", "gateway"])
def test_handshakes_go_on_after_a_clock_is_put_back(fresh, role):
    """WireGuard refuses handshakes that are older than those it has seen; here the other end has seen some
    from a year ahead, and this one is started anew with the right time, then with one a year behind."""
    s = fresh
    s.clock(f"{role}d", YEAR)
    warden = s.warden_with_clock(role)
    s.clock(f"{role}d", 0)
    s.up(**{role: {"warden": warden}})
    s.create_tunnel()
    s.wait_served()
    start = {"gateway": s.start_gateway, "agent": s.start_agent}[role]
    for seconds in (YEAR, 0, -YEAR):
        s.stop(f"{role}d")
        s.clock(f"{role}d", seconds)
        start(wait=False, warden=warden)
        if seconds < YEAR:
            line = s.procs[f"{role}d"].wait_log("the clock stands before the time of earlier handshakes")
            assert int(line.split("behind_s=")[1]) > 360 * 86400, line
        s.wait_served()


def test_the_grace_time_is_one(clocks):
    """What the test above is measured by: when the grace time is over, peers are cut off; they come back when
    the clock is put right."""
    s = clocks("gatewayd", certificate_grace="1s")
    s.clock("gatewayd", YEAR)
    mark = s.new_trust("gateway")
    g = s.procs["gatewayd"]
    g.wait_log("peers' certificates look expired", since=mark)
    g.wait_log("peer cut off", s.agent_id, "the grace time is over", since=mark, timeout=90)
    assert s.wg_peers("gateway") == set()
    s.wait_status(s.domain, "/", 502)
    s.clock("gatewayd", 0)
    s.new_trust("gateway")
    s.wait_served()


def own_end(s, role):
    return s.metric(role, f"kakuremichi_{role}_certificate_not_after_seconds")


@pytest.mark.parametrize("years", [1, -1])
def test_control_whose_clock_is_wrong(clocks, years):
    """It goes on issuing by its clock; hosts bear with that; put right, it issues anew what is not right."""
    s = clocks("controld")
    right = {role: own_end(s, role) for role in ("agent", "gateway")}
    s.stop("controld")
    s.clock("controld", years * YEAR)
    s.start_control()
    s.api_tls.check_hostname, s.api_tls.verify_mode = False, ssl.CERT_NONE
    if years > 0:
        # 90 days are over, it thinks; so it renews, as of then.
        s.procs["controld"].wait_log("certificates renewed", "hosts=2", "failed=0")
    token = s.api("POST", "/api/agents", {"name": "late"}, expect=201)["joinToken"]
    assert token
    assert s.get("/").status == 200
    s.stop("controld")
    marks = {daemon: s.procs[daemon].mark() for daemon in ("agentd", "gatewayd")}
    s.clock("controld", 0)
    s.start_control()
    for daemon, mark in marks.items():
        s.procs[daemon].wait_log("authenticated", since=mark)
    if years > 0:
        s.procs["controld"].wait_log("certificates renewed", "hosts=2", "failed=0")
    mark = s.new_trust("gateway")
    assert mark
    for role in right:
        assert abs(own_end(s, role) - right[role]) < 86400, role
    assert s.get("/").status == 200
    s.nobody_was_cut_off()
