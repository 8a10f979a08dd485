# SPDX-License-Identifier: MIT
"""`gatewayd certificates list|import|account`: without a network, on folders as certbot, lego and autocert make
them, and on what can be wrong with those."""
import json
import os
import pathlib
import subprocess

import pytest

from tests.lab.proc import run
from tests.lab.system import ROOT, SANITIZER_ENV, make_ca

GATEWAYD = pathlib.Path(os.environ.get("KM_BUILD", ROOT / "build")).resolve() / "gatewayd"


class Pki:
    """Keys and certificates of one CA; every time another serial number."""

    def __init__(self, folder):
        self.dir = folder
        make_ca(folder, "command CA")

    def pair(self, *names, key="ec", days=30, start=0, other_key=False, san=True, form="traditional"):
        """(key, chain) as PEM: the leaf for these names, then the CA. days and start: of its time, from today."""
        d = self.dir
        if key == "ec":
            run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{d}/k")
        else:
            run("openssl", "genrsa", "-traditional", "-out", f"{d}/k", key)
        if form == "encrypted":
            run("openssl", "pkcs8", "-topk8", "-in", f"{d}/k", "-out", f"{d}/shown", "-passout", "pass:secret")
        elif form == "pkcs8":
            run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", f"{d}/k", "-out", f"{d}/shown")
        else:
            (d / "shown").write_bytes((d / "k").read_bytes())
        run("openssl", "req", "-new", "-key", f"{d}/k", "-subj", f"/CN={names[0][:60]}", "-out", f"{d}/csr")
        (d / "db").write_text("")
        (d / "ca.conf").write_text(
            f"[ca]\ndefault_ca=c\n[c]\ndatabase={d}/db\nnew_certs_dir={d}\nrand_serial=yes\ndefault_md=sha256\n"
            "policy=p\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\nbasicConstraints=CA:FALSE\n"
            + (f"subjectAltName={','.join('DNS:' + n for n in names)}\n" if san else ""))
        run("openssl", "ca", "-batch", "-config", f"{d}/ca.conf", "-in", f"{d}/csr", "-cert", f"{d}/ca.crt",
            "-keyfile", f"{d}/ca.key", "-out", f"{d}/crt", "-notext", "-startdate", day(start),
            "-enddate", day(start + days))
        if other_key:
            run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{d}/shown")
        return (d / "shown").read_text(), (d / "crt").read_text() + (d / "ca.crt").read_text()


def day(n):
    return run("date", "-u", "-d", f"{n} days", "+%Y%m%d%H%M%SZ").strip()


@pytest.fixture
def t(tmp_path):
    return Bench(tmp_path)


class Bench:
    def __init__(self, tmp):
        self.tmp = tmp
        self.own = tmp / "certificates"
        self.acme = tmp / "acme"
        self.src = tmp / "src"
        (tmp / "pki").mkdir()
        self.src.mkdir()
        self.pki = Pki(tmp / "pki")
        self.settings()

    def settings(self, **more):
        rows = dict(control="wss://control.test:3001", certificate_dir=self.own, acme_dir=self.acme, **more)
        (self.tmp / "gateway.conf").write_text("".join(f"{k} = {v}\n" for k, v in rows.items()))

    def __call__(self, *args, status=0):
        """Standard output and error of the command."""
        r = subprocess.run([GATEWAYD, "certificates", *map(str, args), "-c", self.tmp / "gateway.conf"],
                           capture_output=True, text=True, env={**os.environ, **SANITIZER_ENV}, timeout=60)
        assert r.returncode == status, (r.returncode, r.stdout, r.stderr)
        return r.stdout, r.stderr

    def put(self, name, *parts, folder=None):
        path = (folder or self.src) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(parts))
        return path

    def files(self):
        return {p.name: p.read_text() for p in self.own.iterdir()} if self.own.is_dir() else {}


def key_and_leaf(text):
    """The public key of a file's private key and of its first certificate."""
    return [subprocess.run(["openssl", *how], input=text, capture_output=True, text=True, check=True).stdout
            for how in (("pkey", "-pubout"), ("x509", "-pubkey", "-noout"))]


# ---- import: what other programs leave ----

def certbot(t, name, key, chain, n=1):
    """live/NAME links into archive/NAME, and more lies around that is none of ours."""
    leaf = chain[:chain.index("-----END CERTIFICATE-----") + 26]
    for kind, text in dict(privkey=key, fullchain=chain, cert=leaf, chain=chain[len(leaf):]).items():
        t.put(f"archive/{name}/{kind}{n}.pem", text)
        link = t.src / f"live/{name}/{kind}.pem"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(f"../../archive/{name}/{kind}{n}.pem")
    t.put(f"live/{name}/README", "This directory contains your keys and certificates.\n")
    t.put("live/README", "…\n")
    t.put("accounts/acme-v02.api.letsencrypt.org/directory/0/private_key.json", "{}")
    t.put("keys/0000_key-certbot.pem", key)
    t.put("csr/0000_csr-certbot.pem", "-----BEGIN CERTIFICATE REQUEST-----\n")
    t.put(f"renewal/{name}.conf", "archive_dir = …\n")


@pytest.mark.parametrize("of", ["", "live", "live/a.test", "live/a.test/fullchain.pem", "live/a.test/cert.pem"])
def test_certbot(t, of):
    key, chain = t.pki.pair("a.test", "www.a.test", "*.a.test", form="pkcs8")
    certbot(t, "a.test", key, chain)
    out, err = t("import", t.src / of)
    assert [line.split(": ")[0] for line in out.splitlines() if "note" not in line] == \
        ["*.a.test", "a.test", "www.a.test"] and not err
    files = t.files()
    assert set(files) == {"a.test", "www.a.test", "*.a.test"}
    assert len(set(files.values())) == 1
    text = files["a.test"]
    assert text.startswith("-----BEGIN EC PRIVATE KEY-----")
    assert text.count("BEGIN CERTIFICATE") == (1 if of.endswith("cert.pem") else 2)
    assert ("note: no intermediate" in out) == of.endswith("cert.pem")
    public, leaf = key_and_leaf(text)
    assert public == leaf
    assert (t.own / "a.test").stat().st_mode & 0o7777 == 0o600
    assert t.own.stat().st_mode & 0o7777 == 0o700


def test_lego(t):
    key, chain = t.pki.pair("b.test", key="2048")
    for name, text in {"b.test.crt": chain, "b.test.key": key, "b.test.json": "{}",
                       "b.test.issuer.crt": (t.tmp / "pki/ca.crt").read_text()}.items():
        t.put(f".lego/certificates/{name}", text)
    out, err = t("import", t.src / ".lego")
    assert out.startswith("b.test: imported from ") and "(rsa, until " in out and "issuer command CA" in out
    assert not err and t.files()["b.test"].startswith("-----BEGIN RSA PRIVATE KEY-----")


def test_autocert_and_plain_files(t):
    for i, name in enumerate(("c.test", "d.test.pem")):
        key, chain = t.pki.pair(name.removesuffix(".pem"))
        t.put(name, *((key, chain) if i else (chain, key)))
    t.put("acme_account+key", t.pki.pair("x.test")[0])
    t.put("c.test.broken", "nonsense")
    t.put("notes.txt", "BEGIN CERTIFICATE of merit")
    t("import", t.src)
    assert set(t.files()) == {"c.test", "d.test"}
    assert t("import", t.src)[0] == "c.test: unchanged\nd.test: unchanged\n"


def test_the_longest_wins(t):
    """Of two in one run, and beside what is there; -f takes the shorter one too; -n writes nothing."""
    long, short = t.pki.pair("a.test", days=60), t.pki.pair("a.test", "b.test", days=20)
    t.put("1/both.pem", *short)
    t.put("2/both.pem", *long)
    out, _ = t("import", "-n", t.src)
    assert "a.test: would be imported from " in out and "2/both.pem" in out and t.files() == {}
    t("import", t.src)
    files = t.files()
    assert key_and_leaf(files["a.test"]) == key_and_leaf("".join(long))
    assert key_and_leaf(files["b.test"]) == key_and_leaf("".join(short))
    out, _ = t("import", t.src / "1/both.pem")
    assert "a.test: kept: what is there lasts longer" in out and "b.test: unchanged" in out
    t("import", "-f", t.src / "1/both.pem")
    assert key_and_leaf(t.files()["a.test"]) == key_and_leaf("".join(short))
    t("import", t.src / "2/both.pem")
    assert key_and_leaf(t.files()["a.test"]) == key_and_leaf("".join(long))


def test_what_is_there_already(t):
    old, new = t.pki.pair("a.test", days=10), t.pki.pair("a.test", "b.test", "c.test", days=30)
    t.put("a.test.pem", *old, folder=t.own)               # is replaced under its own name
    elsewhere = t.put("elsewhere.pem", *old, folder=t.tmp)
    (t.own / "b.test").symlink_to(elsewhere)              # stays a link
    (t.own / "c.test").mkdir()                            # cannot be replaced
    source = t.put("new.pem", *new)
    out, _ = t("import", source)
    assert "b.test: kept: it is a symbolic link" in out and "c.test: kept: it is not a file" in out
    assert sorted(p.name for p in t.own.iterdir()) == ["a.test.pem", "b.test", "c.test"]
    assert key_and_leaf((t.own / "a.test.pem").read_text()) == key_and_leaf("".join(new))
    t("import", "-f", source)
    assert not (t.own / "b.test").is_symlink() and elsewhere.read_text() == "".join(old)


def test_full_disk(t):
    """Nothing half written, and the other names are still tried."""
    source = t.put("new.pem", *t.pki.pair("a.test", "b.test"))
    r = subprocess.run(["sh", "-c", 'trap "" XFSZ; ulimit -f 0; exec "$@"', "sh", GATEWAYD, "certificates", "import",
                        source, "-c", t.tmp / "gateway.conf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, env={**os.environ, **SANITIZER_ENV})
    assert r.returncode == 1 and r.stdout == ""
    assert [line.split(": ")[1] for line in r.stderr.splitlines()] == ["a.test", "b.test"]
    assert "File too large" in r.stderr and list(t.own.iterdir()) == []


# ---- import: what is wrong ----

@pytest.mark.parametrize("how, why", [
    (dict(other_key=True), "no certificate of its private key"),
    (dict(form="encrypted"), "the private key is encrypted: take the pass phrase off"),
    (dict(key="1024"), "the private key is too weak (1024 bits)"),
    (dict(start=-40), "left out: it expired on"),
    (dict(start=2), "left out: it is valid only from"),
    (dict(san=False), "left out: it names no domain"),
    (dict(names=("A_b.test", "no/slash.test", "a..test", "x" * 64 + ".test")), None),
])
def test_bad_certificates(t, how, why):
    names = how.pop("names", ("a.test",))
    source = t.put("x.pem", *t.pki.pair(*names, **how))
    for arg in (source, t.src):
        out, err = t("import", arg, status=0 if why is None else 1)
        if why is None:
            assert set(t.files()) == {"a_b.test"}
        else:
            assert why in err and str(source) in err and not out and t.files() == {}


@pytest.mark.parametrize("what, why", [
    (None, "No such file or directory"),
    ("", "no private key that can be read"),
    ("nonsense", "no private key that can be read"),
    ("folder", "there is no certificate with its private key"),
    ("fifo", "not a plain file"),
    ("large", "the private key|larger|too"),
    ("dangling", "No such file or directory"),
    ("lineage", "No such file or directory"),
])
def test_bad_files(t, what, why):
    path = t.src / "x"
    if what == "folder":
        t.put("x/y/notes.txt", "nothing")
        (path / "loop").symlink_to(path)
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "large":
        path.write_bytes(b"x" * 300000)
    elif what == "dangling":
        path.symlink_to("nowhere")
    elif what == "lineage":     # certbot's, without its key
        t.put("x/fullchain.pem", t.pki.pair("a.test")[1])
    elif what is not None:
        path.write_text(what)
    _, err = t("import", path, status=1)
    assert any(w in err for w in why.split("|")) and str(path) in err
    assert t.files() == {}


def test_one_bad_file_does_not_keep_others_out(t):
    t.put("1.pem", "-----BEGIN CERTIFICATE-----\nPRIVATE KEY-----\n")
    t.put("2.pem", *t.pki.pair("a.test"))
    _, err = t("import", t.src, status=1)
    assert "1.pem" in err and set(t.files()) == {"a.test"}


@pytest.mark.parametrize("args", [(), ("import",), ("lists",), ("list", "-x"), ("list", "-f"), ("account", "-n")])
def test_usage(t, args):
    assert "usage: gatewayd certificates" in t(*args, status=2)[1]


def test_bad_settings(t):
    (t.tmp / "gateway.conf").write_text("certificate_dirr = /x\n")
    assert "gateway.conf:1:" in t("list", status=2)[1]


# ---- list ----

def test_list(t):
    t.own.mkdir()
    t.acme.mkdir()
    assert t("list")[0] == "there is no certificate\n"
    t.put("a.test", *t.pki.pair("a.test"), folder=t.own)
    t.put("*.a.test.pem", *t.pki.pair("*.a.test"), folder=t.own)
    t.put("wrong.test", *t.pki.pair("a.test"), folder=t.own)
    t.put("README", "text", folder=t.own)
    t.put("bad.test", "nonsense", folder=t.own)
    t.put("a.test", *t.pki.pair("a.test"), folder=t.acme)
    t.put("a.test+rsa", *t.pki.pair("a.test", key="2048"), folder=t.acme)
    t.put("old.test", *t.pki.pair("old.test", start=-40), folder=t.acme)
    t.put("soon.test", *t.pki.pair("soon.test", start=3), folder=t.acme)
    t.put("broken.test", "nonsense", folder=t.acme)
    for name in ("acme_account+key", "account.json", "x.test.broken"):
        t.put(name, "", folder=t.acme)
    out, err = t("list")
    heading, *rows = out.splitlines()
    assert heading.split() == ["DOMAIN", "SOURCE", "KEY", "NOT", "AFTER", "ISSUER", "SHA-256", "TROUBLE"]
    seen = [(r.split()[0], r.split()[1], r.split()[2]) for r in rows]
    assert seen == [
        ("*.a.test", "own", "ecdsa"), ("a.test", "own", "ecdsa"), ("a.test", "obtained", "ecdsa"),
        ("a.test", "obtained", "rsa"), ("bad.test", "own", "-"), ("broken.test", "obtained", "-"),
        ("old.test", "obtained", "ecdsa"), ("soon.test", "obtained", "ecdsa"), ("wrong.test", "own", "ecdsa")]
    by = {r.split()[0]: r for r in rows}
    assert by["old.test"].endswith("expired") and by["soon.test"].endswith("not valid yet")
    assert by["wrong.test"].endswith("does not name this domain") and "no private key" in by["bad.test"]
    assert "(in 29 days)" in by["*.a.test"] or "(in 30 days)" in by["*.a.test"]
    assert "command CA" in by["*.a.test"] and by["*.a.test"].endswith("-")
    fingerprint = run("openssl", "x509", "-in", str(t.own / "a.test"), "-noout", "-fingerprint", "-sha256")
    assert fingerprint.split("=")[1].strip().replace(":", "").lower() in out
    assert (t.acme / "broken.test").exists(), "looking changes nothing"
    assert not err
    only = t("list", "old.test")[0].splitlines()
    assert len(only) == 2 and only[1].startswith("old.test")


# ---- account ----

ACCOUNT = {"directory": "https://acme.test/dir", "url": "https://acme.test/acct/7", "caa": ["ca.test", "ca2.test"]}


def account(t, **more):
    t.put("account.json", json.dumps({k: v for k, v in {**ACCOUNT, **more}.items() if v}), folder=t.acme)


def test_account(t):
    assert "no account is known" in t("account", status=1)[1]
    account(t)
    assert t("account")[0] == "account    https://acme.test/acct/7\ndirectory  https://acme.test/dir\n"
    out, err = t("account", "a.test")
    assert out.splitlines()[2:] == ['a.test. IN CAA 0 issue "ca.test; accounturi=https://acme.test/acct/7; '
                                    'validationmethods=tls-alpn-01,http-01"']
    out, err = t("account", "*.a.test", "a.test", "no/domain", status=1)
    assert "*.a.test: no challenge of the settings can prove it" in err and '"no/domain" is no domain' in err
    assert len(out.splitlines()) == 3


def test_account_wildcards(t):
    account(t)
    t.settings(dns_provider="hook", dns_hook="/bin/true", acme_challenges="http-01 dns-01 dns-persist-01")
    assert t("account", "*.a.test", "b.test")[0].splitlines()[2:] == [
        'a.test. IN CAA 0 issuewild "ca.test; accounturi=https://acme.test/acct/7; '
        'validationmethods=dns-01,dns-persist-01"',
        '_validation-persist.a.test. IN TXT "ca.test; accounturi=https://acme.test/acct/7; policy=wildcard"',
        'b.test. IN CAA 0 issue "ca.test; accounturi=https://acme.test/acct/7; '
        'validationmethods=http-01,dns-01,dns-persist-01"',
        '_validation-persist.b.test. IN TXT "ca.test; accounturi=https://acme.test/acct/7"']


def test_account_without_the_cas_domain(t):
    account(t, caa=None)
    out, err = t("account", "a.test", status=1)
    assert '"ISSUER; accounturi=' in out and "does not say which domain" in err
    account(t, caa=None, directory="https://acme-v02.api.letsencrypt.org/directory")
    assert '"letsencrypt.org; accounturi=' in t("account", "a.test")[0]
    account(t, caa=None, directory="https://acme-v02.api.letsencrypt.org.evil.test/")
    t("account", "a.test", status=1)


def test_account_that_the_ca_forgot(t):
    account(t, url=None)
    assert t("account", status=1)[1].startswith("gatewayd certificates: no account is known")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"directory": 7}', "\x00"])
def test_account_damaged(t, text):
    t.put("account.json", text, folder=t.acme)
    _, err = t("account", "a.test", status=1)
    assert "account.json is damaged" in err and "no account is known" in err
