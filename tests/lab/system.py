# SPDX-License-Identifier: MIT
"""The whole system in the lab: control, gateway, agent behind NAT, a target, and a stranger."""
import json
import os
import pathlib
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time

from . import client, net
from .proc import LabError, Proc, patience, run

ROOT = pathlib.Path(__file__).resolve().parents[2]
POSTGRES = "/usr/lib/postgresql/15/bin"
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_leaks=1:quarantine_size_mb=16:abort_on_error=0:exitcode=99",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=0:exitcode=98",
}


def postgres(folder):
    """A database_program_dir, in this folder: PostgreSQL that waits for no disk. What it has written survives every
    process, though not the host."""
    programs = folder / "postgres-bin"
    programs.mkdir(exist_ok=True)
    for name, more in (("initdb", "--no-sync"), ("postgres", "-c fsync=off")):
        (programs / name).write_text(f'#!/bin/sh\nexec {POSTGRES}/{name} "$@" {more}\n')
        (programs / name).chmod(0o755)
    return programs


def make_ca(folder, name="kakuremichi lab CA"):
    """A CA of our own for the names of the lab: folder/ca.crt, folder/ca.key."""
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "3650", "-subj", f"/CN={name}", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    return f"{folder}/ca.crt"


def make_certificate(folder, domain, out_dir, days=3650, rsa=False):
    """out_dir/DOMAIN (DOMAIN+rsa): key and chain in one file, 0600, signed by folder's CA."""
    with tempfile.TemporaryDirectory() as tmp:
        key = ("rsa:2048",) if rsa else ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        run("openssl", "req", "-newkey", *key, "-nodes",
            "-subj", f"/CN={domain[:64]}", "-keyout", f"{tmp}/key", "-out", f"{tmp}/csr")
        pathlib.Path(f"{tmp}/ext").write_text(
            f"subjectAltName=DNS:{domain}\nextendedKeyUsage=serverAuth\nkeyUsage=digitalSignature\n")
        run("openssl", "x509", "-req", "-in", f"{tmp}/csr", "-CA", f"{folder}/ca.crt",
            "-CAkey", f"{folder}/ca.key", "-CAcreateserial", "-days", str(days), "-extfile", f"{tmp}/ext",
            "-out", f"{tmp}/crt")
        text = pathlib.Path(f"{tmp}/key").read_text() + pathlib.Path(f"{tmp}/crt").read_text()
        path = pathlib.Path(out_dir) / (domain + "+rsa" * rsa)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w") as f:
            f.write(text)


class System:
    """Starts nothing by itself: call the start_* methods, or `up` for all of them in order.

    The agent runs as agent_uid, by default (KM_LAB_AGENT_UID changes it) an ordinary user without any
    capability; 0 is root with all of them but agent_lacks (names as of setpriv). Both may be changed while
    there is no agent."""

    def __init__(self, prefix="kmlab", build=None, domain="hello.demo.test", agent_uid=None):
        if agent_uid is None:
            agent_uid = int(os.environ.get("KM_LAB_AGENT_UID", 65534))
        self.agent_uid = agent_uid
        self.agent_lacks = ()
        self.backends_vary = False  # whatever KM_BACKEND says, see conftest
        self.build = pathlib.Path(build or os.environ.get("KM_BUILD", ROOT / "build")).resolve()
        for p in ("controld", "gatewayd", "agentd", "km-warden"):
            if not (self.build / p).exists():
                raise LabError(f"{self.build / p} is missing: run make first")
        self.prefix = f"{prefix}{os.getpid()}"
        self.domain = domain
        self.procs = {}
        self.clocks = {}  # daemon -> environment of one whose wall clock can be put wrong
        self.joined = {}  # role -> what join has written into its settings
        self.started = []  # (name, process) of all that ever ran
        self.statuses = []  # (name, exit status) of every daemon that was stopped in order
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"{self.prefix}-"))
        os.chmod(self.dir, 0o755)
        self.logs = self.dir / "logs"
        self.logs.mkdir()
        self.net = None
        self.token = None
        self.gateway_ids = {}  # number -> id
        self.gateway_defaults = {"acme": "off"}  # settings of every gateway that is started
        try:
            self.net = net.Net(self.prefix, domains=(domain, "other.demo.test", "ws.demo.test"))
            make_ca(self.dir)
            self.certificates = self.dir / "certificates"
            self.certificates.mkdir(mode=0o700)
            self.add_certificate(domain)
            self.tls = client.context(self.dir / "ca.crt")
        except BaseException:
            self.close()
            raise

    # ---- parts -------------------------------------------------------------------------------

    def issue(self, domain, out_dir):
        """A certificate of the CA of our own, with its key: out_dir/domain."""
        make_certificate(self.dir, domain, out_dir)

    def add_certificate(self, domain):
        self.issue(domain, self.certificates)

    def start(self, name, ns, *argv, die_with_parent=True, env=None):
        p = Proc(name, ns.argv(*map(str, argv)), self.logs / f"{name}.log",
                 env={**SANITIZER_ENV, **self.clocks.get(name, {}), **(env or {}),
                      "PATH": f"{os.environ['PATH']}:{self._mark(name)}"},
                 die_with_parent=die_with_parent)
        self.procs[name] = p
        self.started.append((name, p))
        return p

    def unprivileged(self, *argv, tun_mode="0666"):
        """argv as self.agent_uid without any capability. In mounts of its own it finds a /dev/net/tun with
        this mode (0666 is what distributions have), whatever mode this machine's has."""
        if not self.agent_uid:
            lacks = ",".join(f"-{c}" for c in self.agent_lacks)
            return ("setpriv", f"--bounding-set={lacks}", f"--inh-caps={lacks}", *argv) if lacks else argv
        dev = self.dir / "dev"
        dev.mkdir(exist_ok=True)
        return ("sh", "-ec", 'mount -t tmpfs none "$0"; mknod "$0/tun" c 10 200; chmod "$1" "$0/tun"; '
                'mount --bind "$0/tun" /dev/net/tun; shift; exec "$@"', dev, tun_mode,
                "setpriv", f"--reuid={self.agent_uid}", f"--regid={self.agent_uid}", "--clear-groups",
                "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--no-new-privs",
                "--pdeathsig=KILL", "--", *argv)

    def program(self, name):
        """A program of the build where the agent's user, too, may execute it."""
        if not self.agent_uid:
            return self.build / name
        path = self.dir / "bin" / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            shutil.copy(self.build / name, path)
            path.chmod(0o755)
        return path

    def _own(self, *paths):
        for path in paths:
            for p in (path, *path.rglob("*")):
                os.chown(p, self.agent_uid, self.agent_uid)

    def conf(self, name, **settings):
        path = self.dir / f"{name}.conf"
        path.write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        return path

    def start_control(self, **settings):
        state = self.dir / "control"
        if not state.exists():
            state.mkdir(mode=0o755)
            if "KM_CONTROL_STATE" in os.environ:  # made before, where initdb is faster
                run("tar", "-xpf", os.environ["KM_CONTROL_STATE"], "-C", state)
        defaults = dict(state_dir=state, names="control.demo.test", rest_listen="0.0.0.0:3000",
                        link_listen="0.0.0.0:3001", log_level="info", database_program_dir=postgres(self.dir))
        p = self.start("controld", self.net.control, self.build / "controld", "-c",
                       self.conf("control", **{**defaults, **settings}))
        p.wait_log("control ready", timeout=60)
        self.token = (state / "admin.token").read_text().strip()
        self.pin = (state / "root.pin").read_text().strip()
        self.api_tls = client.context(state / "root.crt")
        return p

    def _edge_settings(self, role):
        for d in ("state", "run"):
            (self.dir / f"{role}-{d}").mkdir(exist_ok=True, mode=0o700)
        settings = dict(api_key_file=self.dir / f"{role}.key", state_dir=self.dir / f"{role}-state",
                        runtime_dir=self.dir / f"{role}-run", log_level="info",
                        warden=self.build / "km-warden")
        if role.startswith("gateway"):
            settings.update(public_ip=net.GATEWAYS[int(role[7:] or 1)], wireguard_port=51820,
                            https_listen="0.0.0.0:443", http_listen="0.0.0.0:80",
                            certificate_dir=self.certificates, metrics_listen="127.0.0.1:9101")
            settings.update(self.gateway_defaults)
        else:
            settings.update(metrics_listen="127.0.0.1:9102", warden=self.program("km-warden"))
        settings.update(self.joined.get(role, {}))
        return settings

    def join(self, role, token, *options, conf=None, **settings):
        """gatewayd join, or agentd join: what a new host does, once. What it has printed. The role is "agent",
        "gateway", or "gateway2" and so on."""
        ns = getattr(self.net, role)
        conf = conf or self.conf(role, **{**self._edge_settings(role), **settings})
        out = ns.exec(str(self.build / f"{role.rstrip('0123456789')}d"), "join", "-c", str(conf), *options, input=token)
        self.joined[role] = {}
        for line in conf.read_text().splitlines():
            key, _, value = line.partition("=")
            if line[:1].isspace():
                self.joined[role][last] += "\n\t" + line.strip()
            elif key.strip() in ("control", "control_pin", "ca_pin"):
                last = key.strip()
                self.joined[role][last] = value.strip()
        return out

    def start_gateway(self, token=None, wait=True, number=1, **settings):
        """With a join token it joins first. Gateway 2 is the role "gateway2" and the process "gateway2d" on
        a host of its own, net.gateway2; and so on up to 9."""
        role = "gateway" if number == 1 else f"gateway{number}"
        if number > 1:
            self.net.add_gateway(number)
        if token:
            self.join(role, token, **settings)
        conf = self.conf(role, **{**self._edge_settings(role), **settings})
        p = self.start(f"{role}d", getattr(self.net, role), self.build / "gatewayd", "-c", conf)
        if wait:
            p.wait_log("configuration applied", timeout=30)
        return p

    def add_gateway(self, number, **settings):
        """A further gateway: made at control, joined, started. Its id is in gateway_ids[number]."""
        gw = self.api("POST", "/api/gateways", {"name": f"gateway-{number}"}, expect=201)
        self.gateway_ids[number] = gw["id"]
        return self.start_gateway(gw["joinToken"], number=number, **settings)

    def start_agent(self, token=None, wait=True, number=1, **settings):
        """Likewise. Agent 2 is the role "agent2" and the process "agent2d", on the host of the first, with whose
        targets; and so on."""
        role = "agent" if number == 1 else f"agent{number}"
        setattr(self.net, role, self.net.agent)
        if number > 1:
            settings = {"metrics_listen": f"127.0.0.1:{9101 + number}", **settings}
        if token:
            self.join(role, token, **settings)
        conf = self.conf(role, **{**self._edge_settings(role), **settings})
        if self.agent_uid or os.stat(self.dir / f"{role}.key").st_uid:
            self._own(*(self.dir / f"{role}{x}" for x in (".key", "-state", "-run")))
        conf.chmod(0o644)
        p = self.start(f"{role}d", self.net.agent,
                       *self.unprivileged(self.program("agentd"), "-c", conf))
        if wait:
            p.wait_log("configuration applied", timeout=30)
        return p

    def add_agent(self, number, **settings):
        """A further agent: made at control, joined, started. Its id."""
        ag = self.api("POST", "/api/agents", {"name": f"agent-{number}"}, expect=201)
        self.start_agent(ag["joinToken"], number=number, **settings)
        return ag["id"]

    def start_target(self, port=8080, text="hello", name="target", pem=None):
        """With pem, a file with key and certificate, it speaks TLS."""
        p = self.start(name, self.net.agent, "/usr/bin/python3", ROOT / "tests/lab/target.py", port, text,
                       *([pem] if pem else []))
        p.wait_log("target listens")
        return p

    def start_wsecho(self, port=8081):
        p = self.start("wsecho", self.net.agent, "/usr/bin/python3", ROOT / "tests/lab/wsecho.py", port)
        p.wait_log("wsecho listens")
        return p

    def start_upgrade_target(self, port=8082):
        p = self.start("upgrade", self.net.agent, "/usr/bin/python3", ROOT / "tests/lab/upgrade.py", port)
        p.wait_log("upgrade listens")
        return p

    def up(self, control=None, gateway=None, agent=None):
        """Everything up to a gateway and an agent that have their configuration; no tunnel yet."""
        self.start_control(**(control or {}))
        gw = self.api("POST", "/api/gateways", {"name": "gateway-1"}, expect=201)
        ag = self.api("POST", "/api/agents", {"name": "agent-1"}, expect=201)
        self.gateway_id, self.agent_id = gw["id"], ag["id"]
        self.gateway_ids[1] = gw["id"]
        self.start_target()
        self.start_gateway(gw["joinToken"], **(gateway or {}))
        self.start_agent(ag["joinToken"], **(agent or {}))
        return self

    def _mark(self, name):
        """A folder (it does not exist) in the search path of a daemon: a warden gets that variable
        from it, and so is found whatever namespace it has entered."""
        return f"{self.dir}/is/{name}"

    def family(self, name, comm=None):
        """The living processes of one daemon: itself, its warden and what that has started; only those
        called comm, if given."""
        mark = self._mark(name).encode()
        parents, found = {}, set()
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                with open(f"/proc/{pid}/stat") as f:
                    parents[pid] = int(f.read().rsplit(")", 1)[1].split()[1])
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if mark in f.read():
                        found.add(pid)
            except OSError:
                continue
        grown = True
        while grown:
            more = {p for p, parent in parents.items() if parent in found} - found
            found |= more
            grown = bool(more)
        return sorted(p for p in found if comm is None or _comm(p) == comm[:15])

    def inside(self, name, *argv):
        """Runs a program in the private network of gatewayd or agentd; its standard output."""
        pid, = self.family(name, "km-inside") or self.family(name, "km-warden")
        return run("nsenter", "-t", str(pid), "-n", *map(str, argv))

    def clock(self, name, seconds=0):
        """Puts the wall clock of this daemon wrong by so much from now on; the first call must come before
        the daemon is started. What it starts itself has its own clock."""
        library, file = self.dir / "clock.so", self.dir / f"clock-{name}"
        if not library.exists():
            run("gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(ROOT / "tests/lab/clock.c"), "-ldl")
        if name not in self.clocks:
            file.write_bytes(bytes(8))
            asan = SANITIZER_ENV["ASAN_OPTIONS"] + ":verify_asan_link_order=0"
            self.clocks[name] = {"LD_PRELOAD": str(library), "KM_CLOCK_FILE": str(file), "ASAN_OPTIONS": asan}
        with open(file, "r+b") as f:
            f.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    def warden_with_clock(self, role):
        """A warden whose clock is its daemon's (see clock), for the setting of that name."""
        path = self.dir / f"warden-{role}"
        env = self.clocks[f"{role}d"]
        path.write_text("#!/bin/sh\n" + "".join(f"export {k}='{v}'\n" for k, v in env.items()) +
                        f'exec {self.program("km-warden")} "$@"\n')
        path.chmod(0o755)
        return path

    def wg_peers(self, role):
        """The WireGuard keys of the peers that the device of this role has."""
        folder = self.dir / f"{role}-run"
        if (folder / "wireguard.sock").exists():
            shown = run(str(self.build / "km-warden"), "--show", str(folder))
            return {line.split()[1] for line in shown.split("\n") if line.startswith("peer")}
        return set(self.inside(f"{role}d", "wg", "show", self.device(role), "peers").split())

    def device(self, role):
        """The name of its WireGuard device. The warden may have been started by an earlier daemon."""
        self.procs[f"{role}d"].wait_log("private network ready")
        return [line for name, p in self.started if name == f"{role}d" for line in p.lines
                if "warden started" in line][-1].split("device=")[1].split()[0]

    def sql(self, text):
        """In control's embedded database, with every right; what a query gives, unaligned."""
        return run("psql", "-h", str(self.dir / "control/postgres/run"), "-U", "postgres", "-v", "ON_ERROR_STOP=1",
                   "-Atc", text, "kakuremichi").strip()

    # ---- clients -----------------------------------------------------------------------------

    def api_connection(self, ns=None):
        return client.NsConnection(ns or self.net.stranger, net.CONTROL, 3000, "control.demo.test",
                                   self.api_tls)

    def api(self, method, path, body=None, expect=None, conn=None, token=None):
        own = conn is None
        conn = conn or self.api_connection()
        try:
            headers = {"Authorization": f"Bearer {token or self.token}"}
            data = None
            if body is not None:
                data = json.dumps(body).encode()
                headers["Content-Type"] = "application/json"
            a = client.request(conn, method, path, data, headers)
        finally:
            if own:
                conn.close()
        if expect is None:
            return a
        if a.status != expect:
            raise LabError(f"{method} {path}: {a.status} instead of {expect}: {a.text}")
        return a.json() if a.body else None

    def create_tunnel(self, domain=None, target="127.0.0.1:8080", conn=None, **more):
        return self.api("POST", "/api/tunnels", {"domain": domain or self.domain,
                                                 "agentId": self.agent_id, "target": target, **more},
                        expect=201, conn=conn)

    def use_ca(self, ca, **settings):
        """Every gateway that is started from now on has its certificates from this CA (Pebble or FakeCa) and
        none of its own; what limits orders is out of the way."""
        own = self.dir / "no-certificates"
        own.mkdir(exist_ok=True, mode=0o700)
        self.gateway_defaults = {**ca.settings(), "certificate_dir": own, "acme_order_rate": "1000000/1h",
                                 "acme_domain_rate": "1000000/1h", "acme_name_rate": "1000000/1h", **settings}
        self.tls = ca.tls

    def leaf(self, domain=None, number=1, timeout=10):
        """The certificate (DER) that a gateway shows a stranger for this name, whoever issued it."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        conn = client.NsConnection(self.net.stranger, net.GATEWAYS[number], 443, domain or self.domain, tls,
                                   patience(timeout))
        try:
            conn.connect()
            return conn.sock.getpeercert(binary_form=True)
        finally:
            conn.close()

    def wait_mesh(self):
        """Until all gateways know each other."""
        for number in self.gateway_ids:
            for other in self.gateway_ids:
                if other != number:
                    self.daemon(number).wait_log("gateway joined the mesh", self.gateway_ids[other])

    def daemon(self, number):
        """The process of the gateway with this number."""
        return self.procs["gatewayd" if number == 1 else f"gateway{number}d"]

    def wait_leaf(self, domain, der, number=1, timeout=30):
        """Until a gateway shows this certificate."""
        end = time.monotonic() + patience(timeout)
        while self.leaf(domain, number) != der:
            if time.monotonic() > end:
                raise LabError(f"gateway {number} shows another certificate for {domain}")
            time.sleep(0.05)

    def certificate(self, domain=None, number=1):
        """What control knows of a gateway's certificate for this name; {} if nothing."""
        page = self.api("GET", "/api/certificates?limit=1000", expect=200)
        return next((c for c in page["items"] if c["domain"] == (domain or self.domain)
                     and c["gatewayId"] == self.gateway_ids[number]), {})

    def wait_certificate(self, status, domain=None, number=1, error="", timeout=30):
        """Until control knows of this status (and an error with this text in it)."""
        end = time.monotonic() + patience(timeout)
        while True:
            c = self.certificate(domain, number)
            if c.get("status") == status and error in (c["error"] or ""):
                return c
            if time.monotonic() > end:
                raise LabError(f"the certificate of {domain or self.domain} is not {status} ({error!r}): {c}")
            time.sleep(0.05)

    def stranger(self, domain=None, timeout=30, rcvbuf=None, number=1):
        """A connection (made at its first request) from the stranger to the gateway (of this number)."""
        return client.NsConnection(self.net.stranger, net.GATEWAYS[number], 443, domain or self.domain, self.tls,
                                   patience(timeout), rcvbuf=rcvbuf)

    def get(self, path="/", domain=None, timeout=30, number=1, **kw):
        conn = self.stranger(domain, timeout, number=number)
        try:
            return client.request(conn, "GET", path, **kw)
        finally:
            conn.close()

    def wait_served(self, path="/", domain=None, timeout=30, attempt_timeout=3, number=1):
        """Asks until a 200 comes; returns (answer, seconds)."""
        timeout = patience(timeout)
        began = time.monotonic()
        last = None
        while time.monotonic() - began < timeout:
            try:
                a = self.get(path, domain, timeout=attempt_timeout, number=number)
                if a.status == 200:
                    return a, time.monotonic() - began
                last = a
            except OSError as e:
                last = e
        raise LabError(f"no 200 from {domain or self.domain} in {timeout} s; last: {last!r}")

    def wait_status(self, domain, path, status, timeout=30):
        """Asks until this status comes (a change has arrived at the gateway)."""
        timeout = patience(timeout)
        end = time.monotonic() + timeout
        last = None
        while time.monotonic() < end:
            try:
                last = self.get(path, domain, timeout=5)
                if last.status == status:
                    return last
            except OSError as e:
                last = e
        raise LabError(f"no {status} from {domain}{path} in {timeout} s; last: {last!r}")

    # ---- the end -----------------------------------------------------------------------------

    def stop(self, name):
        status = self.procs.pop(name).stop()
        self.statuses.append((name, status))
        return status

    def leftovers(self):
        """What this system has left on the host (processes, namespaces, mounts, files)."""
        found = []
        tag = self.prefix
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid != os.getpid() and self._is_ours(pid):
                found.append(f"process {pid}: {_cmdline(pid)}")
        found += [f"namespace {n}" for n in _netns() if n.startswith(tag)]
        with open("/proc/self/mounts") as f:
            found += [f"mount {line.strip()}" for line in f if tag in line]
        for d in ("/etc/netns", tempfile.gettempdir()):
            if os.path.isdir(d):
                found += [f"file {d}/{n}" for n in os.listdir(d) if n.startswith(tag)]
        return found

    def close(self):
        """Stops everything in order and removes it. Returns complaints: daemons that did not end well
        (a sanitizer's finding is one), and what was left behind."""
        complaints = []
        gateways = sorted(n for n in self.procs if n.startswith("gateway") and n.endswith("d"))
        agents = sorted(n for n in self.procs if n.startswith("agent") and n.endswith("d"))
        daemons = (*gateways, *agents, "controld")
        gone = {name for name in daemons if name in self.procs and not self.procs[name].alive()}
        for name in daemons:  # all at once
            if name in self.procs:
                self.procs[name].begin_stop()
        for name in (*daemons, *list(self.procs)):
            if name not in self.procs:
                continue
            p = self.procs[name]
            try:
                status = self.stop(name)
                ok = (0, -signal.SIGTERM) if name not in daemons else (0,)
                if status not in ok:
                    complaints.append(f"{name} {'had ended' if name in gone else 'ended'} with status {status}:"
                                      f"\n{p.tail(200)}")
            except LabError as e:
                complaints.append(str(e))
        self._end_strays(complaints)
        if self.net is not None:
            self.net.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        complaints += self.leftovers()
        return complaints

    def _namespaces(self):
        """The inodes of the lab's network namespaces."""
        return {ns.inode() for ns in (self.net.ns.values() if self.net else ())} - {None}

    def _is_ours(self, pid):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                environ = f.read()
            cwd = os.readlink(f"/proc/{pid}/cwd")
            network = os.stat(f"/proc/{pid}/ns/net").st_ino
        except OSError:
            return False
        return (str(self.dir).encode() in environ or str(self.dir) in cwd
                or str(self.dir) in _cmdline(pid) or network in self._namespaces())

    def _end_strays(self, complaints):
        """Whatever still lives is a defect (but for the warden of a daemon that a test has killed);
        it is ended all the same."""
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid == os.getpid() or not self._is_ours(pid):
                continue
            cmd = _cmdline(pid)
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                continue
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            # What has just been told to end gets a moment to do so.
            if not poll.poll(patience(3) * 1000):
                complaints.append(f"process {pid} ({cmd}) was left")
                os.kill(pid, signal.SIGTERM)
                if not poll.poll(patience(5) * 1000):
                    os.kill(pid, signal.SIGKILL)
                    complaints.append(f"process {pid} ({cmd}) did not end on SIGTERM")
            os.close(fd)

    def dump_logs(self, out=sys.stderr):
        for p in sorted(self.logs.glob("*.log")):
            print(f"---- {p.name}", file=out)
            print("\n".join(p.read_text(errors="replace").splitlines()[-200:]), file=out)


def _cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return None


def _netns():
    out = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    return [line.split()[0] for line in out.splitlines() if line.strip()]
