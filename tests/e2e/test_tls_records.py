# SPDX-License-Identifier: MIT
"""TLS 1.3 record by record, against the record layer of our own and against OpenSSL's: what a hostile client sends
behind its handshake, which alert or answer that brings (RFC 8446), and that the others are served on.

    tests/lab/tls13.py --records--> gatewayd (wireguard = none) --> stand-in agent
"""
import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import ssl
import struct
import subprocess
import time

import pytest

import test_edge as base
from test_edge import Gone
from test_h2_floods import Cost
from tests.lab import h2raw
from tests.lab.tls13 import (ALERT, CCS, CERTIFICATE, CLIENT_HELLO, DATA, FINISHED, HANDSHAKE, KEY_UPDATE, MAX, SUITES,
                             TICKET, Alert, Tls13, message, plain)

SERVED = "served, and served again"
ANSWERED = "answered, then close_notify"
CLOSED = "close_notify"
ENDED = "fin or reset"  # neither answer nor alert
CUT = "answered, then fin or reset"


@pytest.fixture(scope="module")
def agent():
    a = base.Agent()
    yield a
    a.close()


@pytest.fixture(scope="module", params=["own", "openssl"])
def gw(agent, request):
    with base.running(workers=1, tls_record_layer=request.param, header_timeout="5m", idle_timeout="5m") as g:
        g.layer = request.param
        yield g


def may_be_cut(gw):
    """OpenSSL 3.0 ends a connection ("bad length") whose client asks for new keys while a write waits for room."""
    cut_off = (ConnectionError, EOFError, h2raw.Closed) if gw.layer == "openssl" else ()
    return contextlib.suppress(*cut_off)


own = pytest.mark.parametrize("gw", ["own"], indirect=True)  # for what takes its time


def dial(gw):
    s = socket.create_connection(("127.0.0.1", gw.https), timeout=base.WAIT)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


def tls13(gw, **how):
    return Tls13(dial(gw), **how)


def get(path, host="hello.test"):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def post(ask, total):
    """The request as one with a body, so many bytes in all."""
    for n in range(total):
        head = ask[:-2].replace(b"GET", b"POST") + b"Content-Length: %d\r\n\r\n" % n
        if len(head) + n == total:
            return head + b"b" * n


@pytest.fixture(scope="module")
def witness(gw):
    """Another client, on a connection that lasts."""
    with tls13(gw) as c:
        http = base.Client(c)

        def is_served():
            assert http.get("/status/204").status == 204
        is_served()
        yield is_served


# ---- the table ----------------------------------------------------------------------------------
# A case: what is sent (records of c; ask is a request), and how that may end. The request must reach the target only
# where the answer comes. Where there is more than one end the RFC leaves it open, or OpenSSL's order of checks is
# another: the comment says which.

def cut(ask, n):
    return [ask[i:i + n] for i in range(0, len(ask), n)]


def flipped(record, at=-1, bit=1):
    r = bytearray(record)
    r[at] ^= bit
    return bytes(r)


def handshake(c, *messages):
    return c.record(b"".join(messages), HANDSHAKE)


UPDATE = message(KEY_UPDATE, b"\0")


def many_updates(c, ask, request):
    for part in cut(ask, 5):
        yield c.key_update(request)
        yield c.record(part)


def split_update(c, at, *between):
    first, second = c.record(UPDATE[:at], HANDSHAKE), []
    for inner, content in between:
        second.append(c.record(content, inner))
    last = c.record(UPDATE[at:], HANDSHAKE)
    c.tx = c.tx.updated()
    return [first, *second, last]


def old_keys(c, ask):
    """An update, and then no use of it."""
    old = c.tx
    update = c.key_update()
    c.tx = old
    return [update, c.record(ask)]


def no_new_count(c, ask):
    update = c.key_update()
    c.tx.seq = 1
    return [update, c.record(ask)]


UNEXPECTED = {"unexpected_message"}
MAC = {"bad_record_mac"}
OVERFLOW = {"record_overflow"}
FULL = MAX - 1  # padding that fills a record up, with one byte of content

CASES = {
    # The request in records of every kind.
    "one record": (lambda c, ask: [c.record(ask)], {SERVED}),
    "a byte a record": (lambda c, ask: [c.record(p) for p in cut(ask, 1)], {SERVED}),
    "seven bytes a record, padded": (lambda c, ask: [c.record(p, pad=i) for i, p in enumerate(cut(ask, 7))], {SERVED}),
    "a record of 2^14": (lambda c, ask: [c.record(post(ask, MAX))], {SERVED}),
    "a record of 2^14 - 1": (lambda c, ask: [c.record(post(ask, MAX - 1))], {SERVED}),
    "records of 2^14, 1, 2^14": (lambda c, ask: [c.record(p) for p in (lambda r: (r[:MAX], r[MAX:MAX + 1], r[MAX + 1:]))
                                                 (post(ask, 2 * MAX + 1))], {SERVED}),
    "one byte of padding": (lambda c, ask: [c.record(ask, pad=1)], {SERVED}),
    "1,000 bytes of padding": (lambda c, ask: [c.record(ask, pad=1000)], {SERVED}),
    "padding to the maximum": (lambda c, ask: [c.record(ask, pad=MAX - len(ask))], {SERVED}),
    "a byte a record, each padded to the maximum": (lambda c, ask: [c.record(p, pad=FULL) for p in cut(ask, 1)],
                                                    {SERVED}),
    "zeros at the end of the content": (lambda c, ask: [c.record(post(ask, 600)[:-9] + bytes(9), pad=5)], {SERVED}),
    "nothing but zeros as content": (lambda c, ask: [c.record(post(ask, 600)[:-100]), c.record(bytes(100))], {SERVED}),
    "an empty record": (lambda c, ask: [c.record(b""), c.record(ask)], {SERVED}),
    "empty records all over": (lambda c, ask: [r for p in cut(ask, 5) for r in (c.record(b""), c.record(p), c.record(b""))],
                               {SERVED}),
    "an empty record padded to the maximum": (lambda c, ask: [c.record(b"", pad=MAX), c.record(ask)], {SERVED}),

    # Too long, too short. Section 5.2: a TLSInnerPlaintext above 2^14 + 1 is not to be sent, but no alert is named for
    # it when content alone is within 2^14: OpenSSL takes it.
    "content of 2^14 + 1": (lambda c, ask: [c.record(post(ask, MAX + 1))], OVERFLOW),
    "content of 2^14 + 1, the rest fine": (lambda c, ask: [c.record(bytes(MAX + 1)), c.record(ask)], OVERFLOW),
    "ciphertext of 2^14 + 256, all content": (lambda c, ask: [c.record(bytes(MAX + 239)), c.record(ask)], OVERFLOW),
    "ciphertext of 2^14 + 257, all content": (lambda c, ask: [c.record(bytes(MAX + 240)), c.record(ask)], OVERFLOW),
    "padding one beyond the maximum": (lambda c, ask: [c.record(ask, pad=MAX + 1 - len(ask))], OVERFLOW | {SERVED}),
    "ciphertext of 2^14 + 256, mostly padding": (lambda c, ask: [c.record(ask, pad=MAX + 239 - len(ask))],
                                                 OVERFLOW | {SERVED}),
    "ciphertext of 2^14 + 257, mostly padding": (lambda c, ask: [c.record(ask, pad=MAX + 240 - len(ask)), c.record(ask)],
                                                 OVERFLOW),
    "the head of a record of 2^14 + 257": (lambda c, ask: [struct.pack("!BHH", DATA, 0x303, MAX + 257)], OVERFLOW),
    "the head of a record of 2^16 - 1": (lambda c, ask: [struct.pack("!BHH", DATA, 0x303, 65535)], OVERFLOW),
    "ciphertext of nothing": (lambda c, ask: [plain(DATA, b""), c.record(ask)], MAC | {"decode_error"}),
    "ciphertext of a byte": (lambda c, ask: [plain(DATA, b"\0"), c.record(ask)], MAC | {"decode_error"}),
    "half a tag": (lambda c, ask: [c.record(b"", inner=None, tag=8), c.record(ask)], MAC | {"decode_error"}),
    # There is not even a byte to be the type: nothing says whether that is a bad tag (OpenSSL) or a missing type.
    "a tag alone": (lambda c, ask: [c.record(b"", inner=None), c.record(ask)], MAC | UNEXPECTED),
    "one zero alone": (lambda c, ask: [c.record(b"\0", inner=None), c.record(ask)], UNEXPECTED),
    "padding alone": (lambda c, ask: [c.record(bytes(1000), inner=None), c.record(ask)], UNEXPECTED),
    "as much padding as fits alone": (lambda c, ask: [c.record(bytes(MAX + 1), inner=None), c.record(ask)], UNEXPECTED),
    # Both are broken rules.
    "more padding than fits alone": (lambda c, ask: [c.record(bytes(MAX + 2), inner=None), c.record(ask)],
                                     UNEXPECTED | OVERFLOW),

    # Not what was sealed, or not where it belongs.
    "a bit of the tag": (lambda c, ask: [flipped(c.record(ask)), c.record(ask)], MAC),
    "another bit of the tag": (lambda c, ask: [flipped(c.record(ask), -16, 128), c.record(ask)], MAC),
    "a bit of the content": (lambda c, ask: [flipped(c.record(ask), 5), c.record(ask)], MAC),
    "a bit of the type": (lambda c, ask: [flipped(c.record(ask), -17), c.record(ask)], MAC),
    "a bit of a full record": (lambda c, ask: [flipped(c.record(post(ask, MAX)), 9000), c.record(ask)], MAC),
    "a bit of the second record": (lambda c, ask: [c.record(ask[:9]), flipped(c.record(ask[9:])), c.record(ask)], MAC),
    "tag cut by a byte": (lambda c, ask: [c.record(ask, tag=15), c.record(ask)], MAC),
    "length one less, the rest behind it": (lambda c, ask: [flipped(c.record(post(ask, 600)), 4), c.record(ask)], MAC),
    "two records swapped": (lambda c, ask: [c.record(p) for p in (ask[:9], ask[9:])][::-1], MAC),
    "a record twice": (lambda c, ask: [c.record(ask[:9])] * 2 + [c.record(ask[9:])], MAC),
    "a record less": (lambda c, ask: [c.record(get("/never")) and b"", c.record(ask)], MAC),
    "count from 2^32 on": (lambda c, ask: [c.record(ask, seq=1 << 32)], MAC),
    "keys of the handshake": (lambda c, ask: [(lambda k: (setattr(c, "tx", c.handshake_tx), c.record(ask),
                                                          setattr(c, "tx", k))[1])(c.tx), c.record(ask)], MAC),
    "keys of the server": (lambda c, ask: [(lambda k: (setattr(c, "tx", c.rx), c.record(ask, seq=0),
                                                       setattr(c, "tx", k))[1])(c.tx), c.record(ask)], MAC),

    # Types.
    **{f"inner type {n}": (lambda c, ask, n=n: [c.record(ask, n), c.record(ask)], UNEXPECTED)
       for n in (1, CCS, 19, 24, 25, 26, 128, 255)},
    "change_cipher_spec, sealed": (lambda c, ask: [c.record(b"\1", CCS), c.record(ask)], UNEXPECTED),
    "change_cipher_spec": (lambda c, ask: [plain(CCS, b"\1"), c.record(ask)], UNEXPECTED),
    "a plain alert": (lambda c, ask: [plain(ALERT, b"\1\0"), c.record(ask)], UNEXPECTED),
    "a plain fatal alert": (lambda c, ask: [plain(ALERT, b"\2\x28"), c.record(ask)], UNEXPECTED),
    "a plain ClientHello": (lambda c, ask: [plain(HANDSHAKE, c.hello(), 0x301), c.record(ask)], UNEXPECTED),
    "plain data": (lambda c, ask: [plain(DATA, ask), c.record(ask)], MAC),
    **{f"outer type {n}": (lambda c, ask, n=n: [c.record(ask, outer=n), c.record(ask)], UNEXPECTED)
       for n in (0, CCS, ALERT, HANDSHAKE, 24, 25, 255)},
    # Its version is wrong as well as its type.
    "HTTP without TLS": (lambda c, ask: [ask], UNEXPECTED | OVERFLOW | {"protocol_version"}),
    # legacy_record_version of a TLSCiphertext "is always 0x0303"; as part of what the tag seals it may be refused, as
    # legacy it may be ignored.
    **{f"version {v:#06x}": (lambda c, ask, v=v: [c.record(ask, version=v)],
                             MAC | {SERVED, "decode_error", "protocol_version"}) for v in (0x0301, 0x0302, 0x0304, 0x0000)},
    "version changed on the way": (lambda c, ask: [flipped(c.record(ask), 2, 2)],
                                   MAC | {SERVED, "decode_error", "protocol_version"}),

    # Alerts. The level means nothing in TLS 1.3; all but two end the connection whatever it is.
    "close_notify": (lambda c, ask: [c.close_notify()], {CLOSED}),
    "close_notify, said to be fatal": (lambda c, ask: [c.alert("close_notify", 2)], {CLOSED}),
    "close_notify behind the request": (lambda c, ask: [c.record(ask), c.close_notify()], {ANSWERED}),
    "close_notify in the middle of a head": (lambda c, ask: [c.record(ask[:20]), c.close_notify()], {CLOSED}),
    # What comes behind it is not looked at (section 6.1); TCP resets if it comes later than the gateway closes.
    "a request behind close_notify": (lambda c, ask: [c.close_notify(), c.record(ask)], {CLOSED, ENDED}),
    "a bad record behind close_notify": (lambda c, ask: [c.close_notify(), flipped(c.record(ask))], {CLOSED, ENDED}),
    "close_notify between two requests": (lambda c, ask: [c.record(ask), c.close_notify(), c.record(get("/never"))],
                                          {ANSWERED, CUT}),
    "user_canceled": (lambda c, ask: [c.alert("user_canceled", 1), c.record(ask)], {SERVED}),
    "user_canceled, close_notify": (lambda c, ask: [c.alert("user_canceled", 1), c.close_notify()], {CLOSED}),
    **{f"alert {n}, level {level}": (lambda c, ask, n=n, level=level: [c.alert(n, level), c.record(ask)], {ENDED})
       for n, level in ((10, 2), (20, 2), (40, 2), (80, 2), (48, 1), (100, 1), (41, 1), (255, 2))},
    "an empty alert": (lambda c, ask: [c.record(b"", ALERT), c.record(ask)], UNEXPECTED),
    "an empty alert, padded": (lambda c, ask: [c.record(b"", ALERT, pad=9), c.record(ask)], UNEXPECTED),
    # Section 5.1: exactly one message a record; section 6: what cannot be parsed is a decode_error.
    "half an alert": (lambda c, ask: [c.record(b"\1", ALERT), c.record(b"\0", ALERT), c.record(ask)],
                      UNEXPECTED | {"decode_error"}),
    "an alert and a half": (lambda c, ask: [c.record(b"\1\0\1", ALERT), c.record(ask)], UNEXPECTED | {"decode_error"}),
    "two alerts in a record": (lambda c, ask: [c.record(b"\1\x5a\1\0", ALERT), c.record(ask)],
                               UNEXPECTED | {"decode_error"}),

    # KeyUpdate.
    "an update": (lambda c, ask: [c.key_update(), c.record(ask)], {SERVED}),
    "an update, padded": (lambda c, ask: [c.key_update(pad=5000), c.record(ask)], {SERVED}),
    "an update that asks for another": (lambda c, ask: [c.key_update(1), c.record(ask)], {SERVED}),
    "updates with data between": (lambda c, ask: many_updates(c, ask, 0), {SERVED}),
    "updates that ask, with data between": (lambda c, ask: many_updates(c, ask, 1), {SERVED}),
    "ten updates in a row": (lambda c, ask: [*(c.key_update(i % 2) for i in range(10)), c.record(ask)], {SERVED}),
    "an update in the middle of a body": (lambda c, ask: [c.record(post(ask, 600)[:400]), c.key_update(1),
                                                          c.record(post(ask, 600)[400:])], {SERVED}),
    "an update, then close_notify": (lambda c, ask: [c.record(ask), c.key_update(1), c.close_notify()], {ANSWERED}),
    "an update, an empty record": (lambda c, ask: [c.key_update(), c.record(b""), c.record(ask)], {SERVED}),
    "an update in five records": (lambda c, ask: [*(c.record(p, HANDSHAKE) for p in cut(UPDATE, 1)),
                                                  (setattr(c, "tx", c.tx.updated()), c.record(ask))[1]], {SERVED}),
    **{f"an update cut after {n}": (lambda c, ask, n=n: [*split_update(c, n), c.record(ask)], {SERVED}) for n in (1, 3, 4)},
    # Section 5.1: a handshake message that spans records spans nothing else.
    **{f"an update cut after {n}, data between": (lambda c, ask, n=n: [*split_update(c, n, (DATA, b"G")), c.record(ask)],
                                                  UNEXPECTED) for n in (1, 4)},
    "an update cut, an empty record between": (lambda c, ask: [*split_update(c, 2, (DATA, b"")), c.record(ask)], UNEXPECTED),
    "an update cut, a warning between": (lambda c, ask: [*split_update(c, 2, (ALERT, b"\1\x5a")), c.record(ask)], UNEXPECTED),
    "an update cut, an empty part between": (lambda c, ask: [*split_update(c, 2, (HANDSHAKE, b"")), c.record(ask)],
                                             UNEXPECTED),
    "an update cut, nothing but data behind": (lambda c, ask: [c.record(UPDATE[:3], HANDSHAKE), c.record(ask)], UNEXPECTED),
    # Section 5.1: a message before a change of keys ends with its record.
    "two updates in a record": (lambda c, ask: [handshake(c, UPDATE, UPDATE), c.record(ask)], UNEXPECTED),
    "an update and a half in a record": (lambda c, ask: [handshake(c, UPDATE, UPDATE[:2]), c.record(ask)], UNEXPECTED),
    "an update and a byte in a record": (lambda c, ask: [handshake(c, UPDATE, b"\x18"), c.record(ask)], UNEXPECTED),
    "an update and a request in a record": (lambda c, ask: [handshake(c, UPDATE, ask), c.record(ask)], UNEXPECTED),
    **{f"an update's value {v}": (lambda c, ask, v=v: [handshake(c, message(KEY_UPDATE, bytes([v]))), c.record(ask)],
                                  {"illegal_parameter"}) for v in (2, 255)},
    # Too long is also too long to be read at all: OpenSSL's illegal_parameter.
    **{f"an update of {n} bytes": (lambda c, ask, n=n: [handshake(c, message(KEY_UPDATE, bytes(n))), c.record(ask)],
                                   {"decode_error", "illegal_parameter"}) for n in (0, 2, 1000)},
    "an update of 2^24 - 1 bytes": (lambda c, ask: [c.record(b"\x18\xff\xff\xff", HANDSHAKE)],
                                    UNEXPECTED | {"decode_error", "illegal_parameter"}),
    "old keys behind an update": (old_keys, MAC),
    "count goes on behind an update": (no_new_count, MAC),
    "new keys without an update": (lambda c, ask: [c.key_update() and b"", c.record(ask)], MAC),

    # Messages that no client has to send behind its Finished.
    "an empty message part": (lambda c, ask: [c.record(b"", HANDSHAKE), c.record(ask)], UNEXPECTED),
    "an empty message part, padded": (lambda c, ask: [c.record(b"", HANDSHAKE, pad=99), c.record(ask)], UNEXPECTED),
    "ClientHello": (lambda c, ask: [handshake(c, c.hello()), c.record(ask)], UNEXPECTED),
    **{f"message {n}": (lambda c, ask, n=n: [handshake(c, message(n, bytes(size))), c.record(ask)], UNEXPECTED)
       # EndOfEarlyData is 5, CertificateRequest 13, message_hash 254
       for n, size in ((0, 0), (CLIENT_HELLO, 40), (2, 40), (3, 40), (TICKET, 40), (5, 0), (8, 2), (CERTIFICATE, 4),
                       (13, 3), (12, 9), (14, 0), (15, 40), (16, 40), (FINISHED, 32), (21, 0), (23, 0), (254, 32),
                       (255, 0))},
    "Finished again": (lambda c, ask: [handshake(c, c.finished), c.record(ask)], UNEXPECTED),
    "a message without end": (lambda c, ask: [c.record(b"\x0b\xff\xff\xff" + bytes(996), HANDSHAKE),
                                              *(c.record(bytes(1000), HANDSHAKE) for _ in range(20))],
                              UNEXPECTED | {"decode_error", "illegal_parameter"}),
}


def outcome(c, expected):
    http = base.Client(c)
    try:
        status = http.answer().status
    except Gone:
        return CLOSED
    except Alert as a:
        return str(a)
    except (EOFError, ConnectionError):
        return ENDED
    assert status == 200
    if ANSWERED in expected:
        end = c.end()  # a reset that send has met is an end for recv
        return ANSWERED if end == CLOSED else CUT if end in ("fin", "reset") else end
    assert http.get("/status/204").status == 204
    c.push(c.close_notify())
    return SERVED if c.end() == CLOSED else "no close_notify"


def reached(agent, path):
    with agent.lock:
        return any(r["target"] in (path, "/never") for x in agent.connections[-50:] for r in x["requests"])


def send(c, records, pieces):
    """All at once, or in about two hundred segments, most of which end within a record. The gateway may have ended it
    before the last."""
    data = b"".join(records)
    n = 1 + len(data) // 200 if pieces else len(data)
    try:
        for part in cut(data, n):
            c.sock.sendall(part)
    except ConnectionError:
        c.reset = True


serial = iter(range(1 << 30))


def play(gw, agent, case, pieces=False, **how):
    make, expected = case
    path = f"/echo/{next(serial)}"
    with tls13(gw, **how) as c:
        send(c, make(c, get(path)), pieces)
        got = outcome(c, expected)
    assert got in expected
    assert not reached(agent, path) or got in (SERVED, ANSWERED, CUT)


def both(gw, agent, case, **how):
    """In one segment, which for OpenSSL's layer is not worth the time, and in pieces."""
    if gw.layer == "own":
        play(gw, agent, case, **how)
    play(gw, agent, case, pieces=True, **how)


@pytest.mark.parametrize("name", CASES)
def test_records(gw, agent, witness, name):
    both(gw, agent, CASES[name])
    witness()


@pytest.mark.parametrize("group", ["x25519", "P-256"])
@pytest.mark.parametrize("suite", SUITES)
def test_suites(gw, agent, witness, suite, group):
    """All that touches keys and counts, with each."""
    for name in ("one record", "a byte a record", "a record of 2^14", "padding to the maximum", "a bit of the tag",
                 "two records swapped", "updates that ask, with data between", "old keys behind an update",
                 "close_notify behind the request"):
        play(gw, agent, CASES[name], suite=suite, group=group)
    witness()


# ---- between the handshake and what comes behind it ----------------------------------------------

def finished(c, *parts, inner=HANDSHAKE):
    records = [c.record(p, inner) for p in parts]
    c.switch()
    return records


FINISHED_CASES = {
    "a request in the same segment": (lambda c, ask: finished(c, c.finished) + [c.record(ask)], {SERVED}),
    "a request byte by byte in the same segment": (lambda c, ask: finished(c, c.finished) +
                                                   [c.record(p) for p in cut(ask, 1)], {SERVED}),
    "90 KB in the same write": (lambda c, ask: finished(c, c.finished) + [c.record(p) for p in cut(post(ask, 90000), MAX)],
                                {SERVED}),
    "an update in the same segment": (lambda c, ask: finished(c, c.finished) + [c.key_update(1), c.record(ask)], {SERVED}),
    "close_notify in the same segment": (lambda c, ask: finished(c, c.finished) + [c.close_notify()], {CLOSED}),
    "a request and close_notify": (lambda c, ask: finished(c, c.finished) + [c.record(ask), c.close_notify()], {ANSWERED}),
    "a bad record": (lambda c, ask: finished(c, c.finished) + [flipped(c.record(ask)), c.record(ask)], MAC),
    "change_cipher_spec before it": (lambda c, ask: [plain(CCS, b"\1")] + finished(c, c.finished) + [c.record(ask)], {SERVED}),
    "change_cipher_spec behind it": (lambda c, ask: finished(c, c.finished) + [plain(CCS, b"\1"), c.record(ask)], UNEXPECTED),
    "padded": (lambda c, ask: [c.record(c.finished, HANDSHAKE, pad=9999), (c.switch(), c.record(ask))[1]], {SERVED}),
    "in two records": (lambda c, ask: finished(c, c.finished[:9], c.finished[9:]) + [c.record(ask)], {SERVED}),
    "a byte a record": (lambda c, ask: finished(c, *cut(c.finished, 1)) + [c.record(ask)], {SERVED}),
    "cut, data between": (lambda c, ask: [c.record(c.finished[:9], HANDSHAKE), c.record(ask)], UNEXPECTED),
    "an update in its record": (lambda c, ask: finished(c, c.finished + UPDATE) + [c.record(ask)], UNEXPECTED),
    "a byte more in its record": (lambda c, ask: finished(c, c.finished + b"\x18") + [c.record(ask)], UNEXPECTED),
    "data before it": (lambda c, ask: [c.record(ask)] + finished(c, c.finished), UNEXPECTED),
    "an update before it": (lambda c, ask: [c.record(UPDATE, HANDSHAKE)] + finished(c, c.finished) + [c.record(ask)],
                            UNEXPECTED),
    "a request with its keys": (lambda c, ask: [c.record(c.finished, HANDSHAKE), c.record(ask)], MAC),
    "wrong": (lambda c, ask: finished(c, flipped(c.finished)) + [c.record(ask)], {"decrypt_error"}),
    "wrong tag": (lambda c, ask: [flipped(*finished(c, c.finished)), c.record(ask)], MAC),
}


@pytest.mark.parametrize("name", FINISHED_CASES)
def test_finished(gw, agent, witness, name):
    both(gw, agent, FINISHED_CASES[name], finish=False)
    witness()


# ---- early data: it is never allowed, and so ignored (section 4.2.10) ----------------------------

def ticket(gw, **how):
    with tls13(gw, **how) as c:
        assert base.Client(c).get("/status/204").status == 204
        return c.tickets[-1]


@pytest.mark.parametrize("size", [1, 300, 10000])
@pytest.mark.parametrize("resumed", [True, False])
def test_early_data(gw, agent, witness, size, resumed):
    t = ticket(gw) if resumed else None
    assert not resumed or t.early == 0
    with tls13(gw, ticket=t, early=post(get("/never"), 200 + size)[:size]) as c:
        assert c.resumed == resumed and not c.early_taken
        path = f"/echo/{next(serial)}"
        assert base.Client(c).get(path).status == 200
        assert reached(agent, path) and not reached(agent, "/none")
    witness()


def test_early_data_without_end(gw, witness):
    t = ticket(gw)
    with Cost(gw, "2 MB of early data"):
        with pytest.raises((Alert, ConnectionError, EOFError)):
            with tls13(gw, ticket=t, early=bytes(2_000_000)) as c:
                while True:
                    c.recv()
    witness()


# ---- sessions -----------------------------------------------------------------------------------

@pytest.mark.parametrize("suite", SUITES)
def test_a_session_is_resumed(gw, suite):
    t = ticket(gw, suite=suite)
    for _ in range(3):
        with tls13(gw, suite=suite, ticket=t) as c:
            assert c.resumed
            play_on(c)
            t, = c.tickets
            assert t.early == 0
    # Its ticket is no other's: not under another name, not changed on its way, not with another key.
    for ticket_, sni in ((t, "other.test"), (t._replace(id=flipped(t.id, 20)), "hello.test")):
        with tls13(gw, suite=suite, ticket=ticket_, sni=sni) as c:
            assert not c.resumed
            assert base.Client(c).get("/status/204", host=sni).status == 204
    with pytest.raises(Alert, match="decrypt_error|illegal_parameter"):
        tls13(gw, suite=suite, ticket=t._replace(psk=bytes(len(t.psk))))


def play_on(c):
    """Updates, empty and padded records, on any connection."""
    http = base.Client(c)
    for request in (0, 1, 0, 1, 1):
        c.push(c.key_update(request), c.record(b""), c.record(get("/echo"), pad=77))
        assert http.answer().status == 200
    assert c.updates == 3


# ---- much data ----------------------------------------------------------------------------------

MB20 = 20_000_000


def digest_of(http, n):
    """Of the next n bytes, as they come."""
    h = hashlib.sha256()
    while n:
        if not http.s.buf:
            http.s.more()
        data, http.s.buf = http.s.buf[:n], http.s.buf[n:]
        h.update(data)
        n -= len(data)
    return h.hexdigest()


BLOCK = bytes(range(256)) * 256


def block_digest(n):
    h = hashlib.sha256()
    for _ in range(n // len(BLOCK)):
        h.update(BLOCK)
    h.update(BLOCK[:n % len(BLOCK)])
    return h.hexdigest()


@pytest.mark.parametrize("suite", SUITES)
def test_download(gw, witness, suite):
    """tls13.py checks each record: its place, its size, its type."""
    with tls13(gw, suite=suite) as c:
        http = base.Client(c)
        c.push(c.record(get(f"/bytes/{MB20}")))
        assert http.head()[0] == 200
        assert digest_of(http, MB20) == block_digest(MB20)
        assert max(c.records) <= MAX and c.records.count(MAX) > MB20 // MAX // 2
        witness()
        assert http.get("/echo").status == 200
        c.push(c.close_notify())
        assert c.end() == CLOSED


def test_updates_during_a_download(gw):
    """Both sides change keys while data is on its way; the gateway answers when it reads the next time."""
    with tls13(gw) as c, may_be_cut(gw):
        http = base.Client(c)
        c.push(c.record(get(f"/bytes/{MB20}")))
        assert http.head()[0] == 200
        for _ in range(10):
            c.push(c.key_update(1), c.record(b""))
            digest_of(http, MB20 // 10)
        assert http.get("/echo").status == 200
        assert 1 <= c.updates <= 10
        for _ in range(5):
            c.push(c.key_update(1))
            assert http.get("/bytes/100000").body == (BLOCK * 2)[:100000]
        assert 6 <= c.updates <= 15


SIZES = (1, 17, 1000, MAX, 4099, MAX - 1, 2, 9001, 15, 16, 31, 12345, 255, 256, 257)


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"])
def test_upload(gw, witness, suite):
    """Records of odd sizes, now and then padded, an update after every 500."""
    with tls13(gw, suite=suite) as c:
        c.push(c.record(b"POST /echo HTTP/1.1\r\nHost: hello.test\r\nContent-Length: %d\r\n\r\n" % MB20))
        at, i, held, blob = 0, 0, [], memoryview(BLOCK * 2)
        while at < MB20:
            n = min(SIZES[i % len(SIZES)], MB20 - at)
            held.append(c.record(bytes(blob[at % 65536:at % 65536 + n]), pad=(i % 7 == 0) * (MAX - n)))
            at, i = at + n, i + 1
            if i % 500 == 0:
                held.append(c.key_update(i % 1000 == 0))
            if len(held) > 100 or at == MB20:
                c.push(*held)
                held = []
        witness()
        r = json.loads(base.Client(c).answer().body)
        assert (r["length"], r["sha256"]) == (MB20, block_digest(MB20))


def asks(n):
    """So many requests, pipelined."""
    return b"".join(get(f"/echo/pipelined/{i}") for i in range(n))


@pytest.mark.parametrize("how", ["one record", "a record each", "odd records", "seven bytes a record", "with updates"])
@pytest.mark.parametrize("end", [True, False])
def test_pipelined(gw, how, end):
    """Nothing comes behind them that would wake whoever forgot what it had read already."""
    n, sizes = 60, {"one record": [1 << 14], "odd records": SIZES, "seven bytes a record": [7]}
    with tls13(gw) as c:
        if how == "with updates":
            out = [r for i in range(n) for r in (c.record(get(f"/echo/pipelined/{i}")), c.key_update(i % 3 == 0))]
        elif how == "a record each":
            out = [c.record(get(f"/echo/pipelined/{i}")) for i in range(n)]
        else:
            out, rest, i = [], asks(n), 0
            while rest:
                part = sizes[how][i % len(sizes[how])]
                out.append(c.record(rest[:part]))
                rest, i = rest[part:], i + 1
        c.push(*out, c.close_notify() if end else b"")
        http = base.Client(c)
        for i in range(n):
            assert json.loads(http.answer().body)["target"] == f"/echo/pipelined/{i}"
        if not end:
            assert http.get("/status/204").status == 204
            c.push(c.close_notify())
        assert c.end() == CLOSED
        assert (how == "with updates") == (c.updates > 0)


def narrow(gw, **how):
    """So little room for what is not read yet that the gateway's writes are cut all the time."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(base.WAIT)
    raw.connect(("127.0.0.1", gw.https))
    return Tls13(raw, **how)


def test_updates_between_writes_of_http2(gw):
    """The gateway is asked for new keys while it cannot write what it has begun."""
    n = 3_000_000
    with narrow(gw, alpn=["h2"]) as c, may_be_cut(gw):
        h = h2raw.Conn(c, (h2raw.INITIAL_WINDOW_SIZE, 0x7fffffff))
        h.send(h2raw.window_update(0, 0x7fff0000 - 1), h.head(1, [*h2raw.GET[:3], (":path", f"/bytes/{n}")]))
        left, digest = n, hashlib.sha256()
        while left:
            f = h.until(lambda f: f.kind == h2raw.DATA)
            digest.update(f.payload)
            left -= len(f.payload)
            h.send(h2raw.frame(h2raw.PING, 0, 0, bytes(8)) if left % 3 == 0 else b"")
            c.push(c.key_update(1))
        h.alive()
        assert digest.hexdigest() == block_digest(n) and c.updates > 10


def test_updates_both_ways_at_once(gw, witness):
    part, ahead, n = 20000, 50, 150
    data = (BLOCK * 2)[:part]
    with narrow(gw) as c, may_be_cut(gw):
        http = base.Client(c)
        http.send("GET /upgrade HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert http.head()[0] == 101 and http.s.until(b"welcome ")
        for i in range(n + ahead):
            if i < n:
                c.push(c.record(data[:SIZES[i % 15]]), c.key_update(i % 4 > 0), c.record(data[SIZES[i % 15]:][:MAX]),
                       c.record(data[SIZES[i % 15]:][MAX:], pad=i))
            if i >= ahead:
                assert http.s.exactly(part) == data
        assert c.updates > 10
    witness()


def test_records_as_short_as_asked_for(gw):
    for number, most in enumerate((512, 1024, 2048, 4096), 1):
        with tls13(gw, fragment=number) as c:
            assert base.Client(c).get("/bytes/100000").body == (BLOCK * 2)[:100000]
            assert max(c.records) == most
            play_on(c)


@own
def test_many_connections(gw):
    """More than a worker keeps expanded keys for, in an order in which all lose theirs."""
    with contextlib.ExitStack() as held:
        all_ = [held.enter_context(tls13(gw, suite=list(SUITES)[i % 3])) for i in range(300)]
        for step in (1, 7):
            for i in range(0, 300 * step, step):
                c = all_[i % 300]
                c.push(c.key_update(1) if i % 4 == 0 else b"", c.record(get("/status/204")))
                assert base.Client(c).answer().status == 204
        for c in all_:
            c.push(c.close_notify())
            assert c.end() == CLOSED


# ---- floods -------------------------------------------------------------------------------------

FLOODS = {  # what is sent again and again, how often
    "updates": (lambda c: c.key_update(0), 5000),
    "updates that ask": (lambda c: c.key_update(1), 5000),
    "updates that ask, with data between": (lambda c: c.key_update(1) + c.record(b"G" * 5), 3000),
    "empty records": (lambda c: c.record(b""), 20000),
    "empty records padded to the maximum": (lambda c: c.record(b"", pad=MAX), 1000),
    "user_canceled": (lambda c: c.alert("user_canceled", 1), 5000),
    "parts of a message": (lambda c: c.record(b"\x0b", HANDSHAKE), 5000),
    "empty lines, a byte a record": (lambda c: c.record(b"\r"), 20000),
}


@pytest.mark.parametrize("name", FLOODS)
def test_flood(gw, witness, name):
    """It may be borne or ended, but holds no memory, and costs not more than a record does."""
    make, n = FLOODS[name]
    with tls13(gw) as c, Cost(gw, f"{n} {name}") as cost, contextlib.suppress(ConnectionError):
        out = []
        for i in range(n):
            out.append(make(c))
            if i % 50 == 49:
                c.push(*out)
                out = []
            if i % 1000 == 999:
                witness()
    witness()
    assert cost.ticks() - cost.cpu < n * 0.002 * os.sysconf("SC_CLK_TCK")  # 2 ms a record, sanitized too


# ---- ends ---------------------------------------------------------------------------------------

def test_half_closed_clients_get_their_answers(gw, agent):
    for notify in (True, False):
        for fin in (True, False)[:1 + notify]:
            with tls13(gw) as c:
                c.push(c.record(get("/sip")), c.close_notify() if notify else b"")
                if fin:
                    c.sock.shutdown(socket.SHUT_WR)
                agent.heard("sip")
                agent.uploads.put("go")
                assert base.Client(c).answer().status == 200
                assert c.end() == CLOSED


@pytest.mark.parametrize("how", ["close_notify", "fin", "fin within a record"])
def test_half_a_body_is_no_request(gw, agent, how):
    with tls13(gw) as c:
        path = f"/echo/{next(serial)}"
        whole = post(get(path), 1000)
        c.push(c.record(whole[:500]))
        gw.until(lambda: gw.metric("kakuremichi_requests_gathering") == 1)
        if how == "close_notify":
            c.push(c.close_notify())
        else:
            c.push(c.record(whole[500:])[:200] if "record" in how else b"")
            c.sock.shutdown(socket.SHUT_WR)
        with pytest.raises((Gone, EOFError, ConnectionError)):
            base.Client(c).answer()
    gw.until(lambda: gw.metric("kakuremichi_requests_gathering") == 0)
    assert not reached(agent, path)


@pytest.mark.parametrize("path", ["/short", "/shortchunk", "/shortreset"])
def test_an_answer_cut_off_has_no_close_notify(gw, path):
    with tls13(gw) as c:
        c.push(c.record(get(path)))
        assert base.Client(c).head()[0] == 200
        assert c.end() in ("fin", "reset")


def test_answers_that_end_the_connection(gw):
    with tls13(gw) as c:
        c.push(c.record(b"GET /echo HTTP/1.1\r\nHost: hello.test\r\nConnection: close\r\n\r\n"))
        assert base.Client(c).answer().status == 200
        assert c.end() == CLOSED
    with tls13(gw) as c:
        c.push(c.record(b"nonsense\r\n\r\n"))
        assert base.Client(c).answer().status == 400
        assert c.end() == CLOSED


def test_idle_connections_end_with_close_notify(agent):
    with base.running(idle_timeout="2s", workers=1) as g:
        with tls13(g) as c, tls13(g, alpn=["h2"]) as h2:
            assert base.Client(c).get("/status/204").status == 204
            assert h2raw.Conn(h2).get(1).status == 200
            assert c.end() == h2.end() == CLOSED


# ---- what is not a request and its answer --------------------------------------------------------

def test_upgraded(gw):
    with tls13(gw) as c:
        http = base.Client(c)
        http.send("GET /upgrade HTTP/1.1\r\nHost: hello.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert http.head()[0] == 101 and http.s.until(b"welcome ")
        for i, n in enumerate(SIZES):
            blob = os.urandom(n)
            c.push(c.key_update(i % 2), c.record(b""), c.record(blob, pad=i if n < MAX - i else 0))
            assert http.s.exactly(n) == blob
        assert c.updates == len(SIZES) // 2
        c.push(c.close_notify())
        assert c.end() == CLOSED


def test_http2(gw, witness):
    with tls13(gw, alpn=["h2"]) as c:
        assert c.alpn == "h2"
        h = h2raw.Conn(c, preface=False)
        c.push(*(c.record(p) for p in cut(h2raw.PREFACE + h2raw.settings(), 1)))
        for i in range(10):
            c.push(c.key_update(i % 2))
            assert h.get(4 * i + 1).status == 200
            head = h.head(4 * i + 3, h2raw.POST, end=False)
            c.push(c.record(head[:5]), c.key_update(), c.record(head[5:], pad=100), c.record(b""))
            h.send(h2raw.frame(h2raw.DATA, h2raw.END_STREAM, 4 * i + 3, b"x" * 1000))
            assert json.loads(h.answer(4 * i + 3).body)["length"] == 1000
        assert c.updates == 5
        c.push(c.key_update(1) * 1, flipped(c.record(b"x")))
        assert c.end() == "bad_record_mac"
    witness()


# ---- TLS 1.2, in the same process ----------------------------------------------------------------

class Tls12:
    """By the standard library; its records may be changed before they are sent."""

    def __init__(self, gw):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_hostname="hello.test")
        self.sock = dial(gw)
        self.more(self.tls.do_handshake)

    def more(self, call):
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                if self.out.pending:
                    self.sock.sendall(self.out.read())
                self.into.write(self.sock.recv(65536))

    def record(self, data):
        self.tls.write(data)
        return self.out.read()

    def recv(self, n):
        return self.more(lambda: self.tls.read(n))

    def sendall(self, data):
        self.sock.sendall(self.record(data))


CASES_12 = {
    "one record": (lambda c: [c.record(get("/echo"))], None),
    "a byte a record": (lambda c: [c.record(p) for p in cut(get("/echo"), 1)], None),
    "a record of 2^14": (lambda c: [c.record(post(get("/echo"), MAX))], None),
    "a bit of the tag": (lambda c: [flipped(c.record(get("/never")))], "BAD_RECORD_MAC"),
    "a record twice": (lambda c: [c.record(get("/never")[:9])] * 2, "BAD_RECORD_MAC"),
    "a record less": (lambda c: [c.record(b"G") and b"", c.record(get("/never"))], "BAD_RECORD_MAC"),
    "too long": (lambda c: [struct.pack("!BHH", DATA, 0x303, MAX + 2049)], "RECORD_OVERFLOW"),
    "an unknown type": (lambda c: [flipped(c.record(get("/never")), 0, 8)], "UNEXPECTED_MESSAGE|BAD_RECORD_MAC"),
}


@own
@pytest.mark.parametrize("name", CASES_12)
def test_tls_1_2(gw, agent, witness, name):
    make, alert = CASES_12[name]
    for pieces in (False, True):
        c = Tls12(gw)
        with c.sock:
            send(c, make(c), pieces)
            if alert:
                with pytest.raises(ssl.SSLError, match=alert):
                    c.recv(1)
            else:
                assert base.Client(c).answer().status == 200
                assert base.Client(c).get("/echo").status == 200
    assert not reached(agent, "/never")
    witness()


# ---- clients that people have -------------------------------------------------------------------

def talk(argv, *lines):
    """Each line is written when what it waits for has come out; the end when they are. All that came out."""
    p = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out, at = b"", 0
    end = time.monotonic() + base.WAIT
    try:
        for awaited, line in lines:
            while awaited not in out[at:]:
                assert time.monotonic() < end, out.decode("latin-1")
                if select.select([p.stdout], [], [], 0.1)[0]:
                    data = os.read(p.stdout.fileno(), 65536)
                    assert data, f"ended: {out.decode('latin-1')}"  # all that it has said has been read
                    out += data
            at = out.index(awaited, at) + len(awaited)
            p.stdin.write(line)
            p.stdin.flush()
        rest, _ = p.communicate(timeout=base.WAIT)
        return (out + rest).decode("latin-1")
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()


LAST = get("/echo")[:-2] + b"Connection: close\r\n\r\n"


def s_client(gw, *how):
    return ["stdbuf", "-o0", "openssl", "s_client", "-connect", f"127.0.0.1:{gw.https}", "-servername", "hello.test",
            "-tls1_3", *how]


def test_openssl_updates(gw):
    out = talk(s_client(gw, "-msg"), (b"read R BLOCK", b"k\n"), (b"KeyUpdate", b"K\n"), (b"KeyUpdate", get("/echo")),
               (b"HTTP/1.1 200 OK", b"k\n"), (b"KeyUpdate", b"K\n"), (b"KeyUpdate", LAST), (b"closed\n", b""))
    assert out.count("HTTP/1.1 200 OK") == 2
    assert out.count(">>> TLS 1.3, Handshake [length 0005], KeyUpdate") == 4
    assert out.count("<<< TLS 1.3, Handshake [length 0005], KeyUpdate") == 2
    assert "<<< TLS 1.3, Alert [length 0002], warning close_notify" in out


@own
def test_openssl_resumes(gw, tmp_path):
    def once(*how):
        return talk(s_client(gw, *how), (b"read R BLOCK", LAST), (b"closed\n", b""))
    assert "\nNew, TLSv1.3" in once("-sess_out", tmp_path / "session")
    assert "\nReused, TLSv1.3" in once("-sess_in", tmp_path / "session")


@own
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_curl(gw, tmp_path, suite, version):
    blob = tmp_path / "blob"
    blob.write_bytes(BLOCK * 20)
    url = f"https://hello.test:{gw.https}"
    out = subprocess.run(["curl", "-skS", version, "--tls13-ciphers", suite, "--tlsv1.3", "--resolve",
                          f"hello.test:{gw.https}:127.0.0.1", "-w", "%{http_code} %{num_connects}\n", f"{url}/bytes/1000000",
                          "-o", tmp_path / "got", "--next", "-skS", version, "--tls13-ciphers", suite, "--resolve",
                          f"hello.test:{gw.https}:127.0.0.1", "--data-binary", f"@{blob}", f"{url}/echo"],
                         capture_output=True, timeout=base.WAIT, check=True).stdout.decode()
    assert out.startswith("200 1\n")
    assert hashlib.sha256((tmp_path / "got").read_bytes()).hexdigest() == block_digest(1000000)
    assert json.loads(out[6:])["sha256"] == block_digest(len(BLOCK) * 20)


@own
def test_gnutls_updates(gw):
    argv = ["gnutls-cli", "--inline-commands", "--insecure", "--sni-hostname", "hello.test", "--alpn", "http/1.1", "-p",
            str(gw.https), "127.0.0.1"]
    out = talk(argv, (b"Simple Client Mode", b"^rekey^\n"), (b"Rekey was completed", get("/bytes/1000000")),
               (b"HTTP/1.1 200 OK", b"^rekey1^\n"), (b"Rekey was completed", get("/echo")), (b"HTTP/1.1 200 OK", b""))
    assert out.count("HTTP/1.1 200 OK") == 2 and "error" not in out.lower()


# ---- the end ------------------------------------------------------------------------------------

@own
def test_sigterm_says_close_notify(gw, agent):
    """The last of this file: it ends the gateway."""
    with tls13(gw) as fresh, tls13(gw) as idle, tls13(gw) as busy, tls13(gw, alpn=["h2"]) as h2:
        assert base.Client(idle).get("/status/204").status == 204
        assert h2raw.Conn(h2).get(1).status == 200
        busy.push(busy.record(get("/sip")))
        agent.heard("sip")
        gw.proc.send_signal(signal.SIGTERM)
        gw.wait_log("draining")
        agent.uploads.put("go")
        assert base.Client(busy).answer().headers["connection"] == "close"
        assert [c.end() for c in (busy, idle, fresh, h2)] == [CLOSED] * 4
    assert gw.proc.wait(base.WAIT) == 0
    assert "runtime error" not in gw.text()
