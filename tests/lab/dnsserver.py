# SPDX-License-Identifier: MIT
"""A real authoritative DNS server (knotd) on a host of its own, for the zone of the lab. Several addresses of
a name are given in turn. Records are changed as anybody changes them: by RFC 2136 with TSIG."""
import base64
import secrets
import shutil

from . import net
from .proc import LabError, run

KEY, ALGORITHM = "lab-key", "hmac-sha256"


class DnsServer:
    """zone: the records that it begins with, as lines of a zone file with names relative to `origin`."""

    def __init__(self, system, zone="", origin="demo.test", name="knotd"):
        program = shutil.which("knotd") or shutil.which("knotd", path="/usr/sbin")
        if program is None or shutil.which("knsupdate") is None:
            raise LabError("knotd or knsupdate is missing: sh packaging/setup.sh check")
        self.system, self.origin, self.name = system, origin, name
        self.address = net.DNS
        self.ns = system.net.add_host("dns", net.DNS)
        self.secret = base64.b64encode(secrets.token_bytes(32)).decode()
        self.dir = system.dir / name
        self.dir.mkdir()
        (self.dir / "zone").write_text(
            f"$ORIGIN {origin}.\n$TTL 0\n@ SOA ns hostmaster 1 3600 600 86400 1\n@ NS ns\nns A {net.DNS}\n"
            f"ca A {net.CA}\n{zone}\n")
        (self.dir / "knot.conf").write_text(
            f"server:\n  rundir: {self.dir}\n  listen: {net.DNS}@53\n  answer-rotation: on\n"
            "  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n"
            "log:\n  - target: stdout\n    any: info\n"
            f"database:\n  storage: {self.dir}\n"
            f"key:\n  - id: {KEY}\n    algorithm: {ALGORITHM}\n    secret: {self.secret}\n"
            f"acl:\n  - id: update\n    key: {KEY}\n    action: update\n"
            f"zone:\n  - domain: {origin}\n    storage: {self.dir}\n    file: zone\n    acl: update\n"
            "    zonefile-sync: -1\n    semantic-checks: off\n")
        self._program = program
        self.start()

    def start(self):
        self.proc = self.system.start(self.name, self.ns, self._program, "-c", self.dir / "knot.conf")
        self.proc.wait_log("server started")
        self.proc.wait_log(f"[{self.origin}.]", "loaded")

    def stop(self):
        self.system.stop(self.name)

    def update(self, *lines):
        """`add NAME TTL TYPE DATA`, `del NAME [TYPE]`, NAME relative to the zone: done when this returns."""
        text = f"server {self.address}\nzone {self.origin}.\norigin {self.origin}.\n" + "\n".join(lines) + "\nsend\n"
        out = self.ns.exec("knsupdate", "-y", f"{ALGORITHM}:{KEY}:{self.secret}", input=text)
        if "error" in out.lower() or "failed" in out.lower():
            raise LabError(f"knsupdate: {out}")

    def addresses(self, name, *addresses):
        """name (relative) has these addresses and no others, or none."""
        self.update(f"del {name} A", f"del {name} AAAA",
                    *(f"add {name} 0 {'AAAA' if ':' in a else 'A'} {a}" for a in addresses))

    def lookup(self, name, kind):
        """What the server answers, one record a line."""
        return self.ns.exec("kdig", f"@{self.address}", "+short", f"{name}.{self.origin}", kind).splitlines()

    def rfc2136_file(self):
        """For the setting dns_provider_file."""
        path = self.dir / "rfc2136.conf"
        path.write_text(f"server = {self.address}\nkey_name = {KEY}\nkey_algorithm = {ALGORITHM}\n"
                        f"key_secret = {self.secret}\n")
        path.chmod(0o600)
        return path
