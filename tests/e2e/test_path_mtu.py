# SPDX-License-Identifier: MIT
"""What the outer network does to the tunnel's packets: addresses, marks, sizes. Two engines as devices
by themselves (km-warden --device).

    kmpma 10.95.1.1, fd95:1::1 ══ router kmpmr ══ kmpmb 10.95.2.2, fd95:2::2     outer
          10.94.0.1, fd94::1 ──── wg ───────────── 10.94.0.2, fd94::2            inner
"""
import json
import time

import pytest

from tests.lab.wgpair import ENGINE, Pair, sh

ROUTER = "kmpmr"


class Routed(Pair):
    NS = ["kmpma", "kmpmb"]
    DEV = ["kmpm0", "kmpm1"]
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

    def until(self, condition, what):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, what
            time.sleep(0.05)


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
    }""")
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
