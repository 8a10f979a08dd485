# SPDX-License-Identifier: MIT
"""A control server that somebody else has taken over: it has the root whose pin the hosts know, and says
whatever it is told to. The CA's key is not its: `Offline` is the operator's, who has it."""
import asyncio
import base64
import hashlib
import json
import pathlib
import socket
import ssl
import struct
import threading
import time

import websockets

from .proc import LabError, patience, run

PKCS8_ED25519 = bytes.fromhex("302e020100300506032b657004220420")


def pem(banner, body):
    text = base64.b64encode(body).decode()
    lines = "\n".join(text[i:i + 64] for i in range(0, len(text), 64))
    return f"-----BEGIN {banner}-----\n{lines}\n-----END {banner}-----\n"


def unpem(text):
    return base64.b64decode("".join(line for line in text.split("\n") if not line.startswith("-----")))


class Offline:
    """A CA made by kmctl, in a folder of its own."""

    def __init__(self, kmctl, folder, name="kakuremichi", network="10.0.0.0/8"):
        self.kmctl, self.dir = str(kmctl), pathlib.Path(folder)
        self.dir.mkdir()
        self.cert("ca", "-version", "2", "-name", name, "-networks", network, "-unsafe-networks", network,
                  "-duration", "87600h")
        self.certificate = (self.dir / "ca.crt").read_text()
        self.fingerprint = self.fingerprint_of(self.certificate)
        key = unpem((self.dir / "ca.key").read_text())
        (self.dir / "sign.pem").write_text(pem("PRIVATE KEY", PKCS8_ED25519 + key[:32]))

    def cert(self, *args, **kw):
        return run(self.kmctl, "cert", *map(str, args), cwd=self.dir, **kw)

    def show(self, certificate):
        return json.loads(self.cert("print", "-json", "-path", "-", input=certificate).split("\n")[0])

    def fingerprint_of(self, certificate):
        shown = self.show(certificate)
        shown = shown[0] if isinstance(shown, list) else shown
        return shown["fingerprint"]

    def sign(self, name, key, networks, group, unsafe=None, duration="2160h"):
        """A host's certificate for this WireGuard key (base64)."""
        (self.dir / "in.pub").write_text(pem("NEBULA X25519 PUBLIC KEY", base64.b64decode(key)))
        (self.dir / "out.crt").unlink(missing_ok=True)
        self.cert("sign", "-name", name, "-networks", networks, "-groups", group, "-in-pub", "in.pub",
                  "-out-crt", "out.crt", "-duration", duration, *(("-unsafe-networks", unsafe) if unsafe else ()))
        return (self.dir / "out.crt").read_text()

    def bundle(self, number, *more, blocked=(), signer=True):
        """A trust bundle (libkm/cert/bundle.h) of this CA and more; signed by this one, unless not."""
        cas = sorted((self, *more), key=lambda ca: ca.fingerprint)
        body = b"kmtrust1" + struct.pack(">QH", number, len(cas))
        for ca in cas:
            raw = unpem(ca.certificate)
            body += struct.pack(">BI", 2, len(raw)) + raw
        body += struct.pack(">I", len(blocked)) + b"".join(bytes.fromhex(f) for f in sorted(blocked))
        if not signer:
            return pem("KAKUREMICHI TRUST BUNDLE", body + b"\0")
        (self.dir / "body").write_bytes(b"kakuremichi trust bundle\0" + body)
        run("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", "sign.pem", "-in", "body", "-out", "sig",
            cwd=self.dir)
        sig = (self.dir / "sig").read_bytes()
        return pem("KAKUREMICHI TRUST BUNDLE",
                   body + b"\1" + bytes.fromhex(self.fingerprint) + struct.pack(">H", len(sig)) + sig)


def make_root(folder):
    """A root and a server certificate, as controld makes them. Its pin."""
    def ssl_(*args):
        return run("openssl", *args, cwd=folder)
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ssl_("req", "-x509", *new_key, "-days", "30", "-subj", "/CN=root", "-keyout", "root.key", "-out", "root.crt",
         "-addext", "keyUsage=critical,keyCertSign")
    ssl_("req", *new_key, "-subj", "/CN=control", "-keyout", "server.key", "-out", "server.csr")
    (folder / "ext").write_text("subjectAltName=DNS:control.demo.test\nextendedKeyUsage=serverAuth\n")
    ssl_("x509", "-req", "-in", "server.csr", "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial",
         "-days", "30", "-extfile", "ext", "-out", "server.crt")
    (folder / "chain.crt").write_text((folder / "server.crt").read_text() + (folder / "root.crt").read_text())
    public = unpem(ssl_("x509", "-in", "root.crt", "-noout", "-pubkey"))
    return "sha256//" + base64.b64encode(hashlib.sha256(public).digest()).decode()


class Captured:
    """The server. `say` is sent to every host as it comes: {"agent": [(type, data), …], "gateway": …}."""

    def __init__(self, ns, folder, port=3001):
        self.pin = make_root(folder)
        self.say = {"agent": [], "gateway": []}
        self.auths, self.acks = {}, []
        self._links = {}
        self._cond = threading.Condition()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "chain.crt", folder / "server.key")

        def listen():
            return socket.create_server(("0.0.0.0", port))

        self._sock = ns.call(listen)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._start(tls))

    async def _start(self, tls):
        return await websockets.serve(self._serve, sock=self._sock, ssl=tls, compression=None, max_size=None,
                                      ping_interval=None)

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(patience(30))

    async def _serve(self, ws):
        kind = "gateway" if "type=gateway" in ws.path else "agent"
        try:
            async for text in ws:
                m = json.loads(text)
                if m["type"] == "auth":
                    await self._let_in(ws, kind, m["data"])
                elif m["type"] == "config_ack":
                    with self._cond:
                        self.acks.append((kind, m["data"]))
                        self._cond.notify_all()
        except websockets.ConnectionClosed:
            pass

    async def _let_in(self, ws, kind, auth):
        await ws.send(json.dumps({"type": "auth_success", "data": {"message": kind}}))
        for kind_, data in self.say[kind]:
            await ws.send(json.dumps({"type": kind_, "data": data}))
        with self._cond:
            self.auths[kind] = auth
            self._links[kind] = ws
            self._cond.notify_all()

    def send(self, kind, type_, data):
        with self._cond:
            ws = self._links[kind]
        self._run(ws.send(json.dumps({"type": type_, "data": data})))

    def wait_ack(self, kind, revision, timeout=30):
        """The answer of this kind of host to this revision."""
        end = time.monotonic() + patience(timeout)
        with self._cond:
            while True:
                for k, ack in reversed(self.acks):
                    if k == kind and ack["revision"] == revision:
                        return ack
                left = end - time.monotonic()
                if left <= 0:
                    raise LabError(f"{kind} did not acknowledge revision {revision}: {self.acks[-5:]}")
                self._cond.wait(left)

    def close(self):
        async def end():
            self._server.close()
            await self._server.wait_closed()
        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
