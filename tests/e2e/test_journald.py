# SPDX-License-Identifier: MIT
"""The access log in the journal: a real systemd-journald, in mounts of its own with a /run of its own, in which the
gateway of test_edge.py runs too.

    stranger ── gateway ── stand-in agent
                   └─ /run/systemd/journal/socket ── systemd-journald ── journalctl
"""
import json
import os
import pathlib
import subprocess
import time

import pytest

import test_edge as base
from tests.lab.proc import patience

JOURNALD = next((p for p in ("/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald") if os.path.exists(p)), None)
# Neither the kernel's messages nor its audit are anything to this one.
CONF = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nForwardToSyslog=no\nRateLimitBurst=0\nRuntimeMaxUse=32M\n"


class Journal:
    def __init__(self, folder):
        self.run = pathlib.Path(folder) / "run"
        (self.run / "systemd" / "journal").mkdir(parents=True)
        (self.run / "log" / "journal").mkdir(parents=True)
        self.conf = pathlib.Path(folder) / "journald.conf"
        self.conf.write_text(CONF)
        self.proc = None

    def inside(self, *more):
        """A command for what shall find this /run."""
        steps = [f"mount --bind {self.run} /run", *more, 'exec "$@"']
        return ["unshare", "-m", "sh", "-ec", "\n".join(steps), "sh"]

    def start(self):
        self.proc = subprocess.Popen([*self.inside(f"mount --bind {self.conf} /etc/systemd/journald.conf"), JOURNALD],
                                     stderr=subprocess.PIPE, text=True)
        self.until(lambda: self.listens(), "no socket")

    def listens(self):
        assert self.proc.poll() is None, self.proc.stderr.read()
        sock = base.socket.socket(base.socket.AF_UNIX, base.socket.SOCK_DGRAM)
        try:
            sock.connect(str(self.run / "systemd" / "journal" / "socket"))
            return True
        except OSError:
            return False
        finally:
            sock.close()

    def stop(self):
        if self.proc:
            self.proc.terminate()
            assert self.proc.wait(patience(20)) == 0
            self.proc.stderr.close()
            self.proc = None

    def until(self, what, why):
        end = time.monotonic() + patience(20)
        while not (got := what()):
            assert time.monotonic() < end, why
            time.sleep(0.02)
        return got

    def entries(self, *match):
        out = subprocess.run(["journalctl", "-q", "-D", self.run / "log" / "journal", "-o", "json", "--all", "--no-pager",
                              "SYSLOG_IDENTIFIER=gatewayd-access", *match], capture_output=True, text=True)
        return [json.loads(line) for line in out.stdout.splitlines()]

    def wait(self, n, *match):
        return self.until(lambda: len(e := self.entries(*match)) >= n and e, f"not {n} with {match}: {self.entries()[-5:]}")


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    assert JOURNALD, "systemd is missing: make check installs it"
    j = Journal(tmp_path_factory.mktemp("journal"))
    try:
        j.start()
        yield j
    finally:
        j.stop()


@pytest.fixture(scope="module")
def gateway(journal):
    class Gateway(base.Gateway):
        under = journal.inside()
    agent = base.Agent()
    try:
        with base.running(kind=Gateway, access_log="journald") as g:
            yield g
    finally:
        agent.close()


def ask(g, path, host="hello.test", extra=""):
    with g.tls() as sock:
        return base.Client(sock).get(path, host=host, extra=extra).status


def test_fields(journal, gateway):
    assert ask(gateway, "/hello?a=b", extra="User-Agent: probe\r\nReferer: https://x.test/\r\nCookie: secret\r\n") == 200
    e, = journal.wait(1, "KM_PATH=/hello?a=b")
    own = {k: v for k, v in e.items() if k.startswith("KM_")}
    assert own.pop("KM_TIME").endswith("Z") and int(own.pop("KM_DURATION_MS")) >= int(own.pop("KM_FIRST_BYTE_MS")) >= 0
    assert int(own.pop("KM_BYTES_OUT")) > 0 and own.pop("KM_TLS").startswith("TLSv1.")
    assert own == {"KM_CLIENT": "127.0.0.1", "KM_VERSION": "HTTP/1.1", "KM_METHOD": "GET", "KM_HOST": "hello.test",
                   "KM_PATH": "/hello?a=b", "KM_STATUS": "200", "KM_BYTES_IN": "0", "KM_TUNNEL": base.TUNNEL["hello.test"],
                   "KM_UPSTREAM": "new", "KM_USER_AGENT": "probe", "KM_REFERER": "https://x.test/"}
    assert (e["MESSAGE"], e["PRIORITY"], e["_TRANSPORT"]) == ("127.0.0.1 GET /hello?a=b HTTP/1.1 200", "6", "journal")
    assert e["_PID"] == str(gateway.proc.pid) and "secret" not in json.dumps(e)


def test_any_bytes(journal, gateway):
    """No field of a stranger's becomes another field, or another entry."""
    before = len(journal.entries())
    with gateway.tls() as sock:
        c = base.Client(sock)
        c.send(b"GET /hello?bytes HTTP/1.1\r\nHost: hello.test\r\nUser-Agent: \xff\xc3\xa9\tKM_STATUS=999 \x80\r\n\r\n")
        assert c.answer().status == 200
    e, = journal.wait(1, "KM_PATH=/hello?bytes")
    assert e["KM_STATUS"] == "200" and "KM_STATUS=999" in e["KM_USER_AGENT"] and "\\xc3" in e["KM_USER_AGENT"]
    with gateway.plain() as sock:
        sock.sendall(b"GET /\nKM_STATUS=999\n\n HTTP/1.1\r\n\r\n")
        assert base.Client(sock).answer().status == 400
    journal.wait(1, "KM_STATUS=400")
    assert len(journal.entries()) == before + 2 and not journal.entries("KM_STATUS=999")


def test_all_of_many(journal, gateway):
    with gateway.tls() as sock:
        c = base.Client(sock)
        for n in range(2000):
            assert c.get(f"/hello?many={n}").status == 200
    got = journal.until(lambda: len(e := [x for x in journal.entries() if "?many=" in x.get("KM_PATH", "")]) == 2000 and e, "not all")
    assert {x["KM_PATH"] for x in got} == {f"/hello?many={n}" for n in range(2000)}
    assert gateway.metric("kakuremichi_access_log_lost_total") == 0


def test_without_it_for_a_while(journal, gateway):
    """Requests go on; what the journal did not take is counted; the next one that runs gets the rest."""
    journal.stop()
    assert ask(gateway, "/hello?away") == 200
    gateway.until(lambda: gateway.metric("kakuremichi_access_log_lost_total") == 1)
    journal.start()
    assert ask(gateway, "/hello?back") == 200
    journal.wait(1, "KM_PATH=/hello?back")
    assert not journal.entries("KM_PATH=/hello?away")
