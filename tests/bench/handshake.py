# SPDX-License-Identifier: MIT
"""What floods of handshakes do to the engine: handshakes a second on one core as responder
(handshakes.c), then a tunnel's traffic before and during a flood of forged initiations (flood.c),
the server's memory, its cookie replies, and how long a newcomer takes to get in meanwhile.

    CLIENT   10.93.0.2 ══ veth ══ 10.93.0.1 ┐                 inner 10.94.0.2
    NEWCOMER 10.93.1.2 ══ veth ══ 10.93.1.1 ├ SERVER          inner 10.94.0.3
    ATTACKER 10.93.2.2 ══ veth ══ 10.93.2.1 ┘ inner 10.94.0.1
             forges sources in 198.18.0.0/15, which are routed back to it

usage: handshake.py [--build DIR] [--rate N] [--seconds S] [--json FILE]
"""
import argparse
import base64
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

# Names of this process alone: two may run at once.
PREFIX = f"kmhs{os.getpid()}"
SERVER, CLIENT, NEWCOMER, ATTACKER = (PREFIX + x for x in "SANC")
CLIENTS = [CLIENT, NEWCOMER]
DEV = {SERVER: PREFIX + "s", CLIENT: PREFIX + "a", NEWCOMER: PREFIX + "n"}
INNER = {SERVER: "10.94.0.1", CLIENT: "10.94.0.2", NEWCOMER: "10.94.0.3"}
PATIENCE = 60  # seconds for a newcomer: the figure then says that it took at least so long
FORGED = "198.18.0.0/15"


def sh(*args, check=True, **kw):
    return subprocess.run(args, check=check, capture_output=True, text=True, timeout=120, **kw).stdout


def inside(ns, *args, **kw):
    return sh("ip", "netns", "exec", ns, *args, **kw)


class World:
    """Server, client with a tunnel, newcomer without one yet, attacker."""

    def __init__(self, build):
        self.build = os.path.abspath(build)
        self.floods = []
        self.procs, self.keys, self.codes, self.logs = {}, {}, [], ""
        self.tmp = tempfile.TemporaryDirectory(prefix="kmhs-")

    def __enter__(self):
        self.clean()
        try:
            for ns in [SERVER, *CLIENTS, ATTACKER]:
                sh("ip", "netns", "add", ns)
                sh("ip", "-n", ns, "link", "set", "lo", "up")
            for i, ns in enumerate([*CLIENTS, ATTACKER]):
                sh("ip", "link", "add", f"in{i}", "netns", SERVER, "type", "veth", "peer", "name", "out",
                   "netns", ns)
                for where, link, host in ((SERVER, f"in{i}", 1), (ns, "out", 2)):
                    sh("ip", "-n", where, "addr", "add", f"10.93.{i}.{host}/24", "dev", link)
                    sh("ip", "-n", where, "link", "set", link, "up")
            sh("ip", "-n", SERVER, "route", "add", FORGED, "via", "10.93.2.2")
            for ns in (SERVER, *CLIENTS):
                self.device(ns)
            self.meet(CLIENT)
            self.ping(CLIENT, 10)
        except BaseException:
            self.__exit__()
            raise
        return self

    def device(self, ns):
        with open(os.path.join(self.tmp.name, ns), "w", encoding="ascii") as log:
            self.procs[ns] = subprocess.Popen(["ip", "netns", "exec", ns, os.path.join(self.build, "km-warden"), "-f",
                                               "--device", DEV[ns]], stdout=subprocess.DEVNULL, stderr=log)
        until = time.monotonic() + 40
        while f"interface: {DEV[ns]}" not in sh("wg", "show", DEV[ns], check=False):
            if self.procs[ns].poll() is not None or time.monotonic() > until:
                sys.exit(f"{DEV[ns]} did not come")
            time.sleep(0.02)
        key = sh("wg", "genkey")
        self.keys[ns] = sh("wg", "pubkey", input=key).strip()
        path = os.path.join(self.tmp.name, ns + ".key")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as f:
            f.write(key)
        sh("wg", "set", DEV[ns], "private-key", path, "listen-port", "51820")
        sh("ip", "-n", ns, "addr", "add", f"{INNER[ns]}/24", "dev", DEV[ns])
        sh("ip", "-n", ns, "link", "set", DEV[ns], "mtu", "1420", "up")

    def meet(self, ns):
        """Server and client learn of each other; the client begins."""
        sh("wg", "set", DEV[SERVER], "peer", self.keys[ns], "allowed-ips", f"{INNER[ns]}/32")
        sh("wg", "set", DEV[ns], "peer", self.keys[SERVER], "allowed-ips", "10.94.0.0/24", "endpoint",
           f"10.93.{CLIENTS.index(ns)}.1:51820")

    def part(self, ns):
        """They forget each other."""
        sh("wg", "set", DEV[SERVER], "peer", self.keys[ns], "remove")
        sh("wg", "set", DEV[ns], "peer", self.keys[SERVER], "remove")

    def ping(self, ns, limit):
        """Seconds until the server answers through the tunnel."""
        begin = time.monotonic()
        while time.monotonic() - begin < limit:
            if " 1 received" in inside(ns, "ping", "-n", "-c1", "-W1", INNER[SERVER], check=False):
                return time.monotonic() - begin
        raise TimeoutError(f"{ns}: no answer through the tunnel within {limit} s")

    def iperf(self, seconds, *args):
        """From the client to the server through the tunnel."""
        server = subprocess.Popen(["ip", "netns", "exec", SERVER, "iperf3", "-s", "-1", "-p", "5998", "--forceflush"],
                                  stdout=subprocess.PIPE, text=True)
        watch = threading.Timer(seconds + 60, server.kill)
        watch.start()
        try:
            while "Server listening" not in server.stdout.readline():
                pass
            out = inside(CLIENT, "iperf3", "-c", INNER[SERVER], "-p", "5998", "-t", str(seconds), "-J", *args)
            return json.loads(out)["end"]
        finally:
            watch.cancel()
            server.kill()
            server.wait()
            server.stdout.close()

    def flood(self, rate, seconds):
        """Begins a flood, and waits until the server feels it; its standard output tells how many were
        sent in how many seconds."""
        key, before = base64.b64decode(self.keys[SERVER]).hex(), self.cookies()
        flood = subprocess.Popen(["ip", "netns", "exec", ATTACKER, os.path.join(self.build, "bench-flood"),
                                  "10.93.2.1", "51820", key, str(rate), str(seconds)], stdout=subprocess.PIPE,
                                 text=True)
        self.floods.append(flood)
        while self.cookies() < before + 1000:
            assert flood.poll() is None, "the flood is over and the server was never under load"
            time.sleep(0.01)
        return flood

    def cpu_s(self):
        """CPU seconds of the server's threads so far, by name."""
        out, base = {}, f"/proc/{self.procs[SERVER].pid}/task"
        for tid in os.listdir(base):
            with open(f"{base}/{tid}/comm", encoding="ascii") as f, \
                    open(f"{base}/{tid}/schedstat", encoding="ascii") as g:
                out[f.read().strip()] = int(g.read().split()[0]) / 1e9
        return out

    def cookies(self):
        """Datagrams that the server has sent to the forged addresses."""
        out = json.loads(sh("ip", "-n", ATTACKER, "-j", "-s", "link", "show", "out"))
        return out[0]["stats64"]["rx"]["packets"]

    def socket_drops(self):
        """Datagrams that found no room in the buffer of the server's socket."""
        rows = [line.split() for line in inside(SERVER, "cat", "/proc/net/udp", "/proc/net/udp6").splitlines()]
        return sum(int(r[-1]) for r in rows if r[1].endswith(f":{51820:04X}"))

    def rss_kib(self):
        with open(f"/proc/{self.procs[SERVER].pid}/status", encoding="ascii") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])

    def __exit__(self, *exc):
        for p in self.floods:
            p.kill()
            p.wait()
            p.stdout.close()
        for p in self.procs.values():
            p.send_signal(signal.SIGTERM)
        self.codes = [p.wait(30) for p in self.procs.values()]
        self.logs = ""
        for ns in self.procs:
            with open(os.path.join(self.tmp.name, ns), encoding="utf-8", errors="replace") as f:
                self.logs += f.read()
        self.clean()
        self.tmp.cleanup()

    def clean(self):
        have = sh("ip", "netns", "list")
        for ns in [SERVER, *CLIENTS, ATTACKER]:
            if re.search(rf"^{ns}\b", have, re.M):
                sh("ip", "netns", "del", ns)


def measure(build, rate, seconds):
    out = {"handshakes_per_s": float(sh(os.path.join(build, "bench-handshakes")))}
    udp = ["-u", "-b", "100M", "-l", "1300"]
    with World(build) as w:
        out["tcp_gbit_before"] = w.iperf(seconds)["sum_received"]["bits_per_second"] / 1e9
        out["udp_lost_percent_before"] = w.iperf(seconds, *udp)["sum"]["lost_percent"]
        out["rss_kib_before"] = w.rss_kib()
        cookies, drops = w.cookies(), w.socket_drops()
        flood = w.flood(rate, 600)
        a = w.cpu_s()
        out["tcp_gbit_during"] = w.iperf(seconds)["sum_received"]["bits_per_second"] / 1e9
        out["udp_lost_percent_during"] = w.iperf(seconds, *udp)["sum"]["lost_percent"]
        took = []
        for _ in range(5):
            w.meet(NEWCOMER)
            try:
                took.append(w.ping(NEWCOMER, PATIENCE))
            except TimeoutError:
                took.append(PATIENCE)
            w.part(NEWCOMER)
        out["newcomer_s_median"], out["newcomer_s_max"] = statistics.median(took), max(took)
        out["rss_kib_during"] = w.rss_kib()
        b = w.cpu_s()
        flood.send_signal(signal.SIGTERM)
        sent, took = flood.communicate(timeout=120)[0].split()
        for name in ("wg-control", "wg-receive"):
            out[name.replace("-", "_") + "_cores"] = (b[name] - a[name]) / float(took)
        out["flood_per_s"] = int(sent) / float(took)
        out["flood_drops_percent"] = 100 * (w.socket_drops() - drops) / int(sent)
        out["cookie_replies_per_s"] = (w.cookies() - cookies) / float(took)
        out["rss_kib_after"] = w.rss_kib()
        out["tcp_gbit_after"] = w.iperf(seconds)["sum_received"]["bits_per_second"] / 1e9
    return out


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    ap.add_argument("--rate", type=int, default=110000)
    ap.add_argument("--seconds", type=int, default=4)
    ap.add_argument("--json", default="build/bench/handshake.json")
    opt = ap.parse_args()
    got = measure(opt.build, opt.rate, opt.seconds)
    for metric, value in got.items():
        print(f"{metric:26}{value:14.3f}")
    os.makedirs(os.path.dirname(opt.json), exist_ok=True)
    with open(opt.json, "w", encoding="ascii") as f:
        json.dump([{"bench": "handshake", "system": "embedded", "metric": m, "value": round(v, 4)}
                   for m, v in got.items()], f, indent=1)


if __name__ == "__main__":
    main()
