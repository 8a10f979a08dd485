# SPDX-License-Identifier: MIT
"""The whole way from a stranger to a target, and what it costs each part: gatewayd, two wardens with the embedded
engine, agentd; and in the same run nginx in front of wireguard-go over the same network (tests/lab/net.py):

    stranger ── TLS ──▶ gatewayd ══ WireGuard, through a NAT ══▶ agentd ──▶ target
    stranger ── TLS ──▶ nginx    ══ wireguard-go, the same   ══▶ target

One worker each. Rounds take turns; of each metric the least is taken (of rates the most). Processor time is that
of the parts' threads, with what the kernel does for them; not of the stranger, nor of the target.

usage: tunnel.py [--realtime] [--build DIR] [--rounds N] [--scale F] [--systems ours,theirs] [--what a,b] [--json FILE]
"""
import argparse
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from tests.bench.wg import run_seconds  # noqa: E402
from tests.lab import System, net  # noqa: E402
from tests.lab.proc import run  # noqa: E402
from tests.lab.system import make_ca, make_certificate  # noqa: E402

DOMAIN = "hello.demo.test"
TARGET_PORT = 8090
INNER = ("10.9.0.1", "10.9.0.2")
DEV = "kmbt0"
NEEDS = ("nginx", "wireguard-go", "wg", "h2load", "curl")


def fail(text):
    sys.exit(f"bench-tunnel: {text}")


def wait(what, ready, timeout=30):
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            fail(f"{what} does not come")
        time.sleep(0.05)


class Ours:
    name = "kakuremichi"

    def __init__(self, build, tmp):
        self.target = None
        self.s = System("kmbt", build=build, domain=DOMAIN)
        try:
            self.s.up(gateway={"workers": 1, "wireguard": "embedded"}, agent={"workers": 1, "wireguard": "embedded"})
            self.net = self.s.net
            self.target = start_target(build, self.net.agent, "127.0.0.1")
            self.s.create_tunnel(target=f"127.0.0.1:{TARGET_PORT}")
            self.s.wait_served("/16")
        except BaseException:
            self.s.dump_logs()
            self.close()
            raise
        self.parts = {"gatewayd": self.s.family("gatewayd", "gatewayd"),
                      "gateway's warden": self._warden("gatewayd"), "agent's warden": self._warden("agentd"),
                      "agentd": self.s.family("agentd", "agentd")}

    def _warden(self, name):
        return self.s.family(name, "km-warden") + self.s.family(name, "km-inside")

    def close(self):
        stop(self.target)
        self.s.close()


class Theirs:
    name = "nginx, wireguard-go"

    def __init__(self, build, tmp):
        self.procs, self.net = [], None
        self.dir = tmp / "theirs"
        self.dir.mkdir(mode=0o755)
        try:
            self._start(build)
        except BaseException:
            self.close()
            raise

    def _start(self, build):
        self.net = net.Net(f"kmbn{os.getpid()}", domains=(DOMAIN,))
        hosts = (self.net.gateway, self.net.agent)
        devices = [self._device(i, ns) for i, ns in enumerate(hosts)]
        self._join(hosts)
        self.target = start_target(build, self.net.agent, INNER[1])
        self.procs.append(self.target)
        self._nginx()
        # Master and worker; the device's program is in the same namespace.
        self.parts = {"nginx": [p for p in self.net.gateway.pids() if p not in devices[0]],
                      "gateway's wireguard-go": devices[0], "agent's wireguard-go": devices[1]}

    def _device(self, i, ns):
        """wireguard-go with a folder of its own for its control socket."""
        folder = self.dir / f"wg{i}"
        folder.mkdir()
        os.makedirs("/var/run/wireguard", exist_ok=True)
        p = subprocess.Popen(["unshare", "-m", *ns.argv("sh", "-c", 'mount --bind "$1" /var/run/wireguard && exec '
                                                        'wireguard-go -f "$2"', "sh", str(folder), DEV)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.procs.append(p)
        wait("wireguard-go", (folder / f"{DEV}.sock").exists)
        ns.ip("addr", "add", f"{INNER[i]}/24", "dev", DEV)
        ns.ip("link", "set", DEV, "mtu", "1420", "up")
        return [p.pid]

    def _join(self, hosts):
        keys = [run("wg", "genkey").strip() for _ in hosts]
        public = [run("wg", "pubkey", input=k).strip() for k in keys]
        for i, key in enumerate(keys):
            conf = self.dir / f"wg{i}.conf"
            conf.write_text(f"[Interface]\nPrivateKey={key}\nListenPort=51820\n[Peer]\nPublicKey={public[1 - i]}\n"
                            f"AllowedIPs={INNER[1 - i]}/32\n" +
                            (f"Endpoint={net.GATEWAY}:51820\nPersistentKeepalive=25\n" if i else ""))
            conf.chmod(0o600)
            run("nsenter", "-t", str(self.procs[i].pid), "-m", "-n", "wg", "setconf", DEV, str(conf))
        hosts[1].exec("ping", "-c", "1", "-W", "10", INNER[0])

    def _nginx(self):
        make_ca(self.dir)
        make_certificate(self.dir, DOMAIN, self.dir)
        pem, d = self.dir / DOMAIN, self.dir
        conf = d / "nginx.conf"
        conf.write_text(f"""
daemon off; worker_processes 1; pid {d}/pid; error_log {d}/error.log; user root;
events {{ worker_connections 8000; }}
http {{
 access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 0;
 client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u;
 scgi_temp_path {d}/s;
 upstream up {{ server {INNER[1]}:{TARGET_PORT}; keepalive 64; keepalive_requests 100000000; }}
 server {{ listen 443 ssl http2 backlog=4096; server_name {DOMAIN};
  ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.2 TLSv1.3;
  location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
   proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
   proxy_set_header X-Forwarded-Proto https; proxy_request_buffering off; proxy_max_temp_file_size 0; }} }}
}}""")
        p = subprocess.Popen(self.net.gateway.argv("nginx", "-e", f"{d}/error.log", "-c", str(conf)))
        self.procs.append(p)
        wait("nginx", lambda: subprocess.run(self.net.stranger.argv("curl", "-ksf", "-o", "/dev/null",
                                                                    f"https://{DOMAIN}/16")).returncode == 0)

    def close(self):
        for p in reversed(self.procs):
            stop(p)
        if self.net:
            self.net.close()


def start_target(build, ns, address):
    p = subprocess.Popen(ns.argv(f"{build}/bench-upstream", f"{address}:{TARGET_PORT}"), stdout=subprocess.PIPE,
                         text=True)
    if p.stdout.readline() != "ready\n":
        fail("bench-upstream did not start")
    return p


def stop(p):
    if p is None:
        return
    p.terminate()
    try:
        p.wait(10)
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()


@contextlib.contextmanager
def realtime(pids):
    """These processes, and what this one starts meanwhile, come before everything else on the machine."""
    def put(policy, priority):
        for pid in (*pids, os.getpid()):
            for tid in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setscheduler(int(tid), policy, os.sched_param(priority))
    put(os.SCHED_FIFO, 1)
    try:
        yield
    finally:
        put(os.SCHED_OTHER, 0)


class Bench:
    """Metrics of one system: each gives {part: cpu} and what else was measured."""

    def __init__(self, system, args):
        self.x, self.scale, self.rate, self.realtime = system, args.scale, args.rate, args.realtime

    def h2load(self, *args):
        out = subprocess.run(self.x.net.stranger.argv("h2load", "-t1", *map(str, args), f"https://{DOMAIN}/1024"),
                             capture_output=True, text=True, timeout=600).stdout
        m = re.search(r"(\d+) succeeded, (\d+) failed", out)
        if not m or int(m[2]) or not int(m[1]):
            fail(f"{self.x.name}: h2load: {out[-600:]}")
        return out

    def curl(self, *args, **kw):
        r = subprocess.run(self.x.net.stranger.argv("curl", "-sk", "--http1.1", "--fail", *args), timeout=600,
                           capture_output=True, **kw)
        if r.returncode:
            fail(f"{self.x.name}: curl: exit {r.returncode}: {r.stderr[-300:]}")

    def spent(self, fn, per):
        was = {part: run_seconds(pids) for part, pids in self.x.parts.items()}
        first = [*sum(self.x.parts.values(), []), self.x.target.pid] if self.realtime and per > 100 else None
        with realtime(first) if first else contextlib.nullcontext():
            out = fn()
        return {part: (run_seconds(pids) - was[part]) / per for part, pids in self.x.parts.items()}, out

    def requests(self, *how):
        n = int(20000 * self.scale)
        self.h2load(*how, "-n", max(500, n // 10))
        cpu, out = self.spent(lambda: self.h2load(*how, "-n", n), n)
        return {p: c * 1e6 for p, c in cpu.items()}, {"rps": float(re.search(r"([\d.]+) req/s", out)[1])}

    def h1_us(self):
        return self.requests("--h1", "-c", 32)

    def h2_us(self):
        if "protocol: h2" not in self.h2load("-c", 1, "-n", 1):
            return None, {}
        return self.requests("-c", 8, "-m", 8)

    def timed(self, n, *how):
        with tempfile.NamedTemporaryFile() as f:
            cpu, _ = self.spent(lambda: self.h2load("--h1", "-n", n, f"--log-file={f.name}", *how), n)
            took = sorted(int(line.split()[2]) for line in open(f.name))
        return ({p: c * 1e6 for p, c in cpu.items()},
                {"p50_ms": took[len(took) // 2] / 1000, "p99_ms": took[int(len(took) * 0.99)] / 1000})

    def alone(self):
        """One request after the other."""
        return self.timed(max(500, int(4000 * self.scale)), "-c", 1)

    def at_rate(self):
        return self.timed(max(500, int(self.rate * 8 * self.scale)), "-c", 32, f"--rps={self.rate / 32:.2f}")

    def down_s_per_gb(self):
        size = int(1e9 * self.scale)
        began = time.monotonic()
        cpu, _ = self.spent(lambda: self.curl("-o", "/dev/null", f"https://{DOMAIN}/{size}"), size / 1e9)
        return cpu, {"gbit": size * 8 / (time.monotonic() - began) / 1e9}

    def up_s_per_gb(self):
        size = int(1e9 * self.scale)
        began = time.monotonic()
        with open("/dev/zero", "rb") as zero:
            head = subprocess.Popen(["head", "-c", str(size)], stdin=zero, stdout=subprocess.PIPE)
            cpu, _ = self.spent(lambda: self.curl("-T", "-", "-H", "Expect:", "-H", f"Content-Length: {size}", "-H",
                                                  "Transfer-Encoding:", f"https://{DOMAIN}/sink", stdin=head.stdout),
                                size / 1e9)
            head.stdout.close()
            head.wait()
        return cpu, {"gbit": size * 8 / (time.monotonic() - began) / 1e9}


METRICS = {"h1_us": "us", "h2_us": "us", "alone": "us", "at_rate": "us", "down_s_per_gb": "s/GB", "up_s_per_gb": "s/GB"}
UNITS = {"rps": "1/s", "p50_ms": "ms", "p99_ms": "ms", "gbit": "Gbit/s"}
MORE = ("rps", "gbit")  # more is better


def better(found, key, value):
    pick = max if key[1] in MORE else min
    found[key] = pick(found[key], value) if key in found else value


def measure(systems, args, what):
    """found[system][metric, part or figure]; the parts of one metric are of the round with the least sum."""
    found = {x.name: {} for x in systems}
    for r in range(args.rounds):
        for metric in what:
            for x in systems if r % 2 == 0 else reversed(systems):
                parts, figures = getattr(Bench(x, args), metric)()
                if parts is None:
                    continue
                mine, total = found[x.name], sum(parts.values())
                if total < mine.get((metric, "sum"), float("inf")):
                    mine.update({(metric, p): v for p, v in parts.items()})
                    mine[metric, "sum"] = total
                for k, v in figures.items():
                    better(mine, (metric, k), v)
        print(f"round {r + 1} of {args.rounds}", flush=True)
    return found


def show(found, what):
    print(f"\n{'':24}" + "".join(f"{m:>16}" for m in what))
    for name, mine in found.items():
        print(name)
        parts = list(dict.fromkeys(k for _, k in mine if k not in UNITS and k != "sum"))
        for part in [*parts, "sum", *UNITS]:
            if any((m, part) in mine for m in what):
                print(f"  {part:22}" + "".join(f"{mine[m, part]:16.2f}" if (m, part) in mine else f"{'-':>16}"
                                               for m in what))
    if len(found) == 2:
        ours, theirs = found.values()
        print(f"{'sum, ours of theirs':24}" + "".join(f"{ours[m, 'sum'] / theirs[m, 'sum']:16.2f}" if (m, "sum") in ours
                                                      and (m, "sum") in theirs else f"{'-':>16}" for m in what))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    ap.add_argument("--json")
    ap.add_argument("--systems", default="ours,theirs")
    ap.add_argument("--what", default=",".join(METRICS))
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--scale", type=float, default=1)
    ap.add_argument("--realtime", action="store_true", help="requests (not streams) before all else on the machine")
    ap.add_argument("--rate", type=float, default=1000, help="requests a second of at_rate")
    args = ap.parse_args()
    args.build = os.path.abspath(args.build)
    if os.geteuid() != 0:
        fail("needs root, for network namespaces")
    missing = [n for n in NEEDS if not shutil.which(n)]
    if missing:
        fail(f"missing: {' '.join(missing)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    what, systems = args.what.split(","), []
    with tempfile.TemporaryDirectory(prefix="kmbt-") as t:
        tmp = pathlib.Path(t)
        tmp.chmod(0o755)
        try:
            for cls in (Ours, Theirs):
                if cls.__name__.lower() in args.systems.split(","):
                    systems.append(cls(args.build, tmp))
            found = measure(systems, args, what)
        finally:
            for x in systems:
                x.close()
    show(found, what)
    if args.json:
        os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
        with open(args.json, "w") as f:
            json.dump([{"bench": "tunnel", "system": n, "metric": m, "part": p, "value": round(v, 4),
                        "unit": UNITS.get(p) or METRICS[m]} for n, mine in found.items() for (m, p), v in mine.items()],
                      f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
