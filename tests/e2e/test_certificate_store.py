# SPDX-License-Identifier: MIT
"""Which certificate strangers get from gatewayd, of many more than it keeps in memory:

    stranger --TLS--> gatewayd (wireguard = none, configuration on disk, certificate_cache = 16)

Obtained certificates lie in acme_dir in autocert's layout, the operator's in certificate_dir."""
import concurrent.futures
import datetime
import hashlib
import pathlib
import shutil
import ssl
import tempfile
import time
import uuid

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa as rsa_keys

import test_edge as base
from tests.lab.proc import run

KEPT = 16
RECHECK = 2  # seconds for which gatewayd does not look at a file again
MANY = [f"n{i}.many.test" for i in range(60)]
DAMAGED = {"empty.test": "", "text.test": "nonsense",
           "cert.test": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}
MODES = {**{d: "auto" for d in (*MANY, *DAMAGED)}, "both.test": "auto", "own.test": "own", "late.test": "auto",
         "*.wild.test": "auto", "kinds.test": "auto", "old.test": "auto"}


class Gateway(base.Gateway):
    def __init__(self, folder, **settings):
        for name in ("certificates", "acme"):
            (pathlib.Path(folder) / name).mkdir(mode=0o700, exist_ok=True)
        super().__init__(folder, acme_dir=pathlib.Path(folder) / "acme", acme="off",
                         certificate_cache=KEPT, **settings)

    def tunnels(self):
        return [base.tunnel(d, uuid.uuid5(uuid.NAMESPACE_DNS, d), tls=m) for d, m in MODES.items()]

    def serves(self, sni, **how):
        """SHA-256 of the certificate that a stranger gets, None: refused."""
        try:
            with self.tls(sni, **how) as s:
                return hashlib.sha256(s.getpeercert(binary_form=True)).hexdigest()
        except ssl.SSLError as e:
            assert "UNRECOGNIZED_NAME" in str(e) or "unrecognized name" in str(e)
            return None


def make(folder, name, san=None, rsa=False, start=0):
    """DIR/NAME in autocert's form, put there by a rename; start: its first day, from today. Gives its SHA-256."""
    key = rsa_keys.generate_private_key(65537, 2048) if rsa else ec.generate_private_key(ec.SECP256R1())
    first = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=start, hours=-1)
    x = (x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "store CA")]))
         .serial_number(x509.random_serial_number()).not_valid_before(first)
         .not_valid_after(first + datetime.timedelta(days=30)).public_key(key.public_key())
         .add_extension(x509.SubjectAlternativeName([x509.DNSName(san or name)]), True)
         .sign(key, hashes.SHA256()))
    new = pathlib.Path(folder) / "~new"
    new.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
                                      serialization.NoEncryption()) + x.public_bytes(serialization.Encoding.PEM))
    new.chmod(0o600)
    new.rename(pathlib.Path(folder) / name)
    return x.fingerprint(hashes.SHA256()).hex()


@pytest.fixture(scope="module")
def gw():
    folder = tempfile.mkdtemp(prefix="km-store-")
    g = Gateway(folder)
    g.acme, g.own = g.dir / "acme", g.dir / "certificates"
    yield g
    status = g.stop()
    text = (g.dir / "log").read_text()
    shutil.rmtree(folder)
    assert status == 0 and "runtime error" not in text and "Sanitizer" not in text, text


KEPT_METRIC, LOADS = "kakuremichi_certificates_cached", "kakuremichi_certificate_loads_total"
EVICTIONS, UNTIMELY = "kakuremichi_certificate_evictions_total", "kakuremichi_certificate_untimely_total"


def test_many_more_than_are_kept(gw):
    """Everybody gets the right one, also when all come at once; memory holds at most certificate_cache."""
    want = {name: make(gw.acme, name) for name in MANY}
    assert gw.metric(LOADS) == 0, "nothing is read before it is asked for"
    for name in MANY:
        assert gw.serves(name) == want[name]
        assert gw.metric(KEPT_METRIC) <= KEPT
    assert gw.metric(KEPT_METRIC) == KEPT
    assert gw.metric(LOADS) == len(MANY) and gw.metric(EVICTIONS) >= len(MANY) - KEPT
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = MANY * 5
        assert list(pool.map(gw.serves, asked)) == [want[name] for name in asked]
    assert gw.metric(KEPT_METRIC) <= KEPT


def test_what_is_in_use_is_not_read_again(gw):
    used = MANY[:KEPT // 2]
    for name in used:
        gw.serves(name)
    before = gw.metric(LOADS)
    for _ in range(5):
        for name in used:
            assert gw.serves(name)
    assert gw.metric(LOADS) == before


def test_the_operators_come_first(gw):
    obtained = make(gw.acme, "both.test")
    assert gw.serves("both.test") == obtained
    own = make(gw.own, "both.test")
    gw.until(lambda: gw.serves("both.test") == own)
    (gw.own / "both.test").unlink()
    gw.until(lambda: gw.serves("both.test") == obtained)


def test_own_means_own(gw):
    make(gw.acme, "own.test")
    assert gw.serves("own.test") is None
    own = make(gw.own, "own.test.pem", san="own.test")
    gw.until(lambda: gw.serves("own.test") == own)


def test_one_that_comes_later(gw):
    """Such as autocert's, put there by hand while strangers are refused."""
    assert gw.serves("late.test") is None
    late = make(gw.acme, "late.test")
    gw.until(lambda: gw.serves("late.test") == late)


def test_wildcards(gw):
    star = make(gw.acme, "*.wild.test")
    gw.until(lambda: gw.serves("a.wild.test") == star)
    assert gw.serves("b.wild.test") == star
    # A stranger's name makes nobody look for a file of that name.
    make(gw.acme, "c.wild.test")
    assert gw.serves("c.wild.test") == star


def test_both_kinds_of_keys(gw):
    ecdsa, rsa = make(gw.acme, "kinds.test"), make(gw.acme, "kinds.test+rsa", san="kinds.test", rsa=True)
    old = dict(maximum_version=ssl.TLSVersion.TLSv1_2)
    assert gw.serves("kinds.test") == ecdsa
    assert gw.serves("kinds.test", **old) == ecdsa
    out = run("sh", "-c", f"openssl s_client -connect 127.0.0.1:{gw.https} -servername kinds.test "
              "-sigalgs rsa_pss_rsae_sha256:rsa_pkcs1_sha256 </dev/null 2>/dev/null | openssl x509 -outform DER | "
              "sha256sum")
    assert out.split()[0] == rsa


def test_expired_is_better_than_none(gw):
    before = gw.metric(UNTIMELY)
    old = make(gw.acme, "old.test", start=-40)
    assert gw.serves("old.test") == old
    assert gw.metric(UNTIMELY) == before + 1 and "certificate out of its time is served host=old.test" in gw.text()
    fresh = make(gw.acme, "old.test")
    gw.until(lambda: gw.serves("old.test") == fresh)


def test_damaged(gw):
    """Is set aside, and what was read before goes on being served."""
    good = {name: make(gw.acme, name) for name in DAMAGED}
    gw.until(lambda: all(gw.serves(name) == good[name] for name in DAMAGED))
    for name, text in DAMAGED.items():
        (gw.acme / "~new").write_text(text)
        (gw.acme / "~new").rename(gw.acme / name)
    broken = {name: gw.acme / f"{name}.broken" for name in DAMAGED}
    gw.until(lambda: all(gw.serves(name) == good[name] and broken[name].exists() for name in DAMAGED))
    for name, text in DAMAGED.items():
        assert broken[name].read_text() == text and not (gw.acme / name).exists()


def test_a_disk_that_cannot_be_read(gw):
    """What is in memory goes on being served."""
    name = MANY[0]
    had = gw.serves(name)
    before = gw.metric(LOADS)
    away = gw.acme.with_name("away")
    gw.acme.rename(away)
    gw.acme.symlink_to("acme")      # ELOOP for whatever is in it
    try:
        end = time.monotonic() + 2 * RECHECK
        while time.monotonic() < end:   # it has looked again at least once
            assert gw.serves(name) == had
        assert gw.metric(LOADS) == before
    finally:
        gw.acme.unlink()
        away.rename(gw.acme)
