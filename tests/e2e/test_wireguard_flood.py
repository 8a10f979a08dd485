# SPDX-License-Identifier: MIT
"""A flood of forged initiations against the engine, small (tests/bench/handshake.py draws the
topology and measures it at length): the tunnel goes on, memory stays, nobody gets more bytes in
answers than were sent in their name, and a newcomer gets in while it lasts."""
import hashlib
import os
import subprocess
import sys
import threading

import pytest

from tests.bench import handshake
from tests.lab.proc import patience

BUILD = os.environ.get("KM_BUILD", "build")
RATE = 100_000
SIZE = 64_000_000
INITIATION, COOKIE_REPLY = 148, 64

SERVE = """
import hashlib, socket, sys
s = socket.create_server((sys.argv[1], 7778))
print("ready", flush=True)
c, _ = s.accept()
h = hashlib.sha256()
while d := c.recv(1 << 20):
    h.update(d)
print(h.hexdigest(), flush=True)
"""
SEND = """
import hashlib, socket, sys
piece = hashlib.shake_256(b"flood").digest(1 << 20)
with socket.create_connection((sys.argv[1], 7778), timeout=80) as s:
    for i in range(int(sys.argv[2]) >> 20):
        s.sendall(piece)
"""


@pytest.fixture
def world():
    with handshake.World(BUILD) as w:
        yield w
    assert not any(w.codes)


def transfer(w):
    """SIZE bytes from the client to the server through the tunnel, whole."""
    addr = handshake.INNER[handshake.SERVER]
    recv = subprocess.Popen(["ip", "netns", "exec", handshake.SERVER, sys.executable, "-c", SERVE, addr],
                            stdout=subprocess.PIPE, text=True)
    watch = threading.Timer(patience(60), recv.kill)
    watch.start()
    try:
        assert recv.stdout.readline() == "ready\n"
        handshake.inside(handshake.CLIENT, sys.executable, "-c", SEND, addr, str(SIZE))
        got = recv.stdout.readline().strip()
    finally:
        watch.cancel()
        recv.kill()
        recv.wait()
        recv.stdout.close()
    assert got == hashlib.sha256(hashlib.shake_256(b"flood").digest(1 << 20) * (SIZE >> 20)).hexdigest()


def end(flood):
    """How many were sent, in how many seconds."""
    flood.send_signal(handshake.signal.SIGTERM)
    return flood.communicate(timeout=patience(30))[0].split()


def test_flood(world):
    w = world
    transfer(w)
    end(w.flood(RATE, 600))  # from here on all buffers have been touched
    rss, cookies = w.rss_kib(), w.cookies()
    flood = w.flood(RATE, 600)
    try:
        transfer(w)
        assert flood.poll() is None
        # Half of the newcomer's messages may get lost: it tries every 5 s, with a cookie then.
        w.meet(handshake.NEWCOMER)
        w.ping(handshake.NEWCOMER, patience(50))
        assert flood.poll() is None
        transfer(w)
        assert flood.poll() is None
    finally:
        sent, took = end(flood)
    replies = w.cookies() - cookies
    assert int(sent) > 0 and float(took) > 0
    assert 1000 < replies <= int(sent) and replies * COOKIE_REPLY < int(sent) * INITIATION
    assert w.rss_kib() <= rss + 512
    w.ping(handshake.CLIENT, patience(5))
