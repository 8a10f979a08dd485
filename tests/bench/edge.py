# SPDX-License-Identifier: MIT
"""gatewayd beside nginx, haproxy, h2o and caddy (Debian's): what each pays for the same work. One worker
each, the same certificate (ECDSA P-256), the same upstream over plain TCP (upstream.c), in a network
namespace of its own. CPU time is read from /proc, of all of a proxy's processes.

    h2load, curl ══TLS══ proxy ── bench-upstream

Systems take turns: each round measures a metric of all, each in a fresh process (which has answered some
before where requests or handshakes are counted), so that what else the machine does meets all alike. The
table has the medians of the rounds; "of best" is the median of the rounds' ratios of gatewayd to the best
median of the others.

p99_ms: 32 connections, and for all systems the same number of requests a second: half of what the median
system answers at most. What else happens on a machine in a second weighs more than any system does, so here
all run at once and are asked in turns of a second (SLICES a round); a round's value is the median of its
turns' p99.

usage: edge.py [--realtime] [--build DIR] [--json FILE] [--only NAME,...] [--what METRIC,...] [--scale X] [--rounds N]
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
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from tests.lab import net  # noqa: E402

DOMAIN = "bench.test"
VIP = "127.10.1.100"      # where gatewayd looks for its agent
UP = ("127.0.0.1", 8000)  # where the others find the upstream
PORT = 8443
SLICES = 12
NEEDS = ("nginx", "haproxy", "h2o", "caddy", "h2load", "curl", "openssl")


def fail(text):
    sys.exit(f"bench-edge: {text}")


def wait_port(port, proc, log, timeout=20):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if proc.poll() is not None:
            fail(f"{proc.args[0]} ended with {proc.returncode}: {log.read_text(errors='replace')[-600:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    fail(f"{proc.args[0]} does not listen")


class Proxy:
    """One proxy, started by `argv` with its settings in `dir`."""

    def __init__(self, d, cert, key, build, port=PORT):
        self.dir, self.cert, self.key, self.build, self.port = d, cert, key, build, port

    def __enter__(self):
        self.log = open(self.dir / "log", "ab")
        self.proc = subprocess.Popen(self.argv(), stdout=self.log, stderr=self.log, cwd=self.dir,
                                     start_new_session=True, env={**os.environ, **self.env()})
        wait_port(self.port, self.proc, self.dir / "log")
        return self

    def __exit__(self, *_):
        os.killpg(self.proc.pid, signal.SIGTERM)
        try:
            self.proc.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.proc.pid, signal.SIGKILL)
            self.proc.wait()
        self.log.close()

    def env(self):
        return {}

    def file(self, name, text):
        (self.dir / name).write_text(text)
        return str(self.dir / name)

    def pids(self):
        """The proxy's processes: its session."""
        found = []
        for p in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = pathlib.Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == self.proc.pid:
                found.append(int(p))
        return found

    def cpu(self):
        total = 0
        for p in self.pids():
            for t in os.listdir(f"/proc/{p}/task"):
                total += int(pathlib.Path(f"/proc/{p}/task/{t}/schedstat").read_text().split()[0])
        return total / 1e9

    def rss_kib(self):
        total = 0
        for p in self.pids():
            for line in pathlib.Path(f"/proc/{p}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total


class Gatewayd(Proxy):
    name, versions, more = "gatewayd", ("h1", "h2"), ""

    def argv(self):
        (self.dir / "state").mkdir(mode=0o700, exist_ok=True)
        (self.dir / "certificates").mkdir(mode=0o700, exist_ok=True)
        pem = self.dir / "certificates" / DOMAIN
        pem.write_text(pathlib.Path(self.key).read_text() + pathlib.Path(self.cert).read_text())
        pem.chmod(0o600)
        config = {"snapshot": str(uuid.uuid4()), "epoch": "e1", "revision": 1,
                  "gateway": {"id": str(uuid.uuid4()), "name": "g", "virtualIps": ["10.0.0.1"]},
                  "agents": [], "gateways": [],
                  "tunnels": [{"id": str(uuid.uuid4()), "domain": DOMAIN, "protocol": "http", "enabled": True,
                               "agentVirtualIp": VIP, "targetId": str(uuid.uuid4()), "target": "localhost:8000"}]}
        path = self.dir / "state" / "config.json"
        path.write_text(json.dumps(config))
        path.chmod(0o600)
        conf = self.file("gateway.conf", f"""
state_dir = {self.dir}/state
runtime_dir = {self.dir}/run
wireguard = none
https_listen = 127.0.0.1:{self.port}
http_listen = 127.0.0.1:{self.port + 1000}
certificate_dir = {self.dir}/certificates
acme = off
workers = 1
max_connections_per_address = 0
idle_timeout = 10m
metrics_listen = 127.0.0.1:{self.port + 2000}
{self.more.format(self)}""")
        return [f"{self.build}/gatewayd", "-c", conf]


class GatewaydText(Gatewayd):
    """With an access log of each request."""
    name, more = "gatewayd-text", "access_log = {0.dir}/access.log\n"


class GatewaydJson(Gatewayd):
    name, more = "gatewayd-json", GatewaydText.more + "access_log_format = json\n"


class Nginx(Proxy):
    name, versions = "nginx", ("h1", "h2")

    def argv(self):
        conf = self.file("nginx.conf", f"""
daemon off; worker_processes 1; pid {self.dir}/pid; error_log {self.dir}/error.log;
events {{ worker_connections 8000; }}
http {{
 access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_max_body_size 0;
 client_body_temp_path {self.dir}/b; proxy_temp_path {self.dir}/p; fastcgi_temp_path {self.dir}/f;
 uwsgi_temp_path {self.dir}/u; scgi_temp_path {self.dir}/s;
 upstream up {{ server {UP[0]}:{UP[1]}; keepalive 64; keepalive_requests 100000000; }}
 server {{ listen 127.0.0.1:{self.port} ssl http2 backlog=4096; server_name {DOMAIN};
  ssl_certificate {self.cert}; ssl_certificate_key {self.key}; ssl_protocols TLSv1.2 TLSv1.3;
  location / {{ proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";
   proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
   proxy_set_header X-Forwarded-Proto https; proxy_request_buffering off; proxy_max_temp_file_size 0; }} }}
}}""")
        return ["nginx", "-e", f"{self.dir}/error.log", "-c", conf]


class Haproxy(Proxy):
    name, versions = "haproxy", ("h1", "h2")

    def argv(self):
        pem = self.file("pem", pathlib.Path(self.cert).read_text() + pathlib.Path(self.key).read_text())
        conf = self.file("haproxy.cfg", f"""
global
 nbthread 1
 maxconn 8000
 ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
 mode http
 timeout client 600s
 timeout server 60s
 timeout connect 5s
 timeout http-keep-alive 600s
frontend f
 bind 127.0.0.1:{self.port} ssl crt {pem} alpn h2,http/1.1 backlog 4096
 option forwardfor
 http-request set-header X-Forwarded-Proto https
 default_backend b
backend b
 http-reuse always
 server s {UP[0]}:{UP[1]}
""")
        return ["haproxy", "-db", "-f", conf]


class H2o(Proxy):
    name, versions = "h2o", ("h1", "h2")

    def argv(self):
        conf = self.file("h2o.conf", f"""
num-threads: 1
max-connections: 8000
http1-request-timeout: 600
http2-idle-timeout: 600
listen:
  host: 127.0.0.1
  port: {self.port}
  ssl:
    certificate-file: {self.cert}
    key-file: {self.key}
    minimum-version: TLSv1.2
hosts:
  "{DOMAIN}":
    paths:
      "/":
        proxy.reverse.url: "http://{UP[0]}:{UP[1]}/"
        proxy.timeout.keepalive: 60000
""")
        return ["h2o", "-m", "worker", "-c", conf]


class Caddy(Proxy):
    name, versions = "caddy", ("h1", "h2")

    def env(self):
        return {"HOME": str(self.dir), "XDG_DATA_HOME": str(self.dir), "XDG_CONFIG_HOME": str(self.dir),
                "GOMAXPROCS": "1"}

    def argv(self):
        conf = self.file("Caddyfile", f"""
{{
 admin off
 auto_https off
}}
https://{DOMAIN}:{self.port} {{
 bind 127.0.0.1
 tls {self.cert} {self.key}
 reverse_proxy {UP[0]}:{UP[1]}
}}
""")
        return ["caddy", "run", "--config", conf, "--adapter", "caddyfile"]


def h2load(*args, h1=True, path="/1024", port=PORT):
    out = subprocess.run(["h2load", "-t1", *(["--h1"] if h1 else []), *map(str, args),
                          f"https://{DOMAIN}:{port}{path}"], capture_output=True, text=True, timeout=600).stdout
    m = re.search(r"(\d+) succeeded, (\d+) failed", out)
    if not m or int(m[2]) or not int(m[1]):
        fail(f"h2load: {out[-600:]}")
    return out


def rate_of(out):
    return float(re.search(r"([\d.]+) req/s", out)[1])


class Bench:
    def __init__(self, p, scale, rates):
        self.p, self.scale, self.rates = p, scale, rates

    def n(self, count):
        return int(count * self.scale)

    def spent(self, fn):
        was = self.p.cpu()
        out = fn()
        return self.p.cpu() - was, out

    def h1_cpu_us(self):
        h2load("-c", 32, "-n", self.n(5000))
        n = self.n(60000)
        cpu, out = self.spent(lambda: h2load("-c", 32, "-n", n))
        self.rates[self.p.name] = rate_of(out)
        return cpu / n * 1e6

    def h2_cpu_us(self):
        if "h2" not in self.p.versions:
            return None
        h2load("-c", 8, "-m", 8, "-n", self.n(5000), h1=False)
        n = self.n(60000)
        cpu, _ = self.spent(lambda: h2load("-c", 8, "-m", 8, "-n", n, h1=False))
        return cpu / n * 1e6

    def handshake_cpu_us(self):
        n, each = self.n(4000), 200
        h2load("-c", each, "-n", each)
        cpu, _ = self.spent(lambda: [h2load("-c", each, "-n", each) for _ in range(n // each)])
        return cpu / (n // each * each) * 1e6

    def down_cpu_s_per_gb(self):
        size = self.n(2_000_000_000)
        cpu, _ = self.spent(lambda: curl("-o", "/dev/null", f"https://{DOMAIN}:{PORT}/{size}"))
        return cpu / size * 1e9

    def up_cpu_s_per_gb(self):
        size = self.n(2_000_000_000)
        with open("/dev/zero", "rb") as zero:
            head = subprocess.Popen(["head", "-c", str(size)], stdin=zero, stdout=subprocess.PIPE)
            cpu, _ = self.spent(lambda: curl("-T", "-", "-H", "Expect:", "-H", f"Content-Length: {size}",
                                             "-H", "Transfer-Encoding:",
                                             f"https://{DOMAIN}:{PORT}/sink", stdin=head.stdout))
            head.stdout.close()
            head.wait()
        return cpu / size * 1e9

    def idle_kib(self):
        """In a fresh process: what the third thousand of connections adds, each after one request."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        conns, at = [], []
        try:
            for i in range(3000):
                s = context.wrap_socket(socket.create_connection(("127.0.0.1", PORT), 20), server_hostname=DOMAIN)
                s.sendall(f"GET /16 HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
                got = b""
                while got.partition(b"\r\n\r\n")[2] != b"\0" * 16:
                    more = s.recv(4096)
                    if not more:
                        fail(f"closed: {got!r}")
                    got += more
                conns.append(s)
                if i + 1 in (2000, 3000):
                    time.sleep(1)  # what is given back a little later
                    at.append(self.p.rss_kib())
            return (at[1] - at[0]) / 1000
        finally:
            for s in conns:
                s.close()

    def p99_ms(self):
        """Of one turn."""
        clients, rate = 32, statistics.median(self.rates.values()) / 2
        with tempfile.NamedTemporaryFile() as f:
            h2load("-c", clients, "-n", int(rate * max(1, self.scale)), f"--rps={rate / clients:.2f}",
                   f"--log-file={f.name}", port=self.p.port)
            took = sorted(int(line.split()[2]) for line in open(f.name))
        return took[int(len(took) * 0.99)] / 1000


def curl(*args, **kw):
    r = subprocess.run(["curl", "-sk", "--http1.1", "--fail", "--resolve", f"{DOMAIN}:{PORT}:127.0.0.1", *args],
                       capture_output=True, timeout=600, **kw)
    if r.returncode:
        fail(f"curl: exit {r.returncode}: {r.stderr[-300:]}")


METRICS = {"h1_cpu_us": "us", "h2_cpu_us": "us", "handshake_cpu_us": "us", "down_cpu_s_per_gb": "s/GB",
           "up_cpu_s_per_gb": "s/GB", "idle_kib": "KiB", "p99_ms": "ms"}
SYSTEMS = [Gatewayd, Nginx, Haproxy, H2o, Caddy]
EXTRA = [GatewaydText, GatewaydJson]  # only where asked for


@contextlib.contextmanager
def running(cls, tmp, args, port=PORT):
    d = pathlib.Path(tempfile.mkdtemp(dir=tmp))
    d.chmod(0o755)
    with cls(d, tmp / "cert", tmp / "key", args.build, port) as p:
        yield p
    shutil.rmtree(d)


def one_by_one(classes, tmp, args, m, rates):
    """{system: value}"""
    found = {}
    for cls in classes:
        if m == "h2_cpu_us" and "h2" not in cls.versions:
            continue
        with running(cls, tmp, args) as p:
            found[cls.name] = getattr(Bench(p, args.scale, rates), m)()
    return found


def side_by_side(classes, tmp, args, m, rates):
    with contextlib.ExitStack() as stack:
        benches = [Bench(stack.enter_context(running(cls, tmp, args, PORT + i)), args.scale, rates)
                   for i, cls in enumerate(classes)]
        turns = [[getattr(b, m)() for b in benches] for _ in range(1 + SLICES)][1:]
    return {cls.name: statistics.median(t[i] for t in turns) for i, cls in enumerate(classes)}


def measure(classes, tmp, args, what):
    """{system: {metric: [value of each round]}}"""
    table = {c.name: {} for c in classes}
    rates = {}  # requests a second of each system, as last seen
    for m in what:
        for _ in range(1 if m == "idle_kib" else args.rounds):
            found = (side_by_side if m == "p99_ms" else one_by_one)(classes, tmp, args, m, rates)
            for name, value in found.items():
                table[name].setdefault(m, []).append(value)
            print(m, {n: round(v, 2) for n, v in found.items()}, flush=True)
    return table


def summary(table, what):
    """Medians, and in each metric gatewayd's part of the best of the others."""
    medians = {n: {m: statistics.median(v) for m, v in t.items()} for n, t in table.items()}
    ratios = {}
    for m in what:
        others = {n: t[m] for n, t in medians.items() if n != "gatewayd" and m in t}
        if others and m in medians.get("gatewayd", {}):
            best = min(others, key=others.get)
            ratios[m] = statistics.median(a / b for a, b in zip(table["gatewayd"][m], table[best][m]))
    return medians, ratios


def show(medians, ratios, what):
    print(f"\n{'':14}" + "".join(f"{m:>20}" for m in what))
    for name, found in {**medians, "of best": ratios}.items():
        print(f"{name:14}" + "".join(f"{found[m]:20.2f}" if m in found else f"{'-':>20}" for m in what))


@contextlib.contextmanager
def ground(build):
    """A folder with a certificate (cert, key), a network and an upstream for one bench."""
    if os.geteuid() != 0:
        fail("needs root, for a network namespace of its own")
    net.leave_host()
    with tempfile.TemporaryDirectory(prefix="kmbe-") as t:
        tmp = pathlib.Path(t)
        tmp.chmod(0o755)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                        "-days", "30", "-subj", f"/CN={DOMAIN}", "-addext", f"subjectAltName=DNS:{DOMAIN}",
                        "-keyout", tmp / "key", "-out", tmp / "cert"], check=True, capture_output=True)
        (tmp / "key").chmod(0o644)
        # h2load looks the name up.
        hosts = tmp / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {DOMAIN}\n")
        net.own_hosts(hosts)
        up = subprocess.Popen([f"{build}/bench-upstream", f"{UP[0]}:{UP[1]}", f"{VIP}:80"],
                              stdout=subprocess.PIPE, text=True)
        try:
            if up.stdout.readline() != "ready\n":
                fail("bench-upstream did not start")
            yield tmp
        finally:
            up.terminate()
            up.wait()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--build", default="build")
    ap.add_argument("--json")
    ap.add_argument("--only", default=",".join(c.name for c in SYSTEMS))
    ap.add_argument("--what", default=",".join(METRICS))
    ap.add_argument("--scale", type=float, default=1)
    ap.add_argument("--rounds", type=int, default=3, help="of each metric but idle_kib")
    ap.add_argument("--realtime", action="store_true", help="before everything else on the machine")
    args = ap.parse_args()
    args.build = os.path.abspath(args.build)
    missing = [n for n in NEEDS if not shutil.which(n)]
    if missing:
        fail(f"missing: {' '.join(missing)}")
    what = args.what.split(",")
    if "p99_ms" in what and "h1_cpu_us" not in what:
        what.insert(0, "h1_cpu_us")  # tells what load is
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, most), most))
    if args.realtime:  # and all that is started from here
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with ground(args.build) as tmp:
        table = measure([c for c in SYSTEMS + EXTRA if c.name in args.only.split(",")], tmp, args, what)
    medians, ratios = summary(table, what)
    show(medians, ratios, what)
    if args.json:
        os.makedirs(os.path.dirname(args.json) or ".", exist_ok=True)
        with open(args.json, "w") as f:
            json.dump([{"bench": "edge", "system": n, "metric": m, "value": round(v, 3), "unit": METRICS[m],
                        "least": round(min(table[n][m]), 3), "most": round(max(table[n][m]), 3),
                        **({"of_best": round(ratios[m], 3)} if n == "gatewayd" and m in ratios else {})}
                       for n, found in medians.items() for m, v in found.items()], f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
