# SPDX-License-Identifier: MIT
"""What the outer network does to the tunnel's packets: addresses, marks, sizes. Two engines as devices
by themselves (km-warden --device).

    kmpma 10.95.1.1, fd95:1::1 ══ router kmpmr ══ kmpmb 10.95.2.2, fd95:2::2     outer
          10.94.0.1, fd94::1 ──── wg ───────────── 10.94.0.2, fd94::2            inner
"""
import hashlib
import json
import subprocess
import sys
import threading
import time

import pytest

from tests.lab import client
from tests.lab.proc import patience, until
from tests.lab.target import PATTERN, pattern_sha256
from tests.lab.wgpair import ENGINE, Pair, names, sh

ROUTER, = names("kmpm", "r")
NARROW = 1280

# A sender that goes on until its standard input ends, and a receiver that tells how far it is; each ends
# with the digest of all.
STREAM = r"""
import hashlib, os, select, socket, sys, time
mode, addr, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in addr else socket.AF_INET
h, n, told, longest = hashlib.sha256(), 0, 0, 0
if mode == "recv":
    s = socket.create_server((addr, port), family=family)
    print("ready", flush=True)
    c, _ = s.accept()
    last = time.monotonic()
    while d := c.recv(1 << 20):
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        h.update(d)
        n += len(d)
        if n - told >= 1 << 20:
            print(n, flush=True)
            told = n
    print("end", n, h.hexdigest(), longest, flush=True)
else:
    data = memoryview(hashlib.shake_256(b"kakuremichi").digest(1 << 20))
    with socket.create_connection((addr, port), timeout=60) as s:
        while not select.select([0], [], [], 0)[0]:
            k = s.send(data[n % len(data):][:65536])
            h.update(data[n % len(data):][:k])
            n += k
        s.shutdown(socket.SHUT_WR)
        print("end", n, h.hexdigest(), 0, flush=True)
"""


class Stream:
    """Bytes from side i of a pair to the other's addr, without end."""

    def __init__(self, pair, i, addr, port):
        self.procs, self.received, self.end = [], 0, None
        self.moved = threading.Condition()
        try:
            recv = self._run(pair, 1 - i, "recv", addr, port)
            assert recv.stdout.readline() == "ready\n"
            self.thread = threading.Thread(target=self._follow, args=[recv])
            self.thread.start()
            self.sender = self._run(pair, i, "send", addr, port)
        except BaseException:
            self.kill()
            raise

    def _run(self, pair, i, *args):
        p = subprocess.Popen(["ip", "netns", "exec", pair.NS[i], sys.executable, "-c", STREAM,
                              *map(str, args)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.procs.append(p)
        return p

    def _follow(self, recv):
        for line in recv.stdout:
            with self.moved:
                if line.startswith("end"):
                    self.end = line.split()
                else:
                    self.received = int(line)
                self.moved.notify_all()

    def more(self, n):
        """Waits until n more bytes have arrived."""
        with self.moved:
            goal = self.received + n
            assert self.moved.wait_for(lambda: self.received >= goal, patience(60)), \
                f"stands at {self.received}, should reach {goal}"

    def finish(self):
        """The longest pause, in seconds; all has arrived as it was sent."""
        sent = self.sender.communicate(timeout=patience(60))[0].split()
        self.thread.join(patience(60))
        assert self.end and self.end[:3] == sent[:3]
        return float(self.end[3])

    def kill(self):
        for p in self.procs:
            p.kill()
            p.wait()


class Routed(Pair):
    NS = names("kmpm", "a", "b")
    DEV = names("kmpm", "0", "1")
    LINK = ["kmpm-a", "kmpm-b"]
    OUTER = [("10.95.1.1", "10.95.2.2"), ("fd95:1::1", "fd95:2::2")]
    INNER4, INNER6 = ("10.94.0.1", "10.94.0.2"), ("fd94::1", "fd94::2")

    def wire(self):
        sh("ip", "netns", "add", ROUTER)
        for i in range(2):
            sh("ip", "link", "add", self.LINK[i], "netns", self.NS[i], "type", "veth",
               "peer", "name", f"to{i}", "netns", ROUTER)
            sh("ip", "-n", ROUTER, "addr", "add", f"10.95.{i + 1}.254/24", "dev", f"to{i}")
            sh("ip", "-n", ROUTER, "addr", "add", f"fd95:{i + 1}::fe/64", "dev", f"to{i}", "nodad")
            sh("ip", "-n", ROUTER, "link", "set", f"to{i}", "up")
            self.address(i, *self.addresses(i))
            self.ip(i, "route", "add", "default", "via", f"10.95.{i + 1}.254")
            self.ip(i, "-6", "route", "add", "default", "via", f"fd95:{i + 1}::fe")
        sh("ip", "netns", "exec", ROUTER, "sysctl", "-qw", "net.ipv4.ip_forward=1",
           "net.ipv6.conf.all.forwarding=1", "net.ipv4.icmp_ratelimit=0")

    def clean(self):
        super().clean()
        sh("ip", "netns", "del", ROUTER, check=False)

    def rules(self, ns, text):
        sh("ip", "netns", "exec", ns, "nft", "-f", "-", input=text)

    def count(self, ns, name):
        out = sh("ip", "netns", "exec", ns, "nft", "-j", "list", "counters")
        return sum(c["counter"]["packets"] for c in json.loads(out)["nftables"]
                   if c.get("counter", {}).get("name") == name)

    def narrow(self, mtu):
        """The router's way to either side; packets are not merged before it, so that it sees their sizes."""
        for i in range(2):
            sh("ip", "-n", ROUTER, "route", "replace", f"10.95.{i + 1}.0/24", "dev", f"to{i}",
               "mtu", "lock", str(mtu))
            sh("ip", "-n", ROUTER, "-6", "route", "replace", f"fd95:{i + 1}::/64", "dev", f"to{i}",
               "metric", "10", "mtu", "lock", str(mtu))

    def until(self, condition, what):
        until(condition, 20, what)


@pytest.fixture
def pair(tmp_path):
    p = Routed([ENGINE, ENGINE], tmp_path)
    yield p
    assert p.close() == [0, 0]


@pytest.mark.parametrize("family", [4, 6])
def test_reply_from_the_address_that_was_asked(pair, family):
    """A host with two addresses answers from the one at which the peer's packets come in; when that one
    goes, from the other."""
    first, second = ("10.95.2.2", "10.95.2.22") if family == 4 else ("fd95:2::2", "fd95:2::22")
    show = (lambda a: f"{a}:51820") if family == 4 else (lambda a: f"[{a}]:51820")
    length = 24 if family == 4 else 128
    # The kernel's own choice is the first one: IPv6 takes the longest match, else the newest.
    if family == 6:
        pair.ip(1, "addr", "change", f"{first}/64", "dev", pair.LINK[1], "preferred_lft", "forever")
        pair.address(1, f"{second}/{length}")
        pair.ip(1, "-6", "route", "change", "default", "via", "fd95:2::fe", "src", first)
    else:
        pair.address(1, f"{second}/{length}")
    for chosen in (second, first):
        pair.begin(0, 0)
        pair.peer(0, "endpoint", show(chosen))
        pair.ping(0, pair.INNER4[1])
        pair.transfer(1, pair.INNER4[0])
        assert pair.status(0)["endpoint"] == show(chosen)
    pair.begin(0, 0)
    pair.peer(0, "endpoint", show(second))
    pair.ping(0, pair.INNER4[1])
    assert pair.status(0)["endpoint"] == show(second)
    pair.ip(1, "addr", "del", f"{second}/{length}", "dev", pair.LINK[1])
    pair.ping(1, pair.INNER4[0])
    assert pair.status(0)["endpoint"] == show(first)


@pytest.mark.parametrize("outer", [0, 1], ids=["over4", "over6"])
def test_congestion_marks(pair, outer):
    """ECN is copied outwards; what a router marks comes out at the other end; a mark on what is not
    capable of it ends the packet. Handshakes have a class of their own, data has none."""
    ip = ("ip", "ip6")[outer]
    pair.rules(ROUTER, f"""table inet marks {{
        counter af41 {{}}
        counter ect0 {{}}
        counter ect1 {{}}
        counter classed {{}}
        chain c {{ type filter hook forward priority 0;
            udp dport 51820 udp length 156 {ip} dscp af41 counter name af41
            udp dport 51820 udp length > 160 {ip} dscp != cs0 counter name classed
            udp dport 51820 {ip} ecn ect0 counter name ect0
            udp dport 51820 {ip} ecn ect1 counter name ect1 {ip} ecn set ce
        }}
    }}""")
    pair.rules(pair.NS[1], """table inet marks {
        counter plain {}
        counter ect0 {}
        counter ce4 {}
        counter ce6 {}
        chain c { type filter hook input priority 0;
            iifname kmpm1 icmp type echo-request ip ecn not-ect counter name plain
            iifname kmpm1 icmp type echo-request ip ecn ect0 counter name ect0
            iifname kmpm1 icmp type echo-request ip ecn ce counter name ce4
            iifname kmpm1 icmpv6 type echo-request ip6 ecn ce counter name ce6
        }
    }""".replace("kmpm1", pair.DEV[1]))
    pair.begin(0, outer)
    pair.ping(0, pair.INNER4[1])
    pair.ping(0, pair.INNER4[1], "-Q", "0xfc")
    assert pair.count(ROUTER, "af41") >= 1
    assert pair.count(ROUTER, "ect0") == pair.count(ROUTER, "ect1") == 0
    assert pair.count(pair.NS[1], "plain") == 6
    pair.ping(0, pair.INNER4[1], "-Q", "2")
    assert pair.count(pair.NS[1], "ect0") == 3 and pair.count(ROUTER, "ect0") >= 3
    pair.ping(0, pair.INNER4[1], "-Q", "1")
    pair.ping(0, pair.INNER6[1], "-Q", "1")
    assert pair.count(pair.NS[1], "ce4") == 3 and pair.count(pair.NS[1], "ce6") == 3
    assert pair.count(ROUTER, "classed") == 0
    pair.rules(ROUTER, f"add rule inet marks c udp dport 51820 {ip} ecn not-ect {ip} ecn set ce")
    out = pair.inside(0, "ping", "-c", "2", "-i", "0.2", "-W", "1", pair.INNER4[1], check=False)
    assert "100% packet loss" in out


SIZES = f"""table inet sizes {{
    counter large {{}}
    counter fragments {{}}
    counter told {{}}
    chain in {{ type filter hook prerouting priority 0;
        udp dport 51820 meta length > {NARROW} counter name large
        ip frag-off & 0x3fff != 0 counter name fragments
        exthdr frag exists counter name fragments
    }}
    chain out {{ type filter hook output priority 0;
        icmp type destination-unreachable icmp code 4 counter name told
        icmpv6 type packet-too-big counter name told
    }}
}}
"""


@pytest.fixture
def watched(pair):
    """What passes the router is seen as it is on the wire."""
    for i in range(2):
        pair.ip(i, "link", "set", pair.LINK[i], "gso_max_segs", "1")
    pair.rules(ROUTER, SIZES)
    return pair


@pytest.fixture
def streams():
    made = []
    yield made
    for s in made:
        s.kill()


@pytest.mark.parametrize("inner", [0, 1], ids=["in4", "in6"])
@pytest.mark.parametrize("outer", [0, 1], ids=["over4", "over6"])
def test_router_grows_narrow(watched, streams, outer, inner):
    """Under a download and an upload a router's MTU falls. Both go on at once, and soon no outer packet is
    too large or fragmented any more."""
    pair = watched
    addrs = (pair.INNER4, pair.INNER6)[inner]
    pair.begin(0, outer)
    pair.ping(0, addrs[1])
    for i in range(2):
        streams.append(Stream(pair, i, addrs[1 - i], 7000 + i))
    for s in streams:
        s.more(4 << 20)
    assert pair.count(ROUTER, "large") > 0 and pair.count(ROUTER, "told") == 0
    pair.narrow(NARROW)
    for s in streams:
        s.more(8 << 20)
    assert pair.count(ROUTER, "told") > 0
    before = [pair.count(ROUTER, name) for name in ("large", "fragments")]
    for s in streams:
        s.more(16 << 20)
    assert [pair.count(ROUTER, name) for name in ("large", "fragments")] == before
    for s in streams:
        assert s.finish() < patience(5)


def ping_once(pair, addr, size, how, *more):
    """One packet of this size; what ping says."""
    payload = size - (48 if ":" in addr else 28)
    return pair.inside(0, "ping", "-n", "-c", "1", "-W", "2", "-M", how, "-s", str(payload), *more, addr,
                       check=False)


@pytest.mark.parametrize("outer", [0, 1], ids=["over4", "over6"])
def test_nothing_is_dropped_silently(watched, outer):
    """Datagrams that the path has become too narrow for: those that may be fragmented arrive, of the others
    the sender hears; the least packet of IPv6 arrives in any case."""
    pair = watched
    width = NARROW - (60, 80)[outer]
    pair.begin(0, outer)
    pair.ping(0, pair.INNER4[1])
    pair.narrow(NARROW)
    pair.until(lambda: f"mtu = {width}" in ping_once(pair, pair.INNER4[1], 1420, "do").replace("=", " = ")
               .replace("  ", " "), "the sender is not told")
    pair.until(lambda: " 0% packet loss" in ping_once(pair, pair.INNER4[1], 1420, "dont"),
               "no way for fragments")
    pair.ping(0, pair.INNER4[1], "-M", "dont", "-s", "5000")
    pair.ping(1, pair.INNER4[0], "-M", "dont", "-s", "5000")
    pair.ping(0, pair.INNER4[1], "-M", "do", "-s", str(width - 28))
    assert pair.count(ROUTER, "fragments") == 0
    # IPv6: 1280 bytes are promised.
    pair.until(lambda: " 0% packet loss" in ping_once(pair, pair.INNER6[1], 1280, "do"),
               "no way for 1280 bytes of IPv6")
    pair.ping(0, pair.INNER6[1], "-M", "do", "-s", str(1280 - 48))
    assert pair.count(ROUTER, "fragments") > 0
    pair.until(lambda: "Packet too big" in ping_once(pair, pair.INNER6[1], 1400, "do"),
               "the sender is not told")


# Says so many times to ADDR that its packets to PEER are too large for 576 bytes, quoting their UDP header
# and so many bytes of data.
FORGER = r"""
import socket, struct, sys
addr, peer, quoted, times = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
def checksum(b):
    s = sum(struct.unpack(f">{len(b) // 2}H", b))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff
ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 1480, 1, 0x4000, 60, 17, 0, socket.inet_aton(addr), socket.inet_aton(peer))
ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
udp = struct.pack(">HHHH", 51820, 51820, 1460, 0)
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as s:
    for i in range(times):
        body = ip + udp + (struct.pack("<II", 4, i * 2654435761 % 2**32) + bytes(64))[:quoted]
        head = struct.pack(">BBHHH", 3, 4, 0, 0, 576)
        head = struct.pack(">BBHHH", 3, 4, checksum(head + body), 0, 576)
        s.sendto(head + body, (addr, 0))
"""


def test_forged_messages(pair, streams):
    """Who does not see our packets and says that they are too large is not believed, or not below 1280
    bytes; and what is under way goes on."""
    def forge(quoted, times):
        sh("ip", "netns", "exec", ROUTER, sys.executable, "-c", FORGER, pair.OUTER[0][0], pair.OUTER[0][1],
           str(quoted), str(times))

    def passes(size):
        """Beside the stream some may be lost, but none is refused."""
        def once():
            said = ping_once(pair, pair.INNER4[1], size, "do")
            assert "+1 errors" not in said and "mtu" not in said, said
            return " 0% packet loss" in said
        pair.until(once, f"packets of {size} bytes do not pass")
    pair.begin(0, 0)
    pair.ping(0, pair.INNER4[1])
    streams.append(Stream(pair, 0, pair.INNER4[1], 7000))
    streams[0].more(4 << 20)
    forge(72, 20000)
    streams[0].more(8 << 20)
    passes(1420)
    # Some are dropped with the flood.
    pair.until(lambda: forge(0, 1) or "+1 errors" in ping_once(pair, pair.INNER4[1], 1420, "do"),
               "it has no effect at all")
    forge(0, 20000)
    streams[0].more(8 << 20)
    passes(1220)
    assert streams[0].finish() < patience(10)


# ---- the whole system: the router is the one before the agent ----

SIZE, EARLY = 96 << 20, 8 << 20
TOLD, FOUND = NARROW - 60, (NARROW - 60) // 16 * 16  # a probe is padded as far as it goes


def narrow_nat(s, told):
    """told: the router says so; else it is a black hole."""
    if not told:
        s.net.nat.exec("nft", "add table ip hole; add chain ip hole out "
                       "{ type filter hook output priority 0; }; "
                       "add rule ip hole out icmp type destination-unreachable drop")
    for to, dev in (("203.0.113.0/24", "eth0"), ("192.168.77.0/24", "lan0")):
        s.net.nat.ip("route", "replace", to, "dev", dev, "mtu", "lock", str(NARROW))


def upload_body(at_early):
    left = SIZE
    while left > 0:
        if SIZE - left == EARLY:
            at_early()
        yield PATTERN[:min(left, len(PATTERN))]
        left -= len(PATTERN)


def read_all(r, h, pauses):
    last = time.monotonic()
    while data := r.read(1 << 18):
        pauses.append(time.monotonic() - last)
        last = time.monotonic()
        h.update(data)


@pytest.mark.parametrize("told", [True, False], ids=["told", "black-hole"])
def test_under_transfers(fresh, told):
    """A download and an upload are under way when the path gets narrow. Both go on, and the segments of
    the agent's connections follow; told, the gateway's as well."""
    fresh.up(agent={"probe_interval": "1s"})
    fresh.create_tunnel()
    fresh.wait_served()
    agent, gateway = fresh.procs["agentd"], fresh.procs["gatewayd"]
    h, pauses = hashlib.sha256(), []
    down = fresh.stranger(timeout=120)
    down.request("GET", f"/bytes/{SIZE}")
    r = down.getresponse()
    h.update(r.read(EARLY))
    reader = threading.Thread(target=read_all, args=[r, h, pauses])

    def early():
        narrow_nat(fresh, told)
        reader.start()
    up = fresh.stranger(timeout=120)
    a = client.request(up, "PUT", "/sink", upload_body(early), {"Content-Length": str(SIZE)})
    assert a.json() == {"length": SIZE, "sha256": pattern_sha256(SIZE)}
    reader.join(patience(120))
    assert h.hexdigest() == pattern_sha256(SIZE)
    assert max(pauses) < patience(15)
    width = TOLD if told else FOUND
    agent.wait_log("path MTU to gateway changed", f"mtu={width}")
    assert f"mtu {width}" in fresh.inside("agentd", "ip", "route")
    if told:
        gateway.wait_log("path MTU to agent changed", f"mtu={width}")
        assert f"mtu {width}" in fresh.inside("gatewayd", "ip", "route")
    assert fresh.get("/bytes/3000000").status == 200
    for conn in (down, up):
        conn.close()
