# SPDX-License-Identifier: MIT
"""Control in the wrong hands.

    stranger ── gateway ══ WireGuard ══ (NAT) agent ── target
                    └── control ──┘
                           ^ the test: all that control knows and holds, but not the CA's key (first part);
                             its database with every right in it, but not the master key (second part)
"""
import asyncio
import base64
import hashlib
import hmac
import json
import os
import ssl
import uuid

import pytest
import websockets

from tests.lab import System, net
from tests.lab.captured import Captured, Offline, pem, unpem
from tests.lab.proc import LabError, patience, run, until

AGENT, GATEWAY, TUNNEL, TARGET, NOBODY = (str(uuid.uuid4()) for _ in range(5))
PLACES = {"agent": ("10.1.0.100/8", "10.1.0.0/24"), "gateway": ("10.0.0.1/8", None)}


def new_key():
    return base64.b64encode(os.urandom(31) + b"\x01").decode()


class World:
    """A gateway and an agent whose CA is offline, served by a control that the test plays."""

    def __init__(self, s):
        self.s, self.revision, self.number = s, 1, 10
        self.ca = Offline(s.build / "kmctl", s.dir / "ca")
        self.thief = Offline(s.build / "kmctl", s.dir / "thief")
        (s.dir / "captured").mkdir()
        self.control = Captured(s.net.control, s.dir / "captured")
        self.keys = {}
        self.gone = self.ca.sign("gone", new_key(), "10.7.0.100/8", "agent", "10.7.0.0/24")
        self.blocked = (self.ca.fingerprint_of(self.gone),)
        for role in ("agent", "gateway"):
            s.joined[role] = {"control": "wss://control.demo.test:3001", "control_pin": self.control.pin,
                              "ca_pin": self.ca.fingerprint}
            s._edge_settings(role)
            key = s.dir / f"{role}.key"
            key.write_text("of no interest to a thief\n")
            key.chmod(0o600)
            self.keys[role] = run(str(s.build / "km-warden"), "--key", str(s.dir / f"{role}-state")).strip()
        self.certificates = {role: self.sign(role) for role in self.keys}

    def sign(self, role, key=None, ca=None, place=None, group=None):
        networks, unsafe = place or PLACES[role]
        return (ca or self.ca).sign(f"{role}-1", key or self.keys[role], networks, group or role, unsafe)

    def agent(self, **changes):
        return {"id": AGENT, "name": "agent-1", "virtualIp": "10.1.0.100", "subnet": "10.1.0.0/24",
                "wireguardPublicKey": self.keys["agent"], "certificate": self.certificates["agent"], **changes}

    def gateway(self, **changes):
        return {"id": GATEWAY, "name": "gateway-1", "virtualIps": ["10.0.0.1"], "publicIp": ["203.0.113.2"],
                "wireguardPort": 51820, "wireguardPublicKey": self.keys["gateway"],
                "certificate": self.certificates["gateway"], **changes}

    def config(self, kind, peers):
        tunnel = {"id": TUNNEL, "domain": self.s.domain, "enabled": True, "agentId": AGENT, "protocol": "http",
                  "agentVirtualIp": "10.1.0.100", "targetId": TARGET, "target": "127.0.0.1:8080"}
        data = {"epoch": "captured", "revision": self.revision, "tunnels": [tunnel]}
        if kind == "agent":
            return {**data, "agent": {"id": AGENT, "name": "agent-1", "virtualIp": "10.1.0.100",
                                      "subnet": "10.1.0.0/24"}, "gateways": peers}
        return {**data, "gateway": {"id": GATEWAY, "name": "gateway-1", "virtualIps": ["10.0.0.1"]},
                "agents": peers}

    def up(self):
        bundle = self.ca.bundle(self.number, blocked=self.blocked)
        for kind, peers in (("agent", [self.gateway()]), ("gateway", [self.agent()])):
            self.control.say[kind] = [("trust", {"bundle": bundle}), ("config", self.config(kind, peers))]
        self.s.start_target()
        self.s.start_gateway()
        self.s.start_agent()
        self.s.wait_served()
        for kind in ("agent", "gateway"):
            ack = self.control.wait_ack(kind, 1)
            assert ack["success"], ack

    def push(self, kind, peers):
        """As a whole configuration; the host's acknowledgement, and what it logged."""
        daemon = self.s.procs[f"{kind}d"]
        mark = daemon.mark()
        self.revision += 1
        self.control.send(kind, "config", self.config(kind, peers))
        ack = self.control.wait_ack(kind, self.revision)
        return ack, lambda *words: daemon.wait_log(*words, since=mark)

    def peers(self, kind):
        return self.s.wg_peers(kind)

    def goes_on(self):
        assert self.s.get("/").text == "hello\n"
        assert self.peers("gateway") == {self.keys["agent"]}
        assert self.peers("agent") == {self.keys["gateway"]}


@pytest.fixture(scope="module")
def w(request):
    s = System("kmcap")
    world = None
    try:
        world = World(s)
        world.up()
        yield world
    finally:
        if request.session.testsfailed:
            s.dump_logs()
        complaints = s.close()
        if world:
            world.control.close()
    assert not complaints, complaints


def longer(certificate):
    """The same certificate, valid for years longer: every field but the signature."""
    body = bytearray(unpem(certificate))
    # not before and not after stand side by side: [5] and [6] of the details, four bytes each
    at = next(i for i in range(len(body)) if body[i:i + 2] == b"\x86\x04" and body[i - 6:i - 4] == b"\x85\x04")
    assert body[at + 2] < 0x7f
    body[at + 2] += 1  # 194 days
    return pem("NEBULA CERTIFICATE V2", bytes(body))


def attacks(w, kind):
    """(what, peers, what the host says of it)"""
    other = new_key()
    peer = w.agent if kind == "gateway" else w.gateway
    role = "agent" if kind == "gateway" else "gateway"
    place = {"virtualIp": "10.9.0.100", "subnet": "10.9.0.0/24"} if role == "agent" else \
        {"virtualIps": ["10.0.0.9"]}
    elsewhere = ("10.9.0.100/8", "10.9.0.0/24") if role == "agent" else ("10.0.0.9/8", None)
    invented = {"id": NOBODY, "name": "invented", "wireguardPublicKey": other, **place}
    own = w.sign(role, other, w.thief, elsewhere)
    yield "invented", [peer(), peer(**invented, certificate=None)], "it has no certificate"
    yield "invented, by its own CA", [peer(), peer(**invented, certificate=own)], "invented: "
    yield "invented, another's certificate", [peer(), peer(**invented)], "for another WireGuard key"
    if role == "agent":
        back = {"wireguardPublicKey": other, "certificate": w.gone}
        yield "one that was revoked", [peer(), peer(**{**invented, **back})], "invented: "
    yield "key swapped", [peer(wireguardPublicKey=other)], "for another WireGuard key"
    yield "key swapped, its own CA", [peer(wireguardPublicKey=other,
                                           certificate=w.sign(role, other, w.thief))], f"{role}-1: "
    yield "address moved", [peer(**place)], "does not give it"
    yield "address moved, its own CA", [peer(**place, certificate=w.sign(role, None, w.thief, elsewhere))], \
        f"{role}-1: "
    yield "kind changed", [peer(wireguardPublicKey=w.keys[kind], certificate=w.certificates[kind])], \
        "does not say that it is"
    yield "longer validity", [peer(certificate=longer(w.certificates[role]))], f"{role}-1: "


@pytest.mark.parametrize("kind", ["gateway", "agent"])
def test_offline_ca_no_host_believes_a_captured_control(w, kind):
    for what, peers, says in attacks(w, kind):
        peers = [{k: v for k, v in p.items() if v is not None} for p in peers]
        ack, logged = w.push(kind, peers)
        assert not ack["success"] and says in ack["error"], (what, ack)
        logged("peer refused", says)
        w.goes_on()
    role = "agent" if kind == "gateway" else "gateway"
    peer = w.agent if role == "agent" else w.gateway
    # A key to come that no CA has certified stays away; the present one is not touched.
    key = new_key()
    for certificate in (w.sign(role, key, w.thief), w.certificates[role]):
        _, logged = w.push(kind, [peer(nextPublicKey=key, nextCertificate=certificate)])
        logged("peer refused", f"{role}-1: its next key: ")
        w.goes_on()
    ack, _ = w.push(kind, [peer()])
    assert ack["success"], ack


@pytest.mark.parametrize("kind", ["gateway", "agent"])
def test_offline_ca_no_host_takes_its_bundles(w, kind):
    daemon = w.s.procs[f"{kind}d"]
    state = w.s.dir / f"{kind}-state/trust.pem"
    before = state.read_text()
    same = {"blocked": w.blocked}
    bundles = (
        ("its own CA", w.thief.bundle(w.number + 1, **same), "is signed by"),
        ("its own CA beside the true one", w.thief.bundle(w.number + 1, w.ca, **same), "is signed by"),
        ("nobody has signed", w.ca.bundle(w.number + 1, w.thief, signer=False, **same), "is not signed"),
        ("older", w.ca.bundle(w.number - 1), "is older than"),
        ("nobody is blocked any more", w.ca.bundle(w.number + 1, signer=False), "not unblocked"),
        ("no CA", w.thief.bundle(w.number + 1, signer=False, **same), "would leave no trusted CA"),
        ("the same number", w.ca.bundle(w.number, w.thief, **same), "known with other content"),
        ("damaged", w.ca.bundle(w.number + 1, **same).replace("-----END", "AAAA\n-----END"), "trust bundle"),
    )
    for what, bundle, says in bundles:
        mark = daemon.mark()
        w.control.send(kind, "trust", {"bundle": bundle})
        line = daemon.wait_log("trust bundle refused", since=mark)
        assert says in line and "taken_in_part=0" in line, (what, line)
        assert state.read_text() == before, what
        w.goes_on()
    # Nor does it believe the thief's hosts afterwards.
    key = new_key()
    invented = w.agent(id=NOBODY, wireguardPublicKey=key, certificate=w.sign("agent", key, w.thief)) \
        if kind == "gateway" else \
        w.gateway(id=NOBODY, wireguardPublicKey=key, certificate=w.sign("gateway", key, w.thief))
    ack, _ = w.push(kind, [w.agent() if kind == "gateway" else w.gateway(), invented])
    assert not ack["success"], ack
    w.goes_on()


def test_offline_ca_the_operator_is_obeyed(w):
    """What the tests before this one are measured by: with the CA's key all of it works."""
    key = new_key()
    certificate = w.sign("agent", key, place=("10.9.0.100/8", "10.9.0.0/24"))
    new = w.agent(id=NOBODY, name="agent-1", wireguardPublicKey=key, virtualIp="10.9.0.100",
                  subnet="10.9.0.0/24", certificate=certificate)
    ack, _ = w.push("gateway", [w.agent(), new])
    assert ack["success"], ack
    assert w.peers("gateway") == {w.keys["agent"], key}
    # A removal needs no signature.
    daemon = w.s.procs["gatewayd"]
    mark = daemon.mark()
    blocked = (*w.blocked, w.ca.fingerprint_of(certificate))
    w.control.send("gateway", "trust", {"bundle": w.ca.bundle(w.number + 1, blocked=blocked, signer=False)})
    daemon.wait_log("peer cut off", NOBODY, since=mark)
    assert w.peers("gateway") == {w.keys["agent"]}
    assert w.s.get("/").text == "hello\n"


# ---- the CA at control, and its database in the wrong hands ----------------------------------------------

class Database:
    """A real control; whoever writes to its database has an agent of their own (`mine`), a host that was
    revoked (`gone`), a CA and keys, but not the master key."""

    def __init__(self, s):
        self.s = s
        s.up()
        s.create_tunnel()
        s.wait_served()
        self.thief = Offline(s.build / "kmctl", s.dir / "thief")
        self.mine = s.api("POST", "/api/agents", {"name": "mine"}, expect=201)
        self.gone = s.api("POST", "/api/agents", {"name": "gone"}, expect=201)
        self.gone_key = new_key()
        a = self.talk("agent", "auth", apiKey=self.gone["apiKey"], wireguardPublicKey=self.gone_key)
        assert a["type"] == "auth_success", a
        s.procs["gatewayd"].wait_log("configuration applied", "type=agent_update")
        self.gone_certificate = self.row("gone", "certificate")
        s.api("POST", f"/api/agents/{self.gone['id']}/revoke", expect=200)
        self.gone_fingerprint = self.thief.fingerprint_of(self.gone_certificate)
        until(lambda: len(s.wg_peers("gateway")) == 1, why="the gateway drops who is revoked")
        self.keys = {"gateway": s.wg_peers("agent"), "agent": s.wg_peers("gateway")}
        assert len(self.keys["gateway"]) == 1

    def row(self, name, column):
        return self.s.sql(f"SELECT {column} FROM agents WHERE name = '{name}'")

    def talk(self, kind, type_, **data):
        """The first message of a link; what is answered."""
        async def main():
            sock = self.s.net.stranger.connect(net.CONTROL, 3001)
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            async with websockets.connect(f"wss://control.demo.test:3001/ws?type={kind}", sock=sock, ssl=tls,
                                          server_hostname="control.demo.test", compression=None) as ws:
                await ws.send(json.dumps({"type": type_, "data": data}))
                return json.loads(await asyncio.wait_for(ws.recv(), patience(20)))
        return asyncio.run(main())

    def agent_1(self, changes):
        """Changes agent-1's row and tells everybody, as control would."""
        self.s.sql("BEGIN; SELECT km_before('agent', id) FROM agents WHERE name = 'agent-1'; "
                   f"UPDATE agents SET {changes} WHERE name = 'agent-1'; "
                   "SELECT km_change('agent', 'update', id) FROM agents WHERE name = 'agent-1'; COMMIT")

    def goes_on(self):
        assert self.s.get("/").text == "hello\n"
        assert self.s.wg_peers("gateway") == self.keys["agent"]
        assert self.s.wg_peers("agent") == self.keys["gateway"]


@pytest.fixture(scope="module")
def d(request):
    s = System("kmcdb")
    try:
        yield Database(s)
    finally:
        if request.session.testsfailed:
            s.dump_logs()
        complaints = s.close()
    assert not complaints, complaints


def secret(prefix):
    return prefix + base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


def hashes(text):
    """What a database could be believed to keep of a secret, without the master key."""
    raw = text.encode()
    yield hashlib.sha256(raw).hexdigest()
    yield hmac.new(b"\0" * 32, raw, "sha256").hexdigest()
    yield hmac.new(b"kakuremichi stored secrets\0", raw, "sha256").hexdigest()


def test_database_no_administrator(d):
    token = secret("kmt_")
    for h in hashes(token):
        d.s.sql(f"INSERT INTO tokens (name, hash, prefix, role) VALUES ('thief', '\\x{h}', '{token[:8]}', 'admin')")
    assert d.s.api("GET", "/api/agents", token=token).status == 401
    # One that is the thief's own, for something else: its API key's digest.
    d.s.sql("INSERT INTO tokens (id, name, hash, prefix) SELECT id, 'thief', api_key_hash, "
            f"'kmt_{d.mine['apiKey'][4:8]}' FROM agents WHERE name = 'mine'")
    assert d.s.api("GET", "/api/agents", token="kmt_" + d.mine["apiKey"][4:]).status == 401
    # The digest of a true token under another role, or in another row.
    first = d.s.sql("SELECT id FROM tokens WHERE name = 'first administrator'")
    d.s.sql("UPDATE tokens SET role = 'viewer' WHERE name = 'first administrator'")
    assert d.s.api("GET", "/api/agents").status == 401
    d.s.sql("UPDATE tokens SET role = 'admin', id = gen_random_uuid() WHERE name = 'first administrator'")
    assert d.s.api("GET", "/api/agents").status == 401
    d.s.sql(f"UPDATE tokens SET id = '{first}' WHERE name = 'first administrator'")
    d.s.api("GET", "/api/agents", expect=200)


def test_database_no_host(d):
    """Neither an API key nor a join token that the thief knows lets them in as agent-1."""
    agent = d.s.agent_id
    was = d.s.sql(f"SELECT api_key_hash::text || '|' || api_key_prefix FROM agents WHERE id = '{agent}'").split("|")
    for kind, column in (("agt_", "api_key"), ("kmj_", "join_token")):
        text = secret(kind)
        for h in hashes(text):
            d.s.sql(f"UPDATE agents SET {column}_hash = '\\x{h}', {column}_prefix = '{text[:8]}', "
                    f"join_token_expires_at = now() + interval '1 day', join_key = NULL WHERE id = '{agent}'")
            a = d.talk("agent", "auth", apiKey=text, wireguardPublicKey=new_key()) if kind == "agt_" else \
                d.talk("agent", "join", token=text, wireguardPublicKey=new_key())
            assert a["type"] in ("auth_error", "join_error"), a
    # The digests of the thief's own, moved to agent-1's row.
    token = d.s.api("POST", f"/api/agents/{d.mine['id']}/join-token", expect=201)["joinToken"].split(".")[0]
    d.s.sql("CREATE TABLE kept AS SELECT api_key_hash AS k, api_key_prefix AS kp, join_token_hash AS j, "
            "join_token_prefix AS jp FROM agents WHERE name = 'mine'; "
            "UPDATE agents SET api_key_hash = sha256('x'), join_token_hash = NULL WHERE name = 'mine'; "
            "UPDATE agents SET api_key_hash = k, api_key_prefix = kp, join_token_hash = j, join_token_prefix = jp "
            f"FROM kept WHERE id = '{agent}'")
    assert d.talk("agent", "auth", apiKey=d.mine["apiKey"])["type"] == "auth_error"
    assert d.talk("agent", "join", token=token, wireguardPublicKey=new_key())["type"] == "join_error"
    # agent-1 as it was; the thief's back in their row, which has another place now.
    d.s.sql(f"UPDATE agents SET api_key_hash = '{was[0]}', api_key_prefix = '{was[1]}', join_token_hash = NULL, "
            f"join_token_prefix = NULL WHERE id = '{agent}'; "
            "UPDATE agents SET api_key_hash = k, api_key_prefix = kp, join_token_hash = j, join_token_prefix = jp, "
            "join_token_expires_at = now() + interval '1 day', number = number + 100 FROM kept WHERE name = 'mine'")
    assert d.talk("agent", "auth", apiKey=d.mine["apiKey"])["type"] == "auth_error"
    assert d.talk("agent", "join", token=token, wireguardPublicKey=new_key())["type"] == "join_error"
    d.s.sql("UPDATE agents SET number = number - 100 WHERE name = 'mine'; DROP TABLE kept")
    a = d.talk("agent", "auth", apiKey=d.mine["apiKey"])
    assert a["type"] == "auth_success", a  # so that is what has refused it before
    d.goes_on()


def test_database_no_peer(d):
    """What is written into rows reaches the gateway, and is refused there."""
    g = d.s.procs["gatewayd"]
    key = new_key()
    made_up = d.thief.sign("invented", key, "10.9.0.100/8", "agent", "10.9.0.0/24")
    mark = g.mark()
    d.s.sql("INSERT INTO agents (name, number, api_key_hash, api_key_prefix, wireguard_public_key, certificate) "
            f"VALUES ('invented', 265, sha256('invented'), 'agt_xxxx', '{key}', '{made_up}'); "
            "SELECT km_change('agent', 'create', id) FROM agents WHERE name = 'invented'")
    g.wait_log("peer refused", "agent invented: ", since=mark)
    d.goes_on()
    old = {c: d.row("agent-1", c) for c in ("number", "virtual_ip", "subnet", "wireguard_public_key")}
    for changes, says in ((f"wireguard_public_key = '{new_key()}'", "for another WireGuard key"),
                          ("virtual_ip = '10.8.0.100', subnet = '10.8.0.0/24', number = 264", "does not give it"),
                          ("certificate = 'none at all'", "agent agent-1: ")):
        mark = g.mark()
        d.agent_1(changes)
        g.wait_log("peer refused", says, since=mark)
        assert d.s.wg_peers("gateway") == d.keys["agent"]
        d.agent_1(", ".join(f"{c} = '{v}'" for c, v in old.items()) +
                  ", certificate = (SELECT c.certificate FROM host_certificates c WHERE c.host_id = agents.id "
                  "AND blocked_at IS NULL ORDER BY created_at DESC LIMIT 1)")
    d.s.wait_served()
    d.goes_on()


def test_database_no_certificate(d):
    """Control renews what its CA has signed, not what a row says."""
    c = d.s.procs["controld"]
    key, mine = new_key(), d.mine["id"]
    cases = (
        (key, d.thief.sign("mine", key, "10.9.0.100/8", "agent", "10.9.0.0/24"), "could not find ca"),
        (key, d.row("agent-1", "certificate"), "for another WireGuard key"),
        (d.gone_key, d.gone_certificate, "is revoked"),
    )
    for k, certificate, says in cases:
        mark = c.mark()
        d.s.sql(f"UPDATE agents SET wireguard_public_key = '{k}', certificate = '{certificate}', "
                f"certificate_due = true WHERE id = '{mine}'; SELECT km_trust_wanted()")
        c.wait_log("certificate not renewed", "name=mine", says, since=mark)
        assert d.row("mine", "certificate") == certificate.strip()
    d.s.sql(f"UPDATE agents SET wireguard_public_key = NULL, certificate = NULL, certificate_due = false "
            f"WHERE id = '{mine}'")
    d.goes_on()


def blocks(bundle, fingerprint):
    return bytes.fromhex(fingerprint) in unpem(bundle)


def test_database_no_trust(d):
    """Neither its own CA nor an emptier blocklist is signed or handed out."""
    c, g = d.s.procs["controld"], d.s.procs["gatewayd"]
    assert blocks(d.s.api("GET", "/api/trust", expect=200)["bundle"], d.gone_fingerprint)

    # Nobody is revoked any more.
    mark = g.mark()
    d.s.sql("UPDATE host_certificates SET blocked_at = NULL; SELECT km_trust_wanted()")
    g.wait_log("trust bundle taken", since=mark)
    assert blocks((d.s.dir / "gateway-state/trust.pem").read_text(), d.gone_fingerprint)
    mark = g.mark()
    d.s.sql("DELETE FROM host_certificates WHERE certificate = '" + d.gone_certificate + "'; SELECT km_trust_wanted()")
    g.wait_log("trust bundle taken", since=mark)
    assert blocks((d.s.dir / "gateway-state/trust.pem").read_text(), d.gone_fingerprint)

    # Another bundle.
    number = d.s.api("GET", "/api/trust", expect=200)["number"]
    for bundle, n in ((d.thief.bundle(number + 7), number + 7), ("nonsense", number + 9),
                      (d.thief.bundle(number + 20, signer=False), number + 20)):
        mark, gmark = c.mark(), g.mark()
        d.s.sql(f"UPDATE trust SET number = {n}, bundle = '{bundle}'; SELECT pg_notify('km_changes', '')")
        c.wait_log("trust bundle in the database not believed", since=mark)
        g.wait_log("trust bundle taken", since=gmark)  # control's own, made anew
        assert blocks((d.s.dir / "gateway-state/trust.pem").read_text(), d.gone_fingerprint)
        assert bytes.fromhex(d.thief.fingerprint) not in unpem((d.s.dir / "gateway-state/trust.pem").read_text())
    assert g.count_log("trust bundle refused") == 0

    # Another CA, and a restart.
    d.s.sql("INSERT INTO authorities (fingerprint, certificate, state, mac, not_after) VALUES "
            f"('{d.thief.fingerprint}', '{d.thief.certificate}', 'trusted', sha256('x'), now() + interval '1 year'); "
            "SELECT km_trust_wanted()")
    c.wait_log("authorities not believed", "was not put there by control")
    d.goes_on()
    d.s.stop("controld")
    with pytest.raises(LabError, match="was not put there by control"):
        d.s.start_control()
    d.s.procs.pop("controld").stop()
    d.goes_on()
