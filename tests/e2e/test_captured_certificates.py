# SPDX-License-Identifier: MIT
"""What a control server in the wrong hands can do to certificates: delay them.

    stranger, CA ──┬── gateway 1 ══ WireGuard ══ gateway 2
                   ├── (NAT) agent ── target        (a peer of both)
                   └── control, played by the test: it has the root that hosts pin, and not the CA's key
"""
import base64
import os
import uuid

import pytest

from tests.lab import client, needles, net, proofs
from tests.lab.captured import Captured, Offline
from tests.lab.dnsserver import DnsServer
from tests.lab.fakeca import FakeCa
from tests.lab.proc import run, until

IDS = {n: str(uuid.uuid4()) for n in range(1, 4)}
AGENT, NOBODY = str(uuid.uuid4()), str(uuid.uuid4())
NUMBERS = (1, 2)
RATE = 60  # new orders of each gateway in twelve hours: none comes back while the tests run


def new_key():
    return base64.b64encode(os.urandom(31) + b"\x01").decode()


def role(n):
    return "gateway" if n == 1 else f"gateway{n}"


class World:
    def __init__(self, s):
        self.s, self.revision = s, 1
        self.dns = DnsServer(s, "\n".join(f"hello A {net.GATEWAYS[n]}\n*.t A {net.GATEWAYS[n]}" for n in NUMBERS) +
                             f"\n*.e A {net.STRANGER}")
        self.fake = FakeCa(s, dns=self.dns)
        s.use_ca(self.fake, acme_order_rate=f"{RATE}/12h")
        self.ca = Offline(s.build / "kmctl", s.dir / "hosts-ca")
        self.thief = Offline(s.build / "kmctl", s.dir / "thief")
        (s.dir / "captured").mkdir()
        self.control = Captured(s.net.control, s.dir / "captured")
        self.keys, self.certificates, self.tunnels = {}, {}, [self.tunnel(s.domain)]
        for who in (*NUMBERS, "agent"):
            name = who if who == "agent" else role(who)
            if who != "agent":
                s.net.add_gateway(who) if who > 1 else None
            s.joined[name] = {"control": "wss://control.demo.test:3001", "control_pin": self.control.pin,
                              "ca_pin": self.ca.fingerprint}
            s._edge_settings(name)
            key = s.dir / f"{name}.key"
            key.write_text("of no interest to a thief\n")
            key.chmod(0o600)
            self.keys[who] = run(str(s.build / "km-warden"), "--key", str(s.dir / f"{name}-state")).strip()
            self.certificates[who] = self.ca.sign("agent-1", self.keys[who], "10.1.0.100/8", "agent", "10.1.0.0/24") \
                if who == "agent" else self.ca.sign(f"gateway-{who}", self.keys[who], f"10.0.0.{who}/8", "gateway")
        self.control.answer["lease"] = lambda key, data: self.lease(key, data)
        self.lease = self.honest
        self.leases = {}

    # ---- what control says ----
    def tunnel(self, domain, **more):
        return {"id": str(uuid.uuid4()), "domain": domain, "enabled": True, "agentId": AGENT, "protocol": "http",
                "agentVirtualIp": "10.1.0.100", "targetId": str(uuid.uuid4()), "target": "127.0.0.1:8080",
                "tls": "auto", **more}

    def gateway(self, n, **changes):
        return {"id": IDS[n], "name": f"gateway-{n}", "virtualIps": [f"10.0.0.{n}"], "publicIp": [net.GATEWAYS[n]],
                "wireguardPort": 51820, "wireguardPublicKey": self.keys[n], "certificate": self.certificates[n], **changes}

    def agent(self):
        return {"id": AGENT, "name": "agent-1", "virtualIp": "10.1.0.100", "subnet": "10.1.0.0/24",
                "wireguardPublicKey": self.keys["agent"], "certificate": self.certificates["agent"]}

    def config(self, who, gateways=None):
        data = {"epoch": "captured", "revision": self.revision, "tunnels": self.tunnels}
        if who == "agent":
            return {**data, "agent": {k: self.agent()[k] for k in ("id", "name", "virtualIp", "subnet")},
                    "gateways": [self.gateway(n) for n in NUMBERS]}
        own = self.gateway(who)
        others = [self.gateway(n) for n in NUMBERS if n != who] if gateways is None else gateways
        return {**data, "gateway": {k: own[k] for k in ("id", "name", "virtualIps", "publicIp")},
                "agents": [self.agent()], "gateways": others}

    def push(self, who, **more):
        """A whole configuration; the answer to it."""
        self.revision += 1
        return self.tell(who, **more)

    def tell(self, who, **more):
        self.control.send(self.keys[who], "config", self.config(who, **more))
        return self.control.wait_ack(self.keys[who], self.revision)

    def push_all(self):
        self.revision += 1
        for who in (*NUMBERS, "agent"):
            self.tell(who)

    def up(self):
        bundle = self.ca.bundle(10)
        for who, key in self.keys.items():
            self.control.say[key] = [("trust", {"bundle": bundle}), ("config", self.config(who))]
        self.s.start_target()
        for n in NUMBERS:
            self.s.start_gateway(number=n)
        self.s.start_agent()

    # ---- how it answers who wants a lease ----
    @staticmethod
    def result(data, granted, holder=None):
        return () if data.get("release") else [("lease_result", {
            "domain": data["domain"], "granted": granted, **({"holder": holder} if holder else {}),
            "until": "2099-01-01T00:00:00.000Z"})]

    def honest(self, key, data):
        holder = self.leases.setdefault(data["domain"], key)
        return self.result(data, holder == key, self.id_of(holder))

    def id_of(self, key):
        return next(IDS[n] for n in NUMBERS if self.keys[n] == key)

    # ---- what is looked at ----
    def daemon(self, n):
        return self.s.procs[f"{role(n)}d"]

    def metric(self, n, name):
        text = getattr(self.s.net, role(n)).exec("curl", "-s", "http://127.0.0.1:9101/metrics")
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    def peers(self, n):
        return self.s.wg_peers(role(n))

    def others(self, n):
        return {self.keys["agent"], *(self.keys[m] for m in NUMBERS if m != n)}


@pytest.fixture(scope="module")
def w(bare):
    world = World(bare)
    try:
        world.up()
        for n in NUMBERS:
            world.daemon(n).wait_log("gateway joined the mesh")
        for n in NUMBERS:
            served(world, bare.domain, n)
        yield world
    finally:
        world.control.close()
        world.fake.stop()


# ---- who is let in among gateways ----------------------------------------------------------------

def rogues(w):
    """(what, the gateway that control makes up, what the gateways say of it)"""
    key = new_key()
    third = {**w.gateway(1), "id": NOBODY, "name": "gateway-3", "virtualIps": ["10.0.0.3"], "publicIp": [net.CONTROL],
             "wireguardPublicKey": key}
    by_thief = w.thief.sign("gateway-3", key, "10.0.0.3/8", "gateway")
    yield "without a certificate", {**third, "certificate": None}, "it has no certificate"
    yield "by a CA of its own", {**third, "certificate": by_thief}, "gateway-3: "
    yield "with another's certificate", third, "for another WireGuard key"
    yield "an agent as a gateway", {**third, "wireguardPublicKey": w.keys["agent"], "virtualIps": ["10.1.0.100"],
                                    "certificate": w.certificates["agent"]}, "does not say that it is"
    yield "at a gateway's place", {**third, "virtualIps": ["10.0.0.1"], "certificate": by_thief}, "gateway-3: "


def test_no_gateway_is_invented(w):
    given = {n: w.metric(n, "kakuremichi_mesh_given_total") for n in NUMBERS}
    for what, rogue, says in rogues(w):
        rogue = {k: v for k, v in rogue.items() if v is not None}
        for n in NUMBERS:
            mark = w.daemon(n).mark()
            ack = w.push(n, gateways=[w.gateway(m) for m in NUMBERS if m != n] + [rogue])
            assert not ack["success"] and says in ack["error"], (what, ack)
            w.daemon(n).wait_log("peer refused", says, since=mark)
            assert w.peers(n) == w.others(n), what
            assert w.metric(n, "kakuremichi_mesh_peers") == 1, what
    # The true one moved to another key, or to where control listens: refused too, and the old one lives on.
    key = new_key()
    for changes in ({"wireguardPublicKey": key}, {"wireguardPublicKey": key, "certificate": w.thief.sign(
            "gateway-2", key, "10.0.0.2/8", "gateway")}, {"virtualIps": ["10.1.0.100"]}):
        ack = w.push(1, gateways=[w.gateway(2, **changes)])
        assert not ack["success"], changes
        assert w.metric(1, "kakuremichi_mesh_peers") == 1, changes
    assert w.push(1)["success"] and w.push(2)["success"]
    for n in NUMBERS:
        assert w.metric(n, "kakuremichi_mesh_given_total") == given[n], "nobody else was given a key"


def test_an_agent_is_not_heard_by_the_mesh(w):
    """A true peer of the private network, which is no gateway."""
    dial = ("import socket\n"
            "for n in (1, 2):\n"
            "    try:\n"
            "        s = socket.create_connection((f'10.0.0.{n}', 4437), 60)\n"
            "        s.sendall(b'\\0' * 64)\n"
            "        s.settimeout(60)\n"
            "        print(n, len(s.recv(1000)))\n"
            "    except ConnectionError as e:\n"
            "        print(n, 'refused')\n")
    before = {n: w.metric(n, "kakuremichi_mesh_refused_total") for n in NUMBERS}
    out = w.s.inside("agentd", "/usr/bin/python3", "-c", dial).split("\n")
    for n in NUMBERS:
        assert f"{n} 0" in out or f"{n} refused" in out, out
        assert w.metric(n, "kakuremichi_mesh_refused_total") == before[n] + 1
        assert w.metric(n, "kakuremichi_mesh_peers") == 1


# ---- leases --------------------------------------------------------------------------------------

def served(w, name, n, timeout=60):
    """Until this gateway shows a certificate of the CA for the name; its DER."""
    def of_the_ca():
        try:
            der = w.s.leaf(name, n)
        except OSError:
            return None
        return der if der in [proofs.der(c.leaf) for c in w.fake.of(name)] else None
    return until(of_the_ca, timeout, f"gateway {n} serves {name}")


def lies(w):
    """How control answers for a domain: (its first label, the answer)."""
    other = lambda key: next(IDS[n] for n in NUMBERS if w.keys[n] != key)
    yield "granted-to-nobody", lambda key, data: w.result(data, False, NOBODY)
    yield "denied-without-a-reason", lambda key, data: w.result(data, False)
    yield "held-by-themselves", lambda key, data: w.result(data, False, w.id_of(key))
    yield "granted-to-both", lambda key, data: w.result(data, True, w.id_of(key))
    yield "held-by-the-other-for-ever", lambda key, data: w.result(data, False, other(key))
    yield "silence", lambda key, data: ()
    yield "of-something-else", lambda key, data: w.result({**data, "domain": "hello.demo.test"}, False, other(key))
    yield "nonsense", lambda key, data: [("lease_result", bad) for bad in (
        {}, {"domain": data["domain"]}, {"domain": 5, "granted": "yes"}, {"domain": "x" * 5000, "granted": True},
        {**w.result(data, True)[0][1], "privateKey": "please"} if not data.get("release") else {})]
    yield "changing-its-mind", lambda key, data: w.result(data, True, w.id_of(key)) * 3 + w.result(data, False, other(key)) * 3


def test_whoever_has_a_lease_each_certificate_is_obtained(w):
    """A denial delays; nothing that control says makes two orders of one."""
    said = {f"{label}.t.demo.test": answer for label, answer in lies(w)}
    w.lease = lambda key, data: said.get(data["domain"], w.honest)(key, data)
    w.tunnels += [w.tunnel(name) for name in said]
    w.push_all()
    for name in (w.s.domain, *said):
        first, second = (served(w, name, n) for n in NUMBERS)
        assert first == second, f"{name}: two certificates"
        assert len(w.fake.orders_of(name)) == 1, name
    # Both have asked somebody who lies, or nothing of this was put to the test.
    asked = {m["domain"] for m in w.control.heard("lease")}
    assert asked >= set(said), set(said) - asked
    assert w.s.get("/").text == "hello\n"
    w.lease = w.honest


def test_answers_that_nobody_asked_for(w):
    marks = {n: w.daemon(n).mark() for n in NUMBERS}
    for n in NUMBERS:
        for i in range(3000):
            w.control.send(w.keys[n], "lease_result", {"domain": f"x{i}.t.demo.test", "granted": i % 2 == 0, "holder": NOBODY})
    assert all(w.push(n)["success"] for n in NUMBERS)
    for n in NUMBERS:
        assert not w.daemon(n).count_log("x1.t.demo.test", since=marks[n])
        assert w.metric(n, "kakuremichi_mesh_peers") == 1
    assert not w.fake.orders_of("x0.t.demo.test") and w.s.get("/").text == "hello\n"


# ---- tunnels that control makes up ----------------------------------------------------------------

def test_a_flood_of_tunnels(w):
    """Names that do not lead here are not ordered; those that do, only as fast as the gateways' own settings
    say. What is served goes on."""
    kept, mark = w.tunnels, len(w.control.frames)
    w.tunnels = kept + [w.tunnel(f"elsewhere{i}.demo.test") for i in range(500)] + \
        [w.tunnel(f"elsewhere{i}.e.demo.test") for i in range(500)] + [w.tunnel(f"flood{i}.t.demo.test") for i in range(500)]
    w.push_all()
    w.fake.wait(lambda: len(w.fake.orders) >= RATE, 60)

    def throttled():
        assert w.s.get("/").text == "hello\n"
        return [c for m in w.control.heard("status", mark) for c in m.get("certificates", ())
                if f"{RATE} orders" in c.get("error", "")]
    until(throttled, 60, "the gateways' own bound was reached")
    assert all(w.metric(n, "kakuremichi_mesh_peers") == 1 for n in NUMBERS)
    w.tunnels = kept
    w.push_all()
    assert len(w.fake.orders) <= RATE * len(NUMBERS), "more than the gateways' own bound"
    assert not [o for o in w.fake.orders if any("elsewhere" in name for name in o.names)]
    assert w.s.get("/").text == "hello\n"


def test_control_proves_nothing_to_a_ca(w):
    """The path of http-01 is the gateways' own. (With `off` and `passthrough` the target is whom a CA asks, and that is a
    host's that the CA of hosts has let in.)"""
    kept = w.tunnels
    for tls in ("own", "passthrough", "auto"):
        w.tunnels = [w.tunnel(w.s.domain, tls=tls)]
        w.push_all()
        for n in NUMBERS:
            conn = client.NsConnection(w.s.net.stranger, net.GATEWAYS[n], 80, w.s.domain)
            a = client.request(conn, "GET", "/.well-known/acme-challenge/hello")
            conn.close()
            assert a.status == 404 and "hello" not in a.text, (tls, n, a)
    w.tunnels = kept
    w.push_all()


# ---- what it has heard ----------------------------------------------------------------------------

def test_no_secret_has_reached_it(w):
    """All that hosts have said since the first test of this file."""
    said = "\n".join(text for direction, _, text in w.control.frames if direction == "up").encode()
    thumbprints = {proofs.thumbprint(a["jwk"]) for a in w.fake.accounts.values()}
    tokens = [c.token for o in w.fake.orders for z in o.authzs for c in z.challenges]
    secrets = {**needles.keys_of(*(w.s.dir / f"{role(n)}-state" for n in NUMBERS), w.s.dir / "agent-state"),
               **needles.of_challenges(tokens, thumbprints)}
    assert sum("acme" in f for f in secrets) >= 10 and sum("wireguard.key" in f for f in secrets) >= 3 and len(tokens) > 20
    assert needles.search(secrets, {"frames": said}) == []
    # It would have been found: each key is in its own file, and the certificates themselves were told.
    states = {k: v for n in NUMBERS for k, v in needles.files(w.s.dir / f"{role(n)}-state").items()}
    keys = {what for what in secrets if "/acme" in what}
    assert {what for what, _ in needles.search({k: secrets[k] for k in keys}, states)} == keys
    some = {name: {proofs.pem(c.leaf).splitlines()[3].encode()} for c in w.fake.certificates for name in c.names[:1]}
    assert {what for what, _ in needles.search(some, {"frames": said})} >= {w.s.domain}
