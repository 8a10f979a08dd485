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


class Server:
    """Speaks the link's protocol in the place of a control, with a root of its own that the hosts know.
    `frames` is all that was said: (direction "up" or "down", kind of host, text)."""

    def __init__(self, ns, folder, port=3001):
        self.ns, self.frames = ns, []
        self.pin = make_root(folder)
        self._cond = threading.Condition()
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(folder / "chain.crt", folder / "server.key")
        self._sock = ns.call(socket.create_server, ("0.0.0.0", port))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._start(tls))

    async def _start(self, tls):
        return await websockets.serve(self._accepted, sock=self._sock, ssl=tls, compression=None, max_size=None,
                                      ping_interval=None)

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(patience(30))

    async def _accepted(self, ws):
        try:
            await self._serve(ws, "gateway" if "type=gateway" in ws.path else "agent")
        except websockets.ConnectionClosed:
            pass

    def _said(self, direction, kind, text):
        with self._cond:
            self.frames.append((direction, kind, text))
            self._cond.notify_all()

    def heard(self, type_, since=0):
        """The data of what hosts have said of this type."""
        with self._cond:
            said = [json.loads(text) for direction, _, text in self.frames[since:] if direction == "up"]
        return [m["data"] for m in said if m["type"] == type_]

    def wait(self, condition, what, timeout=30):
        """Until condition(), looked at whenever something is said; what it gave."""
        end = time.monotonic() + patience(timeout)
        with self._cond:
            while not (found := condition()):
                left = end - time.monotonic()
                if left <= 0:
                    raise LabError(f"{what}: not in {timeout} s; the last frames: {self.frames[-10:]}")
                self._cond.wait(left)
            return found

    def close(self):
        async def end():
            self._server.close()
            await self._server.wait_closed()
        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Captured(Server):
    """`say` is sent to every host as it comes: {"agent": [(type, data), …], "gateway": …}; what is said there to
    one host alone stands under its WireGuard key. `answer` has a function for types of messages: of the
    host's key and the data, it gives what is sent back."""

    def __init__(self, ns, folder, port=3001):
        self.say = {"agent": [], "gateway": []}
        self.answer = {}
        self.auths, self.acks = {}, []  # by kind and by key
        self._links = {}
        super().__init__(ns, folder, port)

    async def _serve(self, ws, kind):
        key = None
        async for text in ws:
            self._said("up", kind, text)
            m = json.loads(text)
            if m["type"] == "auth":
                key = m["data"].get("wireguardPublicKey")
                await self._let_in(ws, kind, key, m["data"])
            elif m["type"] == "config_ack":
                with self._cond:
                    self.acks.append((kind, key, m["data"]))
                    self._cond.notify_all()
            for type_, data in self.answer.get(m["type"], lambda *_: ())(key, m["data"]) or ():
                await self._send(ws, kind, type_, data)

    async def _send(self, ws, kind, type_, data):
        text = json.dumps({"type": type_, "data": data})
        self._said("down", kind, text)
        await ws.send(text)

    async def _let_in(self, ws, kind, key, auth):
        await self._send(ws, kind, "auth_success", {"message": kind})
        for type_, data in (*self.say[kind], *self.say.get(key, ())):
            await self._send(ws, kind, type_, data)
        with self._cond:
            for who in (kind, key):
                self.auths[who] = auth
                self._links[who] = (ws, kind)
            self._cond.notify_all()

    def send(self, who, type_, data):
        """To the host of this kind that has come last, or of this key."""
        with self._cond:
            ws, kind = self._links[who]
        self._run(self._send(ws, kind, type_, data))

    def wait_ack(self, who, revision, timeout=30):
        """The answer to this revision of a host of this kind, or key."""
        def acked():
            return next((ack for kind, key, ack in reversed(self.acks)
                         if who in (kind, key) and ack["revision"] == revision), None)
        return self.wait(acked, f"{who} acknowledges revision {revision}", timeout)


class Relay(Server):
    """Between hosts and a real control: everything passes, and is written down. Hosts must know its pin in the
    place of control's."""

    def __init__(self, ns, folder, address, port=3002):
        self.address = address
        super().__init__(ns, folder, port)

    async def _serve(self, ws, kind):
        sock = await self._loop.run_in_executor(None, self.ns.connect, self.address, 3001)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        async with websockets.connect(f"wss://control.demo.test:3001{ws.path}", sock=sock, ssl=tls,
                                      server_hostname="control.demo.test", compression=None, max_size=None,
                                      ping_interval=None) as control:
            await asyncio.gather(self._pass(ws, control, "up", kind), self._pass(control, ws, "down", kind))

    async def _pass(self, from_, to, direction, kind):
        try:
            async for text in from_:
                self._said(direction, kind, text)
                await to.send(text)
        finally:
            await to.close()
