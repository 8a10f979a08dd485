# SPDX-License-Identifier: MIT
"""A CA whose key control never sees: made, asked and obeyed through kmctl, over HTTPS.

    stranger (kmctl, the CA's key) ── gateway ══ WireGuard ══ (NAT) agent ── target
                    └─────────────────── control (ca = offline) ──┘
"""
import base64
import fcntl
import hashlib
import json
import os
import re
import select
import subprocess
import termios

import pytest

from tests.lab import System
from tests.lab.proc import patience
from tests.e2e.test_rotation import Load, key_of, until

PASSPHRASE = "correct horse"


def code_of(key):
    """The short code of a WireGuard key, worked out by other means."""
    n = int.from_bytes(hashlib.sha256(base64.b64decode(key)).digest()[:8], "big") >> 4
    text = "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[n >> shift & 31] for shift in range(55, -1, -5))
    return "-".join(text[i:i + 4] for i in (0, 4, 8))


class Operator:
    """kmctl on the stranger's host, in a folder of its own with the CA's files."""
    def __init__(self, s):
        self.s = s
        self.dir = s.dir / "operator"
        self.dir.mkdir(mode=0o700)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "NEBULA_CA_PASSPHRASE": PASSPHRASE}

    def know(self, *, pin=False):
        (self.dir / "token").touch(mode=0o600)
        (self.dir / "token").write_text(self.s.token)
        conf = self.dir / ".config/kakuremichi/kmctl.conf"
        conf.parent.mkdir(parents=True, exist_ok=True)
        who = f"pin = {self.s.pin}" if pin else f"ca_file = {self.s.dir}/control/root.crt"
        conf.write_text(f"control = https://control.demo.test:3000\n{who}\ntoken_file = {self.dir}/token\n")

    def argv(self, *args):
        return self.s.net.stranger.argv(str(self.s.build / "kmctl"), *map(str, args))

    def run(self, *args, text=None, **env):
        return subprocess.run(self.argv(*args), cwd=self.dir, env={**self.env, **env}, input=text or "",
                              capture_output=True, text=True, timeout=patience(60))

    def ok(self, *args, **kw):
        r = self.run(*args, **kw)
        assert r.returncode == 0, (args, r.stdout, r.stderr)
        return r.stdout + r.stderr

    def refused(self, *args, **kw):
        r = self.run(*args, **kw)
        assert r.returncode == 1 and "Error:" in r.stderr, (args, r.stdout, r.stderr)
        return r.stderr

    def ca(self, name, *args):
        self.ok("cert", "ca", "-name", name, "-version", "2", "-networks", "10.0.0.0/8", "-unsafe-networks",
                "10.0.0.0/8", "-encrypt", "-argon-memory", "1024", "-out-crt", f"{name}.crt",
                "-out-key", f"{name}.key", *args)

    def by(self, name):
        return "-ca-crt", f"{name}.crt", "-ca-key", f"{name}.key"

    def waiting(self):
        return json.loads(self.run("enrolments", "-json").stdout)

    def answered(self, question, answer, *args):
        """At a terminal: what was said, and the status."""
        leader, follower = os.openpty()
        proc = subprocess.Popen(self.argv(*args), cwd=self.dir, env=self.env, stdin=follower,
                                stdout=follower, stderr=follower, start_new_session=True,
                                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(follower)
        said = b""
        try:
            while question.encode() not in said:
                assert select.select([leader], [], [], patience(30))[0], said
                said += os.read(leader, 4096)
            os.write(leader, answer.encode() + b"\n")
            while True:
                try:
                    more = os.read(leader, 4096)
                except OSError:  # it has ended
                    break
                if not more:
                    break
                said += more
            return said.decode(), proc.wait(patience(60))
        finally:
            if proc.poll() is None:
                proc.kill()
                proc.wait()
            os.close(leader)


@pytest.fixture()
def s(request):
    system = System("kmof")
    system.operator = Operator(system)
    try:
        yield system
    finally:
        complaints = system.close()
    assert not complaints, complaints


def offline(s, **settings):
    """Control with the CA "home", whose key it does not have; the first bundle is signed."""
    o = s.operator
    o.ca("home")
    s.start_control(ca="offline", ca_certificate=o.dir / "home.crt", **settings)
    o.know()
    until_bundle(s, 1)


def until_bundle(s, number):
    def there():
        return s.api("GET", "/api/trust", expect=200)["number"] >= number
    until(there)


def joined(s, gateway=None, agent=None):
    """Both have joined and run, without certificates; their codes as join has printed them."""
    gw = s.api("POST", "/api/gateways", {"name": "gateway-1"}, expect=201)
    ag = s.api("POST", "/api/agents", {"name": "agent-1"}, expect=201)
    s.gateway_id, s.agent_id = gw["id"], ag["id"]
    codes = {}
    for role, made, settings in (("gateway", gw, gateway or {}), ("agent", ag, agent or {})):
        out = s.join(role, made["joinToken"], **settings)
        assert "waits to be signed" in out
        codes[f"{role}-1"] = re.search(r"\b\w{4}-\w{4}-\w{4}\b", out)[0]
    s.start_target()
    s.start_gateway(wait=False, **(gateway or {}))
    s.start_agent(wait=False, **(agent or {}))
    return codes


def served(s, **roles):
    offline(s, **roles.pop("control", {}))
    s.operator.ok("trust", "sign", *s.operator.by("home"), "-yes")
    joined(s, **roles)
    s.operator.ok("cert", "sign", *s.operator.by("home"), "-all", "-yes")
    s.create_tunnel()
    s.wait_served()


def test_from_nothing_to_a_served_request(s):
    o = s.operator
    offline(s)
    assert "not by" not in o.ok("authorities") and "home" in o.ok("authorities")
    assert "offline" in o.refused("authorities", "rotate")
    # The first bundle: shown, asked, signed, taken.
    assert not s.api("GET", "/api/trust", expect=200)["signed"]
    assert "no terminal" in o.refused("trust", "sign", *o.by("home"))
    said, status = o.answered("Sign this?", "n", "trust", "sign", *o.by("home"))
    assert status == 1 and "+ CA" in said and "not signed" in said
    said, status = o.answered("Sign this?", "y", "trust", "sign", *o.by("home"))
    assert status == 0 and "Signed: trust bundle 1" in said, said
    trust = s.api("GET", "/api/trust", expect=200)
    assert trust["signed"] and trust["lastSigned"] == trust["bundle"]
    assert "signed already" in o.ok("trust", "sign", *o.by("home"))
    # Both hosts wait; what they print is what the operator sees.
    codes = joined(s)
    waiting = {w["name"]: w for w in o.waiting()}
    assert set(waiting) == {"gateway-1", "agent-1"}
    for name, w in waiting.items():
        assert code_of(w["wireguardPublicKey"]) == codes[name] and w["reason"] == "join"
    table = o.ok("enrolments")
    assert all(code in table for code in codes.values())
    # A refusal leaves it waiting; the wrong CA signs nothing.
    said, status = o.answered("Sign?", "n", "cert", "sign", *o.by("home"), "-id", "agent-1")
    assert status == 0 and codes["agent-1"] in said and "goes on waiting" in said, said
    o.ca("other")
    assert "could not be answered" in o.refused("cert", "sign", *o.by("other"), "-all", "-yes")
    o.ca("narrow", "-groups", "gateway")
    assert "group" in o.refused("cert", "sign", *o.by("narrow"), "-id", "agent-1", "-yes")
    assert len(o.waiting()) == 2
    said, status = o.answered("Sign?", "y", "cert", "sign", *o.by("home"), "-id", "agent-1")
    assert status == 0 and "Signed: agent agent-1" in said
    o.know(pin=True)  # the other way to recognise control
    assert "Signed: gateway gateway-1" in o.ok("cert", "sign", *o.by("home"), "-all", "-yes",
                                               "-duration", "48h")
    assert "No request waits" in o.ok("cert", "sign", *o.by("home"))
    s.create_tunnel()
    s.wait_served()
    assert "in 89 days" in o.ok("agents") and re.search(r"in 4[67] hours|1 days", o.ok("gateways"))
    assert codes["agent-1"] in o.ok("agents")


def test_who_is_not_control_gets_no_token(s):
    o = s.operator
    offline(s)
    wrong = "sha256//" + base64.b64encode(bytes(32)).decode()
    assert "pin" in o.refused("agents", "-pin", wrong)
    assert "certificate" in o.refused("agents", "-ca-file", s.dir / "ca.crt")
    assert "recognised" in o.refused("agents", "-control", "https://control.demo.test:3000",
                                     HOME="/nonexistent")
    (o.dir / "token").write_text("x" * 43)
    assert "401" in o.refused("agents")
    (o.dir / "token").chmod(0o644)
    assert str(o.dir / "token") in o.refused("agents")


def test_revoked_while_the_ca_is_offline(s):
    o = s.operator
    served(s, agent={"drain_timeout": "2s"})  # what the gateway has reset the agent does not hear of
    number = s.api("GET", "/api/trust", expect=200)["number"]
    o.ok("agents", "revoke", "agent-1", "-yes")
    s.procs["gatewayd"].wait_log("trust bundle taken")
    s.wait_status(s.domain, "/", 502)
    trust = s.api("GET", "/api/trust", expect=200)
    assert trust["number"] > number and not trust["signed"]
    # A new host can join meanwhile: it gets the bundle that is signed.
    token = o.ok("agents", "join-token", "agent-1").strip()
    s.stop("agentd")
    s.join("agent", token, "-f")
    s.start_agent(wait=False)

    def signed_anew():  # within the same second it would be the certificate that is revoked
        r = o.run("cert", "sign", *o.by("home"), "-id", "agent-1", "-yes")
        assert r.returncode == 0 or "has been revoked: sign anew" in r.stderr, r.stderr
        return r.returncode == 0
    until(signed_anew)
    s.wait_served()
    said, status = o.answered("Sign this?", "y", "trust", "sign", *o.by("home"))
    assert status == 0 and "+ refused: certificate" in said, said
    signed = s.api("GET", "/api/trust", expect=200)
    assert signed["signed"] and signed["number"] == trust["number"]
    for role in ("agent", "gateway"):
        until(lambda r=role: (s.dir / f"{r}-state" / "trust.pem").read_text().strip()
              == signed["bundle"].strip())
    s.wait_served()


def test_renewal_asks(s):
    o = s.operator
    offline(s, certificate_lifetime="1m")  # looks every 2.5 s
    o.ok("trust", "sign", *o.by("home"), "-yes")
    joined(s)
    o.ok("cert", "sign", *o.by("home"), "-all", "-yes", "-duration", "15s")
    s.create_tunnel()
    s.wait_served()
    until(lambda: {(w["name"], w["reason"]) for w in o.waiting()}
          == {("agent-1", "renewal"), ("gateway-1", "renewal")})
    before = s.api("GET", f"/api/agents/{s.agent_id}", expect=200)["certificateFingerprint"]
    assert o.ok("cert", "sign", *o.by("home"), "-all", "-yes").count("for the same key, name and") == 2
    assert not o.waiting()
    assert s.api("GET", f"/api/agents/{s.agent_id}", expect=200)["certificateFingerprint"] != before
    s.wait_served()


def test_host_key_rotation(s):
    o = s.operator
    served(s, agent={"key_rotation": "5s"})
    before = key_of(s, "agent")
    with Load(s) as load:
        def asked():
            return [w for w in o.waiting() if w["reason"] == "rotation"]
        until(asked)
        assert key_of(s, "agent") == before
        s.procs["agentd"].wait_log("next WireGuard key", code_of(asked()[0]["wireguardPublicKey"]))
        o.ok("cert", "sign", *o.by("home"), "-all", "-yes")

        def switched():
            return key_of(s, "agent") != before
        until(switched)
        answers = load.answers
        until(lambda: load.answers > answers + 200)
    assert not load.failures, load.failures[:5]


def test_a_second_ca(s):
    o = s.operator
    served(s)
    o.ca("second")
    o.ok("authorities", "add", "second.crt")

    def unsigned():
        return not s.api("GET", "/api/trust", expect=200)["signed"]
    until(unsigned)
    until(lambda: len(o.waiting()) == 2)
    with Load(s) as load:
        # Hosts have not heard of it: neither it signs a bundle, nor is what it signs taken.
        assert "do not trust this CA yet" in o.refused("trust", "sign", *o.by("second"), "-yes")
        assert "have not been told of its CA" in o.refused("cert", "sign", *o.by("second"), "-all", "-yes")
        said = o.ok("trust", "sign", *o.by("home"), "-yes")
        assert said.count("= CA") == 1 and said.count("+ CA") == 1
        signed = s.api("GET", "/api/trust", expect=200)["bundle"].strip()
        for role in ("agent", "gateway"):
            until(lambda r=role: (s.dir / f"{r}-state" / "trust.pem").read_text().strip() == signed)
        assert o.ok("cert", "sign", *o.by("second"), "-all", "-yes").count("is not by this CA") == 2
        assert not o.waiting()
        old, = [a for a in s.api("GET", "/api/authorities", expect=200)["items"] if a["state"] == "trusted"]
        said, status = o.answered("no longer?", "y", "authorities", "retire", old["fingerprint"])
        assert status == 0, said
        until(unsigned)
        said = o.ok("trust", "sign", *o.by("second"), "-yes")
        assert "- CA" in said and "not by this CA" in said
        signed = s.api("GET", "/api/trust", expect=200)["bundle"].strip()
        for role in ("agent", "gateway"):
            until(lambda r=role: (s.dir / f"{r}-state" / "trust.pem").read_text().strip() == signed)
        answers = load.answers
        until(lambda: load.answers > answers + 200)
    assert not load.failures, load.failures[:5]
    s.wait_served()


def test_a_bundle_is_signed_on_files(s):
    o = s.operator
    offline(s)
    (o.dir / "bundle").write_text(s.api("GET", "/api/trust", expect=200)["bundle"])
    o.ok("trust", "sign", *o.by("home"), "-yes", "-in", "bundle", "-out", "signed", HOME="/nonexistent")
    body = {"bundle": (o.dir / "signed").read_text()}
    assert s.api("PUT", "/api/trust", body, expect=200)["signed"]
    changed = body["bundle"].replace("A", "B", 1)
    assert s.api("PUT", "/api/trust", {"bundle": changed}).status == 400
