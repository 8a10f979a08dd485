# SPDX-License-Identifier: MIT
"""HTTP over sockets made inside a namespace (http.client, TLS by the standard library)."""
import http.client
import json
import ssl


class NsConnection(http.client.HTTPConnection):
    def __init__(self, ns, addr, port, name, context=None, timeout=30, rcvbuf=None):
        self.default_port = port
        super().__init__(name, port, timeout=timeout)
        self._ns, self._addr, self._context, self._rcvbuf = ns, addr, context, rcvbuf

    def connect(self):
        s = self._ns.connect(self._addr, self.port, self.timeout, rcvbuf=self._rcvbuf)
        if self._context is not None:
            try:
                s = self._context.wrap_socket(s, server_hostname=self.host)
            except BaseException:
                s.close()
                raise
        self.sock = s


def context(ca):
    c = ssl.create_default_context(cafile=ca)
    c.set_alpn_protocols(["http/1.1"])
    return c


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()

    def __repr__(self):
        return f"<{self.status} {self.body[:200]!r}>"


def request(conn, method, path, body=None, headers=None):
    conn.request(method, path, body, headers or {})
    r = conn.getresponse()
    return Answer(r.status, r.headers, r.read())
