# SPDX-License-Identifier: MIT
"""testssl.sh (Debian's) against the edge, which has an ECDSA and an RSA certificate for the name, by a CA
that it is told to trust. Takes minutes, so by its own target: make testssl. Debian's version (3.0) gives
no grade of its own: it is made here from what it finds, by the SSL Labs rating guide (2009q). Fails below
A, and when something of severity MEDIUM or worse is found that is not in EXPECTED.

usage: testssl.py [--build DIR] [--json FILE]
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/e2e")]
BAD = ("MEDIUM", "HIGH", "CRITICAL", "FATAL", "WARN")
# What is found, and why it stays so.
EXPECTED = {
    "engine_problem": "of the machine that asks: no GOST ciphers there",
    "cert_revocation": "the test's CA names neither CRL nor OCSP responder",
    "security_headers": "the target's; the gateway adds none",
    "secure_renego": "asks without a server name and so gets none; there is no renegotiation (secure_client_renego)",
}
NEVER = ("SSLv2", "SSLv3", "TLS1", "TLS1_1", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT",
         "cipherlist_LOW", "cipherlist_3DES_IDEA", "cipherlist_AVERAGE")
FATAL = ("heartbleed", "CCS", "ticketbleed", "ROBOT", "secure_client_renego", "CRIME_TLS", "POODLE_SSL", "SWEET32",
         "FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4")


def grade(rows):
    """(letter, score). What would cap a grade is looked at first, then 30 % protocols, 30 % key exchange, 40 %
    ciphers, each the mean of best and worst."""
    found = {r["id"].split(" ")[0]: r["finding"] for r in rows}
    for x in FATAL:
        if not found.get(x, "").startswith(("not vulnerable", "no ")):
            return "F", 0
    for x in NEVER:
        if found.get(x) != "not offered":
            return "B or worse", 0
    if found.get("PFS") != "offered" or found.get("cert_chain_of_trust") is None and not any(
            r["id"].startswith("cert_chain_of_trust") for r in rows):
        return "B or worse", 0
    if any(not r["finding"].startswith("passed") for r in rows if r["id"].startswith("cert_chain_of_trust")):
        return "T", 0
    protocols = {"TLS1_2": 95, "TLS1_3": 100}
    offered = [n for p, n in protocols.items() if found.get(p, "").startswith("offered")]
    bits, exchange = [], []
    for r in rows:
        if m := re.match(r"x[0-9a-f]+\s+\S+\s+(\S+) (\d+)\s+\S+\s+(\d+)", r["finding"] if r["id"].startswith("cipher_x") else ""):
            exchange.append(90 if m[1] == "ECDH" and int(m[2]) >= 253 else 0)  # as 3072 bits of RSA
            bits.append(100 if int(m[3]) >= 256 else 80 if int(m[3]) >= 128 else 20)
    if not offered or not bits:
        return "none", 0

    def mean(x):
        return (min(x) + max(x)) / 2
    score = 0.3 * mean(offered) + 0.3 * mean(exchange) + 0.4 * mean(bits)
    return next(g for g, least in (("A", 80), ("B", 65), ("C", 50), ("D", 35), ("F", 0)) if score >= least), score


def find(program, build):
    os.environ["KM_BUILD"] = str(pathlib.Path(build).resolve())
    import test_edge
    from tests.lab.system import make_ca, make_certificate
    with tempfile.TemporaryDirectory(prefix="kmtestssl-") as tmp:
        tmp = pathlib.Path(tmp)
        certificates, found = tmp / "certificates", tmp / "found.json"
        certificates.mkdir(mode=0o700)
        make_ca(tmp)
        for rsa in (False, True):
            make_certificate(tmp, "hello.test", certificates, days=90, rsa=rsa)
        agent = test_edge.Agent()
        g = test_edge.Gateway(tmp, acme="off")
        try:
            subprocess.run([program, "--quiet", "--color", "0", "--warnings", "off", "--add-ca", str(tmp / "ca.crt"),
                            "--ip", "127.0.0.1", "--jsonfile", str(found), f"hello.test:{g.https}"],
                           stdin=subprocess.DEVNULL, timeout=1800, check=False)
            return json.loads(found.read_text())
        finally:
            agent.close()
            if g.stop():
                sys.exit(f"testssl: gatewayd did not end well: {g.text()}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--json", default="build/bench/testssl.json")
    p.add_argument("--read", action="store_true", help="only judge what the JSON file has from an earlier run")
    a = p.parse_args()
    out = pathlib.Path(a.json)
    program = shutil.which("testssl.sh") or shutil.which("testssl")
    if not program:
        sys.exit("testssl: no testssl.sh here (packaging/setup.sh check)")
    rows = json.loads(out.read_text()) if a.read else find(program, a.build)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")
    letter, score = grade(rows)
    bad = [r for r in rows if r["severity"] in BAD]
    wrong = [r for r in bad if r["id"].split(" ")[0] not in EXPECTED]
    print(f"grade {letter} ({score:.0f} of 100), {len(rows)} findings; of severity MEDIUM or worse:")
    for r in bad:
        why = EXPECTED.get(r["id"].split(" ")[0], "NOT EXPECTED")
        print(f"  {r['severity']:8s} {r['id']}: {r['finding']} ({why})")
    if wrong or letter not in ("A", "A+"):
        sys.exit(f"testssl: grade {letter}, {len(wrong)} findings that are not expected")


if __name__ == "__main__":
    main()
