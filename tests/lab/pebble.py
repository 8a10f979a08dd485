# SPDX-License-Identifier: MIT
"""A real ACME server (Debian's pebble) on a host of its own in the lab's internet. It keeps all in memory, and
has another root whenever it starts."""
import json
import re
import shutil
import time

from . import client, net
from .proc import LabError, patience

NAME, PORT, MANAGEMENT = "ca.demo.test", 14000, 15000


class Pebble:
    """dns: the DnsServer that it asks; without one, /etc/hosts. validity: of its certificates, seconds. bad_nonces
    and reuse (of authorizations): per cent. sleeps: it dawdles at random (up to `sleeps` seconds) before it
    validates. eab: {key id: HMAC key in base64url}."""

    def __init__(self, system, dns=None, validity=90 * 86400, bad_nonces=0, reuse=0, sleeps=0, eab=None):
        if shutil.which("pebble") is None:
            raise LabError("pebble is missing: sh packaging/setup.sh demo")
        self.system, self.dns = system, dns
        self.ns = system.net.add_host("ca", net.CA)
        self.dir = system.dir / "pebble"
        self.dir.mkdir(exist_ok=True)
        system.issue(NAME, self.dir)  # its own HTTPS is certified by the lab's CA
        chain = self.dir / NAME
        self.config = self.dir / "pebble.json"
        self.set(validity=validity, bad_nonces=bad_nonces, reuse=reuse, sleeps=sleeps, eab=eab, chain=chain)
        self.start()

    def set(self, **options):
        """Other options, from the next start on."""
        self.options = o = {**getattr(self, "options", {}), **options}
        self.config.write_text(json.dumps({"pebble": {
            "listenAddress": f"{net.CA}:{PORT}", "managementListenAddress": f"{net.CA}:{MANAGEMENT}",
            "certificate": str(o["chain"]), "privateKey": str(o["chain"]), "httpPort": 80, "tlsPort": 443,
            "ocspResponderURL": "", "externalAccountBindingRequired": bool(o["eab"]),
            "externalAccountMACKeys": o["eab"] or {}, "certificateValidityPeriod": o["validity"]}}))

    def start(self):
        o = self.options
        env = {"PEBBLE_WFE_NONCEREJECT": str(o["bad_nonces"]), "PEBBLE_AUTHZREUSE": str(o["reuse"]),
               **({"PEBBLE_VA_SLEEPTIME": str(o["sleeps"])} if o["sleeps"] else {"PEBBLE_VA_NOSLEEP": "1"})}
        server = ("-dnsserver", f"{self.dns.address}:53") if self.dns else ()
        self.proc = self.system.start("pebble", self.ns, "pebble", "-config", self.config, *server, env=env)
        self.proc.wait_log("ACME directory available at")
        for port in (PORT, MANAGEMENT):  # it says so before it listens
            self._reachable(port)
        self.root = self.system.dir / "pebble-root.crt"
        self.root.write_text(self.management("/roots/0"))
        self.tls = client.context(self.root)

    def _reachable(self, port):
        end = time.monotonic() + patience(20)
        while True:
            try:
                return self.system.net.stranger.connect(net.CA, port).close()
            except ConnectionRefusedError:
                if time.monotonic() > end or not self.proc.alive():
                    raise
                time.sleep(0.02)

    def stop(self):
        self.system.stop("pebble")

    def management(self, path):
        conn = client.NsConnection(self.system.net.stranger, net.CA, MANAGEMENT, NAME,
                                   client.context(self.system.dir / "ca.crt"))
        try:
            return client.request(conn, "GET", path).text
        finally:
            conn.close()

    def settings(self):
        """What a gateway needs to have its certificates from here."""
        return dict(acme="on", acme_directory=f"https://{NAME}:{PORT}/dir",
                    acme_ca_file=self.system.dir / "ca.crt",
                    **({"dns_resolvers": self.dns.address} if self.dns else {}))

    def orders(self, since=0):
        """How many new orders there have been."""
        return self.proc.count_log("Added order", since=since)

    def issued(self, since=0):
        """The serial numbers of what was issued, in order."""
        return [m.group(1) for line in self.proc.lines[since:]
                if (m := re.search(r"Issued certificate serial ([0-9a-f]+)", line))]
