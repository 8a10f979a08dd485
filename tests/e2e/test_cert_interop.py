# SPDX-License-Identifier: MIT
"""`kmctl cert` beside Debian's nebula-cert (1.6: version 1, Curve25519), each with what the other has
made: the same certificates are valid, with the same fingerprints, and the same are refused.

    ca.crt, ca.key ──sign──▶ host.crt ──verify──▶ verdict        each arrow by either tool
"""
import base64
import fcntl
import json
import os
import pathlib
import re
import select
import subprocess
import termios

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("KM_BUILD", ROOT / "build")).resolve()
TOOLS = {"nebula": ["nebula-cert"], "km": [str(BUILD / "kmctl"), "cert"]}
BOTH = [("nebula", "km"), ("km", "nebula"), ("km", "km")]


class Desk:
    """A folder in which the tools work."""

    def __init__(self, path):
        self.path = path

    def run(self, tool, *args, text=None):
        return subprocess.run([*TOOLS[tool], *args], cwd=self.path, input=text, text=True,
                              capture_output=True, timeout=60, env={**os.environ, "TZ": "UTC"})

    def ok(self, tool, *args, text=None):
        done = self.run(tool, *args, text=text)
        assert done.returncode == 0, f"{tool} {args}: {done.stderr}"
        return done.stdout

    def refused(self, tool, *args):
        done = self.run(tool, *args)
        assert done.returncode == 1, f"{tool} {args}: status {done.returncode}, {done.stdout}{done.stderr}"
        assert re.search("^Error: ", done.stderr, re.M) and not done.stdout
        return done.stderr

    def ca(self, tool, name="ca", *args):
        self.ok(tool, "ca", "-name", f"{name} of {tool}", "-out-crt", f"{name}.crt", "-out-key",
                f"{name}.key", *args)

    def sign(self, tool, name, *args, ca="ca"):
        self.ok(tool, "sign", "-ca-crt", f"{ca}.crt", "-ca-key", f"{ca}.key", "-name", name, *args)

    def both_verify(self, crt, ca="ca.crt"):
        for tool in TOOLS:
            assert self.ok(tool, "verify", "-ca", ca, "-crt", crt) == ""

    def both_refuse(self, crt, ca="ca.crt"):
        return [self.refused(tool, "verify", "-ca", ca, "-crt", crt) for tool in TOOLS]

    def same_print(self, crt):
        """Both show the same, in either form; returns what the JSON says."""
        assert self.ok("km", "print", "-path", crt) == self.ok("nebula", "print", "-path", crt)
        mine = self.ok("km", "print", "-json", "-path", crt)
        assert json.loads(mine) == json.loads(self.ok("nebula", "print", "-json", "-path", crt))
        return json.loads(mine)

    def body(self, name):
        """The bytes between a file's banners, and the banner."""
        text = (self.path / name).read_text()
        banner = re.match(r"-----BEGIN ([A-Z0-9 ]+)-----\n", text)[1]
        return base64.b64decode("".join(text.splitlines()[1:-1])), banner

    def write(self, name, body, banner):
        text = base64.encodebytes(body).decode().replace("\n", "")
        lines = [text[i:i + 64] for i in range(0, len(text), 64)]
        (self.path / name).write_text("\n".join([f"-----BEGIN {banner}-----", *lines,
                                                 f"-----END {banner}-----", ""]))


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


LIMITS = ("-groups", "agent,gateway", "-ips", "10.77.0.0/16,10.99.3.4/24", "-subnets", "192.168.5.5/16")


@pytest.mark.parametrize("ca_by,host_by", [("nebula", "nebula"), *BOTH])
@pytest.mark.parametrize("limits", [(), LIMITS], ids=["open", "limited"])
def test_a_host_signed_by_either_is_the_same_to_both(desk, ca_by, host_by, limits):
    desk.ca(ca_by, "ca", *limits)
    desk.sign(host_by, "agent1", "-ip", "10.77.1.5/16", "-groups", "agent", "-subnets", "192.168.7.9/24")
    desk.both_verify("agent1.crt")
    assert desk.same_print("ca.crt")["details"]["isCa"]
    host = desk.same_print("agent1.crt")
    assert host["details"]["ips"] == ["10.77.1.5/16"]
    assert host["details"]["subnets"] == ["192.168.7.0/24"]
    assert host["details"]["issuer"] == desk.same_print("ca.crt")["fingerprint"]
    for name in ("ca.crt", "ca.key", "agent1.crt", "agent1.key"):
        assert (desk.path / name).stat().st_mode & 0o777 == 0o600


def test_what_one_says_the_other_writes_byte_for_byte(desk):
    """The same details in the same second are the same encoding, but for the signature's key."""
    desk.ca("nebula")
    key, _ = desk.body("ca.key")
    desk.ok("km", "keygen", "-out-key", "h.key", "-out-pub", "h.pub")
    for tool in TOOLS:
        desk.sign(tool, "h", "-ip", "10.0.0.1/8", "-in-pub", "h.pub", "-groups", " b ,,a",
                  "-subnets", "1.2.3.0/24,4.0.0.0/6", "-out-crt", f"{tool}.crt")
    a, b = (bytearray(desk.body(f"{tool}.crt")[0]) for tool in TOOLS)
    assert len(key) == 64 and len(a) == len(b)
    # What may differ is NotBefore (at most a few seconds) and the signature over it.
    at = a.index(b"\x28", a.index(b"\x22\x01a") + 3)
    assert a[:at] == b[:at] and a[at + 6:-64] == b[at + 6:-64]


@pytest.mark.parametrize("key_by,sign_by", BOTH)
def test_keys_of_either_are_taken_by_both(desk, key_by, sign_by):
    desk.ca(key_by)
    desk.ok(key_by, "keygen", "-out-key", "h.key", "-out-pub", "h.pub")
    desk.sign(sign_by, "h", "-ip", "10.0.0.1/8", "-in-pub", "h.pub")
    assert not (desk.path / "h.key.crt").exists()
    desk.both_verify("h.crt")
    assert desk.same_print("h.crt")["details"]["publicKey"] == desk.body("h.pub")[0].hex()


@pytest.mark.parametrize("tool", TOOLS)
def test_a_wireguard_key_is_a_hosts_key(desk, tool):
    priv = subprocess.run(["wg", "genkey"], check=True, capture_output=True, text=True).stdout
    pub = subprocess.run(["wg", "pubkey"], input=priv, check=True, capture_output=True, text=True).stdout
    desk.write("wg.pub", base64.b64decode(pub), "NEBULA X25519 PUBLIC KEY")
    desk.ca(tool)
    desk.sign(tool, "wg", "-ip", "10.0.0.1/8", "-in-pub", "wg.pub")
    desk.both_verify("wg.crt")
    assert desk.same_print("wg.crt")["details"]["publicKey"] == base64.b64decode(pub).hex()


@pytest.mark.parametrize("args,ours", [
    (("-ip", "10.78.0.1/16"), "a network assignment outside the limitations of the signing ca: 10.78.0.1/16"),
    (("-ip", "10.77.0.1/8"), "a network assignment outside the limitations of the signing ca: 10.77.0.1/8"),
    (("-ip", "10.77.0.1/16", "-groups", "agent,admin"), "a group not present on the signing ca: admin"),
    (("-ip", "10.77.0.1/16", "-subnets", "8.8.8.0/24"), "an unsafe network assignment outside"),
    (("-ip", "10.77.0.1/16", "-duration", "9000h"), "certificate expires after signing certificate"),
    (("-ip", "fd00::1/64"), "v1 certificates can only contain ipv4 addresses"),
    (("-ip", "10.77.0.1"), "invalid -networks definition: 10.77.0.1"),
    (("-ip", "nonsense"), "invalid -networks definition: nonsense"),
    ((), "-networks (or -ip) is required"),
    (("-ip", "10.77.0.1/16", "-in-pub", "ca.crt"), "error while parsing in-pub"),
    (("-ip", "10.77.0.1/16", "-ca-key", "ca.crt"), "error while parsing ca-key"),
    (("-ip", "10.77.0.1/16", "-ca-crt", "ca.key"), "error while parsing ca-crt"),
    (("-ip", "10.77.0.1/16", "-ca-key", "other.key"), "root certificate does not match private key"),
    (("-ip", "10.77.0.1/16", "-ca-key", "missing"), "error while reading ca-key: open missing"),
    (("-ip", "10.77.0.1/16", "-bogus"), "flag provided but not defined: -bogus"),
    (("-ip", "10.77.0.1/16", "-duration", "1y"), "invalid value \"1y\" for flag -duration"),
    (("-ip", "10.77.0.1/16", "-in-pub", "h.pub", "-out-key", "x"), "cannot set both -in-pub and -out-key"),
    (("-ip", "10.77.0.1/16", "-out-crt", "ca.crt"), "refusing to overwrite existing cert: ca.crt"),
    (("-ip", "10.77.0.1/16", "-out-key", "ca.key"), "refusing to overwrite existing key: ca.key"),
])
def test_both_refuse_to_sign(desk, args, ours):
    desk.ca("nebula", "ca", *LIMITS)
    desk.ca("nebula", "other", *LIMITS)
    desk.ok("nebula", "keygen", "-out-key", "h.key", "-out-pub", "h.pub")
    before = {p.name: p.read_bytes() for p in desk.path.iterdir()}
    for tool in TOOLS:
        said = desk.refused(tool, "sign", "-name", "h2", *args)
        if tool == "km":
            assert ours in said
    assert {p.name: p.read_bytes() for p in desk.path.iterdir()} == before


@pytest.mark.parametrize("args,ours", [
    (("-name", ""), "-name is required"),
    (("-name", "x", "-duration", "0s"), "-duration must be greater than 0"),
    (("-name", "x", "-ips", "fd00::/8"), "hold no IPv6 networks"),
    (("-name", "x", "-out-key", "there"), "refusing to overwrite existing CA key: there"),
    (("-name", "x", "-out-crt", "there"), "refusing to overwrite existing CA cert: there"),
])
def test_both_refuse_to_make_a_ca(desk, args, ours):
    (desk.path / "there").write_text("mine")
    for tool in TOOLS:
        said = desk.refused(tool, "ca", *args)
        if tool == "km":
            assert ours in said
        assert [p.name for p in desk.path.iterdir()] == ["there"]
    assert (desk.path / "there").read_text() == "mine"


@pytest.mark.parametrize("maker", TOOLS)
def test_verdicts_agree(desk, maker):
    for name in ("ca", "other"):
        desk.ca(maker, name)
    desk.sign(maker, "h", "-ip", "10.0.0.1/8")
    crt, ca, other = ((desk.path / f"{n}.crt").read_text() for n in ("h", "ca", "other"))

    for said in desk.both_refuse("h.crt", ca="other.crt"):
        assert "could not find ca for the certificate" in said
    (desk.path / "both.crt").write_text(f"# the old one\n{other}\n# and the new\n\n{ca}")
    desk.both_verify("h.crt", ca="both.crt")
    for said in desk.both_refuse("ca.crt"):
        assert "no issuer in certificate" in said
    for said in desk.both_refuse("h.crt", ca="h.crt"):
        assert "certificate is not a CA" in said
    for said in desk.both_refuse("h.crt", ca="h.key"):
        assert "error while adding ca cert to pool" in said and "banner" in said
    for said in desk.both_refuse("h.key"):
        assert "error while parsing crt" in said and "banner" in said
    for said in desk.both_refuse("h.crt", ca="missing"):
        assert "error while reading ca: open missing" in said
    (desk.path / "v2.crt").write_text(crt.replace("NEBULA CERTIFICATE", "NEBULA CERTIFICATE V2"))
    desk.both_refuse("v2.crt")

    body, banner = desk.body("h.crt")
    for at in (4, len(body) - 40, len(body) - 1):  # in the name, and in the signature's halves
        desk.write("changed.crt", body[:at] + bytes([body[at] ^ 1]) + body[at + 1:], banner)
        for said in desk.both_refuse("changed.crt"):
            assert "certificate signature did not match" in said


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def fields(body):
    """The fields of a protobuf message as (number, whole bytes)."""
    at = 0
    while at < len(body):
        start = at

        def number():
            nonlocal at
            n = shift = 0
            while True:
                n |= (body[at] & 127) << shift
                shift += 7
                at += 1
                if body[at - 1] < 128:
                    return n
        tag = number()
        value = number()
        if tag & 7 == 2:
            at += value
        yield tag >> 3, body[start:at]


@pytest.mark.parametrize("how", ["re-ordered", "unknown field", "padded"])
def test_a_second_encoding_is_refused(desk, how):
    """nebula-cert takes these and shows the original's fingerprint; here a certificate has one encoding."""
    desk.ca("nebula")
    desk.sign("nebula", "h", "-ip", "10.0.0.1/8", "-groups", "a")
    body, banner = desk.body("h.crt")
    (_, outer), (_, signature) = fields(body)
    details = outer[outer.index(b"\n", 1):] if outer[1] > 127 else outer[2:]
    parts = [raw for _, raw in fields(details)]
    assert b"".join(parts) == details
    if how == "re-ordered":
        parts.reverse()
    elif how == "unknown field":
        parts.append(b"\x90\x03\x01")
    else:  # the name's length in two bytes
        assert parts[0][:2] == b"\x0a\x01"
        parts[0] = b"\x0a\x81\x00" + parts[0][2:]
    details = b"".join(parts)
    desk.write("other.crt", b"\x0a" + varint(len(details)) + details + signature, banner)
    desk.ok("nebula", "verify", "-ca", "ca.crt", "-crt", "other.crt")
    assert "error while parsing crt" in desk.refused("km", "verify", "-ca", "ca.crt", "-crt", "other.crt")


def test_what_only_newer_versions_know(desk):
    """Version 2 and P-256: made, shown and verified here; Debian's nebula-cert refuses them."""
    for version, curve in (("1", "P256"), ("2", "25519"), ("2", "P256")):
        name = f"v{version}-{curve}"
        desk.ok("km", "ca", "-name", name, "-version", version, "-curve", curve, "-out-crt", f"{name}.crt",
                "-out-key", f"{name}.key")
        networks = "10.0.0.1/8" if version == "1" else "fd00::1/64,10.0.0.1/8"
        desk.sign("km", f"{name}-h", "-networks", networks, "-unsafe-networks", "192.168.1.1/24", ca=name)
        assert desk.ok("km", "verify", "-ca", f"{name}.crt", "-crt", f"{name}-h.crt") == ""
        shown = json.loads(desk.ok("km", "print", "-json", "-path", f"{name}-h.crt"))
        assert "P256" in json.dumps(shown) or curve != "P256"
        if version == "2":
            assert shown["version"] == 2
            assert shown["details"]["networks"] == ["10.0.0.1/8", "fd00::1/64"]
            desk.refused("nebula", "print", "-path", f"{name}-h.crt")


def test_an_encrypted_ca_key(desk, monkeypatch):
    monkeypatch.setenv("NEBULA_CA_PASSPHRASE", "correct horse")
    desk.ca("km", "ca", "-encrypt", "-argon-memory", "1024", "-argon-iterations", "2")
    assert desk.body("ca.key")[1] == "NEBULA ED25519 ENCRYPTED PRIVATE KEY"
    desk.sign("km", "h", "-ip", "10.0.0.1/8")
    desk.both_verify("h.crt")
    monkeypatch.setenv("NEBULA_CA_PASSPHRASE", "wrong")
    sign = ("sign", "-name", "h2", "-ip", "10.0.0.1/8")
    assert "invalid passphrase or corrupt private key" in desk.refused("km", *sign)
    monkeypatch.delenv("NEBULA_CA_PASSPHRASE")
    done = desk.run("km", *sign, text="")
    assert done.returncode == 1 and "must be decrypted interactively" in done.stderr
    # Debian's version does not know such keys.
    assert "banner" in desk.refused("nebula", *sign)


def test_a_passphrase_is_asked_for_without_echo(desk, monkeypatch):
    """At a terminal: empty lines are asked again, and the echo is back on afterwards, interrupted or not."""
    monkeypatch.delenv("NEBULA_CA_PASSPHRASE", raising=False)

    def at_terminal(keys, *args):
        leader, follower = os.openpty()
        proc = subprocess.Popen([*TOOLS["km"], *args], cwd=desk.path, stdin=follower, stdout=follower,
                                stderr=follower, start_new_session=True,
                                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        said = b""
        try:
            for key in keys:
                seen = said.count(b"passphrase: ")
                while said.count(b"passphrase: ") == seen and select.select([leader], [], [], 30)[0]:
                    said += os.read(leader, 4096)
                while termios.tcgetattr(follower)[3] & termios.ECHO:
                    assert proc.poll() is None
                os.write(leader, key)
            status = proc.wait(60)
            echo = termios.tcgetattr(follower)[3] & termios.ECHO
            while select.select([leader], [], [], 0)[0]:
                said += os.read(leader, 4096)
        finally:
            if proc.poll() is None:
                proc.kill()
                proc.wait()
            os.close(leader)
            os.close(follower)
        assert echo and b"secret" not in said
        return status, said

    ca = ("ca", "-name", "ca", "-encrypt", "-argon-memory", "1024")
    status, said = at_terminal([b"secret\x03"], *ca)
    assert status == 1 and b"error reading passphrase" in said
    status, said = at_terminal([b"\n"] * 5, *ca)
    assert status == 1 and b"no passphrase specified" in said
    assert not list(desk.path.iterdir())
    assert at_terminal([b"\n", b"secret\n"], *ca)[0] == 0
    status, said = at_terminal([b"secret\n"], "sign", "-name", "h", "-ip", "10.0.0.1/8")
    assert status == 0, said
    desk.both_verify("h.crt")


def test_a_key_that_others_may_read_is_pointed_out(desk):
    desk.ca("km")
    (desk.path / "ca.key").chmod(0o640)
    done = desk.run("km", "sign", "-name", "h", "-ip", "10.0.0.1/8")
    assert done.returncode == 0 and done.stderr == "Warning: others may use ca.key: chmod 600\n"


def test_standard_input_and_output(desk):
    desk.ca("km")
    desk.ok("km", "keygen", "-out-key", "h.key", "-out-pub", "h.pub")
    crt = desk.ok("km", "sign", "-name", "h", "-ip", "10.0.0.1/8", "-in-pub", "-", "-out-crt", "-",
                  text=(desk.path / "h.pub").read_text())
    assert not (desk.path / "h.crt").exists()
    (desk.path / "out.crt").write_text(crt)
    desk.both_verify("out.crt")
    assert desk.ok("km", "verify", "-ca", "ca.crt", "-crt", "-", text=crt) == ""
    assert desk.ok("km", "print", "-path", "-", text=crt) == desk.ok("nebula", "print", "-path", "out.crt")
    done = desk.run("km", "verify", "-ca", "-", "-crt", "-", text=crt)
    assert done.returncode == 1 and "cannot both be -" in done.stderr


def test_help_and_versions(desk):
    for tool in TOOLS:
        for mode in ("ca", "keygen", "sign", "print", "verify"):
            done = desk.run(tool, mode, "-h")
            assert done.returncode == 0 and done.stderr.startswith("Usage of ")
        assert desk.run(tool).returncode == 1
        assert "No mode was provided" in desk.run(tool).stderr
        assert "unknown mode: foo" in desk.refused(tool, "foo")
        assert desk.ok(tool, "-version").startswith("Version: ")
        # A key that is there stays there with us; nebula-cert's keygen writes over it.
    desk.ok("km", "keygen", "-out-key", "k", "-out-pub", "p")
    assert "refusing to overwrite existing key: k" in desk.refused("km", "keygen", "-out-key", "k", "-out-pub", "q")
    assert "refusing to overwrite existing public key: p" in desk.refused("km", "keygen", "-out-key", "l",
                                                                          "-out-pub", "p")
