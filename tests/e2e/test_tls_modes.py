# SPDX-License-Identifier: MIT
"""A tunnel's `tls`, changed while it runs, through the whole system:

    stranger ── gateway ══WireGuard══ agent ── hello (plain, 8080), secret (ends TLS itself, 8443)
"""
import hashlib
import pathlib
import ssl

import pytest

from tests.lab import client, net
from tests.lab.proc import until
from tests.lab.system import make_certificate
from tests.lab.target import pattern_sha256

NAME = "other.demo.test"


@pytest.fixture(scope="module")
def modes(served):
    """The target that ends TLS itself has the only certificate for NAME."""
    folder = served.dir / "target-certificates"
    folder.mkdir(mode=0o700)
    make_certificate(served.dir, NAME, folder)
    served.start_target(8443, "secret", name="secret", pem=folder / NAME)
    served.target_pem = pathlib.Path(folder / NAME).read_text()
    served.second = served.create_tunnel(NAME, "127.0.0.1:8443", tls="passthrough")
    served.wait_served(domain=NAME)
    return served


def plain(s, path="/", domain=NAME):
    conn = client.NsConnection(s.net.stranger, net.GATEWAY, 80, domain)
    try:
        return client.request(conn, "GET", path)
    finally:
        conn.close()


def change(s, **what):
    s.api("PATCH", f"/api/tunnels/{s.second['id']}", what, expect=200)


def refused(s, domain):
    """The gateway says that it has no such name; anything else was on its way to the old target."""
    try:
        s.leaf(domain)
    except OSError as e:
        return "UNRECOGNIZED_NAME" in str(e)
    return False


def test_the_target_ends_tls(modes):
    s = modes
    der = ssl.PEM_cert_to_DER_cert(s.target_pem[s.target_pem.index("-----BEGIN CERT"):])
    assert s.leaf(NAME) == der  # and wait_served has verified it
    assert s.get("/", NAME).text.startswith("secret")
    assert hashlib.sha256(s.get("/bytes/3000000", NAME).body).hexdigest() == pattern_sha256(3000000)
    a = plain(s)
    assert a.status == 301 and a.headers["location"] == f"https://{NAME}/"
    assert s.get().text.startswith("hello")


def test_the_gateway_ends_it_from_now_on(modes):
    s = modes
    change(s, tls="own", target="127.0.0.1:8080")
    until(lambda: refused(s, NAME))
    s.add_certificate(NAME)
    s.wait_served(domain=NAME)
    assert s.get("/", NAME).text.startswith("hello")


def test_no_tls_from_now_on(modes):
    s = modes
    change(s, tls="off")
    until(lambda: refused(s, NAME))
    a = plain(s)
    assert a.status == 200 and a.text.startswith("hello")
    conn = s.stranger()  # another tunnel's connection does not serve it either
    try:
        conn.request("GET", "/", headers={"Host": NAME})
        assert conn.getresponse().status == 421
    finally:
        conn.close()


def test_and_back(modes):
    s = modes
    change(s, tls="passthrough", target="127.0.0.1:8443")
    s.wait_served(domain=NAME)
    assert s.get("/", NAME).text.startswith("secret")
    change(s, enabled=False)
    until(lambda: refused(s, NAME))
