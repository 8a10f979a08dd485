# SPDX-License-Identifier: MIT
"""The README's way on real servers, word for word: `make install` into a root of the test's own, then
its settings files and its shell lines, in the namespaces of the lab (see tests/lab/net.py):

    control: controld, and the operator's shell      gateway: gatewayd
    agent: agentd, the service                       stranger: the last curl

Only what depends on the root is changed: the folders in the text, those that are defaults by the
environment, and `sudo` is left out."""
import json
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile

import pytest

from tests.lab import Net, Proc, net
from tests.lab.proc import run
from tests.lab.system import ROOT, SANITIZER_ENV, make_ca, make_certificate

BUILD = pathlib.Path(os.environ.get("KM_BUILD", ROOT / "build")).resolve()
DOMAIN = "hello.example.org"
# The indented blocks of "On real servers", in their order.
BLOCKS = ("build", "control.conf", "operator", "shell", "gateway.conf", "gateway", "agent", "tunnel")


def readme_blocks():
    text = (ROOT / "README.md").read_text()
    section = text.split("\n## On real servers\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^    .*\n)+", section, re.M)
    assert len(found) == len(BLOCKS), "the README's blocks are not those that this test knows"
    return dict(zip(BLOCKS, (re.sub("^    ", "", b, flags=re.M) for b in found)))


class Walk:
    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"kmi{os.getpid()}-"))
        self.dir.chmod(0o755)
        self.root = self.dir / "root"
        self.home = self.dir / "home"
        self.home.mkdir()
        self.readme = readme_blocks()
        self.procs = []
        self.net = None
        try:
            self.net = Net(f"kmi{os.getpid()}", domains=(DOMAIN,))
            for ns in self.net.ns.values():
                with open(f"{ns.etc}/hosts", "a") as f:
                    f.write(f"{net.CONTROL} control.example.org\n")
            make_ca(self.dir)
        except BaseException:
            self.close()
            raise

    def rooted(self, text):
        text = re.sub(r"(/etc|/var/lib|/run)/kakuremichi", rf"{self.root}\1/kakuremichi", text).replace("sudo ", "")
        return re.sub(r"^((gateway|agent)d join)$",
                      rf"{self.root}/usr/sbin/\1 -c {self.root}/etc/kakuremichi/\2.conf", text, flags=re.M)

    def write_conf(self, name):
        """A settings file as the README has it."""
        (self.root / "etc/kakuremichi" / name).write_text(self.rooted(self.readme[name]))

    def sh(self, ns, script, role=None, **kw):
        """The lines of a block, by an operator's shell on that host."""
        env = {**os.environ, **self.places(role), "HOME": str(self.home),
               "CURL_CA_BUNDLE": str(self.dir / "ca.crt")}
        return ns.exec("sh", "-euc", self.rooted(script), env=env, cwd=self.dir, **kw)

    def places(self, role):
        """The defaults that name folders, as settings in the environment."""
        if role is None:
            return {}
        env = {**SANITIZER_ENV, "KAKUREMICHI_STATE_DIR": self.root / f"var/lib/kakuremichi/{role}"}
        if role != "control":
            env |= {"KAKUREMICHI_RUNTIME_DIR": self.root / f"run/kakuremichi/{role}",
                    "KAKUREMICHI_API_KEY_FILE": self.root / f"etc/kakuremichi/{role}.key"}
        if role == "gateway":
            env["KAKUREMICHI_CERTIFICATE_DIR"] = self.root / "etc/kakuremichi/certificates"
        return {k: str(v) for k, v in env.items()}

    def start(self, ns, name):
        role = name[:-1]
        program = self.root / "usr/sbin" / name
        conf = self.root / f"etc/kakuremichi/{role}.conf"
        env = self.places(role)
        # As the unit does before it starts the daemon.
        assert "valid" in run(program, "-t", "-c", conf, env={**os.environ, **env})
        p = Proc(name, ns.argv(str(program), "-c", str(conf)), self.dir / f"{name}.log", env=env)
        self.procs.append(p)
        return p

    def mode(self, path):
        st = (self.root / path).stat()
        return f"{pwd.getpwuid(st.st_uid).pw_name} {st.st_mode & 0o777:04o}"

    def close(self):
        """Ends all, the last started first, and gives their statuses."""
        statuses = [(p.name, p.stop()) for p in reversed(self.procs)]
        if self.net:
            self.net.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        return statuses


@pytest.fixture
def walk():
    w = Walk()
    try:
        yield w
    finally:
        for p in w.procs:
            print(f"---- {p.name}\n{p.tail(100)}")  # seen when the test fails
        statuses = w.close()
    assert all(s == 0 for name, s in statuses if name != "target"), statuses
    assert not w.dir.exists()
    assert not [n for n in run("ip", "netns", "list").split() if n.startswith(w.net.prefix)]


def install(w):
    subprocess.run(["make", "-s", "-C", str(ROOT), "install", f"BUILD={BUILD}", f"DESTDIR={w.root}",
                    "PREFIX=/usr"], check=True, timeout=120)


def test_the_way_on_real_servers(walk):
    w, lab = walk, walk.net
    assert "make install" in w.readme["build"]
    install(w)

    # 1. control
    w.write_conf("control.conf")
    w.start(lab.control, "controld").wait_log("control ready", timeout=60)
    w.sh(lab.control, w.readme["operator"])
    out = w.sh(lab.control, w.readme["shell"])
    gateway, agent = (json.loads(part) for part in re.findall(r"\{.*?\}(?=\s*(?:\{|$))", out, re.S))
    shell = "".join(re.findall(r"^(?:api=|kc\(\)).*\n", w.readme["shell"], re.M))

    # 2. gateway
    w.write_conf("gateway.conf")
    make_certificate(w.dir, DOMAIN, w.dir)
    pem = (w.dir / DOMAIN).read_text()
    cut = pem.index("-----BEGIN CERTIFICATE")
    (w.dir / "privkey.pem").write_text(pem[:cut])
    (w.dir / "fullchain.pem").write_text(pem[cut:])
    said = w.sh(lab.gateway, w.readme["gateway"], role="gateway", input=gateway["joinToken"] + "\n")
    assert "This host is gateway gateway-1 now." in said and "kakuremichi-gatewayd" in said
    g = w.start(lab.gateway, "gatewayd")

    # 3. agent
    said = w.sh(lab.agent, w.readme["agent"], role="agent", input=agent["joinToken"] + "\n")
    assert "This host is agent home now." in said and "kakuremichi-agentd" in said
    a = w.start(lab.agent, "agentd")
    service = Proc("target", lab.agent.argv("/usr/bin/python3", str(ROOT / "tests/lab/target.py"), "8080"),
                   w.dir / "target.log")
    w.procs.append(service)
    service.wait_log("target listens")
    for p in (g, a):
        p.wait_log("configuration applied")

    # 4. the tunnel; the stranger asks without the operator's help
    create, ask = w.readme["tunnel"].strip().split("\n")
    mark = g.mark()
    tunnel = json.loads(w.sh(lab.control, shell + create.replace("…", agent["id"])))
    assert tunnel["domain"] == DOMAIN
    for p, since in ((g, mark), (a, 0)):
        p.wait_log("configuration applied", "type=tunnel_create", since=since)
    a.wait_log("path to gateway is up")
    assert w.sh(lab.stranger, ask.replace("curl", "curl -sS")) == "hello\n"

    # What docs/operating.md tells to watch.
    for ns, port, role in ((lab.gateway, 9101, "gateway"), (lab.agent, 9102, "agent")):
        assert ns.exec("curl", "-sSf", f"http://127.0.0.1:{port}/readyz")
        metrics = ns.exec("curl", "-sSf", f"http://127.0.0.1:{port}/metrics")
        assert f"\nkakuremichi_{role}_link_up 1\n" in metrics
        assert re.search(rf"\nkakuremichi_{role}_revision [1-9]", metrics)

    # The man pages and the units are where they belong.
    for page in ("man5/control.conf.5", "man5/gateway.conf.5", "man5/agent.conf.5", "man8/controld.8",
                 "man8/gatewayd.8", "man8/agentd.8", "man8/km-warden.8", "man1/kmctl.1"):
        assert (w.root / "usr/share/man" / page).stat().st_size > 500
    for name in ("controld", "gatewayd", "agentd"):
        unit = (w.root / f"usr/lib/systemd/system/kakuremichi-{name}.service").read_text()
        conf = " -c %d/agent.conf" if name == "agentd" else ""
        assert f"\nExecStart=/usr/sbin/{name}{conf}\n" in unit
        assert f"kakuremichi-{name}`" in (ROOT / "README.md").read_text()

    # Who may read what.
    state = "var/lib/kakuremichi"
    pg = f"{state}/control/postgres/data"
    assert {p: w.mode(p) for p in (
        state, f"{state}/control", pg, f"{state}/control/admin.token",
        f"{state}/control/master.key", f"{state}/control/root.crt", f"{state}/gateway",
        f"{state}/gateway/wireguard.key", f"{state}/agent", f"{state}/agent/wireguard.key",
        "run/kakuremichi/gateway", "etc/kakuremichi/certificates", "etc/kakuremichi/gateway.key",
        "etc/kakuremichi/gateway.conf", "etc/kakuremichi/agent.key", "etc/kakuremichi/agent.conf",
        f"{state}/agent/trust.pem", f"{state}/agent/identity.pem",
    )} == {
        state: "root 0755", f"{state}/control": "root 0711", pg: "postgres 0700",
        f"{state}/control/admin.token": "root 0600", f"{state}/control/master.key": "root 0600",
        f"{state}/control/root.crt": "root 0644", f"{state}/gateway": "root 0700",
        f"{state}/gateway/wireguard.key": "root 0600", f"{state}/agent": "root 0700",
        f"{state}/agent/wireguard.key": "root 0600", "run/kakuremichi/gateway": "root 0700",
        "etc/kakuremichi/certificates": "root 0700", "etc/kakuremichi/gateway.key": "root 0600",
        "etc/kakuremichi/gateway.conf": "root 0600", "etc/kakuremichi/agent.key": "root 0600",
        "etc/kakuremichi/agent.conf": "root 0600", f"{state}/agent/trust.pem": "root 0600",
        f"{state}/agent/identity.pem": "root 0600",
    }


def test_the_guide_names_what_exists():
    """Metrics, log lines and settings in docs/operating.md are found in the source."""
    guide = (ROOT / "docs/operating.md").read_text()
    source = "".join(p.read_text() for d in ("libkm", "controld", "gatewayd", "agentd", "warden")
                     for p in (ROOT / d).rglob("*.c"))
    for name in set(re.findall(r"kakuremichi_\w+", guide)):
        parts = (name, name.removeprefix("kakuremichi_"), re.sub("kakuremichi_(agent|gateway)_", "", name))
        assert any(re.search(f"[\"']{p}[\"'{{]", source) for p in parts), name
    joined = re.sub(r'"\s*"', "", source)
    lines = guide.split("## What a log line means")[1].split("\n## ")[0]
    for cell in re.findall(r"^\| (`.*?) \|", lines, re.M):
        for line in re.findall(r"`([^`]*)`", cell):
            for part in re.split(r"\s*\w+=\w*…?|[…\"]", line):
                assert part.strip() in joined, line
    limits = guide.split("## Limits")[1].split("\n## ")[0]
    for key in set(re.findall(r"`([a-z]+_[a-z_]+)`", limits)):
        assert f'.key = "{key}"' in source, key
