# SPDX-License-Identifier: MIT
"""The embedded engine against others of its protocol, and with itself: side 0 is the engine (km-warden --device),
side 1 what PEERS says (hosts and addresses: tests/lab/wgpair.py). CASES is the list of what is shown, each with
either side as the one that begins; and below it what concerns the engine's device alone."""
import os
import re
import socket
import time

import pytest

from tests.lab.proc import patience
from tests.lab.wgpair import ENGINE, GO, KERNEL, PORT, SIZE, Flood, Pair, Pings, Wire, names, sh

# KM_BACKEND=kernel: this is the guest of tests/vm, whose kernel has WireGuard.
PEERS = {"kernel": KERNEL} if os.environ.get("KM_BACKEND") == "kernel" else {"engine": ENGINE, "go": GO}
OUTER, INNER4, INNER6 = Pair.OUTER, Pair.INNER4, Pair.INNER6
INITIATION, RESPONSE, COOKIE = 1, 2, 3


@pytest.fixture(scope="module", params=PEERS)
def pair(request, tmp_path_factory):
    p = Pair([ENGINE, PEERS[request.param]], tmp_path_factory.mktemp("pair"))
    p.kind = request.param
    yield p
    codes = p.close()
    assert codes[0] == 0 and (p.kind == "go" or codes[1] in (0, None))


class Other(Pair):
    """Beside the module's."""
    NS = names("kmwx", "a", "b")
    DEV = names("kmwx", "0", "1")


@pytest.fixture
def lone(tmp_path):
    """A pair of engines of the test's own."""
    p = Other([ENGINE] * 2, tmp_path)
    yield p
    p.close()


# ---- the cases: first is the side that begins, its endpoint alone is known ---------------------------


def handshake(pair, first, outer=0, psk=True):
    """The first side initiates; the tunnel carries both families inside, both ways."""
    with Wire(pair) as wire:
        pair.begin(first, outer, psk)
        pair.ping(first, INNER4[1 - first])
        pair.ping(1 - first, INNER6[first], "-s", "1300")
        if outer == 0:
            wire.wait((1 - first, RESPONSE, False))
            assert wire.seen() == [(first, INITIATION, False), (1 - first, RESPONSE, False)]
    for i in range(2):
        s = pair.status(i)
        assert s["handshake"] > 0 and s["key"] == pair.keys[1 - i] and (s["psk"] != "(none)") == psk


def wrong_psk(pair, first):
    """No session; with the right one again, there is one."""
    pair.begin(first)
    pair.wg(first, "peer", pair.keys[1 - first], "preshared-key", pair.file("wrong", sh("wg", "genpsk")))
    assert pair.lost(first, INNER4[1 - first]) and pair.status(first)["handshake"] == 0
    pair.begin(first)
    pair.ping(first, INNER4[1 - first])


def foreign_source(pair, first):
    """An inner source that is not the peer's is dropped."""
    pair.begin(first)
    pair.ping(first, INNER4[1 - first])
    pair.ip(first, "addr", "add", "10.96.0.77/24", "dev", pair.DEV[first])
    try:
        assert pair.lost(first, INNER4[1 - first], "-I", "10.96.0.77")
    finally:
        pair.ip(first, "addr", "del", "10.96.0.77/24", "dev", pair.DEV[first])


def keepalive(pair, first):
    """Set on a peer, it makes the session by itself and then an empty packet a second."""
    pair.begin(first)
    pair.peer(first, "persistent-keepalive", "1")
    size = {0: 92, 1: 148}  # what the first side gets and the other gets, of a handshake
    until = time.monotonic() + patience(10)
    while pair.status(1 - first)["rx"] < size[1] + 3 * 32:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert pair.status(first)["keepalive"] == "1" and pair.status(first)["rx"] == size[0]


def bulk(pair, first, outer=0):
    """TCP both ways, both families inside, in packets that are larger inside than the link's: the engine takes
    super-packets from its interface, cuts, and hands them to UDP in one piece, and puts together what comes."""
    pair.begin(first, outer)
    pair.ping(first, INNER4[1 - first])
    before = pair.counters(0, pair.DEV[0]), pair.counters(0, pair.LINK[0])
    for inner in (INNER4, INNER6):
        for i in range(2):
            pair.transfer(i, inner[1 - i])
    after = pair.counters(0, pair.DEV[0]), pair.counters(0, pair.LINK[0])
    mean = [{d: (a[d]["bytes"] - b[d]["bytes"]) / (a[d]["packets"] - b[d]["packets"]) for d in ("rx", "tx")}
            for a, b in zip(after, before)]
    print("\nmean packet, in bytes:", {name: {d: round(m[d]) for d in m} for name, m in zip(("tun", "veth"), mean)})
    assert mean[0]["rx"] > 1420 and mean[0]["tx"] > 1420 and mean[1]["tx"] > 1500, mean
    for i in range(2):
        s = pair.status(i)
        assert s["handshake"] > 0 and s["rx"] > 2 * SIZE and s["tx"] > 2 * SIZE


def roaming(pair, first):
    """The first side's port, then its address change under a TCP stream of its own; the other side follows."""
    other = 1 - first
    pair.begin(first)
    pair.ping(first, INNER4[other])
    assert pair.status(other)["endpoint"] == f"{OUTER[0][first]}:{PORT}"
    try:
        pair.transfer(first, INNER4[other], meanwhile=lambda: pair.wg(first, "listen-port", PORT + 1))
        assert pair.status(other)["endpoint"] == f"{OUTER[0][first]}:{PORT + 1}"
        if pair.kind != "go" or first == 0:  # wireguard-go sends from its deleted address for half a minute
            move(pair, first)
    finally:
        pair.wg(first, "listen-port", PORT)


def move(pair, first):
    other, link = 1 - first, pair.LINK[first]
    old, far = f"{OUTER[0][first]}/24", f"{OUTER[0][1 - first]}/32"

    def change():
        pair.ip(first, "addr", "add", "10.97.0.9/32", "dev", link)
        pair.ip(first, "route", "add", far, "dev", link, "src", "10.97.0.9")
        pair.ip(first, "addr", "del", old, "dev", link)
    try:
        pair.transfer(first, INNER4[other], meanwhile=change)
        assert pair.status(other)["endpoint"] == f"10.97.0.9:{PORT + 1}"
        pair.transfer(other, INNER4[first])
    finally:
        pair.ip(first, "addr", "replace", old, "dev", link)
        pair.ip(first, "addr", "flush", "dev", link, "to", "10.97.0.9/32")
        pair.ip(first, "route", "flush", far, "dev", link)


def rekey(pair, first):
    """The first side's session has expired: it initiates again, three times over, and no ping is lost: its own, or,
    where it still receives under the old session, those of the engine that knows of nothing. (The age is not
    waited for, see Pair.expire; that, tests/vm/soak.py does.)"""
    pinger = 0 if pair.kind != "engine" else first
    with Wire(pair) as wire:
        pair.begin(1 - first)
        pair.ping(1 - first, INNER4[first])
        for _ in range(3):
            since = len(wire.seen())
            pair.expire(first)
            with Pings(pair, pinger, INNER4[1 - pinger]) as pings:
                pings.wait(3)
            assert pings.lost == 0, pings.out
            wire.wait((1 - first, RESPONSE, False), since)
            assert wire.seen(since) == [(first, INITIATION, False), (1 - first, RESPONSE, False)]
            pair.transfer(0, INNER4[1])


def cookie(pair, first):
    """The other side is under load: it answers the first's initiation with a cookie and not else, the first tries
    again with it, is let in, and traffic flows while the load goes on."""
    other = 1 - first
    with Wire(pair) as wire, Flood(pair, other, 4 if pair.kind == "go" and other == 1 else 16) as flood:
        pair.begin(first)
        with Pings(pair, first, INNER4[other]) as pings:
            wire.wait((other, RESPONSE, False), timeout=20)
            pings.wait(3)
    seen = wire.seen()
    proven = seen.index((first, INITIATION, True))
    assert (other, COOKIE, False) in seen[:proven] and (other, RESPONSE, False) not in seen[:proven], seen
    assert flood.bursts > 10


def narrow_link(pair, first):
    """No packet is lost when a host's own link is too narrow: the first ones are cut by IP outside, the next by the
    engine inside, or their sender hears of it."""
    pair.begin(first)
    try:
        for i in range(2):
            pair.ip(i, "link", "set", pair.LINK[i], "mtu", "1300")
        pair.ping(first, INNER4[1 - first], "-s", "1300", "-M", "dont")
        if first == 0 or pair.kind == "engine":
            out = pair.inside(first, "ping", "-n", "-c", "2", "-s", "1300", "-M", "do", INNER4[1 - first], check=False)
            assert "mtu = 1240" in out or "mtu=1240" in out
        for i in range(2):
            pair.transfer(i, INNER4[1 - i])
    finally:
        for i in range(2):
            pair.ip(i, "link", "set", pair.LINK[i], "mtu", "1500")


CASES = {
    "handshake-over4": (handshake, {}),
    "handshake-over6": (handshake, {"outer": 1}),
    "handshake-without-psk": (handshake, {"psk": False}),
    "wrong-psk": (wrong_psk, {}),
    "foreign-source": (foreign_source, {}),
    "keepalive": (keepalive, {}),
    "bulk-over4": (bulk, {}),
    "bulk-over6": (bulk, {"outer": 1}),
    "roaming": (roaming, {}),
    "rekey": (rekey, {}),
    "narrow-link": (narrow_link, {}),
    "cookie": (cookie, {}),  # the last: the load lasts a second longer
}


@pytest.mark.parametrize("first", [0, 1], ids=["initiator", "responder"])
@pytest.mark.parametrize("case", CASES)
def test_interop(pair, case, first):
    run_case, arguments = CASES[case]
    run_case(pair, first, **arguments)


# ---- the engine's device by itself -----------------------------------------------------------------------


def test_control_socket(lone):
    """Errors as wireguard-go has them; the port moves; the program ends with its device."""
    dev = lone.DEV[0]
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"/var/run/wireguard/{dev}.sock")
        f = s.makefile("rw", encoding="ascii")
        for request, reply in (("set=1\nfoo=bar\n\n", "errno=-22"), ("set=1\nprivate_key=12\n\n", "errno=-22"),
                               ("set=1\nlisten_port=70000\n\n", "errno=-22"), ("set=1\n\n", "errno=0"),
                               ("set=1\npublic_key=" + "00" * 31 + "09\nallowed_ip=1.2.3.4/33\n\n",
                                "errno=-22")):
            f.write(request)
            f.flush()
            assert f.readline().strip() == reply and f.readline() == "\n"
        f.write("get=1\n\n")
        f.flush()
        lines = []
        while (line := f.readline().strip()):
            lines.append(line)
        assert lines[-1] == "errno=0" and f"listen_port={PORT}" in lines
        f.write("what=1\n\n")
        f.flush()
        assert f.readline() == ""
    lone.begin(0)
    lone.wg(1, "listen-port", 51999)
    lone.wg(0, "peer", lone.keys[1], "endpoint", f"{OUTER[0][1]}:51999")
    lone.ping(0, INNER4[1])
    lone.ip(0, "link", "del", dev)
    assert lone.procs[0].wait(patience(5)) == 0
    assert not re.search(rf"{dev}\b", " ".join(os.listdir("/var/run/wireguard")))


def woken(pid, thread):
    """How often this thread of the process has run."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status", encoding="ascii") as f:
            status = dict(line.split(":", 1) for line in f)
        if status["Name"].strip() == thread:
            return int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
    raise AssertionError(f"no thread {thread}")


def test_threads_at_rest(lone):
    """While little moves, the receiving thread does the sending one's work; under load both do theirs; and
    then one again."""
    lone.begin(0)
    lone.ping(0, INNER4[1])
    pid = lone.procs[0].pid
    for load in (True, False):
        until = time.monotonic() + patience(10)
        while True:  # the TUN has to be silent for a moment first
            time.sleep(0.05)
            before = woken(pid, "wg-send"), woken(pid, "wg-receive")
            lone.inside(0, "ping", "-q", "-n", "-c", "50", "-i", "0.005", INNER4[1])
            after = woken(pid, "wg-send"), woken(pid, "wg-receive")
            if after[0] - before[0] < 5:
                break
            assert time.monotonic() < until, "the sending thread does not park"
        assert after[1] - before[1] >= 10  # some of 50: a busy machine wakes it for several at once
        if load:
            lone.transfer(0, INNER4[1])
            assert woken(pid, "wg-send") - after[0] > 5
