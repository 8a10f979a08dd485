# SPDX-License-Identifier: MIT
"""The engine at full load in both directions while peers, prefixes, keys and ports change beside the
streams. Meant for sanitized builds, whose findings make a device's exit status (KM_LOAD_SECONDS: of
each stream; `make check-wg-sanitized` takes long ones)."""
import os
import random
import threading

import pytest

from tests.bench import handshake
from tests.bench.handshake import CLIENT, DEV, INNER, NEWCOMER, SERVER, sh
from tests.lab.proc import patience

BUILD = os.environ.get("KM_BUILD", "build")
SECONDS = int(os.environ.get("KM_LOAD_SECONDS", "2"))


class Churn:
    """Changes whatever can be changed without breaking the streams, until it is told to stop."""

    def __init__(self, w):
        self.w, self.rng, self.rounds = w, random.Random(1), 0
        self.error, self._stop = None, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        self._thread.join()

    def _run(self):
        try:
            while not self._stop.is_set():
                self._round()
                self.rounds += 1
        except Exception as e:  # told by the test's thread
            self.error = e

    def _round(self):
        w, rng = self.w, self.rng
        strangers = [sh("wg", "pubkey", input=sh("wg", "genkey")).strip() for _ in range(3)]
        for k in strangers:
            sh("wg", "set", DEV[SERVER], "peer", k, "allowed-ips", f"10.200.{rng.randrange(256)}.0/24,fd00::/64",
               "endpoint", "10.93.2.2:9", "persistent-keepalive", str(rng.randrange(3)))
        w.meet(NEWCOMER)
        sh("wg", "set", DEV[SERVER], "peer", w.keys[CLIENT], "allowed-ips",
           f"{INNER[CLIENT]}/32,10.201.{rng.randrange(256)}.0/24")
        sh("wg", "set", DEV[CLIENT], "listen-port", str(rng.randrange(20000, 30000)))
        w.ping(NEWCOMER, patience(30))
        assert "latest handshake" in sh("wg", "show", DEV[SERVER])
        for k in strangers:
            sh("wg", "set", DEV[SERVER], "peer", k, "remove")
        w.part(NEWCOMER)


@pytest.fixture
def world():
    with handshake.World(BUILD) as w:
        yield w
    assert not any(w.codes) and "Sanitizer" not in w.logs, w.logs


@pytest.mark.parametrize("stream", [["--bidir", "-P2"], ["--bidir", "-u", "-b", "400M", "-l", "1300"]], ids=["tcp", "udp"])
def test_load(world, stream):
    with Churn(world) as churn:
        end = world.iperf(SECONDS, *stream)
    assert churn.error is None and churn.rounds > 0
    for direction in ("sum_received", "sum_received_bidir_reverse"):
        assert end[direction]["bytes"] > 100_000 * SECONDS
