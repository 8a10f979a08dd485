# SPDX-License-Identifier: MIT
"""Can a stranger make gateway and target see different messages? (request smuggling, desync)

    stranger --raw bytes, HTTP/2 frames--> gatewayd (wireguard = none) --> Recorder: agent and target,
        keeps every byte

Every request is either refused (400 or the like, and the connection ends; the target hears nothing) or reaches the
target in one form, byte for byte that of the table; then a good request on the same connection gets its own answer. The
bytes of a request to /smuggled stand behind each of them: nobody may ever take them for a request of its own,
but where the table says that they are one. Likewise for what targets answer.
"""
import contextlib
import queue
import re
import socket
import threading
import uuid

import hpack
import hyperframe.frame as frames
import pytest

import test_edge as base
from test_edge import Gone, Stream

HOST, H2_HOST = "plain.test", "hello.test"
TUNNELS = {HOST: uuid.uuid4(), H2_HOST: uuid.uuid4()}
H = f"Host: {HOST}\r\n"
GET, POST = f"GET /x HTTP/1.1\r\n{H}", f"POST /x HTTP/1.1\r\n{H}"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = f"GET /smuggled HTTP/1.1\r\n{H}\r\n"
GOOD = f"GET /good HTTP/1.1\r\n{H}\r\n"

# ---- the table: refused -------------------------------------------------------------------------
# (what is sent; "\r\n" follows where it ends in a header line; status, 400 unless given)

REQUEST_LINES = [
    "GET /x\r\n", "GET  /x HTTP/1.1\r\n", "GET /x  HTTP/1.1\r\n", "GET /x HTTP/1.1 \r\n",
    "GET\t/x HTTP/1.1\r\n", "GET /x\tHTTP/1.1\r\n", " GET /x HTTP/1.1\r\n", "GET\x0b/x HTTP/1.1\r\n",
    "GET /x\x0cHTTP/1.1\r\n", "GET /x\xa0HTTP/1.1\r\n", "GET /x HTTP/1.1\t\r\n", "GET /x http/1.1\r\n",
    "GET /x Http/1.1\r\n", "GET /x HTTP/1.10\r\n", "GET /x HTTP/01.1\r\n", "GET /x HTTP/1.\r\n", "GET /x HTTP/11\r\n",
    "GET /x HTTP/1.1.1\r\n", "GET /x HTTP/+1.1\r\n", "GET /x HTTPS/1.1\r\n", "GET /x HTTP /1.1\r\n",
    "GET /x HTTP/1.1 HTTP/1.1\r\n", "GET /x y HTTP/1.1\r\n", "GET /x\0 HTTP/1.1\r\n", "GET /\x7f HTTP/1.1\r\n",
    "GET /\xc3\xa4 HTTP/1.1\r\n", "GET /x#y HTTP/1.1\r\n", "GET /x\\y HTTP/1.1\r\n", "GET \\x HTTP/1.1\r\n",
    "GET /%00 HTTP/1.1\r\n", "GET /% HTTP/1.1\r\n", "GET /%4 HTTP/1.1\r\n", "GET /%zz HTTP/1.1\r\n",
    "GET x HTTP/1.1\r\n", "GET ?x HTTP/1.1\r\n", "GET * HTTP/1.1\r\n", "POST * HTTP/1.1\r\n",
    "OPTIONS ** HTTP/1.1\r\n",
    "GET plain.test:80 HTTP/1.1\r\n", "GET ftp://plain.test/ HTTP/1.1\r\n", "GET http:///x HTTP/1.1\r\n",
    "GET http:/plain.test/ HTTP/1.1\r\n", "GET http://a@plain.test/ HTTP/1.1\r\n",
    "GET http://plain.test@other.test/ HTTP/1.1\r\n", "GET http://plain.test/#x HTTP/1.1\r\n",
    "GET http://other.test/ HTTP/1.1\r\n", "GET http://plain.test:81/ HTTP/1.1\r\n",
    "GET http://plain.test\\x HTTP/1.1\r\n",
    "GET http://[plain.test]/ HTTP/1.1\r\n", "get /x HTTP/1.1\r\n", "Head /x HTTP/1.1\r\n", "GE\0T /x HTTP/1.1\r\n",
    "G(T /x HTTP/1.1\r\n", "GET, /x HTTP/1.1\r\n", "\"GET\" /x HTTP/1.1\r\n", "/x HTTP/1.1\r\n",
    "HTTP/1.1 200 OK\r\n",
    "GET /x HTTP/1.1\r\r\n", "GET /x HTTP/1.1\n", "GET /x\r HTTP/1.1\r\n", "GET\r\n/x HTTP/1.1\r\n",
    ("GET /x HTTP/0.9\r\n", 505), ("GET /x HTTP/1.2\r\n", 505), ("GET /x HTTP/2.0\r\n", 505),
    ("GET /x HTTP/0.1\r\n", 505), ("PRI * HTTP/2.0\r\n", 505),
    ("CONNECT plain.test:443 HTTP/1.1\r\n", 405), ("TRACE /x HTTP/1.1\r\n", 405),
    (f"{'A' * 33} /x HTTP/1.1\r\n", 501),
]

HOSTS = [
    "", H + H, H + "Host: other.test\r\n", "host: other.test\r\n" + H, "Host:\r\n", "Host: \r\n", H + "Host:\r\n",
    "Host: plain.test, plain.test\r\n", "Host: plain.test other.test\r\n", "Host: a@plain.test\r\n",
    "Host: plain.test:\x30x\r\n", "Host: plain.test:65536\r\n", "Host: plain.test:0\r\n", "Host: plain.test:-1\r\n",
    "Host: plain.test:80:80\r\n", "Host: plain.test/\r\n", "Host: plain.test\\x\r\n", "Host: plain.test?x\r\n",
    "Host: plain.test#x\r\n", "Host: http://plain.test\r\n", "Host: .plain.test\r\n", "Host: plain..test\r\n",
    "Host: [::1\r\n", "Host: [::1]x\r\n", "Host: [fe80::1%25eth0]\r\n", "Host: plain.test\0\r\n",
    "Host: pl\xe4in.test\r\n",
    "Host: plain%2etest\r\n", "Host: plain.test\x0b\r\n", "Host : plain.test\r\n", " Host: plain.test\r\n",
    "Host\r\n: plain.test\r\n", "X: y\r\n Host: plain.test\r\n", "\0Host: plain.test\r\n",
]

FIELDS = [
    "X : y", "X\t: y", "X\x0b: y", " X: y", "\tX: y", ": y", "X", "X y: z", "X\0: y", "X\r: y", "X\xa0: y",
    "X\x7f: y", "(X): y",
    "X=y: z", "X: y\r\n z", "X: y\r\n\tz", "X: y\r\n \r\nz: a", "X: y\0z", "X: y\x0bz", "X: y\x7f", "X: \x01",
    "X: y\rz", "X: y\nz: a",
    "X: y\r", "X: y\n", "X: y\r\r\nz: a", "X: y\n\r\nz: a", "X: y\n\n", "X: y\r\n\n", "X:\r y", "\r", "\nX: y",
    "\rX: y",
    "Connection: a b", "Connection: " + ",".join("abcdefghijklmnopq"), ("Expect: 200-ok", 417),
    ("Expect: 100-continue, x", 417), ("Expect: 100-continue\r\nExpect: 100-continue", 417),
    ("Expect:", 417), ("X: y\r\n" * 130 + "X: y", 431), ("X: " + "y" * 70000, 431),
]

LENGTHS = [
    "\t5", " \t 5", "5 ", "5\t", "", "-0", "+0", "-5", "+5", "0x5", "5 5", "5,5", "5, 5", "5, 6", "5,", ",5", "5;",
    "5.0", "5e0", "0b1", "1_0",
    "\"5\"", "'5'",
    "5\x0b", "\x0c5", "5\0", "\xb5", "５", "9223372036854775808", "18446744073709551616", "18446744073709551621",
    "99999999999999999999999999", "chunked", "5\r\nContent-Length: 5", "5\r\nContent-Length: 6",
    "5\r\ncontent-length: 5",
    "6\r\nContent-Length:", "5\r\nTransfer-Encoding: chunked", "5\r\nTransfer-Encoding: identity",
    "5\r\nTransfer-Encoding:",
    "5\r\nTransfer_Encoding: chunked\r\nTransfer-Encoding: chunked", "5\r\nTransfer-Encoding : chunked",
    "5\r\n Content-Length: 6",
    "5\r\nX: y\nContent-Length: 0", "5\r\nX: y\rContent-Length: 0", "5\n", "5\r", "5\r\n\tchunked",
]

CODINGS = [
    "\tchunked", " \t chunked", "chunked ", "chunked\t", "", "chunked, chunked", "chunked,chunked", "chunked,",
    ",chunked", ", chunked", "gzip, chunked", "chunked, gzip",
    "chunked, identity",
    "identity, chunked", "chunked;q=1", "chunked; x", "\"chunked\"", "'chunked'\x0b", "chunked\x0b", "\x0bchunked",
    "\x0cchunked",
    "chunked\x0c", "chunked\0", "\0chunked", "chunked\xa0", "ch\tunked", "chunked chunked", "chunked\r\n identity",
    "\r\n chunked", "chun\rked",
    "chunked\n", "chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: identity",
    "identity\r\nTransfer-Encoding: chunked",
    "chunked\r\nContent-Length: 5", "chunked\r\nContent-Length: 0", "chunked\r\nContent-Length:",
    "chunked\r\ncontent-length: 5",
    "chunked\r\nTransfer-Encoding:", "[chunked]",
    ("identity", 501), ("xchunked", 501), ("chunkedx", 501), ("chunke", 501), ("'chunked'", 501), ("gzip", 501),
    ("chunked.", 501),
    ("c%68unked", 501),
]

CODING_NAMES = [
    "Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", " Transfer-Encoding: chunked",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked", "Transfer-Encoding\x0b: chunked", "Transfer-Encoding\0: chunked",
    "Transfer-Encoding chunked",
    "Transfer-Encoding\r\n: chunked", "X: y\r\n\rTransfer-Encoding: chunked", "Transfer-\r\nEncoding: chunked",
    "\xefTransfer-Encoding: chunked", "Transfer-Encod\xefng: chunked", "Transfer Encoding: chunked",
]

# Bodies in chunks; the head is that of a good request, so it may have gone on: the target gets no whole request.
CHUNKS = [
    "\r\n", "g\r\n", "x5\r\nabcde\r\n", "-5\r\nabcde\r\n", "+5\r\nabcde\r\n", " 5\r\nabcde\r\n", "5 \r\nabcde\r\n",
    "5\t\r\nabcde\r\n", "0x5\r\nabcde\r\n",
    "5,\r\nabcde\r\n", "5\nabcde\r\n", "5\rabcde\r\n", "5\r\r\nabcde\r\n", "5\n\r\nabcde\r\n", "5\0\r\nabcde\r\n",
    "5\x0b\r\nabcde\r\n", "5\xa0\r\nabcde\r\n",
    "5\rXabcde\r\n0\r\n\r\n", "5\r\rabcde\r\n0\r\n\r\n", "5X\nabcde\r\n0\r\n\r\n", "5\r\nabcdeX\n0\r\n\r\n",
    "5\r\nabcde\rX0\r\n\r\n", "0\rX\r\n",
    "0\r\n\rX", "0\r\nX: y\rX\r\n", "5\r\nabcdef\r\n", "5\r\nabcd\r\n0\r\n\r\n", "5\r\nabcde0\r\n\r\n",
    "5\r\nabcde\n0\r\n\r\n", "5\r\nabcde\r0\r\n\r\n", "5\r\nabcdeXX0\r\n\r\n",
    "5\r\nabcde\r\n\r\n0\r\n\r\n", "8000000000000000\r\n", "ffffffffffffffff\r\n", "10000000000000000\r\n",
    "00000000000000005\r\nabcde\r\n",
    "fffffffffffffffb\r\nabcde\r\n0\r\n\r\n", "5;\r\nabcde\r\n", "5;;a\r\nabcde\r\n", "5; a\r\nabcde\r\n",
    "5 ;a\r\nabcde\r\n", "5;a \r\nabcde\r\n",
    "5;a=\r\nabcde\r\n", "5;a=\"b\r\nabcde\r\n0\r\n\r\n", "5;a=\"\r\n\"\r\nabcde\r\n", "5;a=\"b\"c\r\nabcde\r\n",
    "5;a\nb\r\nabcde\r\n", "5;a\rb\r\nabcde\r\n",
    "5;a\0\r\nabcde\r\n", "5;a\n0\r\n\r\n", "5;" + "a" * 1100 + "\r\nabcde\r\n", "0\n\n", "0\r\n\n", "0\n\r\n",
    "0\r\n\r\r\n", "0\r\n\rX: y\r\n\r\n",
    "0\r\n X: y\r\n\r\n", "0\r\nX : y\r\n\r\n", "0\r\nX\r\n\r\n", "0\r\n: y\r\n\r\n", "0\r\nX: y\n\r\n",
    "0\r\nX: y\r\n z\r\n\r\n", "0\r\nX: y\rz\r\n\r\n", "0\r\nX: \0\r\n\r\n",
    "0\r\nX: y\r\n\n", "0\r\nGET /smuggled HTTP/1.1\r\n\r\n", "0\r\n" + "X: y\r\n" * 3000 + "\r\n", "0;\r\n\r\n",
    "0;a=\"\n\"\r\n\r\n",
    "1;a=" + "b" * 1000 + "\r\nc\r\n" + ("1;a=" + "b" * 1000 + "\r\nc\r\n") * 30,
]


def line_end(text):
    return text + "\r\n"


def refused():
    def add(kind, cases, make):
        for c in cases:
            text, status = c if isinstance(c, tuple) else (c, 400)
            yield f"{kind} {text!r}"[:90], make(text), status
    yield from add("line", REQUEST_LINES, lambda t: t + H + "\r\n")
    yield from add("host", HOSTS, lambda t: "GET /x HTTP/1.1\r\n" + t + "\r\n")
    yield from add("field", FIELDS, lambda t: GET + line_end(t) + "\r\n")
    yield from add("length", LENGTHS, lambda t: POST + line_end("Content-Length: " + t) + "\r\nabcde")
    yield from add("coding", CODINGS,
        lambda t: POST + line_end("Transfer-Encoding: " + t) + "\r\n5\r\nabcde\r\n0\r\n\r\n")
    yield from add("name", CODING_NAMES, lambda t: POST + line_end(t) + "\r\n0\r\n\r\n")
    yield from add("old", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nConnection: keep-alive"],
                   lambda t: "POST /x HTTP/1.0\r\n" + H + line_end(t) + "\r\n0\r\n\r\n")


# ---- the table: passed on -----------------------------------------------------------------------
# (what is sent; what the target gets: request line, fields before and behind those about the client, body, trailers;
# the connection ends behind it)

def on(line, fields="", framing="", body=b"", host=HOST, trailers=b"", proxied=HOST):
    return {"line": line, "host": host, "fields": fields, "framing": framing, "body": body, "trailers": trailers,
            "proxied": proxied}


FIVE = "Content-Length: 5\r\n"
TE = "Transfer-Encoding: chunked\r\n"
X = "GET /x HTTP/1.1"
PX = "POST /x HTTP/1.1"
PASSED = [
    (f"GET http://{HOST}/y?z HTTP/1.1\r\n{H}\r\n", on("GET /y?z HTTP/1.1")),
    (f"GET HTTPS://{HOST.upper()} HTTP/1.1\r\n{H}\r\n", on("GET / HTTP/1.1")),
    (f"GET http://{HOST}?z HTTP/1.1\r\n{H}\r\n", on("GET /?z HTTP/1.1")),
    (f"OPTIONS http://{HOST} HTTP/1.1\r\n{H}\r\n", on("OPTIONS * HTTP/1.1")),
    (f"OPTIONS * HTTP/1.1\r\n{H}\r\n", on("OPTIONS * HTTP/1.1")),
    (f"GET //x/../y/./%2e%2E/%5c;a?b=\\%&c={{}} HTTP/1.1\r\n{H}\r\n",
     on("GET //x/../y/./%2e%2E/%5c;a?b=\\%&c={} HTTP/1.1")),
    (f"M-SEARCH /x HTTP/1.1\r\n{H}\r\n", on("M-SEARCH /x HTTP/1.1")),
    (f"\r\nGET /x HTTP/1.1\r\n{H}\r\n", on(X)),
    ("GET /x HTTP/1.1\r\nHOST: \t Plain.Test:80 \t\r\n\r\n", on(X, host="Plain.Test:80", proxied="Plain.Test:80")),
    ("GET /x HTTP/1.1\r\nA: b\r\nhost:plain.test.\r\n\r\n",
     on(X, "A: b\r\n", host="plain.test.", proxied="plain.test.")),
    (GET + "A:b\r\nC:  \t d\te \t\r\nF:\r\n!#$%&'*+-.^_`|~0: \xe4\xff\r\n\r\n",
     on(X, "A: b\r\nC: d\te\r\nF: \r\n!#$%&'*+-.^_`|~0: \xe4\xff\r\n")),
    (GET + "Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Forwarded_For: 6\r\nconnection_: close\r\n\r\n",
     on(X, "connection_: close\r\n")),
    (GET + "Connection: keep-alive, X-A , Host, Content-Length,Transfer-Encoding\r\nX-A: 1\r\nX-B: 2\r\n\r\n",
     on(X, "X-B: 2\r\n")),
    (GET + "Connection: Forwarded, X-Forwarded-For, X-Real-IP\r\nForwarded: for=6\r\n\r\n", on(X)),
    (GET + "Keep-Alive: 5\r\nProxy-Connection: close\r\nTE: gzip\r\nHTTP2-Settings: AAA\r\nUpgrade: h2c\r\n\r\n",
     on(X)),
    (GET + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", on(X)),
    (GET + "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", on(X)),
    (GET + "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n", on(X)),
    (GET + "TE: trailers\r\n\r\n", on(X, framing="Connection: TE\r\nTE: trailers\r\n")),
    (GET + "Content-Length: 0\r\n\r\n", on(X)),
    (GET + "Content-Length: 5\r\n\r\nabcde", on(X, framing=FIVE, body=b"abcde")),
    (POST + "Content-Length: 0\r\n\r\n", on(PX, framing="Content-Length: 0\r\n")),
    (POST + "\r\n", on(PX)),
    (POST + "Content-Length:   0005\r\n\r\nabcde", on(PX, framing=FIVE, body=b"abcde")),
    (POST + "content-length: 5\r\nContent_Length: 9\r\n\r\nabcde", on(PX, framing=FIVE, body=b"abcde")),
    (POST + "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nabcde", on(PX, framing=FIVE, body=b"abcde")),
    (POST + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nabcde",
     on(PX, framing=FIVE, body=b"abcde")),
    (POST + f"Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
     on(PX, framing=f"Content-Length: {len(SMUGGLED)}\r\n", body=SMUGGLED.encode())),
    (POST + "Transfer-Encoding:Chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", on(PX, framing=TE, body=b"abcde")),
    (POST + "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
     on(PX, framing=TE, body=b"abcde")),
    (CHUNKED + "0\r\n\r\n", on(PX, framing=TE)),
    (CHUNKED + "000\r\n\r\n", on(PX, framing=TE)),
    (CHUNKED + "0000000000000005;a;b=c;d=\"e;\\\"f\"\r\nabcde\r\n1\r\nF\r\n0;x\r\n\r\n",
     on(PX, framing=TE, body=b"abcdeF")),
    (CHUNKED + "a\r\n\r\n0\r\n\r\n\r\n\r\r\n0\r\n\r\n", on(PX, framing=TE, body=b"\r\n0\r\n\r\n\r\n\r")),
    (CHUNKED + "%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), on(PX, framing=TE, body=SMUGGLED.encode())),
    (CHUNKED + "0\r\nA:b \r\nHost: other.test\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\nSet-Cookie: a\r\n\r\n",
     on(PX, framing=TE, trailers=b"A: b\r\n")),
    (CHUNKED + "0\r\nTransfer_Encoding: chunked\r\nConnection: close\r\nTE: x\r\nX-Forwarded-For: 6\r\nAuthorization: a\r\n\r\n",
     on(PX, framing=TE)),
    (POST + "Connection: A\r\n" + TE + "\r\n0\r\nA: b\r\n\r\n", on(PX, framing=TE)),
    ("GET /x HTTP/1.0\r\n" + H + "Connection: keep-alive\r\n\r\n", on(X)),
    ("POST /x HTTP/1.0\r\n" + H + "Connection: keep-alive\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nabcde",
     on(PX, framing=FIVE, body=b"abcde")),
]


# ---- the table: what targets answer -------------------------------------------------------------
# Heads that are a 502; more than the rest of the head stands behind each, and it is never an answer.

OK = "HTTP/1.1 200 OK\r\n"
POISON = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
BAD_ANSWERS = [
    OK + "Content-Length: 2\r\nContent-Length: 3\r\n", OK + "Content-Length: 2\r\nContent-Length: 2\r\n",
    OK + "Content-Length: 2, 2\r\n",
    OK + "Content-Length: +2\r\n", OK + "Content-Length: 2x\r\n", OK + "Content-Length:\r\n",
    OK + "Content-Length: 0x2\r\n",
    OK + "Content-Length: 18446744073709551618\r\n", OK + "Content-Length : 2\r\n",
    OK + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    OK + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", OK + "Transfer-Encoding: gzip\r\n",
    OK + "Transfer-Encoding: gzip, chunked\r\n",
    OK + "Transfer-Encoding: chunked, identity\r\n", OK + "Transfer-Encoding: xchunked\r\n",
    OK + "Transfer-Encoding: chunked\x0b\r\n",
    OK + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    OK + "Transfer-Encoding: chunked\r\n identity\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", OK + "A: b\nContent-Length: 2\r\n",
    OK + "A: b\rContent-Length: 2\r\n", OK + "A: b\r\n c\r\n",
    OK + "A : b\r\n", OK + "A\r\n", OK + ": b\r\n", OK + "A b: c\r\n", OK + "A: \0\r\n", OK + "A: \x7f\r\n",
    OK + "\xe4: b\r\n", OK + " A: b\r\n",
    "HTTP/1.1 200 OK\n", "HTTP/1.1 200 OK\r\r\n", "HTTP/1.1 200 O\0K\r\n", "\r\n" + OK, "x" + OK, " " + OK,
    "HTTP/1.1\t200 OK\r\n",
    "HTTP/1.1  200 OK\r\n", "HTTP/1.1 20 OK\r\n", "HTTP/1.1 2000 OK\r\n", "HTTP/1.1 2x0 OK\r\n",
    "HTTP/1.1 099 OK\r\n", "HTTP/1.1 600 OK\r\n",
    "HTTP/1.1 200OK\r\n", "HTTP/1.1\r\n", "HTTP/1.2 200 OK\r\n", "HTTP/2 200\r\n", "HTTP/2.0 200 OK\r\n",
    "http/1.1 200 OK\r\n", "ICY 200 OK\r\n",
    "200 OK\r\n", OK + "A: " + "b" * 70000 + "\r\n", OK + "A: b\r\n" * 130, "HTTP/1.1 200 " + "x" * 70000,
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
    "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n" * 17 + OK, "HTTP/1.1 100 Continue\r\n\r\nx" + OK,
]
# Bodies that break off or are malformed behind a good head: the client sees that something is missing.
CUT_ANSWERS = [OK + TE + "\r\n" + c for c in CHUNKS] + [OK + "Content-Length: 9\r\n\r\nok", OK + TE + "\r\n5\r\nabc"]
# (method, answer, the body that the client gets, trailers)
STRAY_ANSWERS = [
    ("GET", OK + "Content-Length: 2\r\n\r\nok" + POISON, b"ok"),
    ("GET", OK + "Content-Length: 0\r\n\r\n" + POISON, b""),
    ("GET", OK + "Content-Length: 02\r\n\r\nokokok", b"ok"),
    ("GET", OK + TE + "\r\n2\r\nok\r\n0\r\n\r\n" + POISON, b"ok"),
    ("GET", OK + TE + "\r\n02;a=b\r\nok\r\n0\r\nA: b\r\n\r\n", b"ok"),
    ("GET", OK + TE + "Trailer: A\r\n\r\n0\r\nA:b\r\nSet-Cookie: c\r\n\r\n" + POISON, b"", {"a": "b"}),
    ("GET", OK + TE + "Trailer: A\r\nConnection: A\r\n\r\n0\r\nA:b\r\n\r\n", b""),
    ("HEAD", OK + "Content-Length: 60\r\n\r\n" + POISON, b""), ("HEAD", OK + TE + "\r\n2\r\nok\r\n0\r\n\r\n", b""),
    ("HEAD", OK + "\r\n" + POISON, b""),
    ("GET", "HTTP/1.1 204 No Content\r\n\r\n" + POISON, b""),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 60\r\n\r\n" + POISON, b""),
    ("GET", "HTTP/1.1 204 No Content\r\n" + TE + "\r\n2\r\nok\r\n0\r\n\r\n", b""),
    ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n" + POISON, b""),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 60\r\n\r\n" + POISON, b""),
    ("GET", "HTTP/1.1 304 Not Modified\r\n" + TE + "\r\n2\r\nok\r\n0\r\n\r\n", b""),
    ("POST", OK + "Content-Length: 2\r\n\r\nok" + POISON, b"ok"),
]


# ---- the target ---------------------------------------------------------------------------------

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
HEAD = re.compile(rb"[A-Z0-9_-]+ [!-~]+ HTTP/1\.1\r\nHost: [!-~]+\r\n(?:" + TOKEN + rb": (?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*"
                  rb"[!-~\x80-\xff])?)?\r\n)*\r\n")
TRAILERS = re.compile(rb"(?:" + TOKEN + rb": [\t -~\x80-\xff]*\r\n)*")


class Recorder(base.Agent):
    """Takes one form of HTTP/1.1 and no other; anything else is put down as garbage."""

    def __init__(self, address):
        self.got = []     # requests that came whole: (head, body, trailers); or ("garbage", bytes)
        self.begun = queue.Queue()
        self.plays = {}   # path -> the answer, or what gives it (and says whether the connection is kept)
        self.ports = {}   # path -> the gateway's port when it was asked for it last
        super().__init__(address)

    def serve(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent is there
        super().serve(sock)

    def strict(self, s, what, ok):
        if not ok:
            self.got.append(("garbage", what))
            raise Gone

    def body(self, s, head):
        framing = re.findall(rb"\r\n(content-length|transfer-encoding): ([^\r]*)", head, re.I)
        self.strict(s, head, len(framing) <= 1)
        if not framing:
            return b"", b""
        name, value = framing[0]
        if name == b"Content-Length":
            self.strict(s, head, re.fullmatch(rb"0|[1-9][0-9]*", value))
            return s.exactly(int(value)), b""
        self.strict(s, head, (name, value) == (b"Transfer-Encoding", b"chunked"))
        body = b""
        while True:
            line = s.until(b"\r\n")
            self.strict(s, line, re.fullmatch(rb"(0|[1-9a-f][0-9a-f]*)\r\n", line))
            if line == b"0\r\n":
                break
            body += s.exactly(int(line, 16))
            end = s.exactly(2)
            self.strict(s, end, end == b"\r\n")
        trailers = b""
        while (line := s.until(b"\r\n")) != b"\r\n":
            trailers += line
        self.strict(s, trailers, TRAILERS.fullmatch(trailers))
        return body, trailers

    def request(self, s, info):
        head = s.until(b"\r\n\r\n")
        self.strict(s, head, HEAD.fullmatch(head))
        path = head.split(b" ")[1].decode()
        self.begun.put(path)
        body, trailers = self.body(s, head)
        self.got.append((head, body, trailers))
        self.ports[path] = s.sock.getpeername()
        answer = self.plays.get(path, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path.encode()))
        if callable(answer):
            return answer(s)
        s.sock.sendall(answer)
        return True


class Gateway(base.Gateway):
    """A tunnel without TLS, so that a case costs no handshake, and one with TLS for HTTP/2."""

    def tunnels(self):
        return [base.tunnel(d, TUNNELS[d], tls=tls) for d, tls in ((HOST, "off"), (H2_HOST, "own"))]


@pytest.fixture(scope="module")
def gw():
    recorder = Recorder(base.VIP)
    try:
        with base.running(Gateway, workers=1) as g:
            g.recorder = recorder
            yield g
    finally:
        recorder.close()


@contextlib.contextmanager
def stranger(gw):
    with gw.plain() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield base.Client(sock)


def latin(text):
    return text.encode("latin-1", "replace") if isinstance(text, str) else text


def send(c, text, step):
    data = latin(text)
    try:
        for at in range(0, len(data), step):
            c.sock.sendall(data[at:at + step])
    except OSError:
        pass  # refused in the middle of it


STEPS = {"whole": 1 << 20, "in pieces": 3}


def expected(w, proto="http"):
    about = (f"X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nX-Forwarded-Proto: {proto}\r\nX-Forwarded-Host: {w['proxied']}\r\n"
             f"Forwarded: for=127.0.0.1;proto={proto};host=\"{w['proxied']}\"\r\n")
    mark = f"CDN-Loop: kakuremichi; t={TUNNELS[w['proxied'].lower().partition(':')[0].rstrip('.')].hex[:16]}\r\n"
    head = f"{w['line']}\r\nHost: {w['host']}\r\n{w['fields']}{mark}{about}{w['framing']}\r\n"
    return latin(head), w["body"], w["trailers"]


GOOD_GOT = expected(on("GET /good HTTP/1.1"))
SMUGGLED_GOT = expected(on("GET /smuggled HTTP/1.1"))


def good(gw, c):
    """The next request on this connection gets its own answer."""
    c.send(GOOD)
    a = c.answer()
    assert a.status == 200 and a.body == b"/good"


def refusal(c, status):
    a = c.answer()
    assert a.status == status and a.headers["connection"] == "close"
    assert c.s.buf == b"" and c.closed()


def check_refused(gw, text, status, step, whole=None):
    gw.recorder.got.clear()
    with stranger(gw) as c:
        send(c, latin(text) + latin(SMUGGLED), step)
        refusal(c, status)
    with stranger(gw) as c:
        good(gw, c)
    assert gw.recorder.got == [GOOD_GOT]


def check_passed(gw, text, want, step):
    gw.recorder.got.clear()
    with stranger(gw) as c:
        send(c, latin(text) + latin(SMUGGLED), step)
        assert c.answer().status == 200
        assert c.answer().body == b"/smuggled"  # here it is a request of its own
        good(gw, c)
    assert gw.recorder.got == [expected(want), SMUGGLED_GOT, GOOD_GOT]


def all_of(cases, check, steps=STEPS):
    """Every case, and the names of all that failed."""
    failed = []
    for name, *case in cases:
        for how, step in steps.items():
            try:
                check(*case, step)
            except (AssertionError, Gone, OSError) as e:
                failed.append(f"{name} ({how}): {type(e).__name__} {str(e)[:600]}")
    assert not failed, f"{len(failed)} of them\n" + "\n".join(failed[:20])


def test_the_suite_is_large():
    assert len(list(refused())) + len(CHUNKS) + len(PASSED) >= 300
    assert len(H2_REFUSED) + len(H2_PASSED) >= 150


def test_refused_heads(gw):
    all_of(refused(), lambda text, status, step: check_refused(gw, text, status, step))


def test_refused_chunks(gw):
    all_of(((repr(c)[:80], CHUNKED + c) for c in CHUNKS), lambda text, step: check_refused(gw, text, 400, step))


def test_chunks_refused_when_the_head_has_gone_on(gw):
    def check(text, step):
        gw.recorder.got.clear()
        with stranger(gw) as c:
            c.send(CHUNKED + "1\r\na\r\n")
            while gw.recorder.begun.get(timeout=base.WAIT) != "/x":
                pass
            send(c, text + SMUGGLED, step)
            refusal(c, 400)
        with stranger(gw) as c:
            good(gw, c)
        assert gw.recorder.got == [GOOD_GOT]
    all_of(((repr(c)[:80], c) for c in CHUNKS), check)


def test_passed_on_in_one_form(gw):
    all_of(((repr(t)[:80], t, w) for t, w in PASSED), lambda text, want, step: check_passed(gw, text, want, step))


def test_no_other_request_follows_a_body_that_a_target_may_leave_unread(gw):
    """Who takes it that GET has no body answers at once, and reads the body as the next request."""
    gw.recorder.plays.clear()
    with stranger(gw) as c:
        for method, again in (("GET", False), ("HEAD", False), ("OPTIONS", False), ("POST", True), ("PUT", True)):
            for framing in (f"Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
                            f"{TE}\r\n{len(SMUGGLED):x}\r\n{SMUGGLED}\r\n0\r\n\r\n"):
                gw.recorder.plays["/x"] = OK.encode() + b"Content-Length: 0\r\n\r\n"
                c.send(f"{method} /x HTTP/1.1\r\n{H}{framing}")
                assert c.answer(method).status == 200
                good(gw, c)
                assert (gw.recorder.ports["/good"] == gw.recorder.ports["/x"]) == again, method
    gw.recorder.plays.clear()


def test_bodies_of_requests_that_the_gateway_answers_itself(gw):
    """They are never taken for the next request."""
    gw.recorder.got.clear()
    chunk = f"{len(SMUGGLED):x}\r\n{SMUGGLED}\r\n0\r\n\r\n"
    for line, status in (("POST /x HTTP/1.1\r\nHost: unknown.test\r\n", 404),
                         (f"POST /x HTTP/1.1\r\nHost: {H2_HOST}\r\n", 301),
                         (f"POST /.well-known/acme-challenge/x HTTP/1.1\r\nHost: {H2_HOST}\r\n", 404)):
        for framing in (f"Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}", TE + "\r\n" + chunk):
            with stranger(gw) as c:
                c.send(line + framing + SMUGGLED)
                refusal(c, status)
        with stranger(gw) as c:
            c.send(line + "\r\n")
            assert c.answer().status == status
            good(gw, c)
    assert set(gw.recorder.got) == {GOOD_GOT}


# ---- answers ------------------------------------------------------------------------------------

def play(gw, answer, step):
    def give(s):
        with contextlib.suppress(OSError):
            for at in range(0, len(answer), step):
                s.sock.sendall(answer[at:at + step])
            s.sock.shutdown(socket.SHUT_WR)
            while s.sock.recv(65536):
                pass
        return False
    gw.recorder.plays["/x"] = give


def check_bad_answer(gw, answer, step):
    play(gw, latin(answer + "\r\nok" + POISON), step)
    with stranger(gw) as c:
        c.send(GET + "\r\n")
        while (a := c.answer()).status == 100:
            pass
        assert a.status == 502 and b"poison" not in a.body
        good(gw, c)


def check_cut_answer(gw, answer, step):
    play(gw, latin(answer), step)
    with stranger(gw) as c:
        c.send(GET + "\r\n" + GOOD)
        try:
            a = c.answer()
        except (Gone, OSError):
            a = None
        assert a is None or a.status == 502, "half an answer was taken for a whole one"
        assert a or c.closed()
    with stranger(gw) as c:
        good(gw, c)


def check_stray_answer(gw, method, answer, body, trailers, step):
    """What is behind a whole answer, at once or later, is nobody's."""
    answered, gone = threading.Event(), threading.Event()

    def give(s):
        with contextlib.suppress(OSError):
            for at in range(0, len(answer), step):
                s.sock.sendall(latin(answer[at:at + step]))
            answered.wait(base.WAIT)
            s.sock.sendall(latin(POISON))
        gone.set()
        return True
    gw.recorder.plays["/x"] = give
    with stranger(gw) as c:
        c.send(f"{method} /x HTTP/1.1\r\n{H}" + ("Content-Length: 0\r\n" if method == "POST" else "") + "\r\n")
        a = c.answer(method)
        assert a.status == int(answer[9:12]) and a.body == body and a.trailers == trailers
        port = gw.recorder.ports["/x"]
        answered.set()
        assert gone.wait(base.WAIT)
        for _ in range(3):
            good(gw, c)
            assert gw.recorder.ports["/good"] != port, "the connection was used again"
        assert c.s.buf == b""


def test_bad_answers(gw):
    all_of(((repr(a)[:80], a) for a in BAD_ANSWERS), lambda a, step: check_bad_answer(gw, a, max(step, len(a) // 50)))


def test_cut_answers(gw):
    all_of(((repr(a)[:80], a) for a in CUT_ANSWERS), lambda a, step: check_cut_answer(gw, a, max(step, len(a) // 50)))


def test_stray_answers(gw):
    all_of(((repr(a[:2])[:80], *a[:3], (*a, {})[3]) for a in STRAY_ANSWERS),
        lambda *case: check_stray_answer(gw, *case))


def test_answers_until_close_are_framed(gw):
    play(gw, b"HTTP/1.1 200 OK\r\nA:b\r\n\r\nabc" + latin(POISON), 1 << 20)
    with stranger(gw) as c:
        c.send(GET + "\r\n")
        assert c.answer().body == b"abc" + latin(POISON)
        good(gw, c)


def test_pipelined_requests_get_their_answers_in_order(gw):
    gw.recorder.plays.clear()
    with stranger(gw) as c:
        paths = [f"/p{i}" for i in range(50)]
        c.send("".join(f"POST {p} HTTP/1.1\r\n{H}Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}"
                       f"GET {p} HTTP/1.1\r\n{H}\r\n" for p in paths))
        for p in paths:
            assert c.answer().body == p.encode() and c.answer().body == p.encode()


# ---- HTTP/2 -------------------------------------------------------------------------------------
# Header lists as HPACK has them, whatever nghttp2 or another client would say to them; then DATA and trailers.

def h2(method="GET", path="/x", scheme="https", authority=H2_HOST, *fields):
    pseudo = ((":method", method), (":scheme", scheme), (":authority", authority), (":path", path))
    return [(n, v) for n, v in pseudo if v is not None] + list(fields)


def get(*fields):
    return h2("GET", "/x", "https", H2_HOST, *fields)


def post(*fields):
    return h2("POST", "/x", "https", H2_HOST, *fields)


SMUGGLED2 = f"GET /smuggled HTTP/1.1\r\nHost: {H2_HOST}\r\n\r\n"
INJECTED = f"x\r\n\r\n{SMUGGLED2}"
# (header list, body or None, trailers or None)
H2_REFUSED = [(get((n, v)), None, None) for n, v in [
    ("a", INJECTED), ("a", "x\r\nTransfer-Encoding: chunked"), ("a", "x\ny: z"), ("a", "x\ry: z"), ("a", "x\0"),
    ("a", " x"), ("a", "x "),
    ("a", "\tx"), ("a", "x\t"), ("a", "\r\n"), ("a", "x\x01"), ("a", "x\x7f"), ("a: b\r\nc", "d"), ("a:b", "c"),
    ("a: b", "c"), ("A", "b"),
    ("Content-Length", "0"), ("tRansfer-encoding", "chunked"), ("a b", "c"), ("a\r\n", "b"), ("a\n", "b"),
    ("a\0", "b"), ("a\x7f", "b"), ("\xe4", "b"), ("", "b"), (" a", "b"),
    ("a ", "b"), ("a\t", "b"), ("a(", "b"), ("transfer-encoding", "chunked"), ("transfer-encoding", "identity"),
    ("transfer-encoding", ""), ("transfer-encoding ", "chunked"),
    ("connection", "close"), ("connection", "content-length"), ("keep-alive", "5"), ("proxy-connection", "close"),
    ("upgrade", "websocket"), ("te", "gzip"),
    ("te", "trailers, gzip"), ("host", "other.test"), ("host", f"{H2_HOST}:81"), ("host", ""),
    ("host", f"{H2_HOST}\r\na: b"), (":path", "/y"), (":method", "POST"),
    (":foo", "b"), (":status", "200"), (":protocol", "websocket"), (":", "b"), ("content-length", "5"),
    ("content-length", "-0"), ("content-length", "0, 0"),
    ("expect", "200-ok"),
]] + [(get(("host", H2_HOST), ("host", H2_HOST)), None, None),
    ([("a", "b")] + get(), None, None)] + [(h2(*case), None, None) for case in [
    (None,), ("",), ("get",), ("GE T",), ("GET /y HTTP/1.1\r\na:",), ("GET\r\n",), ("G\0T",), ("CONNECT",),
    ("TRACE",), ("A" * 33,), ("GET", None), ("GET", ""), ("GET", "x"),
    ("GET", "*"), ("GET", "/x y"), ("GET", "/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\na:"), ("GET", "/x\r\n"),
    ("GET", "/x\n"), ("GET", "/x\0"), ("GET", "/x#y"), ("GET", "/\xe4"),
    ("GET", "/x\\y"), ("GET", "/%00"), ("GET", "/%"), ("GET", f"https://{H2_HOST}/"), ("GET", "?x"), ("GET", " /x"),
    ("GET", "/x\t"), ("GET", "/x", None), ("GET", "/x", ""),
    ("GET", "/x", "ftp"), ("GET", "/x", "https://a/"), ("GET", "/x", "http\r\n"), ("GET", "/x", "https", None),
    ("GET", "/x", "https", ""), ("GET", "/x", "https", "a@hello.test"),
    ("GET", "/x", "https", "hello.test/"), ("GET", "/x", "https", "hello.test:x"),
    ("GET", "/x", "https", "hello.test:0"), ("GET", "/x", "https", "hello.test\r\na: b"),
    ("GET", "/x", "https", "hello.test other.test"), ("GET", "/x", "https", "hello.test, hello.test"),
    ("GET", "/x", "https", "hello.test\\"),
]] + [(h2() + [(n, v)], None, None) for n, v in h2()] + [
    (post(("content-length", n)), b"abcde", None)
    for n in ("4", "6", "+5", "-5", "0x5", "5x", "5,5", "5, 5", "5, 6", "", "5\r\n", "18446744073709551621",
        "9223372036854775808")
] + [(post(("content-length", "5"), ("content-length", n)), b"abcde", None) for n in ("5", "6")] + [
    (post(("content-length", "5"), ("transfer-encoding", "chunked")), b"0\r\n\r\n", None),
    (post(("transfer-encoding", "chunked")), b"0\r\n\r\n" + SMUGGLED2.encode(), None),
] + [(post(), b"abcde", [t]) for t in [
    ("content-length", "9"), (":path", "/y"), ("A", "b"), ("a", "b\r\nc: d"), ("a", "b\n"), ("a b", "c"),
    ("a:b", "c"),
    ("connection", "close"), ("transfer-encoding", "chunked"), ("", "b"), ("a", "b\0"), ("a\r\nb", "c"),
]]


def on2(line, fields="", framing="", body=b"", host=H2_HOST, trailers=b"", proxied=H2_HOST):
    return on(line, fields, framing, body, host, trailers, proxied)


# (the same, what the target gets)
H2_PASSED = [
    (get(), None, None, on2(X)),
    (h2("OPTIONS", "*"), None, None, on2("OPTIONS * HTTP/1.1")),
    (get(("a", "b"), ("c", ""), ("d", "e \t f\xe4")), None, None, on2(X, "a: b\r\nc: \r\nd: e \t f\xe4\r\n")),
    (get(("host", H2_HOST)), None, None, on2(X)),
    (h2("GET", "/x", "https", None, ("host", H2_HOST)), None, None, on2(X)),
    (h2("GET", "/x", "https", "Hello.Test:443"), None, None, on2(X, host="Hello.Test:443", proxied="Hello.Test:443")),
    (h2("GET", "/x/../%2e%2e/;a?b=\\%"), None, None, on2("GET /x/../%2e%2e/;a?b=\\% HTTP/1.1")),
    (get(("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")), None, None, on2(X, "x: y\r\ncookie: a=1; b=2\r\n")),
    (get(("te", "trailers")), None, None, on2(X, framing="Connection: TE\r\nTE: trailers\r\n")),
    (get(("forwarded", "for=6"), ("x-forwarded-for", "6"), ("x-real-ip", "6"), ("content_length", "6")), None, None,
     on2(X)),
    (get(("content-length", "0")), None, None, on2(X)),
    (post(), None, None, on2(PX)),
    (post(), b"", None, on2(PX, framing=TE)),
    (post(("content-length", "0")), b"", None, on2(PX, framing="Content-Length: 0\r\n")),
    (post(("content-length", "5")), b"abcde", None, on2(PX, framing=FIVE, body=b"abcde")),
    (post(("content-length", "005")), b"abcde", None, on2(PX, framing=FIVE, body=b"abcde")),
    (post(), b"abcde", None, on2(PX, framing=TE, body=b"abcde")),
    (post(), b"0\r\n\r\n" + SMUGGLED2.encode(), None, on2(PX, framing=TE, body=b"0\r\n\r\n" + SMUGGLED2.encode())),
    (get(), SMUGGLED2.encode(), None, on2(X, framing=TE, body=SMUGGLED2.encode())),
    (post(("content-length", str(len(SMUGGLED2)))), SMUGGLED2.encode(), None,
     on2(PX, framing=f"Content-Length: {len(SMUGGLED2)}\r\n", body=SMUGGLED2.encode())),
    (post(("trailer", "a")), b"abcde",
     [("a", "b"), ("set-cookie", "c"), ("content_length", "9")],
     on2(PX, "trailer: a\r\n", TE, b"abcde", trailers=b"a: b\r\n")),
]


class Stranger2:
    """Speaks HTTP/2 frame by frame."""

    def __init__(self, gw):
        self.sock = gw.tls(H2_HOST, set_alpn_protocols=["h2"])
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert self.sock.selected_alpn_protocol() == "h2"
        self.s, self.hpack, self.answers = Stream(self.sock), hpack.Decoder(), hpack.Encoder()
        self.away = False
        self.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frames.SettingsFrame(0).serialize())

    def request(self, stream, headers, body, trailers):
        def block(fields, ended):
            data = self.answers.encode([(latin(n), latin(v)) for n, v in fields], huffman=False)
            f = frames.HeadersFrame(stream, data, flags=["END_HEADERS"] + ["END_STREAM"] * ended)
            return f.serialize()
        out = block(headers, body is None)
        if body is not None:
            out += frames.DataFrame(stream, body, flags=["END_STREAM"] * (trailers is None)).serialize()
        if trailers is not None:
            out += block(trailers, True)
        self.sock.sendall(out)

    def outcome(self, stream):
        """(status, body) of an answer; (None, None) when the stream was reset or the connection ended."""
        status, body = None, b""
        while True:
            try:
                f, n = frames.Frame.parse_frame_header(memoryview(self.s.exactly(9)))
                f.parse_body(memoryview(self.s.exactly(n)))
            except (Gone, OSError):
                self.away = True
                return None, None
            if isinstance(f, frames.SettingsFrame) and "ACK" not in f.flags:
                self.sock.sendall(frames.SettingsFrame(0, flags=["ACK"]).serialize())
            elif isinstance(f, frames.GoAwayFrame):
                self.away = True
            elif f.stream_id != stream:
                continue
            elif isinstance(f, frames.RstStreamFrame):
                return (status, body) if status and f.error_code == 0 else (None, None)
            elif isinstance(f, frames.HeadersFrame):
                headers = dict(self.hpack.decode(f.data))
                status = int(headers.get(":status", status))
            elif isinstance(f, frames.DataFrame):
                body += f.data
            if "END_STREAM" in f.flags:
                return status, body

    def good(self, stream):
        self.request(stream, h2("GET", "/good"), None, None)
        assert self.outcome(stream) == (200, b"/good")


GOOD2_GOT = expected(on2("GET /good HTTP/1.1"), "https")


def check_h2(gw, case, want):
    headers, body, trailers = case
    gw.recorder.got.clear()
    gw.recorder.plays.clear()
    c = Stranger2(gw)
    try:
        c.request(1, headers, body, trailers)
        status, _ = c.outcome(1)
        assert status == 200 if want else status is None or 400 <= status < 500 or status == 501
        if c.away:
            assert not want
            c.sock.close()
            c = Stranger2(gw)
        c.good(3)
    finally:
        c.sock.close()
    assert gw.recorder.got == ([expected(want, "https")] if want else []) + [GOOD2_GOT]


def test_http_2_refused(gw):
    all_of(((repr(c)[:160], c, None) for c in H2_REFUSED), lambda case, want, step: check_h2(gw, case, want),
           {"HTTP/2": None})


def test_http_2_passed_on_in_one_form(gw):
    all_of(((repr(c[:3])[:160], c[:3], c[3]) for c in H2_PASSED), lambda case, want, step: check_h2(gw, case, want),
           {"HTTP/2": None})


def test_http_2_body_where_none_was_declared(gw):
    """The request was whole before the body came: it went on as one without, and the stream is reset."""
    gw.recorder.got.clear()
    c = Stranger2(gw)
    c.request(1, post(("content-length", "0")), b"abcde", None)
    assert c.outcome(1)[0] != 200
    c.good(3)
    c.sock.close()
    assert set(gw.recorder.got) - {expected(on2(PX, framing="Content-Length: 0\r\n"), "https")} == {GOOD2_GOT}
