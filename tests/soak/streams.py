# SPDX-License-Identifier: MIT
"""Steady streams whose stalls are measured such that a starved measuring program does not count: what
a datagram says about itself is when it was sent, and the kernel stamps when it arrived. A stall is how
long the oldest thing that was sent and not yet overtaken has been under way:

    sent      1   2   3   4   5   6
    arrived       1           5   6        2 to 4 lost; the stall is from sent(2) to arrived(5)
"""
import collections
import socket
import struct
import time

SO_TIMESTAMPNS = 35
HEAD = struct.Struct("!QQ")
PERIOD_NS = 10_000_000
CHUNK = bytes(4096)
BACKLOG = 64 * 1024


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


class Stall:
    """The worst of one stream; those above `report_ms` are told, once for all that waited together."""

    def __init__(self, name, report_ms, on_stall):
        self.name, self.report_ms, self.on_stall = name, report_ms, on_stall
        self.worst_ms, self.over, self.told = 0.0, 0, 0
        self.lately = collections.deque(maxlen=1000)  # (end, ms) of those above 50 ms

    def saw(self, ns):
        ms, t = ns / 1e6, now_ns()
        self.worst_ms = max(self.worst_ms, ms)
        if ms >= 50:
            self.lately.append((t, ms))
        if ms >= self.report_ms and t - self.told > ns:
            self.over += 1
            self.told = t
            self.on_stall(self, ms)

    def worst_within(self, ns):
        """Of those that ended in the last so many."""
        t = now_ns()
        return max((ms for at, ms in self.lately if t - at <= ns), default=0.0)


class Datagrams:
    """One way, from a socket in one namespace to one in another; every `every`th period."""

    def __init__(self, name, tx_ns, tx_addr, rx_ns, rx_addr, port, stall, every=1):
        self.name, self.stall, self.every = name, stall, every
        self.rx = rx_ns.call(self._receiver, rx_addr, port)
        self.tx = tx_ns.call(self._sender, tx_addr, rx_addr, port)
        self.sent = collections.deque()  # (number, when), from the first that has not been overtaken
        self.next = self.top = self.lost = self.late = self.refused = 0

    @staticmethod
    def _receiver(addr, port):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        s.bind((addr, port))
        s.setblocking(False)
        return s

    @staticmethod
    def _sender(addr, to, port):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((addr, 0))
        s.connect((to, port))
        s.setblocking(False)
        return s

    def send(self, tick):
        if tick % self.every:
            return
        self.next += 1
        t = now_ns()
        self.sent.append((self.next, t))
        try:
            self.tx.send(HEAD.pack(self.next, t) + bytes(84))
        except OSError:
            self.refused += 1  # lost, like any other

    def receive(self, _lag_ns):
        while True:
            try:
                data, aux, _, _ = self.rx.recvmsg(2048, 64)
            except BlockingIOError:
                return
            number, = struct.unpack_from("!Q", data)
            at = now_ns()
            for level, kind, value in aux:
                if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                    s, ns = struct.unpack("qq", value[:16])
                    at = s * 1_000_000_000 + ns
            self._arrived(number, at)

    def _arrived(self, number, at):
        if number <= self.top:
            self.late += 1
            self.lost -= 1
            return
        oldest = self.sent[0][1]
        while self.sent and self.sent[0][0] <= number:
            self.sent.popleft()
        self.lost += number - self.top - 1
        self.top = number
        self.stall.saw(at - oldest)

    def age_ns(self):
        """Of what is under way now."""
        return now_ns() - self.sent[0][1] if self.sent else 0

    def finish(self):
        self.lost += len(self.sent)
        self.stall.saw(self.age_ns())

    def close(self):
        self.rx.close()
        self.tx.close()


class Bytes:
    """A TCP connection, one way, a chunk each `every`th period; a chunk's stall ends when it is read."""

    def __init__(self, name, tx_ns, tx_addr, rx_ns, rx_addr, port, stall, every=2):
        self.name, self.stall, self.every = name, stall, every
        listener = rx_ns.call(socket.create_server, (rx_addr, port))
        self.tx = tx_ns.call(socket.create_connection, (rx_addr, port), 20, (tx_addr, 0))
        self.rx, _ = listener.accept()
        listener.close()
        self.tx.setblocking(False)
        self.rx.setblocking(False)
        self.chunks = collections.deque()  # (end, when)
        self.queued = self.written = self.read = self.skipped = 0

    def send(self, tick):
        if tick % self.every == 0:
            if self.queued - self.written < BACKLOG:
                self.queued += len(CHUNK)
                self.chunks.append((self.queued, now_ns()))
            else:
                self.skipped += 1
        try:
            while self.written < self.queued:
                self.written += self.tx.send(CHUNK[:self.queued - self.written])
        except BlockingIOError:
            pass

    def receive(self, lag_ns):
        """lag_ns: how much later than it should this program has come to read."""
        try:
            while True:
                n = len(self.rx.recv(1 << 16))
                if n == 0:
                    raise ConnectionError(f"{self.name}: the connection has ended")
                self.read += n
        except BlockingIOError:
            pass
        t = now_ns()
        while self.chunks and self.chunks[0][0] <= self.read:
            self.stall.saw(max(0, t - self.chunks.popleft()[1] - lag_ns))

    def age_ns(self):
        return now_ns() - self.chunks[0][1] if self.chunks else 0

    def retransmits(self):
        info = self.tx.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return struct.unpack_from("I", info, 100)[0]

    def finish(self):
        self.stall.saw(self.age_ns())

    def close(self):
        self.rx.close()
        self.tx.close()


class Loop:
    """Every 10 ms each stream sends and receives. lag: how late this program itself was."""

    def __init__(self, streams):
        self.streams, self.tick, self.lag_worst_ms, self.lag_over = streams, 0, 0.0, 0

    def run(self, seconds, beat):
        """beat() is called about every 100 ms."""
        start = now_ns()
        due, end, next_beat = start, start + int(seconds * 1e9), start
        while due < end:
            wait = due - now_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            lag = max(0, now_ns() - due)
            self.lag_worst_ms = max(self.lag_worst_ms, lag / 1e6)
            self.lag_over += lag > 100_000_000
            for s in self.streams:
                s.receive(lag)
                s.send(self.tick)
            self.tick += 1
            # What was missed is not made up for: a burst would measure something else.
            due = max(due + PERIOD_NS, now_ns() - PERIOD_NS) if lag > PERIOD_NS else due + PERIOD_NS
            if due >= next_beat:
                next_beat = due + 100_000_000
                beat()
        for _ in range(30):  # what is under way
            time.sleep(PERIOD_NS / 1e9)
            for s in self.streams:
                s.receive(0)
        for s in self.streams:
            s.finish()
