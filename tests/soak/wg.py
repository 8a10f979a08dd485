# SPDX-License-Identifier: MIT
"""Soaks the embedded engine: measured streams through two tunnels, at real time, while everything
else about the hub's device changes at random. Needs root and wireguard-tools.

    kmsoak-b  10.95.1.2, .12 ── 10.95.1.1 ┐
    kmsoak-c  10.95.2.2, .12 ── 10.95.2.1 ┼─ kmsoak-hub          outer, veth
    kmsoak-d  10.95.3.2 ─────── 10.95.3.1 ┘
    10.94.0.2, .3, .4 ── wg ── 10.94.0.1                         inner; b and c are measured, d comes and goes

A stall above 1 s fails the run, unless for most of it the engines wanted a processor and got none.

usage: wg.py [--time S] [--seed N] [--rate DEEDS_PER_S] [--warden FILE] [--json FILE] [--realtime] [--tag T] [--no-memory]
Exit status 1: a stall above 1 s, growth of memory or descriptors, rekeys missing, or a bad end.
"""
import argparse
import collections
import json
import os
import random
import sys
import time

from tests.lab.net import Namespace
from tests.lab.proc import LabError, Proc, run
from tests.soak.churn import Churn, Control, keypair
from tests.soak.streams import Bytes, Datagrams, Loop, Stall

STALL_MS = 1000
EXCUSE = 0.8            # of a stall
REPORT_MS = 200
GUEST_MS = 20000         # a handshake that has to wait 5 s for the last one's gap, twice, and a lost one
RSS_GROWTH_KIB = 1024    # the last quarter's greatest against the second's
REKEY_S = 120
HUB_INNER, HUB_PORT = "10.94.0.1", 51820


class Side:
    """A namespace with an engine in it."""

    def __init__(self, letter, n, tag):
        self.name, self.n, self.dev = letter, n, f"kms{tag}{n}"
        self.inner = f"10.94.0.{n + 1}"
        self.outer, self.other, self.hub_outer = (f"10.95.{n}.{x}" for x in (2, 12, 1))
        self.spare = f"10.94.{n}.0/24"
        self.psk = os.urandom(32).hex()
        self.hub_pub = None
        self.control, self.proc = Control(self.dev), None
        self.ns = Namespace(f"kmsoak{tag}-{letter}", "")

    def start(self, warden, folder):
        self.proc = Proc(f"engine {self.name}", self.ns.argv(warden, "-f", "--device", self.dev),
                         f"{folder}/soak-{self.name}.log")
        until = time.monotonic() + 20
        while not self._up():
            if time.monotonic() > until or not self.proc.alive():
                raise LabError(f"engine {self.name} does not come:\n{self.proc.tail()}")
            time.sleep(0.05)
        key, self.pub = keypair()
        self.control.set(f"private_key={key}", f"listen_port={HUB_PORT}")
        self.ns.ip("addr", "add", f"{self.inner}/16", "dev", self.dev)
        self.ns.ip("addr", "add", f"fd94::{self.n + 1}/32", "dev", self.dev, "nodad")
        self.ns.ip("link", "set", self.dev, "mtu", "1420", "up")

    def _up(self):
        try:
            return self.control.ask("get=1\n\n")
        except OSError:
            return False

    def join(self, hub):
        self.hub_pub = hub.pub
        run("ip", "link", "add", "name", "wan", "netns", self.ns.name, "type", "veth",
            "peer", "name", f"to-{self.name}", "netns", hub.ns.name)
        hub.ns.ip("addr", "add", f"{self.hub_outer}/24", "dev", f"to-{self.name}")
        hub.ns.ip("link", "set", f"to-{self.name}", "up")
        for a in (self.outer, self.other):
            self.ns.ip("addr", "add", f"{a}/24", "dev", "wan")
        self.ns.ip("link", "set", "wan", "up")
        hub.control.set(f"public_key={self.pub}", f"preshared_key={self.psk}",
                        f"allowed_ip={self.inner}/32")
        self.control.set(*self.hub_lines())

    def hub_lines(self):
        return [f"public_key={self.hub_pub}", f"preshared_key={self.psk}",
                f"endpoint={self.hub_outer}:{HUB_PORT}", "allowed_ip=10.94.0.0/16",
                "persistent_keepalive_interval=25"]

    def roam(self):
        self.outer, self.other = self.other, self.outer
        self.ns.ip("route", "change", f"10.95.{self.n}.0/24", "dev", "wan", "src", self.outer)

    def memory_kib(self):
        return self.proc.rss_kib()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.proc.pid}/fd"))

    def starved_ns(self):
        """How long each of its threads has waited for a processor, by the scheduler's own count."""
        ns = {}
        for task in os.listdir(f"/proc/{self.proc.pid}/task"):
            with open(f"/proc/{self.proc.pid}/task/{task}/schedstat", encoding="ascii") as f:
                ns[task] = int(f.read().split()[1])
        return ns


class Soak:
    def __init__(self, opt):
        self.opt, self.sides, self.streams, self.churn, self.outside = opt, [], [], None, None
        self.samples, self.rekeys, self.stamps = [], {}, {}
        self.excused, self.real = [], []
        self.starved = collections.deque(maxlen=300)  # (when, {side: {thread: ns}}), each 100 ms
        self.second = 0
        self.begun = time.time()

    def say(self, text):
        print(f"{time.time() - self.begun:8.1f} s  {text}", flush=True)

    def on_stall(self, stall, ms):
        """Above STALL_MS only the machine excuses it: when a thread of the hub's engine and one of the
        other's have together waited for a processor for nearly as long, by the scheduler's count."""
        t = time.time()
        beside = max(self.outside.stall.worst_within(int(ms * 1e6)), self.outside.age_ns() / 1e6)
        waited = self.starved_ms(ms)
        if stall is not self.outside.stall and ms > STALL_MS and stall.report_ms == REPORT_MS:
            machine = waited["hub"] + max(waited[s.name] for s in self.fixed if s.name in stall.name.split(" ")[1])
            (self.excused if machine >= EXCUSE * ms else self.real).append((stall.name, ms, machine))
        deeds = [f"{d} {t - at:.2f} s before" for at, d in self.churn.recent[-4:]]
        self.say(f"{stall.name}: stall of {ms:.0f} ms; {beside:.0f} ms outside; meanwhile engines have waited for "
                 f"a processor for {waited} ms; " + ", ".join(deeds))

    def starved_ms(self, ms):
        """The greatest wait for a processor of a thread of each side in the last so many, and a little."""
        since = time.monotonic() - ms / 1e3 - 0.05
        then = next((ns for at, ns in reversed(self.starved) if at <= since), {})
        return {s.name: round(max(v - then.get(s.name, {}).get(k, v) for k, v in s.starved_ns().items()) / 1e6)
                for s in self.sides}

    def build(self, folder):
        for n, letter in enumerate(["hub", "b", "c", "d"]):
            self.sides.append(Side(letter, n, self.opt.tag))
            self.sides[-1].start(self.opt.warden, folder)
        hub, b, c, d = self.sides
        for s in (b, c, d):
            s.join(hub)
        self.fixed = [b, c]

        def stream(kind, name, x, y, port, **kw):
            self.streams.append(kind(name, x.ns, x.inner, y.ns, y.inner, port,
                                     Stall(name, REPORT_MS, self.on_stall), **kw))
        # First, so that it has been read when the others are.
        self.outside = Bytes("tcp outside", hub.ns, b.hub_outer, b.ns, b.outer, 7004,
                             Stall("tcp outside", REPORT_MS, self.on_stall))
        for s in self.fixed:
            stream(Datagrams, f"udp hub-{s.name}", hub, s, 7001)
            stream(Datagrams, f"udp {s.name}-hub", s, hub, 7010 + s.n)
        stream(Bytes, "tcp hub-b", hub, b, 7002)
        stream(Bytes, "tcp c-hub", c, hub, 7003)
        self.measured = list(self.streams)
        self.tcp = self.streams[-2:] + [self.outside]
        stream(Datagrams, "udp d-hub", d, hub, 7010 + d.n, every=5)
        self.streams[-1].stall.report_ms = GUEST_MS
        self.churn = Churn(self.opt.seed, self.opt.rate, hub, self.fixed, d)

    def beat(self):
        self.starved.append((time.monotonic(), {side.name: side.starved_ns() for side in self.sides}))
        if self.churn.error:
            raise self.churn.error
        if time.monotonic() >= self.second:
            self.second = time.monotonic() + 1
            self.each_second()

    def each_second(self):
        for side in self.fixed:
            stamp = side.control.peers()[side.hub_pub]
            stamp = stamp["last_handshake_time_sec"] + stamp["last_handshake_time_nsec"]
            if stamp != self.stamps.get(side.name):
                self.rekeys[side.name] = self.rekeys.get(side.name, -1) + 1
                self.stamps[side.name] = stamp
        self.samples.append({"t": round(time.time() - self.begun, 1),
                             "rss_kib": {s.name: s.memory_kib() for s in self.sides},
                             "fds": {s.name: s.descriptors() for s in self.sides}})
        if len(self.samples) % 60 == 0:
            worst = max(s.stall.worst_ms for s in self.measured)
            self.say(f"worst stall {worst:.0f} ms, lost {sum(s.lost for s in self.streams[:4])}, rekeys "
                     f"{sum(self.rekeys.values())}, {len(self.churn.crowd)} peers beside, rss "
                     f"{self.samples[-1]['rss_kib']}, own lag at most {self.loop.lag_worst_ms:.0f} ms")

    def go(self):
        self.say(f"seed {self.opt.seed}, {self.opt.time} s, {self.opt.rate} deeds a second")
        self.fds = {s.name: s.descriptors() for s in self.sides}
        self.loop = Loop([self.outside, *self.streams])
        self.churn.start()
        begin = {s.name: s.starved_ns() for s in self.sides}
        self.loop.run(self.opt.time, self.beat)
        self.waited_s = {s.name: sum(ns - begin[s.name].get(k, 0) for k, ns in s.starved_ns().items()) / 1e9
                         for s in self.sides}
        self.churn.end()

    # ---- the verdict ----

    def growth_kib(self, name):
        n = len(self.samples)
        of = [s["rss_kib"][name] for s in self.samples]
        return max(of[3 * n // 4:]) - max(of[n // 4:n // 2])

    def finish(self):
        """Rows, and what is wrong."""
        rows, wrong = [], []

        def row(metric, value, unit, limit=None, system="embedded"):
            rows.append({"bench": "soak-wg", "system": system, "metric": metric,
                         "value": round(value, 3), "unit": unit})
            if limit is not None and value > limit:
                wrong.append(f"{metric} of {system} is {value:.0f} {unit}, allowed {limit}")
        row("seconds", self.samples[-1]["t"], "s")
        row("seed", self.opt.seed, "")
        row("realtime", int(self.opt.realtime), "")
        for s in [*self.measured, self.outside]:
            row("stall_ms", s.stall.worst_ms, "ms", None, s.name)
            row("stalls_over_200ms", s.stall.over, "", None, s.name)
        for s in self.tcp:
            row("retransmits", s.retransmits(), "", None, s.name)
        row("stalls_excused", len(self.excused), "")
        wrong += [f"{name} stalled for {ms:.0f} ms, allowed {STALL_MS}, of which {machine} ms for want of a "
                  f"processor" for name, ms, machine in self.real]
        for s in self.streams[:4]:
            row("sent", s.next, "packets", None, s.name)
            row("lost", s.lost, "packets", None, s.name)
        guest = self.streams[-1]
        row("comes_back_ms", guest.stall.worst_ms, "ms", GUEST_MS, guest.name)
        row("own_lag_ms", self.loop.lag_worst_ms, "ms")
        row("own_lags_over_100ms", self.loop.lag_over, "")
        for name, s in self.waited_s.items():
            row("waited_for_processor_s", s, "s", None, name)
        for name, n in self.churn.done.items():
            row("deeds", n, "", None, name)
        for side in self.fixed:
            n = self.rekeys.get(side.name, 0)
            row("rekeys", n, "", None, side.name)
            if n < self.samples[-1]["t"] / (REKEY_S + 10) - 1:
                wrong.append(f"only {n} rekeys of {side.name}")
        have = self.sides[0].control.peers()
        if len(have) != 3:
            wrong.append(f"{len(have)} peers are left on the hub, not 3")
        time.sleep(1)
        for side in self.sides:
            first, last = self.samples[0]["rss_kib"][side.name], self.samples[-1]["rss_kib"][side.name]
            row("rss_first_kib", first, "KiB", None, side.name)
            row("rss_last_kib", last, "KiB", None, side.name)
            row("rss_growth_kib", self.growth_kib(side.name), "KiB",
                None if self.opt.no_memory else RSS_GROWTH_KIB, side.name)
            row("fds_more", side.descriptors() - self.fds[side.name], "", 0, side.name)
        return rows, wrong

    def close(self):
        """Ends everything; what did not end well."""
        wrong = []
        for s in [*self.streams, *([self.outside] if self.outside else [])]:
            s.close()
        for side in self.sides:
            try:
                status = side.proc.stop() if side.proc else "no start"
            except LabError as e:
                status = e
            log = side.proc.lines if side.proc else []
            if status != 0 or any("Sanitizer" in line for line in log):
                wrong.append(f"engine {side.name} ended with {status}:\n" + "\n".join(log[-40:]))
            if os.path.exists(side.control.path):
                wrong.append(f"{side.control.path} is left")
            side.ns.close()
        return wrong


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--time", type=float, default=3600)
    ap.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    ap.add_argument("--rate", type=float, default=4)
    ap.add_argument("--realtime", action="store_true",
                    help="this program and the engines go before all others, on a busy machine")
    ap.add_argument("--warden", default="build/km-warden")
    ap.add_argument("--tag", default="", help="in the names of namespaces and devices, for two runs at once")
    ap.add_argument("--json", default="build/bench/soak-wg.json")
    ap.add_argument("--no-memory", action="store_true", help="for builds with sanitizers")
    opt = ap.parse_args()
    opt.warden = os.path.abspath(opt.warden)
    if opt.realtime:  # inherited by all that is started; nice has no effect across sessions
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    out = os.path.dirname(os.path.abspath(opt.json))
    os.makedirs(out, exist_ok=True)
    soak, rows, wrong = Soak(opt), [], []
    try:
        soak.build(out)
        soak.go()
        rows, wrong = soak.finish()
    except (LabError, OSError, RuntimeError) as e:
        wrong.append(f"{type(e).__name__}: {e}")
    finally:
        wrong += soak.close()
    with open(opt.json, "w", encoding="ascii") as f:
        json.dump(rows + [{"bench": "soak-wg", "system": "embedded", "metric": "samples",
                           "value": soak.samples[::30], "unit": ""}], f, indent=1)
    for r in rows:
        print(f"{r['metric']:24}{r['system']:14}{r['value']:>16} {r['unit']}")
    for w in wrong:
        print(f"wrong: {w}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
