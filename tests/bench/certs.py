# SPDX-License-Identifier: MIT
"""Very many certificates on disk: the store by itself (certs.c), then what a stranger sees of gatewayd with as many
tunnels. Beside it, in the same run, the two ways that others have: nginx with the name in the path of the file,
which reads it at each handshake, and haproxy with the folder, which reads all of it at its start.

    stranger ══TLS 1.3, no resumption══ server (one worker) ── 100,000 files

The client shares the machine: cpu is the server's own, and what a cold name adds is beside a warm one's.
A cold name is one that nobody has asked for since the server's start; the files are in the kernel's cache for all.

usage: certs.py [--build DIR] [--json FILE] [--certificates N] [--others N] [--cold N]
"""
import argparse
import http.client
import json
import os
import pathlib
import select
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

PORT, METRICS = 8443, 9101
KEPT = 4096


def name(i):
    return f"n{i:06}.customer.example"


class Server:
    """One of those compared; measures from its start to the first handshake that it answers."""
    wait = 600

    def __init__(self, folder, certs, n):
        self.dir, self.certs, self.n = pathlib.Path(folder), certs, n
        argv = self.prepare()
        self.log = open(self.dir / "log", "wb")
        begun = time.monotonic()
        self.proc = subprocess.Popen(argv, stdout=self.log, stderr=self.log)
        while True:
            try:
                handshake(name(0))
                break
            except OSError:
                if self.proc.poll() is not None or time.monotonic() - begun > self.wait:
                    sys.exit(f"bench-certs: {self.system}: {(self.dir / 'log').read_text()[-2000:]}")
                select.select([], [], [], 0.005)
        self.start = time.monotonic() - begun

    def pids(self):
        kids = pathlib.Path(f"/proc/{self.proc.pid}/task/{self.proc.pid}/children").read_text().split()
        return [self.proc.pid, *map(int, kids)]

    def cpu(self):
        """Milliseconds of the processor so far."""
        return sum(int(t.read_text().split()[0]) for pid in self.pids()
                   for t in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e6

    def memory(self):
        """MiB of what belongs to its processes alone, and their share of the rest."""
        kib = 0
        for pid in self.pids():
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                kib += int(line.split()[1]) if line.startswith("Pss:") else 0
        return kib / 1024

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        self.proc.wait(30)
        self.log.close()


class Gatewayd(Server):
    system = "kakuremichi"

    def prepare(self):
        state = self.dir / "state"
        state.mkdir(mode=0o700)
        tunnels = [{"id": str(uuid.uuid4()), "domain": name(i), "protocol": "http", "enabled": True, "tls": "auto",
                    "agentVirtualIp": "127.10.1.100", "targetId": str(uuid.uuid4()), "target": "localhost:80"}
                   for i in range(self.n)]
        (state / "config.json").write_text(json.dumps({
            "snapshot": str(uuid.uuid4()), "epoch": "e", "revision": 1, "agents": [], "gateways": [],
            "gateway": {"id": str(uuid.uuid4()), "name": "g", "virtualIps": ["10.0.0.1"]}, "tunnels": tunnels}))
        (state / "config.json").chmod(0o600)
        conf = dict(state_dir=state, runtime_dir=self.dir / "run", wireguard="none", workers=1, acme_dir=self.certs,
                    # There is no CA: nothing is due, and what is not obtained is not asked for.
                    acme_directory="https://127.0.0.1:1/", acme_preflight="off",
                    https_listen=f"127.0.0.1:{PORT}", http_listen="127.0.0.1:8080",
                    certificate_dir=self.dir / "own", certificate_cache=KEPT, metrics_listen=f"127.0.0.1:{METRICS}")
        (self.dir / "conf").write_text("".join(f"{k} = {v}\n" for k, v in conf.items()))
        return [BUILD / "gatewayd", "-c", self.dir / "conf"]

    def kept(self):
        c = http.client.HTTPConnection("127.0.0.1", METRICS, timeout=10)
        c.request("GET", "/metrics")
        return next(int(line.split()[1]) for line in c.getresponse().read().decode().splitlines()
                    if line.startswith("kakuremichi_certificates_cached "))


class Nginx(Server):
    system = "nginx"

    def prepare(self):
        (self.dir / "conf").write_text(f"""
            daemon off; worker_processes 1; user root; pid {self.dir}/pid; error_log {self.dir}/error.log;
            events {{ worker_connections 1024; }}
            http {{ access_log off; server {{ listen 127.0.0.1:{PORT} ssl;
                ssl_certificate {self.certs}/$ssl_server_name; ssl_certificate_key {self.certs}/$ssl_server_name;
                ssl_session_tickets off; return 200 ok; }} }}""")
        return ["nginx", "-e", f"{self.dir}/error.log", "-c", self.dir / "conf"]


class Haproxy(Server):
    system = "haproxy"

    def prepare(self):
        (self.dir / "conf").write_text(f"""
global
    nbthread 1
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend f
    bind 127.0.0.1:{PORT} ssl crt {self.certs}
    http-request return status 200
""")
        return ["haproxy", "-db", "-f", self.dir / "conf"]


CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CONTEXT.check_hostname, CONTEXT.verify_mode = False, ssl.CERT_NONE


def handshake(host):
    """Seconds from the first byte of TLS to the end of the handshake."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=60) as raw:
        begun = time.monotonic()
        with CONTEXT.wrap_socket(raw, server_hostname=host):
            return time.monotonic() - begun


def percentile(values, at):
    return sorted(values)[int((len(values) - 1) * at)] * 1e3


class Rows(list):
    def add(self, system, metric, value, unit):
        self.append(dict(bench="certs", system=system, metric=metric, value=value, unit=unit))
        print(f"{system:12} {metric:38} {value:12.3f} {unit}", flush=True)


def measure(rows, kind, certs, n, cold):
    with tempfile.TemporaryDirectory(prefix="km-bench-certs-") as folder:
        s = kind(folder, certs, n)
        try:
            rows.add(s.system, f"start_with_{n}", s.start, "s")
            rows.add(s.system, f"memory_after_start_with_{n}", s.memory(), "MiB")
            step = max(1, (n - 1) // cold)
            names = [name(1 + i * step) for i in range(min(cold, n - 1))]
            median, cpu = {}, {}
            for what, asked in (("cold", names), ("warm", names[-1:] * len(names))):
                before = s.cpu()
                took = [handshake(host) for host in asked]
                cpu[what], median[what] = (s.cpu() - before) / len(took), statistics.median(took)
                for p, at in (("p50", .5), ("p99", .99), ("p999", .999)):
                    rows.add(s.system, f"handshake_{what}_name_{p}", percentile(took, at), "ms")
                rows.add(s.system, f"handshake_{what}_name_cpu", cpu[what], "ms")
            rows.add(s.system, "cold_name_adds", (median["cold"] - median["warm"]) * 1e3, "ms")
            rows.add(s.system, "cold_name_adds_cpu", cpu["cold"] - cpu["warm"], "ms")
            rows.add(s.system, f"memory_after_{len(names)}_names", s.memory(), "MiB")
            if isinstance(s, Gatewayd):
                rows.add(s.system, "certificates_kept", s.kept(), "")
        finally:
            s.stop()


def main():
    global BUILD
    p = argparse.ArgumentParser()
    p.add_argument("--build", default="build")
    p.add_argument("--json", default="build/bench/certs.json")
    p.add_argument("--certificates", type=int, default=100000)
    p.add_argument("--others", type=int, default=10000, help="certificates for haproxy")
    p.add_argument("--cold", type=int, default=10000, help="cold names asked for")
    a = p.parse_args()
    BUILD = pathlib.Path(a.build).resolve()
    pathlib.Path(a.json).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([BUILD / "bench-certs", a.json, str(a.certificates)], check=True)
    rows = Rows(json.loads(pathlib.Path(a.json).read_text()))
    net.leave_host()
    top = tempfile.mkdtemp(prefix="km-bench-certs-")
    try:
        for n, kinds in ((a.certificates, (Gatewayd, Nginx)), (a.others, (Haproxy,))):
            certs = pathlib.Path(top) / str(n)
            certs.mkdir(mode=0o700)
            subprocess.run([BUILD / "bench-certs", "--fill", certs, str(n)], check=True)
            for kind in kinds:
                measure(rows, kind, certs, n, a.cold)
            shutil.rmtree(certs)
    finally:
        shutil.rmtree(top)
    pathlib.Path(a.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
