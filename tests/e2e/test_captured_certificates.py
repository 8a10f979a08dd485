# SPDX-License-Identifier: MIT
"""What a control server in the wrong hands can do to certificates: delay them.

    stranger, CA ──┬── gateway 1 ══ WireGuard ══ gateway 2
                   ├── (NAT) agent ── target        (a peer of both)
                   └── control, played by the test: it has the root that hosts pin, and not the CA's key
"""
import base64
import json
import os
import ssl
import uuid

import pytest

from tests.lab import System, client, needles, net, proofs
from tests.lab.captured import Captured, Offline
from tests.lab.dnsserver import DnsServer
from tests.lab.fakeca import FakeCa
from tests.lab.proc import run

IDS = {n: str(uuid.uuid4()) for n in range(1, 4)}
AGENT, NOBODY = str(uuid.uuid4()), str(uuid.uuid4())
NUMBERS = (1, 2)


def new_key():
    return base64.b64encode(os.urandom(31) + b"\x01").decode()


def role(n):
    return "gateway" if n == 1 else f"gateway{n}"


class World:
    def __init__(self, s, network):
        self.s, self.revision = s, 1
        self.dns = DnsServer(s, "\n".join(f"hello A {net.GATEWAYS[n]}\n*.t A {net.GATEWAYS[n]}" for n in NUMBERS))
        self.fake = FakeCa(s, dns=self.dns)
        s.use_ca(self.fake)
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
        self.answers = {}
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
    world = World(bare, "10.0.0.0/8")
    try:
        world.up()
        for n in NUMBERS:
            world.daemon(n).wait_log("gateway joined the mesh")
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
            "        s = socket.create_connection((f'10.0.0.{n}', 4437), 5)\n"
            "        s.sendall(b'\\0' * 64)\n"
            "        s.settimeout(5)\n"
            "        print(n, len(s.recv(1000)))\n"
            "    except ConnectionError as e:\n"
            "        print(n, 'refused')\n")
    before = {n: w.metric(n, "kakuremichi_mesh_refused_total") for n in NUMBERS}
    out = w.s.inside("agentd", "/usr/bin/python3", "-c", dial).split("\n")
    for n in NUMBERS:
        assert f"{n} 0" in out or f"{n} refused" in out, out
        assert w.metric(n, "kakuremichi_mesh_refused_total") == before[n] + 1
        assert w.metric(n, "kakuremichi_mesh_peers") == 1
