# SPDX-License-Identifier: MIT
"""Network namespaces:

      stranger .10 ──┐                          (all on 203.0.113.0/24, a bridge
      gateway   .2 ──┤                           in the namespace "inet")
      control   .3 ──┼── inet
      nat       .4 ──┘
         └─ 192.168.77.1 ── agent 192.168.77.10   (masquerade, nothing forwarded inwards)

and gateway2 .22, gateway3 .23 … where add_gateway is called; a CA .30 and a DNS server .31 where a test
starts them (add_host).

Names are looked up in a hosts file that `ip netns exec` binds over /etc/hosts."""
import concurrent.futures
import ctypes
import os
import shutil
import socket
import subprocess

from .proc import LabError, patience, run

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x00020000

STRANGER, GATEWAY, CONTROL, NAT = "203.0.113.10", "203.0.113.2", "203.0.113.3", "203.0.113.4"
GATEWAY2 = "203.0.113.5"
GATEWAYS = {1: GATEWAY, **{n: f"203.0.113.{20 + n}" for n in range(2, 10)}}  # by number
CA, DNS = "203.0.113.30", "203.0.113.31"
AGENT, AGENT_ROUTER = "192.168.77.10", "192.168.77.1"


def leave_host():
    """Gives the calling thread, and what it starts from now on, a network of its own: an empty loopback."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("ip", "link", "set", "lo", "up")


def own_hosts(path):
    """Lets this process, and what it starts from now on, see `path` in the place of /etc/hosts."""
    if _libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("mount", "--make-rprivate", "/")
    run("mount", "--bind", str(path), "/etc/hosts")


class Namespace:
    """One host. `call` runs a function on a thread that lives in the namespace: sockets that it makes
    belong there, whoever uses them afterwards."""

    def __init__(self, name, hosts):
        self.name = name
        self.etc = f"/etc/netns/{name}"
        os.makedirs(self.etc)
        with open(f"{self.etc}/hosts", "w") as f:
            f.write("127.0.0.1 localhost\n::1 localhost ip6-localhost\n" + hosts)
        self._thread = None
        try:
            run("ip", "netns", "add", name)
            # Addresses are there at once, not a second later, when nobody is found to have the same.
            self.exec("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad")
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def ip(self, *args):
        return run("ip", "-n", self.name, *args)

    def exec(self, *argv, **kw):
        """Runs a program to its end inside; returns its standard output, raises on failure."""
        return run("ip", "netns", "exec", self.name, *argv, **kw)

    def argv(self, *argv):
        return ["ip", "netns", "exec", self.name, *argv]

    def _enter(self):
        fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(fd, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)

    def call(self, fn, *args):
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, initializer=self._enter)
        return self._thread.submit(fn, *args).result()

    def connect(self, addr, port, timeout=patience(10), source=None, rcvbuf=None):
        def make():
            s = socket.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET)
            try:
                s.settimeout(timeout)
                s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if rcvbuf:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
                if source:
                    s.bind((source, 0))
                s.connect((addr, port))
                return s
            except BaseException:
                s.close()
                raise
        return self.call(make)

    def pids(self):
        out = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout
        return [int(p) for p in out.split()]

    def inode(self):
        """What /proc/PID/ns/net of a process inside is; None once it is deleted."""
        try:
            return os.stat(f"/run/netns/{self.name}").st_ino
        except OSError:
            return None

    def close(self):
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        subprocess.run(["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.etc, ignore_errors=True)


class Net:
    def __init__(self, prefix, domains=("hello.demo.test",)):
        if os.geteuid() != 0:
            raise LabError("network namespaces need root: run with sudo")
        self.prefix = prefix
        self._n = 0
        self.ns = {}
        self._had_etc_netns = os.path.isdir("/etc/netns")
        hosts = self._hosts = (f"{GATEWAY} gateway.demo.test {' '.join(domains)}\n{CONTROL} control.demo.test\n"
                               f"{CA} ca.demo.test\n")
        try:
            self.inet = self._add("inet", hosts)
            self.inet.ip("link", "add", "br0", "type", "bridge")
            self.inet.ip("link", "set", "br0", "up")
            for name, addr in (("stranger", STRANGER), ("gateway", GATEWAY), ("control", CONTROL),
                               ("nat", NAT)):
                setattr(self, name, self._add(name, hosts))
                self.attach(self.ns[name], "eth0", f"{addr}/24")
            self.agent = self._add("agent", hosts)
            self._veth(self.nat, "lan0", self.agent, "eth0")
            self.nat.ip("addr", "add", f"{AGENT_ROUTER}/24", "dev", "lan0")
            self.nat.ip("link", "set", "lan0", "up")
            self.agent.ip("addr", "add", f"{AGENT}/24", "dev", "eth0")
            self.agent.ip("link", "set", "eth0", "up")
            self.agent.ip("route", "add", "default", "via", AGENT_ROUTER)
            self.nat.exec("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            self.nat.exec("nft", "-f", "-", input=(
                "table ip lab {\n"
                " chain out {\n  type nat hook postrouting priority 100;\n"
                "  oifname eth0 masquerade random\n }\n"
                " chain in {\n  type filter hook forward priority 0; policy drop;\n"
                "  iifname lan0 accept\n  ct state established,related accept\n }\n}\n"))
        except BaseException:
            self.close()
            raise

    def _add(self, name, hosts):
        ns = self.ns[name] = Namespace(f"{self.prefix}-{name}", hosts)
        return ns

    def _veth(self, a, a_name, b, b_name):
        run("ip", "link", "add", "name", a_name, "netns", a.name, "type", "veth",
            "peer", "name", b_name, "netns", b.name)

    def attach(self, ns, ifname, *addrs):
        """One more leg of ns into the internet."""
        self._n += 1
        port = f"p{self._n}"
        self._veth(ns, ifname, self.inet, port)
        self.inet.ip("link", "set", port, "master", "br0", "up")
        for a in addrs:
            ns.ip("addr", "add", a, "dev", ifname)
        ns.ip("link", "set", ifname, "up")

    def add_gateway(self, number):
        """The host of one more gateway (from 2 on), unless it is there."""
        return self.add_host(f"gateway{number}", GATEWAYS[number])

    def add_host(self, name, addr):
        """One more host of the internet, unless it is there."""
        if name not in self.ns:
            setattr(self, name, self._add(name, self._hosts))
            self.attach(self.ns[name], "eth0", f"{addr}/24")
        return self.ns[name]

    def drop_nat(self):
        """Forgets every mapping of the NAT router, as a reboot or a timeout would."""
        subprocess.run(self.nat.argv("conntrack", "-F"), check=True, capture_output=True)

    def close(self):
        for ns in self.ns.values():
            ns.close()
        if not self._had_etc_netns:
            try:
                os.rmdir("/etc/netns")
            except OSError:
                pass
