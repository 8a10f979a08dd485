# SPDX-License-Identifier: MIT
"""SIGTERM: every daemon ends with status 0 (LeakSanitizer included) and loses nothing it accepted."""
import threading

from tests.lab import client
from tests.lab.proc import patience


class Load:
    """Strangers who ask again and again, each on a connection of its own per round."""

    def __init__(self, system, threads=8, path="/bytes/65536"):
        self.system, self.path = system, path
        self.ok, self.refused, self.lost = 0, 0, []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.first = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for t in self._threads:
            t.start()

    def _run(self):
        while not self._stop.is_set():
            conn = self.system.stranger()
            try:
                conn.connect()
            except OSError:
                with self._lock:
                    self.refused += 1
                self._stop.wait(0.02)
                continue
            try:
                a = client.request(conn, "GET", self.path)
                with self._lock:
                    if a.status == 200 and len(a.body) == 65536:
                        self.ok += 1
                        self.first.set()
                    else:
                        self.lost.append(repr(a))
            except (OSError, client.http.client.HTTPException) as e:
                with self._lock:
                    self.lost.append(repr(e))
            finally:
                conn.close()

    def stop(self):
        self._stop.set()
        for t in self._threads:
            t.join()


def test_gateway_sigterm_under_load_loses_nothing(served):
    s = served
    for _ in range(3):
        load = Load(s)
        try:
            assert load.first.wait(patience(20))
            assert s.stop("gatewayd") == 0
            s.start_gateway(wait=False)
            s.wait_served()
        finally:
            load.stop()
        assert load.lost == [] and load.ok > 0, load.lost


def test_agent_sigterm_lets_running_requests_finish(served):
    s = served
    conn = s.stranger(timeout=60)
    n = 64 << 20
    conn.request("GET", f"/bytes/{n}")
    r = conn.getresponse()
    first = r.read(1 << 20)
    p = s.procs["agentd"]
    mark = p.mark()
    p.signal(15)
    p.wait_log("draining", since=mark)
    rest = r.read()
    assert len(first) + len(rest) == n
    conn.close()
    assert s.stop("agentd") == 0
    s.start_agent(wait=False)
    s.wait_served()


def test_every_daemon_ends_clean_in_any_order(served):
    s = served
    for name in ("controld", "agentd", "gatewayd"):
        assert s.stop(name) == 0
        assert s.family(name) == []
    assert s.net.agent.pids() == [s.procs["target"].pid]
    assert s.net.gateway.pids() == []
    assert s.net.control.pids() == []
