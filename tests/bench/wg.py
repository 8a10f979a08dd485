# SPDX-License-Identifier: MIT
"""Throughput and latency of WireGuard engines between two network namespaces of this machine, beside
the raw veth, in one run. Needs root, iperf3, wireguard-tools and Debian's wireguard-go.

    kmbwA 10.99.0.1 ══ veth ══ 10.99.0.2 kmbwB      outer
          10.98.0.1 ── wg ──── 10.98.0.2            inner (veth: the outer addresses)

Systems beside the three: "relay" is the least that any tunnel in user space does (floor.c), and
"embedded-rootless" our engine without a capability under Debian's limits for socket buffers,
which this program sets for the machine while it measures that and then sets back.

usage: wg.py [--seconds S] [--systems veth,wireguard-go,embedded] [--metrics a,b] [--extra] [--json FILE]
"""
import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

NS = ["kmbwA", "kmbwB"]
OUTER = ["10.99.0.1", "10.99.0.2"]
INNER = ["10.98.0.1", "10.98.0.2"]
DEV = "kmbw0"
SYSTEMS = ["veth", "wireguard-go", "embedded"]
EXTRA_SYSTEMS = ["relay", "embedded-rootless"]
METRICS = ["tcp1_gbit", "tcp1_rev_gbit", "tcp1_bidir_gbit", "tcp4_gbit", "udp64_kpps", "udp1400_gbit",
           "rtt_idle_us", "rtt_load_us", "cpu_s_per_gb"]
# Round trips one after the other; the same and from an idle machine, without any tunnel, of two
# processes that wake each other on two processors and on one.
EXTRA_METRICS = ["rtt_busy_us", "wake_us", "wake_same_us"]
ONLY = {"relay": {"rtt_idle_us", "rtt_busy_us"}}  # the rest says nothing of this one
LIMITS = {"net.core.rmem_max": "212992", "net.core.wmem_max": "212992"}  # Debian's
UNITS = {"gbit": "Gbit/s", "kpps": "kpps", "us": "us", "gb": "s/GB"}


def sh(*args, check=True, **kw):
    return subprocess.run(args, check=check, capture_output=True, text=True, **kw).stdout


def inside(ns, *args, **kw):
    return sh("ip", "netns", "exec", NS[ns], *args, **kw)


class Lab:
    """The two namespaces; system: what joins the inner addresses."""

    def __init__(self, system, warden):
        self.system, self.warden = system, warden
        self.floor = os.path.join(os.path.dirname(warden), "bench-floor")
        self.procs, self.limits = [], {}
        self.tmp = tempfile.TemporaryDirectory(prefix="kmbw-")

    def __enter__(self):
        try:
            return self.begin()
        except BaseException:
            self.__exit__()
            raise

    def begin(self):
        self.clean()
        for ns in NS:
            sh("ip", "netns", "add", ns)
        sh("ip", "link", "add", "kmbwa", "netns", NS[0], "type", "veth", "peer", "name", "kmbwb",
           "netns", NS[1])
        for i, link in enumerate(["kmbwa", "kmbwb"]):
            inside(i, "ip", "addr", "add", f"{OUTER[i]}/24", "dev", link)
            inside(i, "ip", "link", "set", link, "up")
            inside(i, "ip", "link", "set", "lo", "up")
        if self.system == "relay":
            self.relay()
        elif self.system != "veth":
            self.tunnel()
        self.addr = OUTER if self.system == "veth" else INNER
        self.server = subprocess.Popen(["ip", "netns", "exec", NS[1], "iperf3", "-s", "-p", "5999"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.procs.append(self.server)
        self.wait_ping()
        return self

    def tunnel(self):
        keys = []
        for i in range(2):
            key = sh("wg", "genkey")
            keys.append((key, sh("wg", "pubkey", input=key).strip()))
        for i in range(2):
            # A mount namespace of its own, so that both may have a control socket of one name.
            cmd = ["wireguard-go", "-f", DEV] if self.system == "wireguard-go" else \
                [self.warden, "-f", "--device", DEV]
            run = os.path.join(self.tmp.name, str(i))
            os.mkdir(run)
            if self.system == "embedded-rootless":
                cmd = self.rootless(i) + cmd
            script = ('mount --bind "$1" /var/run/wireguard && shift && exec "$@"')
            os.makedirs("/var/run/wireguard", exist_ok=True)
            p = subprocess.Popen(["unshare", "-m", "ip", "netns", "exec", NS[i], "sh", "-c", script,
                                  "sh", run, *cmd], stdout=subprocess.DEVNULL)
            self.procs.append(p)
            sock = os.path.join(run, DEV + ".sock")
            until = time.monotonic() + 5
            while not os.path.exists(sock):
                if time.monotonic() > until or p.poll() is not None:
                    sys.exit(f"{self.system} did not start")
                time.sleep(0.01)
            conf = os.path.join(self.tmp.name, f"{i}.conf")
            with open(conf, "w", encoding="ascii") as f:
                f.write(f"[Interface]\nPrivateKey={keys[i][0].strip()}\nListenPort=51820\n"
                        f"[Peer]\nPublicKey={keys[1 - i][1]}\nAllowedIPs=10.98.0.0/24\n"
                        f"Endpoint={OUTER[1 - i]}:51820\n")
            time.sleep(0.05)
            sh("nsenter", "-t", str(self.pid(p)), "-m", "-n", "wg", "setconf", DEV, conf)
            inside(i, "ip", "addr", "add", f"{INNER[i]}/24", "dev", DEV)
            inside(i, "ip", "link", "set", DEV, "mtu", "1420", "up")

    def rootless(self, i):
        """What comes before the engine's command, so that it has no capability (uid 0 alone gives
        none); the device is made beforehand."""
        if not self.limits:
            self.limits = {k: sh("sysctl", "-n", k).strip() for k in LIMITS}
            self.limit(LIMITS)
        inside(i, "ip", "tuntap", "add", "dev", DEV, "mode", "tun", "vnet_hdr", "user", "0")
        return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]

    def limit(self, limits):
        for k, v in limits.items():
            sh("sysctl", "-qw", f"{k}={v}")

    def relay(self):
        for i in range(2):
            self.procs.append(subprocess.Popen(["ip", "netns", "exec", NS[i], self.floor, "relay", DEV,
                                                OUTER[1 - i]]))
            until = time.monotonic() + 5
            while DEV not in inside(i, "ip", "-br", "link"):
                if time.monotonic() > until:
                    sys.exit("the relay did not start")
                time.sleep(0.01)
            inside(i, "ip", "addr", "add", f"{INNER[i]}/24", "dev", DEV)
            inside(i, "ip", "link", "set", DEV, "mtu", "1420", "up")

    def pid(self, p):
        return p.pid  # unshare, ip and sh all exec

    def wait_ping(self):
        until = time.monotonic() + 10
        while time.monotonic() < until:
            if subprocess.run(["ip", "netns", "exec", NS[0], "ping", "-c1", "-W1", self.addr[1]],
                              stdout=subprocess.DEVNULL, check=False).returncode == 0:
                return
        sys.exit(f"{self.system}: no answer from {self.addr[1]}")

    def __exit__(self, *exc):
        for p in self.procs:
            p.send_signal(signal.SIGTERM)
        for p in self.procs:
            p.wait()
        self.limit(self.limits)
        self.clean()
        self.tmp.cleanup()

    def clean(self):
        have = sh("ip", "netns", "list")
        for ns in NS:
            if re.search(rf"^{ns}\b", have, re.M):
                sh("ip", "netns", "del", ns)

    def iperf(self, seconds, *args):
        out = inside(0, "iperf3", "-c", self.addr[1], "-p", "5999", "-t", str(seconds), "-J", *args)
        return json.loads(out)

    def rtt(self, count, *args):
        out = inside(0, "ping", "-q", "-n", "-c", str(count), *args, self.addr[1])
        return float(re.search(r"= [\d.]+/([\d.]+)/", out).group(1)) * 1000

    def wake(self, *cpus):
        return float(sh(self.floor, "wake", *cpus, "50", "20000"))


def run_seconds(pids):
    """CPU time of these processes' threads, exact to the scheduler's clock: /proc/stat counts ticks, which
    threads that sleep and wake many times between two of them escape. Kernel threads are not in it."""
    ns = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
                ns += int(f.read().split()[0])
    return ns / 1e9


def measure(lab, metric, seconds):
    if metric == "tcp1_gbit":
        return lab.iperf(seconds)["end"]["sum_received"]["bits_per_second"] / 1e9
    if metric == "tcp1_rev_gbit":
        return lab.iperf(seconds, "-R")["end"]["sum_received"]["bits_per_second"] / 1e9
    if metric == "tcp1_bidir_gbit":
        end = lab.iperf(seconds, "--bidir")["end"]
        return (end["sum_received"]["bits_per_second"] +
                end["sum_received_bidir_reverse"]["bits_per_second"]) / 1e9
    if metric == "tcp4_gbit":
        return lab.iperf(seconds, "-P", "4")["end"]["sum_received"]["bits_per_second"] / 1e9
    if metric in ("udp64_kpps", "udp1400_gbit"):
        size = 64 if metric == "udp64_kpps" else 1372
        s = lab.iperf(seconds, "-u", "-b", "0", "-l", str(size))["end"]["sum"]
        got = s["packets"] - s["lost_packets"]
        return got / s["seconds"] / 1e3 if size == 64 else got * size * 8 / s["seconds"] / 1e9
    if metric == "rtt_idle_us":
        return statistics.median(lab.rtt(20, "-i", "0.02") for _ in range(5))
    if metric == "rtt_load_us":
        load = subprocess.Popen(["ip", "netns", "exec", NS[0], "iperf3", "-c", lab.addr[1], "-p", "5999",
                                 "-t", str(seconds)], stdout=subprocess.DEVNULL)
        rtt = lab.rtt(int(seconds * 20), "-i", "0.04")
        load.wait()
        return rtt
    if metric == "rtt_busy_us":
        return min(lab.rtt(2000, "-f") for _ in range(5))
    if metric == "wake_us":
        return lab.wake("0", "1")
    if metric == "wake_same_us":
        return lab.wake("0", "0")
    if metric == "cpu_s_per_gb":
        pids = [lab.pid(p) for p in lab.procs]
        before = run_seconds(pids)
        end = lab.iperf(seconds)["end"]
        client = end["cpu_utilization_percent"]["host_total"] / 100 * end["sum_sent"]["seconds"]
        return (run_seconds(pids) - before + client) / (end["sum_received"]["bytes"] / 1e9)
    raise ValueError(metric)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seconds", type=float, default=2)
    ap.add_argument("--systems", default=",".join(SYSTEMS))
    ap.add_argument("--metrics", default=",".join(METRICS))
    ap.add_argument("--extra", action="store_true", help="the systems and metrics that explain, too")
    ap.add_argument("--warden", default="build/km-warden")
    ap.add_argument("--json", default="build/bench/wg.json")
    opt = ap.parse_args()
    metrics = opt.metrics.split(",") + EXTRA_METRICS * opt.extra
    systems = opt.systems.split(",") + EXTRA_SYSTEMS * opt.extra
    rows = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # by way of Lab.__exit__
    for system in systems:
        with Lab(system, os.path.abspath(opt.warden)) as lab:
            for metric in (m for m in metrics if m in ONLY.get(system, metrics)):
                rows.append({"bench": "wg", "system": system, "metric": metric,
                             "value": round(measure(lab, metric, max(1, int(opt.seconds))), 4),
                             "unit": UNITS[metric.rsplit("_", 1)[1]]})
    print(f"{'':18}" + "".join(f"{s:>19}" for s in systems) + "   unit")
    for metric in metrics:
        mine = {r["system"]: r for r in rows if r["metric"] == metric}
        print(f"{metric:18}" + "".join(f"{mine[s]['value']:19.3f}" if s in mine else f"{'-':>19}"
                                       for s in systems) + f"   {UNITS[metric.rsplit('_', 1)[1]]}")
    os.makedirs(os.path.dirname(opt.json), exist_ok=True)
    with open(opt.json, "w", encoding="ascii") as f:
        json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
