# SPDX-License-Identifier: MIT
"""The WireGuard handshake once more, from the paper (sections 5.4.1 to 5.4.7) and the RFCs, with
nothing of libkm's: BLAKE2s and HMAC are the standard library's, X25519 (RFC 7748), ChaCha20-Poly1305
(RFC 8439) and HChaCha20 (draft-irtf-cfrg-xchacha) are written out below. Slow, and plain to read.

It prints recorded.txt, which test_engine_recorded.c holds against the engine:

    /usr/bin/python3 tests/unit/wg/recorded.py > tests/unit/wg/recorded.txt

tests/e2e/test_wireguard_model.py sees to it that the two agree.
"""
import hashlib
import hmac
import struct

P = 2 ** 255 - 19


# ---- primitives ----

def x25519(k, u):
    """RFC 7748, section 5."""
    k = bytearray(k)
    k[0] &= 248
    k[31] = (k[31] & 127) | 64
    k = int.from_bytes(k, "little")
    x1 = (int.from_bytes(u, "little") & (2 ** 255 - 1)) % P
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = (k >> t) & 1
        if swap != bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def public(k):
    return x25519(k, b"\x09" + bytes(31))


def rotate(v, n):
    return (v << n | v >> (32 - n)) & 0xffffffff


def rounds(s):
    def quarter(a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xffffffff
            s[z] = rotate(s[z] ^ s[x], n)
    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return s


def chacha_state(key, tail):
    return list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key) + struct.unpack("<4I", tail))


def chacha20(key, nonce, counter, data):
    out = b""
    for i in range(0, len(data), 64):
        start = chacha_state(key, struct.pack("<I", counter + i // 64) + nonce)
        block = struct.pack("<16I", *((a + b) & 0xffffffff for a, b in zip(rounds(start[:]), start)))
        out += bytes(a ^ b for a, b in zip(data[i:i + 64], block))
    return out


def hchacha20(key, nonce):
    s = rounds(chacha_state(key, nonce))
    return struct.pack("<8I", *(s[:4] + s[12:]))


def poly1305(key, data):
    r = int.from_bytes(key[:16], "little") & 0x0ffffffc0ffffffc0ffffffc0fffffff
    acc = 0
    for i in range(0, len(data), 16):
        acc = (acc + int.from_bytes(data[i:i + 16] + b"\x01", "little")) * r % (2 ** 130 - 5)
    return ((acc + int.from_bytes(key[16:], "little")) % 2 ** 128).to_bytes(16, "little")


def seal(key, nonce, data, ad):
    """ChaCha20-Poly1305: RFC 8439, section 2.8."""
    def padded(b):
        return b + bytes(-len(b) % 16)
    text = chacha20(key, nonce, 1, data)
    mac = padded(ad) + padded(text) + struct.pack("<QQ", len(ad), len(text))
    return text + poly1305(chacha20(key, nonce, 0, bytes(32)), mac)


def aead(key, counter, data, ad):
    return seal(key, bytes(4) + struct.pack("<Q", counter), data, ad)


def xaead(key, nonce, data, ad):
    return seal(hchacha20(key, nonce[:16]), bytes(4) + nonce[16:], data, ad)


def hash_(*parts):
    return hashlib.blake2s(b"".join(parts)).digest()


def mac(key, data):
    return hashlib.blake2s(data, digest_size=16, key=key).digest()


def kdf(n, key, data):
    prk = hmac.new(key, data, hashlib.blake2s).digest()
    out = [b""]
    for i in range(1, n + 1):
        out.append(hmac.new(prk, out[-1] + bytes([i]), hashlib.blake2s).digest())
    return out[1:]


# ---- the handshake; dh may be other than X25519, to speak as an attacker would ----

class Handshake:
    def __init__(self, responder_public):
        self.c = hash_(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        self.h = hash_(self.c, b"WireGuard v1 zx2c4 Jason@zx2c4.com")
        self.mix(responder_public)

    def mix(self, data):
        self.h = hash_(self.h, data)

    def ephemeral(self, e):
        self.mix(e)
        self.c, = kdf(1, self.c, e)

    def sealed(self, key, data):
        out = aead(key, 0, data, self.h)
        self.mix(out)
        return out


def with_macs(msg, to_public, cookie=None):
    msg += mac(hash_(b"mac1----", to_public), msg)
    return msg + (mac(cookie, msg) if cookie else bytes(16))


def initiation(hs, index, static, eph, eph_public, to_public, timestamp, cookie=None, dh=x25519):
    hs.ephemeral(eph_public)
    hs.c, key = kdf(2, hs.c, dh(eph, to_public))
    sealed_static = hs.sealed(key, public(static))
    hs.c, key = kdf(2, hs.c, x25519(static, to_public))
    sealed_time = hs.sealed(key, timestamp)
    return with_macs(struct.pack("<II", 1, index) + eph_public + sealed_static + sealed_time, to_public, cookie)


def response(hs, index, receiver, eph, eph_public, their_eph, to_public, psk, dh=x25519):
    hs.ephemeral(eph_public)
    hs.c, = kdf(1, hs.c, dh(eph, their_eph))
    hs.c, = kdf(1, hs.c, dh(eph, to_public))
    hs.c, tau, key = kdf(3, hs.c, psk)
    hs.mix(tau)
    return with_macs(struct.pack("<III", 2, index, receiver) + eph_public + hs.sealed(key, b""), to_public)


def data(key, receiver, counter, plain):
    plain += bytes(-len(plain) % 16)
    return struct.pack("<IIQ", 4, receiver, counter) + aead(key, counter, plain, b"")


# ---- what is recorded ----

A, B = bytes(range(1, 33)), bytes(range(101, 133))  # private keys
EA, EB = bytes(range(33, 65)), bytes(range(133, 165))
PSK = hashlib.sha256(b"psk").digest()
IA, IB = 0x11223344, 0x55667788
WHEN = struct.pack(">QI", 0x400000000000000a + 1700000000, 0x07000000)
SOURCE = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]) + struct.pack(">H", 51820)
SECRET = hashlib.sha256(b"cookie secret").digest()
NONCE = bytes(range(200, 224))
PACKET = bytes.fromhex("4500001c000100004011000000000000000000000007000700080000")
# Points of low order: any DH with them is zero (the last three have other names for the same).
LOW = [0, 1, 325606250916557431795983626356110631294008115727848805560023387167927233504,
       39382357235489614581723060781553021112529911719440698176882885853963445705823, P - 1, P, P + 1]


def zero(_key, _point):
    return bytes(32)


def sequence(n, seed):
    """RFC 7693, appendix E: the input bytes of its self-test."""
    a, b, out = 0xdead4bad * seed & 0xffffffff, 1, b""
    for _ in range(n):
        a, b = b, (a + b) & 0xffffffff
        out += bytes([b >> 24])
    return out


def blake2s_sequence(keyed=(16, 20, 28, 32), unkeyed=(16, 20, 28, 32)):
    """That self-test: one hash over many; of the output lengths given, with and without a key."""
    h = hashlib.blake2s()
    for size in sorted(set(keyed) | set(unkeyed)):
        for n in (0, 3, 64, 65, 255, 1024):
            if size in unkeyed:
                h.update(hashlib.blake2s(sequence(n, n), digest_size=size).digest())
            if size in keyed:
                h.update(hashlib.blake2s(sequence(n, n), digest_size=size, key=sequence(size, size)).digest())
    return h.digest()


def main():
    def row(name, value):
        print(name, value.hex())

    row("private_a", A)
    row("private_b", B)
    row("public_a", public(A))
    row("public_b", public(B))
    row("ephemeral_a", EA)
    row("ephemeral_b", EB)
    row("psk", PSK)
    row("timestamp", WHEN)
    hs = Handshake(public(B))
    init = initiation(hs, IA, A, EA, public(EA), public(B), WHEN)
    row("initiation", init)
    resp = response(hs, IB, IA, EB, public(EB), public(EA), public(A), PSK)
    row("response", resp)
    first, second = kdf(2, hs.c, b"")
    row("key_ab", first)
    row("key_ba", second)
    row("data_empty", data(first, IB, 0, b""))
    row("data_packet", data(first, IB, 1, PACKET))
    row("data_back", data(second, IA, 7, PACKET))
    row("packet", PACKET)
    cookie = mac(SECRET, SOURCE)
    row("source", SOURCE)
    row("secret", SECRET)
    row("cookie", cookie)
    row("cookie_reply", struct.pack("<II", 3, IA) + NONCE +
        xaead(hash_(b"cookie--", public(B)), NONCE, cookie, init[-32:-16]))
    row("initiation_with_cookie", initiation(Handshake(public(B)), IA, A, EA, public(EA), public(B), WHEN, cookie))
    # Messages that are right in all but that a DH is zero.
    for i, point in enumerate(LOW):
        low = point.to_bytes(32, "little")
        row(f"low_{i}", low)
        row(f"low_initiation_{i}", initiation(Handshake(public(B)), IA, A, EA, low, public(B), WHEN, dh=zero))
        hs = Handshake(public(B))
        initiation(hs, IA, A, EA, public(EA), public(B), WHEN)
        row(f"low_response_{i}", response(hs, IB, IA, EB, low, public(EA), public(A), PSK, dh=zero))
    # Primitives, where no RFC has values for the form that WireGuard uses.
    for n, text in enumerate((b"", b"abc", bytes(64), bytes(range(65)), bytes(range(256)) * 4)):
        row(f"mac16_{n}", mac(hash_(b"key")[:16 + 16 * (n & 1)], text))
    row("blake2s_sequence", blake2s_sequence((16,), (32,)))
    row("kdf", b"".join(kdf(3, hash_(b"chaining key"), b"input")))
    row("kdf_empty", b"".join(kdf(2, hash_(b"chaining key"), b"")))


if __name__ == "__main__":
    main()
