# SPDX-License-Identifier: MIT
"""An HTTP service for the agent's loopback. Run as a program: target.py PORT [TEXT [PEM]], with PEM (key
and certificate) over TLS

GET /…           TEXT, the request line and the headers it saw
GET /bytes/N     N bytes of a fixed pattern
GET /…seen…      {"path", "headers"} as they came
PUT|POST /sink   {"length", "sha256"} of the body
GET /slow/N      N bytes, one a request of the reader's pace (no Content-Length, chunked)"""
import hashlib
import http.server
import json
import socketserver
import ssl
import sys

PATTERN = bytes(hashlib.sha256(b"kakuremichi").digest() * 32768)  # 1 MiB


def pattern_sha256(n):
    h = hashlib.sha256()
    while n > 0:
        h.update(PATTERN[:min(n, len(PATTERN))])
        n -= len(PATTERN)
    return h.hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    text = "hello"

    def log_message(self, *args):
        pass

    def _answer(self, body, kind="text/plain"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        part = self.path.split("/")
        if part[1] == "bytes":
            n = int(part[2])
            self.send_response(200)
            self.send_header("Content-Length", str(n))
            self.end_headers()
            while n > 0:
                self.wfile.write(PATTERN[:min(n, len(PATTERN))])
                n -= len(PATTERN)
        elif "seen" in self.path:
            self._answer(json.dumps({"path": self.path, "headers": self.headers.items()}).encode(), "application/json")
        elif part[1] == "headers":
            self._answer(json.dumps(self.headers.items()).encode(), "application/json")
        else:
            self._answer((self.text + "\n").encode())

    do_HEAD = do_GET

    def do_PUT(self):
        h = hashlib.sha256()
        total = 0
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                data = self.rfile.read(size)
                self.rfile.readline()
                if size == 0:
                    break
                h.update(data)
                total += size
        else:
            left = int(self.headers.get("Content-Length", 0))
            while left > 0:
                data = self.rfile.read(min(left, 1 << 20))
                if not data:
                    return
                h.update(data)
                left -= len(data)
                total += len(data)
        self._answer(json.dumps({"length": total, "sha256": h.hexdigest()}).encode(),
                     "application/json")

    do_POST = do_PUT


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 1024


if __name__ == "__main__":
    Handler.text = sys.argv[2] if len(sys.argv) > 2 else "hello"
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    if len(sys.argv) > 3:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[3])
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    print("target listens", server.server_address[1], flush=True)
    server.serve_forever()
