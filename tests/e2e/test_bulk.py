# SPDX-License-Identifier: MIT
"""Large bodies stream both ways in bounded memory; a slow reader holds back the sender; upgraded
connections in number keep moving. Run with the release build (make check does)."""
import hashlib
import os
import re
import select
import time

import pytest

from tests.lab import client, net
from tests.lab.proc import patience
from tests.lab.target import PATTERN, pattern_sha256

SIZE = int(os.environ.get("KM_BULK_BYTES", 2 << 30))
LIMIT_KIB = 64 * 1024


def rss(s):
    return {n: s.procs[n].peak_rss_kib() for n in ("gatewayd", "agentd")}


def check_memory(s, what):
    peak = rss(s)
    print(f"\n{what}: peak resident {peak}")
    if "san-" not in str(s.build):
        assert all(v < LIMIT_KIB for v in peak.values()), peak
    else:
        pytest.fail("memory is judged on the release build: set KM_BUILD")


def test_download(served):
    conn = served.stranger(timeout=120)
    began = time.monotonic()
    conn.request("GET", f"/bytes/{SIZE}")
    r = conn.getresponse()
    h, got = hashlib.sha256(), 0
    while data := r.read(1 << 20):
        h.update(data)
        got += len(data)
    assert got == SIZE and h.hexdigest() == pattern_sha256(SIZE)
    print(f"\ndownload of {SIZE} bytes: {SIZE * 8 / 1e9 / (time.monotonic() - began):.2f} Gbit/s")
    conn.close()
    check_memory(served, "download")


def test_upload(served):
    def body():
        left = SIZE
        while left > 0:
            yield PATTERN[:min(left, len(PATTERN))]
            left -= len(PATTERN)
    conn = served.stranger(timeout=120)
    began = time.monotonic()
    a = client.request(conn, "PUT", "/sink", body(), {"Content-Length": str(SIZE)})
    assert a.status == 200 and a.json() == {"length": SIZE, "sha256": pattern_sha256(SIZE)}
    print(f"\nupload of {SIZE} bytes: {SIZE * 8 / 1e9 / (time.monotonic() - began):.2f} Gbit/s")
    conn.close()
    check_memory(served, "upload")


def test_chunked_upload(served):
    conn = served.stranger(timeout=120)
    n = 32 << 20
    a = client.request(conn, "POST", "/sink", (PATTERN for _ in range(32)))
    assert a.json() == {"length": n, "sha256": pattern_sha256(n)}
    conn.close()


def test_slow_reader_holds_back_the_sender(served):
    """The stranger reads nothing for a while: the sender must be stopped by windows and buffers,
    not be swallowed by one of ours."""
    s = served
    before = rss(s)
    conn = s.stranger(timeout=120, rcvbuf=65536)
    conn.request("GET", f"/bytes/{1 << 30}")
    r = conn.getresponse()
    assert r.read(1000)
    # The target's socket stops moving when all on the way is full.
    def sent():
        out = s.net.agent.exec("ss", "-Htin", "sport", "=", ":8080")
        return sum(int(x) for x in re.findall(r"bytes_sent:(\d+)", out))
    last, same = -1, 0
    poll = select.poll()
    end = time.monotonic() + patience(60)
    while same < 5:
        now = sent()
        same = same + 1 if now == last else 0
        last = now
        poll.poll(200)
        assert time.monotonic() < end, "the sender is never held back"
    after = rss(s)
    print(f"\nheld back after {last} bytes; peak resident {before} -> {after}")
    assert last < 64 << 20
    total = 1000
    for _ in range(64):
        total += len(r.read(1 << 20))
    assert total > 64 << 20
    conn.close()
    check_memory(s, "slow reader")


def test_a_thousand_upgraded_connections(served):
    """More than a user's pipes at full size: all move bytes at once, none stalls."""
    s = served
    s.start_upgrade_target()
    s.add_certificate("ws.demo.test")
    s.create_tunnel("ws.demo.test", "127.0.0.1:8082")
    s.wait_status("ws.demo.test", "/", 426)
    conns = []
    try:
        for _ in range(1000):
            sock = s.tls.wrap_socket(s.net.stranger.connect(net.GATEWAY, 443, timeout=60),
                                     server_hostname="ws.demo.test")
            sock.sendall(b"GET / HTTP/1.1\r\nHost: ws.demo.test\r\nConnection: Upgrade\r\n"
                         b"Upgrade: echo\r\n\r\n")
            conns.append(sock)
        for sock in conns:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                data = sock.recv(1)
                assert data, head
                head += data
            assert head.startswith(b"HTTP/1.1 101 ")
        block = PATTERN[:32768]
        for round_ in range(2):
            for sock in conns:
                sock.sendall(block)
            for sock in conns:
                got = b""
                while len(got) < len(block):
                    data = sock.recv(len(block) - len(got))
                    assert data, "an upgraded connection ended"
                    got += data
                assert got == block
    finally:
        for sock in conns:
            sock.close()
    print(f"\n1,000 upgraded connections, 64 KiB each way on each: peak resident {rss(s)}")
