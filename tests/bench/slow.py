# SPDX-License-Identifier: MIT
"""What strangers who are slow on purpose (Debian's slowhttptest: slow heads, slow bodies, ranges, slow reading)
cost the others: the p99 of other clients' requests, a fixed number a second, before and during each mode, medians of
the rounds, and their ratio. Proxies, certificate, upstream and network as in edge.py. Exit status 1 when requests
fail or gatewayd's ratio is above 2.

slowhttptest names no server in its TLS, so it speaks plainly to a haproxy that does, byte for byte:

    slowhttptest ── haproxy ══TLS══ proxy ── bench-upstream
    h2load ═══════════════TLS══════════╝

usage: slow.py [--realtime] [--build DIR] [--json FILE] [--only NAME,...] [--modes H,B,R,X] [--connections N] [--ramp N]
               [--seconds S] [--rate N] [--rounds N]
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

import edge
from edge import DOMAIN, PORT

CLIENTS = 16
SHIM = 9000
MODES = {
    "H": ("slow heads", "/1024", ("-H", "-i", "5", "-x", "24")),
    "B": ("slow bodies", "/1024", ("-B", "-t", "PUT", "-s", "8192", "-i", "5", "-x", "10")),
    "R": ("ranges", "/1024", ("-R", "-t", "GET", "-a", "1", "-b", "3000")),
    "X": ("slow reading", "/600000", ("-X", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3")),
}


def below(*argv):
    """With --realtime: after proxy, target and the others, whose processors are not the attacker's."""
    return ["chrt", "-r", "1", *argv] if os.sched_getscheduler(0) == os.SCHED_RR else argv


@contextlib.contextmanager
def shim(tmp):
    """From SHIM to the proxy, as a client that names DOMAIN. It takes no more than it passes on."""
    conf = tmp / "shim.cfg"
    conf.write_text(f"""
global
 nbthread 1
 maxconn 9000
 tune.rcvbuf.server 4096
 tune.sndbuf.client 4096
defaults
 mode tcp
 timeout client 600s
 timeout server 600s
 timeout connect 5s
listen s
 bind 127.0.0.1:{SHIM} backlog 4096
 server s 127.0.0.1:{PORT} ssl verify none sni str({DOMAIN}) alpn http/1.1
""")
    with open(tmp / "shim.log", "ab") as log:
        proc = subprocess.Popen(below("haproxy", "-db", "-f", conf), stdout=log, stderr=log)
    try:
        edge.wait_port(SHIM, proc, tmp / "shim.log")
        yield
    finally:
        proc.terminate()
        proc.wait()


class Attack:
    """slowhttptest; `took`: connections that it had, at most, `left`: at its end."""

    def __init__(self, mode, args, tmp):
        path, how = MODES[mode][1:]
        self.log = tmp / "slowhttptest"
        self.out = open(self.log, "wb")
        self.proc = subprocess.Popen(
            below("slowhttptest", *how, "-c", str(args.connections), "-r", str(args.ramp), "-l",
                  str(args.seconds + 4), "-p", "20", "-v", "2", "-u", f"http://{DOMAIN}:{SHIM}{path}"),
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=subprocess.STDOUT)

    def end(self):
        self.proc.send_signal(signal.SIGINT)  # it says what it has not yet
        self.proc.wait()
        self.out.close()
        text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", self.log.read_text(errors="replace"))
        found = {k: [int(n) for n in re.findall(rf"^{k}:\s+(\d+)", text, re.M)] for k in ("connected", "closed")}
        if not found["connected"]:
            edge.fail(f"slowhttptest: {text[-600:]}")
        return max(found["connected"]), max(found["closed"])


def p99(seconds, rate):
    """Of one request in CLIENTS connections each, in ms; fails when one fails."""
    with tempfile.NamedTemporaryFile() as f:
        edge.h2load("-c", CLIENTS, "-n", int(rate * seconds), f"--rps={rate / CLIENTS:.2f}", f"--log-file={f.name}")
        took = sorted(int(line.split()[2]) for line in open(f.name))
    return took[int(len(took) * 0.99)] / 1000


def turn(cls, mode, args, tmp):
    """A fresh proxy, quiet and under attack."""
    d = pathlib.Path(tempfile.mkdtemp(dir=tmp))
    d.chmod(0o755)
    with cls(d, tmp / "cert", tmp / "key", args.build) as p:
        p99(2, args.rate)
        quiet = p99(args.seconds / 3, args.rate)
        cpu, rss = p.cpu(), p.rss_kib()
        attack = Attack(mode, args, tmp)
        try:
            during = p99(args.seconds, args.rate)
            grown = p.rss_kib() - rss
            cpu = p.cpu() - cpu
        finally:
            connected, closed = attack.end()
    shutil.rmtree(d)
    return {"quiet": quiet, "during": during, "connections": connected,
            "closed": closed, "grown_kib": grown, "cpu_s": cpu}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default="build")
    ap.add_argument("--json")
    ap.add_argument("--realtime", action="store_true", help="before everything else on the machine")
    ap.add_argument("--only", default="gatewayd")
    ap.add_argument("--modes", default=",".join(MODES))
    ap.add_argument("--connections", type=int, default=1000)
    ap.add_argument("--ramp", type=int, default=50, help="connections a second")
    ap.add_argument("--seconds", type=int, default=30)
    ap.add_argument("--rate", type=int, default=800)
    ap.add_argument("--rounds", type=int, default=3)
    args = ap.parse_args()
    args.build = os.path.abspath(args.build)
    if args.realtime:  # and all that is started from here
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(2))
    missing = [n for n in (*edge.NEEDS, "slowhttptest") if not shutil.which(n)]
    if missing:
        edge.fail(f"missing: {' '.join(missing)}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, most), most))
    rows, wrong = [], []
    units = {"quiet": "ms", "during": "ms", "ratio": "times", "connections": "", "closed": "", "grown_kib": "KiB",
             "cpu_s": "s"}
    with edge.ground(args.build) as tmp, shim(tmp):
        for mode in args.modes.split(","):
            for cls in (c for c in edge.SYSTEMS if c.name in args.only.split(",")):
                rounds = [turn(cls, mode, args, tmp) for _ in range(args.rounds)]
                m = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
                m["ratio"] = m["during"] / m["quiet"]
                print(f"{cls.name:10}{MODES[mode][0]:14}p99 quiet {m['quiet']:.2f} ms, during {m['during']:.2f} ms, "
                      f"ratio {m['ratio']:.2f}; {m['connections']:.0f} connections at most, {m['closed']:.0f} closed, "
                      f"{m['grown_kib'] / 1024:.1f} MiB more, {m['cpu_s']:.1f} s CPU", flush=True)
                rows += [{"bench": "slow", "system": cls.name, "metric": f"{mode}_{k}", "value": round(v, 3),
                          "unit": units[k]} for k, v in m.items()]
                if cls.name == "gatewayd" and m["ratio"] > 2:
                    wrong.append(f"{MODES[mode][0]}: p99 {m['ratio']:.2f} times as long")
    if args.json:
        pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit("bench-slow: " + "; ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
