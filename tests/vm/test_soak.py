# SPDX-License-Identifier: MIT
"""The engine and the kernel's device for KM_SOAK seconds of real time, by default past two rekeys by age, as pings go
both ways all the time: two pairs at once, in one the engine begins, in the other the kernel. Run by make soak-vm."""
import os
import time

import pytest

from tests.lab.wgpair import ENGINE, KERNEL, Pair, Pings, Wire, names

SECONDS = int(os.environ.get("KM_SOAK", "260"))
REKEY_S = 120  # whoever began does so again, with the first packet after that
INITIATION, RESPONSE = 1, 2


class EngineBegins(Pair):
    NS, DEV = names("kmsa", "a", "b"), names("kmsa", "0", "1")


class KernelBegins(Pair):
    NS, DEV = names("kmsb", "a", "b"), names("kmsb", "0", "1")


@pytest.fixture
def pairs(tmp_path):
    made = []
    try:
        for cls in (EngineBegins, KernelBegins):
            folder = tmp_path / cls.__name__
            folder.mkdir()
            made.append(cls([ENGINE, KERNEL], folder))
        yield made
    finally:
        codes = [p.close() for p in made]
    assert codes == [[0, None]] * 2


def follow(flows, seconds):
    """Reads every ping's answers for so long: pipes that fill would hold ping back."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for flow in flows:
            flow.wait(1)


def test_soak(pairs):
    wires = [Wire(p) for p in pairs]
    try:
        for first, p in enumerate(pairs):
            p.begin(first)
            p.ping(first, p.INNER4[1 - first])
        flows = [Pings(p, i, inner[1 - i], "0.25") for p in pairs for i in range(2) for inner in (p.INNER4, p.INNER6)]
        for f in flows:
            f.__enter__()
        began = time.monotonic()
        try:
            follow(flows, SECONDS)
            elapsed = time.monotonic() - began
        finally:
            for f in flows:
                f.__exit__()
        seen = [w.seen() for w in wires]
    finally:
        for w in wires:
            w.__exit__()
    expected = 1 + int(elapsed) // (REKEY_S + 5)
    for first, (p, msgs) in enumerate(zip(pairs, seen)):
        own = flows[4 * first:4 * first + 4]
        handshakes = sum(m[1] == RESPONSE for m in msgs)
        print(f"\n{('engine', 'kernel')[first]} begins: {elapsed:.0f} s, {handshakes} handshakes, "
              f"{sum(f.sent for f in own)} pings, {sum(f.lost for f in own)} lost")
        for f in own:
            assert f.lost == 0, f.out
        assert set(msgs) == {(first, INITIATION, False), (1 - first, RESPONSE, False)}, msgs
        assert handshakes >= expected >= 2
