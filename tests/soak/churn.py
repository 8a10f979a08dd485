# SPDX-License-Identifier: MIT
"""What happens at random beside the measured streams, through the engines' control sockets."""
import base64
import os
import random
import socket
import subprocess
import threading
import time

CROWD_MAX = 300  # peers that nobody answers for
CROWD_NET = "10.94.{}.{}"


class Control:
    """An engine's control socket: one connection for each request."""

    def __init__(self, device):
        self.path = f"/var/run/wireguard/{device}.sock"

    def ask(self, text):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(30)
            s.connect(self.path)
            s.sendall(text.encode("ascii"))
            got = b""
            while not got.endswith(b"\n\n"):
                piece = s.recv(1 << 16)
                if not piece:
                    raise RuntimeError(f"{self.path}: no answer to {text[:200]}")
                got += piece
        if not got.endswith(b"errno=0\n\n"):
            raise RuntimeError(f"{self.path}: {got[-40:]!r} to {text[:200]}")
        return got.decode("ascii")

    def set(self, *lines):
        self.ask("set=1\n" + "\n".join(lines) + "\n\n")

    def peers(self):
        """What `get` says of each peer: {public key: {name: value, "allowed": [..]}}."""
        peers, peer = {}, None
        for line in self.ask("get=1\n\n").splitlines():
            name, _, value = line.partition("=")
            if name == "public_key":
                peer = peers[value] = {"allowed": []}
            elif peer is not None and name == "allowed_ip":
                peer["allowed"].append(value)
            elif peer is not None:
                peer[name] = value
        return peers


def keypair():
    key = subprocess.run(["wg", "genkey"], capture_output=True, text=True, check=True).stdout
    pub = subprocess.run(["wg", "pubkey"], input=key, capture_output=True, text=True, check=True).stdout
    return base64.b64decode(key).hex(), base64.b64decode(pub).hex()


class Churn(threading.Thread):
    """hub: the engine that has every peer. fixed: the sides whose streams are measured, which roam and
    change their preshared key but stay. guest: one that is removed, comes back, changes its key."""

    def __init__(self, seed, per_second, hub, fixed, guest):
        super().__init__(daemon=True)
        self.rng, self.per_second = random.Random(seed), per_second
        self.hub, self.fixed, self.guest = hub, fixed, guest
        self.crowd, self.done, self.error = [], {}, None
        self.recent, self.ending = [], threading.Event()
        self.deeds = [(self.add, 10), (self.remove, 8), (self.add_many, 1), (self.remove_many, 1),
                      (self.move_prefix, 6), (self.crowd_psk, 3), (self.crowd_endpoint, 3),
                      (self.speak, 4), (self.look, 1), (self.fixed_psk, 2), (self.fixed_port, 1),
                      (self.fixed_address, 1), (self.guest_key, 1), (self.guest_back, 1),
                      (self.guest_psk, 1)]

    def run(self):
        names, weights = zip(*self.deeds)
        try:
            while not self.ending.wait(self.rng.expovariate(self.per_second)):
                deed, = self.rng.choices(names, weights)
                self.recent = self.recent[-9:] + [(time.time(), deed.__name__)]
                deed()
                self.done[deed.__name__] = self.done.get(deed.__name__, 0) + 1
        except Exception as e:  # told to whoever asks alive()
            self.error = e

    def end(self):
        self.ending.set()
        self.join(60)
        if self.error:
            raise self.error
        self.hub.control.set(*self._removal(self.crowd))
        self.crowd = []

    # ---- peers that nobody answers for ----

    def _prefix(self):
        if self.rng.random() < 0.3:
            return f"fd94:1::{self.rng.randrange(1, 0xffff):x}/128"
        return CROWD_NET.format(self.rng.randrange(64, 128), self.rng.randrange(256)) + "/32"

    def _endpoint(self):
        where = self.rng.random()
        if where < 0.4:  # nobody there
            return f"endpoint=10.95.1.{self.rng.randrange(100, 250)}:{self.rng.randrange(1, 65536)}"
        if where < 0.7:  # an engine that does not know us so
            return f"endpoint={self.guest.outer}:51820"
        return f"endpoint=[fd95::{self.rng.randrange(1, 0xffff):x}]:1"  # no route

    def _newcomer(self):
        pub = self.rng.randbytes(32).hex()
        self.crowd.append(pub)
        lines = [f"public_key={pub}", "replace_allowed_ips=true"]
        lines += [f"allowed_ip={self._prefix()}" for _ in range(self.rng.randrange(4))]
        if self.rng.random() < 0.8:
            lines.append(self._endpoint())
        lines.append(f"persistent_keepalive_interval={self.rng.choice([0, 1, 5, 25])}")
        return lines

    def add(self):
        if len(self.crowd) < CROWD_MAX:
            self.hub.control.set(*self._newcomer())

    def add_many(self):
        if len(self.crowd) < CROWD_MAX / 2:
            self.hub.control.set(*(x for _ in range(100) for x in self._newcomer()))

    @staticmethod
    def _removal(keys):
        return [x for k in keys for x in (f"public_key={k}", "remove=true")]

    def remove(self):
        if self.crowd:
            self.hub.control.set(*self._removal([self.crowd.pop(self.rng.randrange(len(self.crowd)))]))

    def remove_many(self):
        self.rng.shuffle(self.crowd)
        gone, self.crowd = self.crowd[:100], self.crowd[100:]
        self.hub.control.set(*self._removal(gone))

    def _someone(self):
        return self.rng.choice(self.crowd) if self.crowd else None

    def move_prefix(self):
        """A prefix that another may have; also one of a measured peer's beside the streams'."""
        to = self._someone()
        prefix = self._prefix()
        if self.rng.random() < 0.3:
            side = self.rng.choice(self.fixed)
            prefix = side.spare
            if self.rng.random() < 0.5:
                to = side.pub
        if to:
            self.hub.control.set(f"public_key={to}", "update_only=true", f"allowed_ip={prefix}")

    def crowd_psk(self):
        if to := self._someone():
            self.hub.control.set(f"public_key={to}", f"preshared_key={self.rng.randbytes(32).hex()}")

    def crowd_endpoint(self):
        if to := self._someone():
            self.hub.control.set(f"public_key={to}", self._endpoint())

    def speak(self):
        """Packets to peers that do not answer: they wait, and are dropped."""
        with self.hub.ns.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as s:
            for _ in range(20):
                to = CROWD_NET.format(self.rng.randrange(64, 128), self.rng.randrange(256))
                try:
                    s.sendto(bytes(self.rng.randrange(1, 1300)), (to, 9))
                except OSError:
                    pass

    def look(self):
        have = self.hub.control.peers()
        missing = [k for k in self.crowd if k not in have]
        if missing or len(have) != len(self.crowd) + len(self.fixed) + 1:
            raise RuntimeError(f"{len(have)} peers, {len(self.crowd)} made, {len(missing)} missing")

    # ---- the measured ones ----

    def fixed_psk(self):
        """Both ends, one after the other; the session stays."""
        side, psk = self.rng.choice(self.fixed), self.rng.randbytes(32).hex()
        self.hub.control.set(f"public_key={side.pub}", f"preshared_key={psk}")
        side.control.set(f"public_key={self.hub.pub}", f"preshared_key={psk}")

    def fixed_port(self):
        """The other side's socket changes: it speaks, and the hub learns where it is."""
        side = self.rng.choice(self.fixed)
        side.control.set(f"listen_port={self.rng.randrange(20000, 60000)}")

    def fixed_address(self):
        """The other side speaks from another of its addresses."""
        side = self.rng.choice(self.fixed)
        side.roam()

    # ---- the one that comes and goes ----

    def _guest_on_hub(self):
        return [f"public_key={self.guest.pub}", f"preshared_key={self.guest.psk}",
                f"allowed_ip={self.guest.inner}/32"]

    def guest_key(self):
        """A new key of its own: to the hub another peer."""
        old = self.guest.pub
        key, self.guest.pub = keypair()
        self.hub.control.set(*self._removal([old]), *self._guest_on_hub())
        self.guest.control.set(f"private_key={key}")

    def guest_back(self):
        """Removed on one side or the other, and there again."""
        if self.rng.random() < 0.5:
            self.hub.control.set(*self._removal([self.guest.pub]))
            self.hub.control.set(*self._guest_on_hub())
            # Whoever has no session begins one; the hub knows no endpoint of a new peer.
            self.guest.control.set(*self._removal([self.hub.pub]), *self.guest.hub_lines())
        else:
            self.guest.control.set("replace_peers=true", *self.guest.hub_lines())

    def guest_psk(self):
        self.guest.psk = os.urandom(32).hex()
        self.guest.control.set(*self._removal([self.hub.pub]), *self.guest.hub_lines())
        self.hub.control.set(*self._guest_on_hub())
