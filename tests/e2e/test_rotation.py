# SPDX-License-Identifier: MIT
"""Keys and authorities are changed while requests run, and none fails.

    stranger (200 requests a second) ── gateway ══ WireGuard ══ (NAT) agent ── target
                                            └───── control ────────┘
"""
import threading
import time

import pytest

from tests.lab import System, client
from tests.lab.proc import until

RATE = 200
WORKERS = 4


@pytest.fixture()
def s(request):
    system = System("kmro")
    try:
        yield system
    finally:
        if request.node.stash.get("failed", False):
            system.dump_logs()
        complaints = system.close()
    assert not complaints, complaints


class Load:
    """RATE requests a second over WORKERS connections, from `with` to its end."""
    def __init__(self, s):
        self.s, self.failures, self.answers = s, [], 0
        self.end, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self.run) for _ in range(WORKERS)]

    def run(self):
        conn, due = self.s.stranger(), time.monotonic()
        while not self.end.is_set():
            try:
                a = client.request(conn, "GET", "/")
                bad = None if a.status == 200 else f"status {a.status}"
            except OSError as e:
                bad = repr(e)
                conn.close()
                conn = self.s.stranger()
            with self.lock:
                self.answers += 1
                if bad:
                    self.failures.append(bad)
            due = max(due + WORKERS / RATE, time.monotonic() - 1)
            self.end.wait(max(0, due - time.monotonic()))
        conn.close()

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        for t in self.threads:
            t.join()


def key_of(s, kind):
    return s.api("GET", f"/api/{kind}s/{getattr(s, kind + '_id')}", expect=200)["wireguardPublicKey"]


@pytest.mark.parametrize("kind", ["agent", "gateway"])
def test_host_key(s, kind):
    s.up(**{kind: {"key_rotation": "4s"}})
    s.create_tunnel()
    s.wait_served()
    before = key_of(s, kind)
    with Load(s) as load:
        first = until(lambda: (k := key_of(s, kind)) != before and k)
        until(lambda: key_of(s, kind) not in (before, first))
        answers = load.answers
        until(lambda: load.answers > answers + RATE)
    assert not load.failures, load.failures[:5]
    assert load.answers > RATE
    h = s.api("GET", f"/api/{kind}s/{getattr(s, kind + '_id')}", expect=200)
    assert h["pendingPublicKey"] is None
    # The file that the next start reads holds the key that control knows.
    s.stop(f"{kind}d")
    getattr(s, f"start_{kind}")(wait=False)
    s.wait_served()


def test_authority(s):
    s.up()
    s.create_tunnel()
    s.wait_served()
    old = s.api("GET", "/api/authorities", expect=200)["items"][0]
    with Load(s) as load:
        new = s.api("POST", "/api/authorities/rotate", expect=201)

        def retired():
            return [a for a in s.api("GET", "/api/authorities", expect=200)["items"]
                    if a["id"] == old["id"] and a["state"] == "retired"]
        until(retired)
        answers = load.answers
        until(lambda: load.answers > answers + RATE)
    assert not load.failures, load.failures[:5]
    assert new["state"] == "active" and new["keyHere"]
    bundle = s.api("GET", "/api/trust", expect=200)
    assert bundle["signed"]
    for role in ("agent", "gateway"):  # both have come to trust the new one alone
        until(lambda r=role: (s.dir / f"{r}-state" / "trust.pem").read_text().strip()
              == bundle["bundle"].strip())
    s.wait_served()
