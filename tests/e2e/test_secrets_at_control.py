# SPDX-License-Identifier: MIT
"""Control stores and relays no private key and no challenge.

    CA (pebble) ──┬── gateway 1 ══ WireGuard ══ gateway 2
                  ├── (NAT) agent ── target
                  └── control, behind a relay of the test's that writes down every frame
"""
import re

import pytest

from cryptography import x509

from tests.lab import needles, net, proofs
from tests.lab.captured import Relay
from tests.lab.dnsserver import DnsServer
from tests.lab.pebble import Pebble
from tests.lab.proc import run

NAMES = ("hello.demo.test", "a.t.demo.test", "b.t.demo.test", "c.t.demo.test")
STATES = ("gateway-state", "gateway2-state", "agent-state")


def account_thumbprints(folder):
    """Of the account keys (PEM) that lie there."""
    for path in folder.rglob("acme_account*key"):
        key = needles.serialization.load_pem_private_key(path.read_bytes(), None).public_key().public_numbers()
        yield proofs.thumbprint({"kty": "EC", "crv": "P-256", **{
            c: proofs.b64(getattr(key, c).to_bytes(32, "big")) for c in "xy"}})


@pytest.fixture(scope="module")
def s(bare):
    s = bare
    dns = DnsServer(s, "\n".join(f"{name} A {net.GATEWAYS[n]}" for n in (1, 2) for name in ("hello", "*.t")))
    s.use_ca(Pebble(s, dns=dns), acme_challenges="http-01")  # of these pebble tells the tokens
    s.start_control(log_level="debug")
    (s.dir / "relay").mkdir()
    s.relay = Relay(s.net.control, s.dir / "relay", net.CONTROL)
    try:
        s.start_target()
        s.api_keys = []
        for number, kind in ((1, "gateway"), (2, "gateway"), (0, "agent")):
            made = s.api("POST", f"/api/{kind}s", {"name": f"{kind}-{number or 1}"}, expect=201)
            role = kind if number < 2 else f"{kind}{number}"
            if number > 1:
                s.net.add_gateway(number)
            s.join(role, made["joinToken"])
            s.joined[role] |= {"control": "wss://control.demo.test:3002", "control_pin": s.relay.pin}
            if kind == "agent":
                s.agent_id = made["id"]
                s.start_agent()
            else:
                s.gateway_ids[number] = made["id"]
                s.start_gateway(number=number, log_level="debug")
        yield s
    finally:
        s.relay.close()


def test_neither_key_nor_challenge(s):
    for name in NAMES:
        s.create_tunnel(name)
    for name in NAMES:
        for number in (1, 2):
            s.wait_served(domain=name, number=number, timeout=60)
            assert s.wait_certificate("ready", name, number)["notAfter"]
    leaves = [x509.load_der_x509_certificate(s.leaf(name)) for name in NAMES]

    tokens = set(re.findall(r"/\.well-known/acme-challenge/([\w-]{20,})", "\n".join(s.procs["pebble"].lines)))
    thumbprints = {t for state in STATES for t in account_thumbprints(s.dir / state)}
    secrets = {**needles.keys_of(*(s.dir / state for state in STATES)), **needles.of_challenges(tokens, thumbprints)}
    kept = {name for name in secrets if "/acme" in name}
    assert len(tokens) >= len(NAMES) and thumbprints
    for state in STATES[:2]:  # every gateway has a key for every name, and there is something to be found
        assert all(any(f"/{state}/" in k and k.endswith(f"/{name}") for k in kept) for name in NAMES), kept
    assert sum("wireguard.key" in name for name in secrets) == 3

    dump = run("pg_dump", "-h", str(s.dir / "control/postgres/run"), "-U", "postgres", "kakuremichi").encode()
    hay = {"frames": "\n".join(text for _, _, text in s.relay.frames).encode(), "dump": dump,
           "log": "\n".join(s.procs["controld"].lines).encode(), **needles.files(s.dir / "control")}
    assert needles.search(secrets, hay) == []

    # The search finds what is there: each key in its own file, tokens in the CA's log; the certificates passed
    # through, and control knows of them.
    own = {k: v for state in STATES for k, v in needles.files(s.dir / state).items()}
    assert {what for what, _ in needles.search({k: secrets[k] for k in kept}, own)} == kept
    seen = needles.search(secrets, {"pebble": "\n".join(s.procs["pebble"].lines).encode()})
    assert {what for what, _ in seen} == {f"token {t}" for t in tokens}
    for leaf in leaves:
        line = proofs.pem(leaf).splitlines()[4].encode()
        assert needles.search({"leaf": {line}}, {"frames": hay["frames"]}), "no gateway has told control of it"
        assert leaf.fingerprint(leaf.signature_hash_algorithm).hex().encode() in dump
    assert needles.search({"domain": {NAMES[-1].encode()}}, {k: v for k, v in hay.items() if "/postgres/" in k})
    types = set(re.findall(rb'"type": ?"(\w+)"', hay["frames"]))
    assert types >= {b"lease", b"lease_result", b"certificate_obtained", b"status", b"config", b"tunnel_create"}, types


def test_what_is_known_of_a_domain_goes_and_comes_with_its_tunnel(s):
    name = NAMES[-1]
    before = {n: s.wait_certificate("ready", name, n)["notAfter"] for n in (1, 2)}
    found = next(t for t in s.api("GET", "/api/tunnels", expect=200)["items"] if t["domain"] == name)
    s.api("DELETE", f"/api/tunnels/{found['id']}", expect=204)
    assert not s.certificate(name, 1) and not s.certificate(name, 2)
    orders = s.procs["pebble"].count_log("Added order")
    s.create_tunnel(name)
    for n in (1, 2):
        assert s.wait_certificate("ready", name, n)["notAfter"] == before[n]
    assert s.procs["pebble"].count_log("Added order") == orders, "what lies on the disk is served again"
