# SPDX-License-Identifier: MIT
"""What tests of certificates have in common."""
import threading
import time

from .proc import LabError, patience


def start(s, **more):
    """A gateway that has joined before: until it has control's word, which need not be a new one."""
    gateway = s.start_gateway(wait=False, **more)
    gateway.wait_log("authenticated")
    return gateway


def said(s, name, text):
    """Until the gateway says why there is no certificate for this name (control knows within ten seconds)."""
    return s.procs["gatewayd"].wait_log("no certificate", name, text)


class Handshakes(threading.Thread):
    """New connections of a stranger, one after the other, each with a request, until the end of the block."""

    def __init__(self, s, name):
        super().__init__(daemon=True)
        self.s, self.name_, self.done, self.failed, self._end = s, name, 0, [], threading.Event()

    def run(self):
        while not self._end.is_set():
            try:
                a = self.s.get(domain=self.name_)
                if a.status != 200:
                    raise LabError(repr(a))
                self.done += 1
            except (OSError, LabError) as e:
                self.failed.append(repr(e))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc):
        self._end.set()
        self.join()


def renewals(s, name, times, life):
    """Waits until that many other certificates have been served, under load."""
    with Handshakes(s, name) as load:
        seen = [s.leaf(name)]
        end = time.monotonic() + patience(3 * life)
        while len(seen) <= times:
            leaf = s.leaf(name)
            if leaf != seen[-1]:
                seen.append(leaf)
                end = time.monotonic() + patience(3 * life)
            assert time.monotonic() < end, f"{len(seen) - 1} renewals only"
            time.sleep(0.2)
    assert load.done > 10 * times and not load.failed, (load.done, load.failed[:3], len(load.failed))
    assert len(set(seen)) == len(seen)
    return load.done
