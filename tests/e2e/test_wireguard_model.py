# SPDX-License-Identifier: MIT
"""The second writing of the WireGuard handshake (tests/unit/wg/recorded.py) against the RFCs' values,
and what it prints against the file that the unit tests hold the engine to."""
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parents[1] / "unit" / "wg"
sys.path.insert(0, str(HERE))

import recorded as model  # noqa: E402

SUNSCREEN = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, " \
    b"sunscreen would be it."
DRAFTS = "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, " \
    "or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as reference " \
    "material or to cite them other than as /\u201cwork in progress./\u201d"


def test_rfcs():
    h = bytes.fromhex
    assert model.blake2s_sequence() == h("6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe")
    assert model.x25519(h("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
                        h("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")) == \
        h("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552")
    assert model.seal(h("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"),
                      h("000000000102030405060708"), DRAFTS.encode(), h("f33388860000000000004e91"))[-16:] == \
        h("eead9d67890cbb22392336fea1851f38")
    assert model.hchacha20(bytes(range(32)), h("000000090000004a0000000031415927")) == \
        h("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc")
    assert model.xaead(bytes(range(0x80, 0xa0)), bytes(range(0x40, 0x58)), SUNSCREEN,
                       h("50515253c0c1c2c3c4c5c6c7"))[-16:] == h("c0875924c1c7987947deafd8780acf49")
    for point in model.LOW:
        assert model.x25519(model.A, point.to_bytes(32, "little")) == bytes(32)


def test_recorded():
    out = subprocess.run([sys.executable, "-B", HERE / "recorded.py"], check=True, capture_output=True,
                         timeout=60).stdout
    assert out == (HERE / "recorded.txt").read_bytes()
