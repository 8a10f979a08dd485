# SPDX-License-Identifier: MIT
"""10,000 idle connections and 1,000 active ones at once, all TLS: what an idle one takes of memory, how long requests
of the active ones take beside the idle ones and without them, and whether all of them are still served. Proxies,
certificate, upstream and network as in edge.py; gatewayd has its default limits, so the idle ones come from
several addresses. Exit status 1 when a request fails.

usage: connections.py [--realtime] [--build DIR] [--json FILE] [--only NAME,...] [--idle N] [--active N] [--rate N] [--seconds S]
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import resource
import shutil
import socket
import ssl
import sys
import tempfile
import time

import edge
from edge import DOMAIN, PORT

EACH = 800  # idle connections of one address
AT_ONCE = 32  # of them that are being opened
OPENING = 8  # seconds in which the active ones open
SETTLE = 12


class Gatewayd(edge.Gatewayd):
    def argv(self):
        argv = super().argv()
        conf = pathlib.Path(argv[-1])
        conf.write_text(conf.read_text().replace("max_connections_per_address = 0\n", ""))
        return argv


def ask(s):
    s.sendall(f"GET /16 HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
    got = b""
    while got.partition(b"\r\n\r\n")[2] != b"\0" * 16:
        more = s.recv(4096)
        if not more:
            edge.fail(f"closed: {got!r}")
        got += more


def idle_ones(n, before=0):
    """n connections, each after one request, behind so many before."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def one(i):
        raw = socket.create_connection(("127.0.0.1", PORT), 60, (f"127.0.1.{1 + i // EACH}", 0))
        s = context.wrap_socket(raw, server_hostname=DOMAIN)
        ask(s)
        return s
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(before, before + n)))


def active(args):
    """p99 in ms of requests in so many connections at once, once these are all open."""
    with tempfile.NamedTemporaryFile() as f:
        edge.h2load("-c", args.active, "-r", args.active // OPENING, "-n", args.rate * (args.seconds + SETTLE),
                    f"--rps={args.rate / args.active:.3f}", f"--log-file={f.name}")
        log = [[int(n) for n in line.split()[:3]] for line in open(f.name)]
    begin = min(at for at, _, _ in log) + SETTLE * 1000000
    took = sorted(us for at, _, us in log if at >= begin)
    return took[int(len(took) * 0.99)] / 1000


def turn(cls, args, tmp):
    d = pathlib.Path(tempfile.mkdtemp(dir=tmp))
    d.chmod(0o755)
    with cls(d, tmp / "cert", tmp / "key", args.build) as p:
        conns = idle_ones(args.idle // 10)
        time.sleep(1)  # what is given back a little later
        before = p.rss_kib()
        conns += idle_ones(args.idle - len(conns), len(conns))
        time.sleep(1)
        kib = (p.rss_kib() - before) / (args.idle - args.idle // 10)
        beside = active(args)
        peak = p.rss_kib()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(ask, conns))
        for s in conns:
            s.close()
        alone = active(args)
    shutil.rmtree(d)
    return {"idle": args.idle, "active": args.active, "idle_kib": kib, "p99_alone": alone, "p99_beside_idle": beside,
            "ratio": beside / alone, "rss_mib": peak / 1024, "errors": 0}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default="build")
    ap.add_argument("--json")
    ap.add_argument("--realtime", action="store_true", help="before everything else on the machine")
    ap.add_argument("--only", default="gatewayd")
    ap.add_argument("--idle", type=int, default=10000)
    ap.add_argument("--active", type=int, default=1000)
    ap.add_argument("--rate", type=int, default=2000, help="requests a second of the active ones")
    ap.add_argument("--seconds", type=int, default=10)
    args = ap.parse_args()
    args.build = os.path.abspath(args.build)
    if args.realtime:  # and all that is started from here
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    missing = [n for n in edge.NEEDS if not shutil.which(n)]
    if missing:
        edge.fail(f"missing: {' '.join(missing)}")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    rows = []
    units = {"idle_kib": "KiB", "p99_alone": "ms", "p99_beside_idle": "ms", "ratio": "times", "rss_mib": "MiB"}
    with edge.ground(args.build) as tmp:
        for cls in (Gatewayd, *(c for c in edge.SYSTEMS if c is not edge.Gatewayd)):
            if cls.name not in args.only.split(","):
                continue
            m = turn(cls, args, tmp)
            print(f"{cls.name}: {m['idle']} idle connections, {m['idle_kib']:.1f} KiB each; p99 of {args.rate} requests a "
                  f"second in {m['active']} more {m['p99_beside_idle']:.2f} ms, without the idle ones "
                  f"{m['p99_alone']:.2f} ms; {m['rss_mib']:.0f} MiB in all; errors {m['errors']}", flush=True)
            rows += [{"bench": "connections", "system": cls.name, "metric": k, "value": round(v, 3),
                      "unit": units.get(k, "")} for k, v in m.items()]
    if args.json:
        pathlib.Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
