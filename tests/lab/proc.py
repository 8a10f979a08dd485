# SPDX-License-Identifier: MIT
"""Processes that the lab owns: started with a parent-death signal, their log read as it comes."""
import ctypes
import os
import signal
import subprocess
import threading
import time

_libc = ctypes.CDLL(None, use_errno=True)
SLOW = float(os.environ.get("KM_SLOW", "1"))
_BUSY = 4


class LabError(Exception):
    pass


def patience(seconds):
    """How long to wait for what takes `seconds` at most on an ordinary machine: four times as long, as the machine
    may have much else to do, times KM_SLOW. A bound for what must come, and costs nothing when it does; no measure of
    how quick it was."""
    return seconds * SLOW * _BUSY


def until(what, seconds=30, why=None):
    """Until what() is true; its value."""
    end = time.monotonic() + patience(seconds)
    while not (got := what()):
        if time.monotonic() > end:
            raise LabError(f"not in {patience(seconds)} s: {why or what}")
        time.sleep(0.02)
    return got


def run(*argv, timeout=60, **kw):
    r = subprocess.run(argv, capture_output=True, text=True, timeout=patience(timeout), **kw)
    if r.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def _die_with_parent():
    _libc.prctl(1, signal.SIGKILL)


class Proc:
    """A daemon. Its standard error (and output) goes to `log`, line by line, and to the waiters."""

    def __init__(self, name, argv, log, env=None, die_with_parent=True):
        self.name = name
        self.log_path = log
        self.lines = []
        self._cond = threading.Condition()
        self._ended = self._stopping = False
        with open(log, "a"):
            pass
        self.popen = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})}, start_new_session=True,
            preexec_fn=_die_with_parent if die_with_parent else None)
        self.pid = self.popen.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with open(self.log_path, "a") as out:
            for raw in self.popen.stdout:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                out.write(line + "\n")
                out.flush()
                with self._cond:
                    self.lines.append(line)
                    self._cond.notify_all()
        with self._cond:
            self._ended = True
            self._cond.notify_all()

    def mark(self):
        """A position in the log, to wait for what comes after it."""
        with self._cond:
            return len(self.lines)

    def wait_log(self, *words, since=0, timeout=30):
        """Waits for a line that contains all words; returns it."""
        timeout = patience(timeout)
        end = time.monotonic() + timeout
        with self._cond:
            at = since
            while True:
                while at < len(self.lines):
                    line = self.lines[at]
                    at += 1
                    if all(w in line for w in words):
                        return line
                if self._ended:
                    raise LabError(f"{self.name} ended (status {self.popen.poll()}) before it logged"
                                   f" {words}:\n{self.tail()}")
                left = end - time.monotonic()
                if left <= 0:
                    raise LabError(f"{self.name} did not log {words} in {timeout} s:\n{self.tail()}")
                self._cond.wait(left)

    def count_log(self, *words, since=0):
        with self._cond:
            return sum(all(w in line for w in words) for line in self.lines[since:])

    def tail(self, n=40):
        return "\n".join(self.lines[-n:])

    def rss_kib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    def peak_rss_kib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))

    def alive(self):
        return self.popen.poll() is None

    def signal(self, sig):
        self.popen.send_signal(sig)

    def kill(self):
        """As a crash would: no goodbye."""
        self.popen.kill()
        self.popen.wait()

    def begin_stop(self):
        """SIGTERM, once; stop waits for the end."""
        if self.popen.poll() is None and not self._stopping:
            self._stopping = True
            self.popen.terminate()

    def stop(self, timeout=40):
        """SIGTERM; returns the exit status. Killed (and an error) when it takes too long."""
        self.begin_stop()
        timeout = patience(timeout)
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LabError(f"{self.name} did not end {timeout} s after SIGTERM:\n{self.tail()}")
        self._reader.join(10)
        return status
