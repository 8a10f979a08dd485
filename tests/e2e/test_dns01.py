# SPDX-License-Identifier: MIT
"""The records of dns-01: gatewayd's code, driven by tests/lab/dns_drive.c, against real servers (knotd) in a
namespace of their own, and against stand-ins for two companies' APIs.

      driver ── 127.0.0.2 primary of example.test (updates by key), other.test
             ── 127.0.0.3 second server of example.test: takes it from the primary, or never does
"""
import base64
import os
import pathlib
import queue
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import threading

import pytest

from tests.lab.dnsapis import Cloudflare, Route53
from tests.lab.net import Namespace
from tests.lab.proc import LabError, Proc, patience
from tests.lab.system import ROOT, SANITIZER_ENV

PRIMARY, SECOND = "127.0.0.2", "127.0.0.3"
KEY, OTHER_KEY = "update-key", "other-key"


class Driver:
    def __init__(self, world, **settings):
        self.dir = pathlib.Path(tempfile.mkdtemp(dir=world.dir))
        conf = self.dir / "gateway.conf"
        settings = {"control": "wss://127.0.0.1:1", "control_pin": "sha256//" + "A" * 43 + "=",
                    "ca_pin": "0" * 64, "state_dir": self.dir, "dns_resolvers": PRIMARY, **settings}
        conf.write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))
        self.errors = open(self.dir / "stderr", "w+")
        self.popen = subprocess.Popen(
            world.ns.argv(str(world.build / "dns-drive"), "-c", str(conf)), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1,
            env={**os.environ, **SANITIZER_ENV})
        self.answers, self._cond, self._n = {}, threading.Condition(), 0
        self._lines = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        self.ready = self._lines.get(timeout=patience(30)) == "ready"
        world.drivers.append(self)

    def _read(self):
        for line in self.popen.stdout:
            if line.startswith("ready"):
                self._lines.put("ready")
                continue
            number, verdict, text = (line.rstrip("\n") + " ").split(" ", 2)
            with self._cond:
                self.answers[int(number)] = (verdict, text.strip())
                self._cond.notify_all()
        self._lines.put("ended")

    def say(self, *words):
        """The number of the command, for `wait`."""
        return self.say_lines(" ".join(words))[0]

    def say_lines(self, *lines):
        """Several commands, which the driver reads in one piece."""
        first = self._n + 1
        self._n += len(lines)
        self.popen.stdin.write("\n".join(lines) + "\n")
        return range(first, self._n + 1)

    def wait(self, number, timeout=60):
        with self._cond:
            if not self._cond.wait_for(lambda: number in self.answers, patience(timeout)):
                raise LabError(f"no answer to command {number}:\n{self.stderr()}")
            return self.answers[number]

    def ok(self, *words):
        number = self.say(*words)
        verdict, text = self.wait(number)
        assert verdict == "ok", text
        return number

    def fails(self, *words):
        verdict, text = self.wait(self.say(*words))
        assert verdict == "failed"
        return text

    def pending(self, number):
        with self._cond:
            return number not in self.answers

    def stderr(self):
        return (self.dir / "stderr").read_text()

    def close(self):
        try:
            self.popen.stdin.close()
        except BrokenPipeError:
            pass  # it has crashed, as its status says
        try:
            status = self.popen.wait(patience(20))
        except subprocess.TimeoutExpired:
            self.popen.kill()
            status = self.popen.wait()
        self._thread.join(10)
        self.popen.stdout.close()
        self.errors.close()
        return status


class World:
    def __init__(self):
        self.build = pathlib.Path(os.environ.get("KM_BUILD", ROOT / "build")).resolve()
        if not (self.build / "dns-drive").exists():
            raise LabError(f"{self.build}/dns-drive is missing: make {self.build.name}/dns-drive")
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="kmdns-"))
        self.procs, self.drivers, self.apis = {}, [], []
        self.secrets = {k: base64.b64encode(secrets.token_bytes(n)).decode()
                        for k, n in ((KEY, 32), (OTHER_KEY, 64))}
        self.ns = Namespace(f"kmdns{os.getpid()}", "")

    def knot(self, name, address, zones, keys=True):
        """zones: {origin: (records, options)}."""
        program = shutil.which("knotd") or shutil.which("knotd", path="/usr/sbin")
        if program is None:
            raise LabError("knotd is missing: sh packaging/setup.sh check")
        d = self.dir / name
        d.mkdir()
        conf = (f"server:\n  rundir: {d}\n  listen: {address}@53\n  udp-workers: 1\n  tcp-workers: 1\n"
                f"  background-workers: 1\nlog:\n  - target: stdout\n    any: info\n"
                f"database:\n  storage: {d}\n"
                f"key:\n  - id: {KEY}\n    algorithm: hmac-sha256\n    secret: {self.secrets[KEY]}\n"
                f"  - id: {OTHER_KEY}\n    algorithm: hmac-sha512\n    secret: {self.secrets[OTHER_KEY]}\n"
                f"remote:\n  - id: primary\n    address: {PRIMARY}@53\n"
                f"  - id: second\n    address: {SECOND}@53\n"
                "acl:\n  - id: update\n    key: update-key\n    action: update\n"
                "  - id: challenges\n    key: other-key\n    action: update\n    update-type: TXT\n"
                "    update-owner: name\n    update-owner-match: sub-or-equal\n"
                "    update-owner-name: _acme-challenge.only.example.test.\n"
                f"  - id: transfer\n    address: 127.0.0.0/8\n    action: [transfer, notify]\n"
                "zone:\n")
        for origin, (records, options) in zones.items():
            (d / origin).write_text(
                f"$ORIGIN {origin}.\n$TTL 0\n@ SOA ns1.example.test. host.example.test. 1 3600 600 86400 0\n{records}\n")
            conf += (f"  - domain: {origin}\n    storage: {d}\n    zonefile-sync: -1\n    semantic-checks: off\n"
                     + "".join(f"    {o}\n" for o in options))
            if not any(o.startswith("master") for o in options):
                conf += f"    file: {origin}\n"
        (d / "knot.conf").write_text(conf)
        p = self.procs[name] = Proc(name, self.ns.argv(program, "-c", str(d / "knot.conf")), self.dir / f"{name}.log")
        p.wait_log("server started")
        for origin in zones:
            p.wait_log(f"[{origin}.]", "loaded" if f"    file: {origin}\n" in conf else "finished")
        return p

    def api(self, kind, *args, **kw):
        a = kind(self.ns, *args, **kw)
        self.apis.append(a)
        return a

    def rfc2136(self, **changes):
        values = {"server": PRIMARY, "key_name": KEY, "key_algorithm": "hmac-sha256",
                  "key_secret": self.secrets[KEY], **changes}
        return self.file(**values)

    def file(self, mode=0o600, **values):
        fd, path = tempfile.mkstemp(dir=self.dir)
        with os.fdopen(fd, "w") as f:
            f.write("".join(f"{k} = {v}\n" for k, v in values.items() if v is not None))
        os.chmod(path, mode)
        return path

    def driver(self, *, provider="rfc2136", file=None, **settings):
        if provider == "rfc2136":
            file = file or self.rfc2136()
        if file:
            settings["dns_provider_file"] = file
        return Driver(self, dns_provider=provider, **settings)

    def txt(self, name, server=PRIMARY):
        out = self.ns.exec("kdig", f"@{server}", "+short", "+norec", name, "TXT")
        return sorted(line.strip('"') for line in out.splitlines() if line.startswith('"'))

    def close(self):
        statuses = [d.close() for d in self.drivers]
        texts = [d.dir.joinpath("stderr").read_text() for d in self.drivers]
        for p in self.procs.values():
            p.stop()
        for a in self.apis:
            a.stop()
            texts += a.complaints
            statuses += [2] * len(a.complaints)
        self.ns.close()
        shutil.rmtree(self.dir)
        return [t for s, t in zip(statuses, texts) if s not in (0, 1)]


EXAMPLE = f"@ NS ns1\nns1 A {PRIMARY}\n"
BOTH = f"{EXAMPLE}@ NS ns2\nns2 A {SECOND}\n"
UPDATES = ["acl: [update, challenges, transfer]"]


@pytest.fixture
def world():
    w = World()
    try:
        yield w
    finally:
        logs = {name: p.tail() for name, p in w.procs.items()}
        complaints = w.close()
        print(*(f"--- {name}\n{text}" for name, text in logs.items()), sep="\n")
        assert not complaints, "\n".join(complaints)


def test_present_and_cleanup(world):
    world.knot("primary", PRIMARY, {"example.test": (EXAMPLE, UPDATES)})
    d = world.driver()
    one = d.ok("present", "www.example.test", "value-one")
    assert world.txt("_acme-challenge.www.example.test") == ["value-one"]
    # a wildcard and its parent share the name: two values at once, each taken away by itself
    two = d.say("present", "www.example.test", "value-two")
    three = d.say("present", "www.example.test", "value-three")
    assert d.wait(two)[0] == d.wait(three)[0] == "ok"
    assert world.txt("_acme-challenge.www.example.test") == ["value-one", "value-three", "value-two"]
    d.ok("remove", str(one))
    d.ok("delete", "_acme-challenge.www.example.test", "value-three")
    d.ok("delete", "_acme-challenge.www.example.test", "value-one")  # again, which is no error
    assert world.txt("_acme-challenge.www.example.test") == ["value-two"]
    d.ok("remove", str(two))
    d.ok("delete", "_acme-challenge.www.example.test", "value-two")
    assert world.txt("_acme-challenge.www.example.test") == []


def test_delegated(world):
    """CNAMEs lead to another zone; the zone's end is found by SOA, not by counting labels."""
    world.knot("primary", PRIMARY, {
        "example.test": (f"{EXAMPLE}_acme-challenge.www CNAME step\nstep CNAME a.b.c.other.test.\n"
                         "_acme-challenge.loop CNAME loop2\nloop2 CNAME loop3\nloop3 CNAME loop2\n"
                         "_acme-challenge.self CNAME _acme-challenge.self\n"
                         '_acme-challenge.odd CNAME x\\;y.other.test.', UPDATES),
        "other.test": ("@ NS ns1.example.test.", UPDATES)})
    d = world.driver()
    d.ok("present", "www.example.test", "far-away")
    assert world.txt("a.b.c.other.test") == ["far-away"]
    for name in ("loop", "self"):
        assert d.fails("present", f"{name}.example.test", "x") == f"the CNAMEs of _acme-challenge.{name}.example.test have no end"
    assert "leads to a name that is not a host's" in d.fails("present", "odd.example.test", "x")


def test_every_server_must_show_it(world):
    world.knot("primary", PRIMARY, {"example.test": (BOTH, UPDATES + ["notify: second"])})
    world.knot("second", SECOND, {"example.test": ("", ["master: primary", "acl: transfer"])})
    d = world.driver()
    d.ok("present", "www.example.test", "on-both")
    assert world.txt("_acme-challenge.www.example.test", SECOND) == ["on-both"]


def test_a_server_that_lags(world):
    primary = world.knot("primary", PRIMARY, {"example.test": (BOTH, UPDATES)})
    second = world.knot("second", SECOND, {"example.test": (BOTH, UPDATES)})
    d = world.driver(dns_timeout="3s")
    text = d.fails("present", "www.example.test", "never-there")
    assert text == ("the TXT record of _acme-challenge.www.example.test was not seen on 127.0.0.3, a server of "
                    "the zone example.test, within 3 s: it does not show the value")
    d = world.driver()
    mark = primary.mark()
    late = d.say("present", "late.example.test", "late")
    primary.wait_log("DDNS, finished", since=mark)
    assert world.txt("_acme-challenge.late.example.test", PRIMARY) == ["late"]
    assert d.pending(late)
    by_hand = world.driver(file=world.rfc2136(server=SECOND))
    by_hand.ok("add", "_acme-challenge.late.example.test", "late")
    assert d.wait(late) == ("ok", "")
    # One that is dead is not waited for, if the others show it.
    assert second.stop() == 0
    d.ok("present", "dead.example.test", "one-suffices")


def test_taken_away_at_any_time(world):
    """Before it is written, while the servers are asked, after a failure: nothing stays behind."""
    primary = world.knot("primary", PRIMARY, {"example.test": (BOTH, UPDATES)})
    world.knot("second", SECOND, {"example.test": (BOTH, UPDATES)})
    name = "_acme-challenge.www.example.test"
    d = world.driver()
    at_once, removed = d.say_lines("present www.example.test at-once", "remove 1")
    assert d.wait(removed)[0] == "ok"
    mark = primary.mark()
    asked = d.say("present", "www.example.test", "asked")
    primary.wait_log("DDNS, finished", since=mark)
    assert world.txt(name) == ["asked"]
    mark = primary.mark()
    d.ok("remove", str(asked))
    primary.wait_log("DDNS, finished", since=mark)
    assert world.txt(name) == []
    quick = world.driver(dns_timeout="3s")
    assert quick.fails("present", "www.example.test", "too-late")
    mark = primary.mark()
    quick.ok("remove", "1")
    primary.wait_log("DDNS, finished", since=mark)
    assert world.txt(name) == []
    assert d.pending(at_once) and d.pending(asked)


def test_an_answer_too_long_for_udp(world):
    """Fifty values under one name, as of a wildcard tried again and again."""
    values = [secrets.token_urlsafe(32) for _ in range(50)]
    old = "".join(f'_acme-challenge.www TXT "{v}"\n' for v in values)
    world.knot("primary", PRIMARY, {"example.test": (EXAMPLE + old, UPDATES)})
    d = world.driver()
    one = d.ok("present", "www.example.test", "the-new-one")
    assert sorted(values + ["the-new-one"]) == world.txt("_acme-challenge.www.example.test")
    d.ok("remove", str(one))


def test_refusals(world):
    world.knot("primary", PRIMARY, {"example.test": (EXAMPLE, UPDATES), "fixed.test": ("@ NS ns1.example.test.", [])})
    name = "_acme-challenge.www.example.test"
    about = f"adding the TXT record of {name} in the zone example.test by {PRIMARY}: "

    def refused(**changes):
        return world.driver(file=world.rfc2136(**changes)).fails("add", name, "x")

    bad_key = "the server does not know the key by this name and algorithm, or does not let it change this name (BADKEY)"
    wrong = base64.b64encode(b"x" * 32).decode()
    assert refused(key_secret=wrong) == about + "the key's secret or algorithm is not the server's (BADSIG)"
    assert refused(key_name="nobody") == about + bad_key
    assert refused(key_algorithm="hmac-sha512") == about + bad_key
    assert refused(key_name=OTHER_KEY, key_algorithm="hmac-sha512", key_secret=world.secrets[OTHER_KEY]) == about + bad_key
    assert refused(zone="other.test") == (
        f"adding the TXT record of {name} in the zone other.test by {PRIMARY}: the name is not in the zone that "
        "dns_provider_file names")
    world.knot("second", SECOND, {"third.test": ("@ NS ns1.example.test.", UPDATES)})
    assert refused(server=SECOND).endswith("the server does not hold this zone, or does not take the key (NOTAUTH)")
    assert refused(port=54) == about + "no answer: Connection refused"
    assert refused(server="nowhere.example.test") == about.replace(PRIMARY, "nowhere.example.test") + (
        "the server's address could not be found")
    d = world.driver()
    assert d.fails("add", "www.fixed.test", "x").endswith(bad_key)
    assert d.fails("add", "www.elsewhere.invalid", "x").endswith(
        "the zone of www.elsewhere.invalid could not be found: the DNS servers failed or cannot be reached")
    assert world.txt(name) == []
    # SHA-512, a server by its name, a zone by setting; and a name that this key may change
    d = world.driver(file=world.rfc2136(server="ns1.example.test", zone="example.test.", key_name=OTHER_KEY,
                                        key_algorithm="hmac-sha512", key_secret=world.secrets[OTHER_KEY]))
    d.ok("present", "only.example.test", "by-sha512")
    assert world.txt("_acme-challenge.only.example.test") == ["by-sha512"]


def test_an_answer_must_be_signed(world):
    """Somebody on the way says that all is well; and what is no answer at all is not taken for one."""
    world.knot("primary", PRIMARY, {"example.test": (EXAMPLE, UPDATES)})
    sock = world.ns.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.bind((SECOND, 53))
        sock.settimeout(patience(20))
        d = world.driver(file=world.rfc2136(server=SECOND, zone="example.test"))
        number = d.say("add", "_acme-challenge.example.test", "x")
        question, sender = sock.recvfrom(4096)
        assert question[2] >> 3 == 5 and b"\x0aupdate-key" in question  # UPDATE, signed
        wrong_id = bytes([question[0] ^ 1]) + question[1:2]
        for answer in (b"", question, wrong_id + b"\xa8\x05" + bytes(8), question[:2] + b"\x28\x05" + bytes(8)):
            sock.sendto(answer, sender)
        sock.sendto(question[:2] + b"\xa8\x00" + bytes(8), sender)
        verdict, text = d.wait(number)
    assert (verdict, text.rpartition(": ")[2]) == ("failed", "its answer is not signed by the key")


def test_files_that_are_wrong(world):
    def says(**kw):
        d = world.driver(**kw)
        assert not d.ready and d.close() == 1
        return d.stderr()

    assert "dns_provider = cloudflare needs dns_provider_file" in says(provider="cloudflare")
    text = says(provider="cloudflare", file=world.file(api_url="ftp://x", api_tokne="s3cret"))
    assert "api_token" in text and "https:// URL" in text and "s3cret" not in text
    text = says(provider="route53", file=world.file(access_key_id="AKIA", secret_access_key="two words"))
    assert "credentials" in text and "two words" not in text
    assert "chmod 600" in says(file=world.file(mode=0o640, server="192.0.2.1"))
    text = says(file=world.file(server="..", port=0, key_algorithm="md5", unknown="x"))
    for what in ("server", "port", "key_algorithm", "unknown", "key_name is required", "key_secret is required"):
        assert what in text
    text = says(file=world.rfc2136(key_secret="tooshort"))
    assert "key_secret is not base64" in text and "tooshort" not in text


def test_hook(world):
    out = world.dir / "calls"
    hook = world.dir / "hook"
    hook.write_text(f"""#!/bin/sh
printf '%s\\n' "$*" >> {out}
case "$2" in
*fails*) echo a first line >&2; echo no such zone >&2; exit 3 ;;
*silent*) exit 1 ;;
*killed*) kill -TERM $$ ;;
*slow*) echo waiting >&2; (exec sleep 1000) & echo $! > {world.dir}/slow.pid; wait ;;
*loud*) head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo enough >&2; exit 4 ;;
esac
""")
    hook.chmod(0o755)
    d = world.driver(provider="hook", dns_hook=hook)
    d.ok("add", "_acme-challenge.a.test", "v")
    d.ok("delete", "_acme-challenge.a.test", "v; $(touch /nowhere)".replace(" ", ""))
    assert out.read_text().splitlines() == ["present _acme-challenge.a.test v",
                                            "cleanup _acme-challenge.a.test v;$(touch/nowhere)"]
    assert d.fails("add", "fails.test", "v") == f"{hook} ended with status 3: no such zone"
    assert d.fails("add", "silent.test", "v") == f"{hook} ended with status 1"
    assert d.fails("add", "killed.test", "v") == f"{hook} was ended by signal 15"
    assert d.fails("add", "loud.test", "v") == f"{hook} ended with status 4: enough"
    quick = world.driver(provider="hook", dns_hook=hook, dns_timeout="3s")
    assert quick.fails("add", "slow.test", "v") == f"{hook} was killed after 3 s: waiting"
    gone((world.dir / "slow.pid").read_text())
    # what still runs at the end is killed, its children too
    d = world.driver(provider="hook", dns_hook=hook)
    (world.dir / "slow.pid").unlink()
    os.mkfifo(world.dir / "slow.pid")
    d.say("add", "slow.test", "v")
    pid = (world.dir / "slow.pid").read_text()
    assert d.close() == 0
    gone(pid)
    hook.chmod(0o775)
    bad = world.driver(provider="hook", dns_hook=hook)
    assert not bad.ready and bad.close() == 1 and "may be changed by others" in bad.stderr()


def gone(pid):
    """Waits until a process that must have been killed is no more."""
    try:
        fd = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], patience(10))[0], f"process {pid} lives"
    finally:
        os.close(fd)


def test_persist(world):
    account = "https://ca.test/acct/1"
    world.knot("primary", PRIMARY, {"example.test": (
        f'{EXAMPLE}_validation-persist.a TXT "ca.test; accounturi={account}"\n'
        f'_validation-persist.b TXT "ca.test; accounturi={account}; policy=wildcard; persistUntil=9999999999"\n'
        f'_validation-persist.c TXT "ca.test; accounturi={account}; persistUntil=1000000000"\n'
        f'_validation-persist.d TXT "ca.test; accounturi={account}2"\n'
        f'_validation-persist.d TXT "other" ".test; accounturi={account}"\n'
        f'_validation-persist.e TXT "ca.te" "st; accounturi={account}"\n', UPDATES)})
    d = world.driver()
    for name, wildcard, ok in (("a", False, True), ("a", True, False), ("b", True, True), ("b", False, True),
                               ("c", False, False), ("d", False, False), ("e", False, True), ("f", False, False)):
        number = d.say("persist", f"{name}.example.test", "yes" if wildcard else "no", account, "ca.test")
        verdict, text = d.wait(number)
        assert verdict == ("ok" if ok else "failed"), (name, wildcard, text)
        if not ok:
            assert (f'publish this record: _validation-persist.{name}.example.test. IN TXT "ca.test; '
                    f'accounturi={account}{"; policy=wildcard" if wildcard else ""}"') in text


def test_cloudflare(world):
    """Zones by the longest suffix; values of one name apart from each other; pages of two records."""
    name, other = "_acme-challenge.a.deep.example.test", "_acme-challenge.b.example.test"
    here = [(name, f'"other-{i}"') for i in range(5)]
    cf = world.api(Cloudflare, {"example.test": [(other, "bare")], "deep.example.test": here, "test2": []}, per_page=2)
    d = world.driver(provider="cloudflare", file=world.file(api_token=cf.token, api_url=cf.url))
    d.ok("add", name, "mine")
    d.ok("add", name, "mine")  # it is there already: no error
    d.ok("add", name, "second")
    assert cf.texts() == sorted(here + [(name, '"mine"'), (name, '"second"'), (other, "bare")])
    assert {z for z, n, *_ in cf.records.values() if n == name} == {
        z for z, n in cf.zones.items() if n == "deep.example.test"}
    d.ok("delete", name, "mine")
    d.ok("delete", name, "mine")
    d.ok("delete", other, "bare")
    assert cf.texts() == sorted(here + [(name, '"second"')])
    about = f"Cloudflare, adding the TXT record of "
    assert d.fails("add", "x.elsewhere.test", "v") == (
        about + "x.elsewhere.test: no zone that the token may read holds this name")
    # too busy: tried again when it says, and given up in the end
    cf.trouble = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})]
    d.ok("add", other, "after-trouble")
    cf.trouble = [(429, {"Retry-After": "0"})] * 4
    assert d.fails("add", other, "v") == about + other + ": HTTP 429: busy (10000)"
    wrong = world.driver(provider="cloudflare", file=world.file(api_token="x" * 40, api_url=cf.url))
    assert wrong.fails("add", other, "v") == about + other + ": HTTP 403: Authentication error (10000)"
    low = world.driver(provider="cloudflare", file=world.file(api_token=cf.token, api_url=cf.url, ttl=30))
    assert "Invalid TTL" in low.fails("add", other, "v")
    nothing = "<html>Bad gateway</html>"
    with cf.lock:
        cf.handle = lambda *a: (200, nothing.encode(), {})
    assert d.fails("add", other, "v") == about + other + ": HTTP 200 with an answer that is not the API's"
    for driver in (d, wrong, low):
        assert cf.token not in driver.stderr() and "Bearer" not in driver.stderr()


def test_route53(world):
    """Values of a set are kept; a private zone of the same name is passed over, on a page of its own; signatures
    are checked by the stand-in."""
    name = "_acme-challenge.www.example.test"
    aws = world.api(Route53, [("ZPRIVATE1", "example.test", True), ("ZPUBLIC2", "example.test", False),
                              ("ZOTHER", "www.example.tesu", False)], per_page=1)
    zone = ("ZPUBLIC2", name)
    aws.sets[zone] = (300, ['"kept" "in <two> & parts"'])
    keys = dict(access_key_id=aws.key_id, secret_access_key=aws.secret, endpoint=aws.url)
    d = world.driver(provider="route53", file=world.file(**keys))
    d.ok("add", name, "one")
    with aws.lock:  # while the API is at one, others come: none may be lost
        numbers = [d.say("add", name, "two")]
        d.ok("remove", "0")
        numbers += [d.say("add", name, v) for v in ("three", "two")]
        d.ok("remove", "0")
    assert all(d.wait(n)[0] == "ok" for n in numbers)
    assert aws.sets[zone] == (300, ['"kept" "in <two> & parts"', '"one"', '"two"', '"three"'])
    for v in ("one", "three", "three", "two"):
        d.ok("delete", name, v)
    assert aws.sets[zone] == (300, ['"kept" "in <two> & parts"'])
    fresh = "_acme-challenge.example.test"
    d.ok("add", fresh, "x")
    assert aws.sets["ZPUBLIC2", fresh] == (60, ['"x"'])
    d.ok("delete", fresh, "x")
    assert ("ZPUBLIC2", fresh) not in aws.sets
    about = "Route 53, adding the TXT record of "
    assert d.fails("add", "x.elsewhere.test", "v") == (
        about + "x.elsewhere.test: no public hosted zone that the key may list holds this name")
    aws.trouble = [(400, {"Retry-After": "0"}), (503, {"Retry-After": "0"})]
    d.ok("add", fresh, "after-trouble")
    aws.trouble = [(400, {"Retry-After": "0"})] * 4
    assert d.fails("add", fresh, "v") == about + fresh + ": HTTP 400: Throttling: busy"
    wrong = world.driver(provider="route53", file=world.file(**{**keys, "secret_access_key": "x" * 40}))
    text = wrong.fails("add", fresh, "v")
    assert text.startswith(about + fresh + ": HTTP 403: SignatureDoesNotMatch: ") and "Key & signing" in text
    named = world.driver(provider="route53", file=world.file(**keys, zone_id="/hostedzone/ZPRIVATE1"))
    named.ok("add", fresh, "in-private")
    assert aws.sets["ZPRIVATE1", fresh] == (60, ['"in-private"'])
    assert not any("hostedzonesbyname" in r for r in aws.requests[-2:])
    assert aws.secret not in d.stderr()


def test_an_api_that_is_away(world):
    cf = world.api(Cloudflare, {"example.test": []})
    file = world.file(api_token=cf.token, api_url="http://127.0.0.1:9/")
    text = world.driver(provider="cloudflare", file=file).fails("add", "_acme-challenge.example.test", "v")
    assert text.startswith("Cloudflare, adding the TXT record of _acme-challenge.example.test: ") and "connect" in text
    # ended under way
    d = world.driver(provider="cloudflare", file=file)
    d.say("add", "_acme-challenge.example.test", "v")
    assert d.close() == 0
