# SPDX-License-Identifier: MIT
"""A TLS 1.3 client (RFC 8446) whose every record is in the hands of its user: types, lengths, versions, padding,
sequence numbers, keys, and how it is cut into segments. What it receives it takes strictly: a record of the server
that no RFC allows is an AssertionError or an InvalidTag.

    c = Tls13(sock)                      # shakes hands; Finished and CertificateVerify are checked
    c.sendall(b"..."), c.recv(n)         # as a socket does
    c.push(c.record(b"...", pad=7), c.key_update())
    c.end()                              # how the server ended it: its alert's name, "fin" or "reset" """
import hashlib
import hmac
import os
import struct
from collections import namedtuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CCS, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
CLIENT_HELLO, SERVER_HELLO, TICKET, EXTENSIONS, CERTIFICATE, CERTIFICATE_VERIFY = 1, 2, 4, 8, 11, 15
FINISHED, KEY_UPDATE = 20, 24
ALERTS = {0: "close_notify", 10: "unexpected_message", 20: "bad_record_mac", 22: "record_overflow",
          40: "handshake_failure", 47: "illegal_parameter", 50: "decode_error", 51: "decrypt_error",
          70: "protocol_version", 80: "internal_error", 90: "user_canceled", 112: "unrecognized_name"}
NUMBERS = {name: n for n, name in ALERTS.items()}
MAX = 1 << 14  # of a record's content
TAG = 16


class Suite(namedtuple("Suite", "id aead key hash size")):
    def expand(self, secret, label, context=b"", n=None):
        """HKDF-Expand-Label (RFC 8446 section 7.1); no key here is longer than one digest."""
        n, label = n or self.size, b"tls13 " + label.encode()
        info = struct.pack("!HB", n, len(label)) + label + bytes([len(context)]) + context
        return hmac.digest(secret, info + b"\1", self.hash)[:n]

    def extract(self, salt, key):
        return hmac.digest(salt or bytes(self.size), key or bytes(self.size), self.hash)

    def digest(self, data):
        return hashlib.new(self.hash, data).digest()

    def derive(self, secret, label, transcript=b""):
        return self.expand(secret, label, self.digest(transcript))


SUITES = {"TLS_AES_128_GCM_SHA256": Suite(0x1301, AESGCM, 16, "sha256", 32),
          "TLS_AES_256_GCM_SHA384": Suite(0x1302, AESGCM, 32, "sha384", 48),
          "TLS_CHACHA20_POLY1305_SHA256": Suite(0x1303, ChaCha20Poly1305, 32, "sha256", 32)}
Ticket = namedtuple("Ticket", "id psk early")  # early: how much early data it allows


class Alert(Exception):
    """A fatal one of the server's."""


def number(data):
    return int.from_bytes(data, "big")


class Keys:
    """Of one direction: they seal and open, and count."""

    def __init__(self, suite, secret):
        self.suite, self.secret, self.seq = suite, secret, 0
        self.aead = suite.aead(suite.expand(secret, "key", n=suite.key))
        self.iv = number(suite.expand(secret, "iv", n=12))

    def nonce(self, seq):
        if seq is None:
            seq, self.seq = self.seq, self.seq + 1
        return (self.iv ^ seq).to_bytes(12, "big")

    def updated(self):
        return Keys(self.suite, self.suite.expand(self.secret, "traffic upd"))

    def finished(self, transcript):
        return self.suite.extract(self.suite.expand(self.secret, "finished"), self.suite.digest(transcript))


def message(kind, body=b""):
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def plain(kind, body, version=0x0303):
    """A record without protection."""
    return struct.pack("!BHH", kind, version, len(body)) + body


def vector(width, *parts):
    body = b"".join(parts)
    return len(body).to_bytes(width, "big") + body


def extension(kind, *parts):
    return struct.pack("!H", kind) + vector(2, *parts)


def extensions(data):
    found = {}
    while data:
        kind, n = struct.unpack("!HH", data[:4])
        assert kind not in found
        found[kind] = data[4:4 + n]
        data = data[4 + n:]
    return found


class Tls13:
    def __init__(self, sock, sni="hello.test", alpn=("http/1.1",), suite="TLS_AES_128_GCM_SHA256", group="x25519",
                 ticket=None, early=None, finish=True, fragment=None):
        """fragment: the number of a max_fragment_length (RFC 6066). early: offers early data and sends these bytes as such. finish=False: the client's Finished is not sent;
        self.finished has it, tx are the keys for it, and switch() is to be called behind it."""
        self.reset = False  # sending has met one
        self.sock, self.suite, self.group, self.ticket = sock, SUITES[suite], group, ticket
        self.sni, self.alpn_offer, self.early, self.fragment = sni, alpn, early, fragment
        self.raw, self.data, self.messages = bytearray(), b"", b""  # received: bytes, application data, parts of messages
        self.tx = self.rx = self.finished = None
        self.closed = False  # close_notify has come
        self.updates, self.records = 0, []  # of the server: KeyUpdates, the lengths of its records' content
        self.tickets = []
        self.shake()
        if finish:
            self.push(self.record(self.finished, HANDSHAKE))
            self.switch()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def setsockopt(self, *how):
        self.sock.setsockopt(*how)

    # ---- sending: these make records, push sends them

    def record(self, content, inner=DATA, pad=0, outer=DATA, version=0x0303, seq=None, tag=TAG):
        """With a seq given, the count goes not on. tag: how much is left of it."""
        body = content + (bytes([inner]) if inner is not None else b"") + bytes(pad)
        head = struct.pack("!BHH", outer, version, len(body) + tag)
        return head + self.tx.aead.encrypt(self.tx.nonce(seq), body, head)[:len(body) + tag]

    def key_update(self, request=0, **how):
        """The record, and the next keys behind it."""
        out = self.record(message(KEY_UPDATE, bytes([request])), HANDSHAKE, **how)
        self.tx = self.tx.updated()
        return out

    def alert(self, what, level=2):
        return self.record(bytes([level, NUMBERS.get(what, what)]), ALERT)

    def close_notify(self):
        return self.alert("close_notify", 1)

    def push(self, *records):
        self.sock.sendall(b"".join(records))

    def sendall(self, data):
        self.push(*(self.record(data[i:i + MAX]) for i in range(0, len(data), MAX)))

    # ---- receiving

    def exactly(self, n):
        while len(self.raw) < n:
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError
            self.raw += data
        out = bytes(self.raw[:n])
        del self.raw[:n]
        return out

    def take_record(self):
        """The type and the content of the next record."""
        head = self.exactly(5)
        outer, version, n = struct.unpack("!BHH", head)
        body = self.exactly(n)
        assert version == 0x0303
        if not self.rx or outer == CCS:
            assert outer != CCS or (body == b"\1" and self.finished is None)
            assert n <= MAX
            return outer, body
        assert outer == DATA and n <= MAX + 256
        inner = self.rx.aead.decrypt(self.rx.nonce(None), body, head)
        assert len(inner) <= MAX + 1
        content = inner.rstrip(b"\0")
        assert content, "a record without a type"
        self.records.append(len(content) - 1)
        assert len(content) > 1 or content[0] == DATA
        return content[-1], content[:-1]

    def step(self):
        """Takes one record."""
        kind, content = self.take_record()
        assert not self.messages or kind == HANDSHAKE
        if kind == HANDSHAKE:
            self.messages += content
        elif kind == DATA:
            assert self.finished
            self.data += content
        elif kind == ALERT:
            assert len(content) == 2
            if content[1]:
                raise Alert(ALERTS.get(content[1], content[1]))
            self.closed = True
        else:
            assert kind == CCS

    def take_message(self):
        while len(self.messages) < 4 or len(self.messages) < 4 + number(self.messages[1:4]):
            self.step()
        n = 4 + number(self.messages[1:4])
        whole, self.messages = self.messages[:n], self.messages[n:]
        return whole

    def recv(self, n=1 << 18):
        """Empty: the server has said close_notify."""
        while not self.data and not self.closed:
            self.step()
            while self.messages:
                self.behind(self.take_message())
        out, self.data = self.data[:n], self.data[n:]
        return out

    def behind(self, m):
        """Messages behind the handshake."""
        if m[0] == KEY_UPDATE:
            assert m == message(KEY_UPDATE, b"\0") and not self.messages
            self.rx, self.updates = self.rx.updated(), self.updates + 1
        else:
            assert m[0] == TICKET
            nonce, rest = m[13:13 + m[12]], m[13 + m[12]:]
            at = 2 + number(rest[:2])
            self.tickets.append(Ticket(rest[2:at], self.suite.expand(self.resumption, "resumption", nonce),
                                       number(extensions(rest[at + 2:]).get(42, b""))))

    def end(self):
        """Reads on to the end."""
        try:
            while not self.closed:
                self.recv()
                self.data = b""
            return "close_notify"
        except Alert as a:
            return str(a)
        except EOFError:  # FIN without close_notify; of a reset the socket tells once, whoever sent has heard it
            return "reset" if self.reset else "fin"
        except ConnectionError:
            return "reset"

    # ---- the handshake

    def hello(self):
        if self.group == "x25519":
            self.private = x25519.X25519PrivateKey.generate()
            share = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        else:
            self.private = ec.generate_private_key(ec.SECP256R1())
            share = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        group = struct.pack("!H", {"x25519": 29, "P-256": 23}[self.group])
        parts = [extension(0, vector(2, b"\0", vector(2, self.sni.encode()))), extension(43, b"\x02\x03\x04"),
                 extension(10, vector(2, group)), extension(13, vector(2, b"\x04\x03\x08\x04")),
                 extension(51, vector(2, group, vector(2, share))), extension(45, b"\x01\x01"),
                 extension(16, vector(2, *(vector(1, p.encode()) for p in self.alpn_offer)))]
        if self.early is not None:
            parts.append(extension(42))
        if self.fragment:
            parts.append(extension(1, bytes([self.fragment])))
        n = self.suite.size
        if self.ticket:  # the binders, empty as yet, are last
            parts.append(extension(41, vector(2, vector(2, self.ticket.id), bytes(4)), vector(2, vector(1, bytes(n)))))
        out = message(CLIENT_HELLO, b"\3\3" + os.urandom(32) + vector(1, os.urandom(32)) +
                      vector(2, struct.pack("!H", self.suite.id)) + b"\1\0" + vector(2, *parts))
        if self.ticket:
            binder = Keys(self.suite, self.suite.derive(self.suite.extract(b"", self.ticket.psk), "res binder"))
            out = out[:-n] + binder.finished(out[:-n - 3])
        return out

    def shake(self):
        s, t = self.suite, self.hello()
        self.push(plain(HANDSHAKE, t, 0x0301))
        if self.early:
            self.tx = Keys(s, s.derive(s.extract(b"", self.ticket and self.ticket.psk), "c e traffic", t))
            self.sendall(self.early)
        m = self.take_message()
        assert m[0] == SERVER_HELLO and m[38] == 32 and struct.unpack("!H", m[71:73])[0] == s.id
        found, t = extensions(m[76:]), t + m
        self.resumed = 41 in found
        share = found[51][4:]
        if self.group == "x25519":
            shared = self.private.exchange(x25519.X25519PublicKey.from_public_bytes(share))
        else:
            shared = self.private.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), share))
        secret = s.extract(b"", self.ticket.psk if self.resumed else b"")
        secret = s.extract(s.derive(secret, "derived"), shared)
        self.tx = Keys(s, s.derive(secret, "c hs traffic", t))
        self.rx = Keys(s, s.derive(secret, "s hs traffic", t))
        while (m := self.take_message())[0] != FINISHED:
            if m[0] == EXTENSIONS:
                found = extensions(m[6:])
                self.alpn, self.early_taken = found.get(16, b"")[3:].decode(), 42 in found
            elif m[0] == CERTIFICATE:
                self.certificate = x509.load_der_x509_certificate(m[11:][:number(m[8:11])])
            else:
                assert m[0] == CERTIFICATE_VERIFY and m[4:6] == b"\x04\x03"
                signed = b" " * 64 + b"TLS 1.3, server CertificateVerify\0" + s.digest(t)
                self.certificate.public_key().verify(m[8:], signed, ec.ECDSA(hashes.SHA256()))
            t += m
        assert m[4:] == self.rx.finished(t) and not self.messages
        t += m
        secret = s.extract(s.derive(secret, "derived"), b"")
        self.rx = Keys(s, s.derive(secret, "s ap traffic", t))
        self.finished = message(FINISHED, self.tx.finished(t))
        self.next_tx = Keys(s, s.derive(secret, "c ap traffic", t))
        self.resumption = s.derive(secret, "res master", t + self.finished)

    def switch(self):
        self.handshake_tx, self.tx = self.tx, self.next_tx
