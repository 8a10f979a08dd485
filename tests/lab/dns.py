# SPDX-License-Identifier: MIT
"""A real DNS server (dnsmasq) in one of the lab's namespaces, for names that change."""
import shutil
import signal

from .proc import LabError


class Dns:
    """Answers for the names of `records` ({name: [address, …]}), in that order, with a TTL of 0; knows no
    other name."""

    def __init__(self, system, ns, address, records, port=53):
        program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
        if program is None:
            raise LabError("dnsmasq is missing: sh packaging/setup.sh check")
        self.address = address
        self.system = system
        self.hosts = system.dir / "dns-hosts"
        self._write(records)
        self.proc = system.start(
            "dns", ns, program, "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null",
            "--no-resolv", "--no-hosts", f"--addn-hosts={self.hosts}", "--local=/demo.test/",
            "--bind-interfaces", f"--listen-address={address}", f"--port={port}", "--no-round-robin",
            "--local-ttl=0", "--user=root", "--pid-file=")
        self.proc.wait_log("read", "dns-hosts")

    def _write(self, records):
        self.hosts.write_text("".join(f"{a} {name}\n" for name, addresses in records.items()
                                      for a in addresses))

    def change(self, records):
        seen = self.proc.mark()
        self._write(records)
        self.proc.signal(signal.SIGHUP)
        self.proc.wait_log("read", "dns-hosts", since=seen)

    def serve(self, ns):
        """The namespace's programs that start from now on ask this server."""
        with open(f"{ns.etc}/resolv.conf", "w") as f:
            f.write(f"nameserver {self.address}\noptions timeout:1 attempts:1\n")

    def stop(self):
        self.system.stop("dns")
