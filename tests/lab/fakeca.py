# SPDX-License-Identifier: MIT
"""A CA stand-in of our own: RFC 8555 as far as a client sees it, with real signatures, real proofs and real
certificates, and with all that pebble has not: renewal information (RFC 9773), profiles, alternate chains,
dns-persist-01, and any trouble that a test asks for:

    ca.trouble("newOrder", refuse("rateLimited", 429, retry_after=1), times=2)
    ca.trouble("cert", truncated(100))

The kinds of requests: directory nonce newAccount account keyChange newOrder order authz challenge finalize cert
revoke ari."""
import datetime
import http.server
import itertools
import json
import secrets
import socket
import socketserver
import ssl
import threading
import time

from cryptography import x509

from . import client, net, proofs
from .proc import LabError, patience
from .proofs import Refused, unb64

NAME, PORT = "ca.demo.test", 14001
ISSUER = "fakeca.example"


class Answer:
    """cut: only so many bytes of the body are sent, then the connection ends."""

    def __init__(self, status=200, body=b"", kind="application/json", cut=None, **headers):
        self.status, self.kind, self.cut = status, kind, cut
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {k.replace("_", "-"): str(v) for k, v in headers.items() if v is not None}


# ---- trouble: functions of (request, go on as usual) that give an answer -----------------------

def refuse(type_, status=400, detail="as the test wants it", retry_after=None):
    def f(_request, _usual):
        raise Refused(type_, detail, status, **({"Retry_After": retry_after} if retry_after is not None else {}))
    return f


def status(code, body=b"<html>not today</html>", retry_after=None):
    return lambda _request, _usual: Answer(code, body, "text/html", Retry_After=retry_after)


def truncated(n):
    def f(_request, usual):
        a = usual()
        a.cut = n
        return a
    return f


def instead(body, kind="application/json", code=200):
    return lambda _request, _usual: Answer(code, body, kind)


def held(event):
    """The request is taken in, its answer comes once the event is set."""
    def f(_request, usual):
        a = usual()
        event.wait(patience(120))
        return a
    return f


def with_headers(**headers):
    def f(_request, usual):
        a = usual()
        a.headers.update({k.replace("_", "-"): str(v) for k, v in headers.items()})
        return a
    return f


# ---- what a CA keeps ---------------------------------------------------------------------------

class Request:
    def __init__(self, kind, path, jws=None):
        self.kind, self.path, self.jws = kind, path, jws
        self.payload, self.account, self.jwk = None, None, None


class Order:
    def __init__(self, url, account, names, **more):
        self.url, self.account, self.names = url, account, names
        self.status, self.error, self.cert = "pending", None, None
        self.profile, self.replaces, self.polls = more.get("profile"), more.get("replaces"), 0
        self.authzs = []


class Authz:
    def __init__(self, url, name, wildcard):
        self.url, self.name, self.wildcard, self.status, self.challenges = url, name, wildcard, "pending", []


class Challenge:
    def __init__(self, url, authz, type_):
        self.url, self.authz, self.type, self.status, self.error = url, authz, type_, "pending", None
        self.token = secrets.token_urlsafe(24)


class Certificate:
    def __init__(self, leaf, names, account, order):
        self.leaf, self.names, self.account, self.order = leaf, names, account, order
        self.revoked = None  # the reason
        self.replaced = False
        self.window = None   # (start, end) of renewal information, seconds; None: two thirds of its life on

    @property
    def serial(self):
        return self.leaf.serial_number


def _seconds(when):
    return when.replace(tzinfo=datetime.timezone.utc).timestamp()


class FakeCa:
    """Attributes may be changed at any time. `resolve(name)` gives a name's addresses; dns: a DnsServer, for TXT
    records and, unless it is given otherwise, for addresses."""

    def __init__(self, system, dns=None, port=PORT):
        self.system, self.dns, self.port = system, dns, port
        self.validity = 90 * 86400
        self.ari, self.ari_retry_after = True, 3600
        self.windows = []           # of the next certificates: (start, end), seconds from when they are issued
        self.profiles = {}          # name: description
        self.eab = None             # {key id: HMAC key in base64url}: wanted of every new account
        self.offered = ["http-01", "tls-alpn-01", "dns-01"]
        self.valid = True           # False: every proof is refused, without a look
        self.everywhere = False     # a proof is fetched from all of a name's addresses, not from one
        self.processing = 0         # polls that find an order in this state
        self.nonce_lottery = None   # a function: True, and a good nonce is refused
        self.shift = 0              # seconds that its clock is ahead
        self.resolve = (lambda name: self._lookup(name, "A")) if dns else (lambda name: [net.GATEWAY])
        self.accounts, self.orders, self.certificates = {}, [], []
        # Of all requests, in their order: (kind, path); the address that it came from; when (monotonic).
        self.requests, self.peers, self.times = [], [], []
        self._things, self._nonces, self._troubles = {}, set(), []
        self._numbers = itertools.count(1)
        self._cond = threading.Condition(threading.RLock())
        self.ns = system.net.add_host("ca", net.CA)
        now = time.time()
        self._root = proofs.make_issuer("Fake Root X1", now)
        self._issuer = proofs.make_issuer("Fake Issuer R1", now, self._root)
        self._alternate_root = proofs.make_issuer("Fake Old Root", now)
        self._alternate, _ = proofs.make_issuer("Fake Issuer R1", now, self._alternate_root, self._issuer[1])
        self.alternates = False
        self.root = system.dir / "fakeca-root.crt"
        self.root.write_text(proofs.pem(self._root[0]))
        self.old_root = system.dir / "fakeca-old-root.crt"
        self.old_root.write_text(proofs.pem(self._alternate_root[0]))
        self.tls = client.context(self.root)
        self.start()

    # ---- its life ----------------------------------------------------------------------------

    def start(self):
        self.system.issue(NAME, self.system.dir)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.system.dir / NAME)
        sock = self.ns.call(socket.create_server, (net.CA, self.port))
        self._server = _Server(sock, tls, self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self):
        """Not reachable any more; start makes it so again, with all that it knows."""
        self._server.shutdown()
        self._server.end()
        self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    @property
    def base(self):
        return f"https://{NAME}:{self.port}"

    def settings(self):
        """What a gateway needs to have its certificates from here."""
        return dict(acme="on", acme_directory=f"{self.base}/directory", acme_ca_file=self.system.dir / "ca.crt",
                    **({"dns_resolvers": self.dns.address} if self.dns else {}))

    def now(self):
        return time.time() + self.shift

    # ---- for the test ------------------------------------------------------------------------

    def trouble(self, kind, what, times=1, match=None):
        """The next `times` requests of this kind (None: all) are answered by `what`; match(request) chooses."""
        with self._cond:
            self._troubles.append([kind, what, times, match])

    def no_more_trouble(self):
        with self._cond:
            self._troubles.clear()

    def wait(self, condition, timeout=30):
        """Until condition() (of this CA's state) is true; what it gave."""
        end = time.monotonic() + patience(timeout)
        with self._cond:
            while not (found := condition()):
                left = end - time.monotonic()
                if left <= 0:
                    raise LabError(f"the CA did not see it in {timeout} s; its last requests: {self.requests[-20:]}")
                self._cond.wait(left)
            return found

    def count(self, kind, since=0):
        with self._cond:
            return sum(k == kind for k, _ in self.requests[since:])

    def mark(self):
        with self._cond:
            return len(self.requests)

    def of(self, name, since=0):
        """The certificates issued for this name."""
        with self._cond:
            return [c for c in self.certificates[since:] if name in c.names]

    def orders_of(self, name):
        with self._cond:
            return [o for o in self.orders if name in o.names]

    def who(self, kind, since=0):
        """The addresses that asked this, each once, in their order."""
        with self._cond:
            return list(dict.fromkeys(p for (k, _), p in zip(self.requests[since:], self.peers[since:]) if k == kind))

    def when(self, kind, since=0):
        """When this was asked (monotonic), all of them."""
        with self._cond:
            return [t for (k, _), t in zip(self.requests[since:], self.times[since:]) if k == kind]

    def forget_accounts(self):
        with self._cond:
            self.accounts.clear()

    def forget_nonces(self):
        with self._cond:
            self._nonces.clear()

    # ---- requests ----------------------------------------------------------------------------

    def handle(self, method, path, headers, body, peer):
        kind = self._kind(path)
        request = Request(kind, path)
        with self._cond:
            self.requests.append((kind, path))
            self.peers.append(peer)
            self.times.append(time.monotonic())
            trouble = self._next_trouble(request)
            self._cond.notify_all()
        try:
            def usual():
                with self._cond:
                    a = self._usual(request, method, headers, body)
                    self._cond.notify_all()
                    return a
            a = trouble(request, usual) if trouble else usual()
        except Refused as e:
            a = Answer(e.status, {"type": f"urn:ietf:params:acme:error:{e.type}", "detail": e.detail},
                       "application/problem+json", **e.headers)
        if a is not None and (method == "POST" or kind == "nonce"):
            a.headers.setdefault("Replay-Nonce", self._nonce())
        return a

    def _next_trouble(self, request):
        for t in self._troubles:
            kind, what, _, match = t
            if kind in (None, request.kind) and (not match or match(request)):
                t[2] -= 1
                if t[2] <= 0:
                    self._troubles.remove(t)
                return what
        return None

    @staticmethod
    def _kind(path):
        part = path.strip("/").split("/")
        if part[0] == "o":
            return "finalize" if part[-1] == "finalize" else "order"
        return {"directory": "directory", "nonce": "nonce", "new-account": "newAccount", "a": "account",
                "key-change": "keyChange", "new-order": "newOrder", "z": "authz", "c": "challenge", "x": "cert",
                "revoke": "revoke", "ari": "ari"}.get(part[0], "unknown")

    def _nonce(self):
        n = secrets.token_urlsafe(16)
        with self._cond:
            self._nonces.add(n)
        return n

    def _url(self, kind):
        return f"{self.base}/{kind}/{next(self._numbers)}"

    def _usual(self, r, method, headers, body):
        if r.kind == "directory":
            return self._directory()
        if r.kind == "nonce":
            return Answer(204 if method == "GET" else 200)
        if r.kind == "ari":
            return self._ari(r)
        if r.kind == "unknown":
            raise Refused("malformed", "no such resource", 404)
        if method != "POST":
            raise Refused("malformed", "POST is needed", 405)
        if headers.get("Content-Type") != "application/jose+json":
            raise Refused("malformed", "application/jose+json is needed", 415)
        self._check(r, body)
        return getattr(self, f"_{r.kind}")(r)

    def _check(self, r, body):
        """The JWS: nothing of the request is looked at before it is found in order."""
        try:
            jws = json.loads(body)
            head = json.loads(unb64(jws["protected"]))
            payload = unb64(jws["payload"])
        except (ValueError, KeyError, TypeError) as e:
            raise Refused("malformed", f"no JWS: {e}") from None
        if set(jws) != {"protected", "payload", "signature"} or set(head) - {"alg", "nonce", "url", "kid", "jwk"}:
            raise Refused("malformed", f"members {sorted(jws)}, {sorted(head)}")
        if head.get("alg") != "ES256":
            raise Refused("badSignatureAlgorithm", str(head.get("alg")))
        if head.get("url") != self.base + r.path:
            raise Refused("unauthorized", f"url is {head.get('url')}", 403)
        if ("kid" in head) == ("jwk" in head):
            raise Refused("malformed", "one of kid and jwk is needed")
        own_key = r.kind == "newAccount" or r.kind == "revoke" and "jwk" in head
        if own_key != ("jwk" in head):
            raise Refused("malformed", "kid and jwk are confused")
        if own_key:
            r.jwk = head["jwk"]
        else:
            r.account = self.accounts.get(head["kid"])
            if not r.account or r.account["status"] != "valid":
                raise Refused("accountDoesNotExist", f"{head['kid']} is not known")
            r.jwk = r.account["jwk"]
        proofs.es256(proofs.public_key(r.jwk), jws)
        self._spend(head.get("nonce"))
        r.payload = json.loads(payload) if payload else None
        reading = r.kind in ("order", "authz", "cert")
        if reading and payload:
            raise Refused("malformed", "POST-as-GET has an empty payload")

    def _spend(self, nonce):
        if nonce not in self._nonces:
            raise Refused("badNonce", "unknown or used")
        self._nonces.remove(nonce)
        if self.nonce_lottery and self.nonce_lottery():
            raise Refused("badNonce", "drawn in the lottery")

    def _directory(self):
        meta = {"termsOfService": f"{self.base}/terms", "caaIdentities": [ISSUER],
                "externalAccountRequired": bool(self.eab)}
        if self.profiles:
            meta["profiles"] = self.profiles
        urls = {"newNonce": "nonce", "newAccount": "new-account", "newOrder": "new-order", "revokeCert": "revoke",
                "keyChange": "key-change", **({"renewalInfo": "ari"} if self.ari else {})}
        return Answer(200, {**{k: f"{self.base}/{v}" for k, v in urls.items()}, "meta": meta})

    # ---- accounts ----------------------------------------------------------------------------

    def _account_of(self, jwk):
        return next((u for u, a in self.accounts.items() if a["jwk"] == jwk), None)

    def _newAccount(self, r):
        url = self._account_of(r.jwk)
        if url:
            return Answer(200, self._shown(url), Location=url)
        if r.payload.get("onlyReturnExisting"):
            raise Refused("accountDoesNotExist", "this key has none")
        if not r.payload.get("termsOfServiceAgreed"):
            raise Refused("agreementRequired", "the terms", 403)
        if self.eab:
            self._check_eab(r)
        url = self._url("a")
        self.accounts[url] = {"jwk": r.jwk, "status": "valid", "contact": r.payload.get("contact", [])}
        return Answer(201, self._shown(url), Location=url)

    def _check_eab(self, r):
        bound = r.payload.get("externalAccountBinding")
        if not bound:
            raise Refused("externalAccountRequired", "an account elsewhere is needed", 403)
        head = json.loads(unb64(bound["protected"]))
        key = self.eab.get(head.get("kid"))
        if head.get("alg") != "HS256" or head.get("url") != self.base + r.path or "nonce" in head or not key \
                or json.loads(unb64(bound["payload"])) != r.jwk or not proofs.hs256(key, bound):
            raise Refused("unauthorized", "the binding is not in order", 403)

    def _shown(self, url):
        a = self.accounts[url]
        return {"status": a["status"], "contact": a["contact"], "orders": f"{url}/orders"}

    def _account(self, r):
        url = self.base + r.path
        if r.payload and r.payload.get("status") == "deactivated":
            self.accounts[url]["status"] = "deactivated"
        elif r.payload and "contact" in r.payload:
            self.accounts[url]["contact"] = r.payload["contact"]
        return Answer(200, self._shown(url))

    def _keyChange(self, r):
        inner = r.payload
        head, change = json.loads(unb64(inner["protected"])), json.loads(unb64(inner["payload"]))
        if "nonce" in head or head.get("url") != self.base + r.path or change.get("oldKey") != r.jwk:
            raise Refused("malformed", "the inner JWS")
        if self.accounts.get(change.get("account")) is not r.account:
            raise Refused("malformed", "another account")
        proofs.es256(proofs.public_key(head["jwk"]), inner)
        taken = self._account_of(head["jwk"])
        if taken:
            raise Refused("conflict", "the key is in use", 409, Location=taken)
        r.account["jwk"] = head["jwk"]
        return Answer(200, self._shown(change["account"]))

    # ---- orders ------------------------------------------------------------------------------

    def _newOrder(self, r):
        names = [i["value"] for i in r.payload["identifiers"]]
        for i in r.payload["identifiers"]:
            if i["type"] != ("ip" if proofs.is_ip(i["value"]) else "dns"):
                raise Refused("unsupportedIdentifier", str(i))
        profile, replaces = r.payload.get("profile"), r.payload.get("replaces")
        if profile and profile not in self.profiles:
            raise Refused("invalidProfile", profile)
        if replaces:
            if not self.ari:
                raise Refused("malformed", "no renewal information here")
            old = self._certificate(replaces)
            if old.replaced:
                raise Refused("alreadyReplaced", replaces, 409)
            if not set(old.names) & set(names):
                raise Refused("malformed", "it has none of these names")
        o = Order(self._url("o"), r.account, names, profile=profile, replaces=replaces)
        for n in names:
            wildcard = n.startswith("*.")
            z = Authz(self._url("z"), n.removeprefix("*."), wildcard)
            for type_ in self.offered:
                if type_.startswith("dns") or not wildcard:
                    if not (type_.startswith("dns") and proofs.is_ip(n)):
                        c = Challenge(self._url("c"), z, type_)
                        z.challenges.append(c)
                        self._things[c.url] = c
            o.authzs.append(z)
            self._things[z.url] = z
        self._things[o.url] = o
        self.orders.append(o)
        return Answer(201, self._order_shown(o), Location=o.url)

    def _thing(self, r, kind):
        t = self._things.get(self.base + r.path.removesuffix("/finalize"))
        if not isinstance(t, kind):
            raise Refused("malformed", "no such thing", 404)
        return t

    def _order_shown(self, o):
        if o.status == "pending" and all(z.status == "valid" for z in o.authzs):
            o.status = "ready"
        if o.status == "pending" and any(z.status == "invalid" for z in o.authzs):
            o.status, o.error = "invalid", {"type": "urn:ietf:params:acme:error:unauthorized", "detail": "a proof failed"}
        if o.status == "processing":
            o.polls -= 1
            if o.polls < 0:
                o.status = "valid"
        d = {"status": o.status, "finalize": f"{o.url}/finalize", "authorizations": [z.url for z in o.authzs],
             "identifiers": [{"type": "ip" if proofs.is_ip(n) else "dns", "value": n} for n in o.names],
             "expires": _date(self.now() + 8 * 3600)}
        d.update({k: v for k, v in (("profile", o.profile), ("replaces", o.replaces), ("error", o.error)) if v})
        if o.status == "valid":
            d["certificate"] = o.cert
        return d

    def _order(self, r):
        return Answer(200, self._order_shown(self._thing(r, Order)))

    def _authz(self, r):
        z = self._thing(r, Authz)
        d = {"status": z.status, "identifier": {"type": "ip" if proofs.is_ip(z.name) else "dns", "value": z.name},
             "challenges": [self._challenge_shown(c) for c in z.challenges], "expires": _date(self.now() + 3600)}
        return Answer(200, {**d, "wildcard": True} if z.wildcard else d)

    def _challenge_shown(self, c):
        d = {"type": c.type, "url": c.url, "status": c.status}
        d.update({"issuer-domain-names": [ISSUER]} if c.type == "dns-persist-01" else {"token": c.token})
        return {**d, "error": c.error} if c.error else d

    def _challenge(self, r):
        c = self._thing(r, Challenge)
        if r.payload is not None and c.status == "pending" and c.authz.status == "pending":
            c.status = "processing"
            threading.Thread(target=self._validate, args=(c, r.account), daemon=True).start()
        return Answer(200, self._challenge_shown(c), Link=f'<{c.authz.url}>;rel="up"')

    def _validate(self, c, account):
        try:
            if not self.valid:
                raise Refused("unauthorized", "no proof is good enough today", 403)
            self._prove(c, account)
            error = None
        except Refused as e:
            error = {"type": f"urn:ietf:params:acme:error:{e.type}", "detail": e.detail, "status": e.status}
        except LabError as e:
            error = {"type": "urn:ietf:params:acme:error:dns", "detail": str(e), "status": 400}
        with self._cond:
            c.error = error
            c.status = c.authz.status = "invalid" if error else "valid"
            self._cond.notify_all()

    def _lookup(self, name, kind):
        records = self.dns.lookup(name.removesuffix(f".{self.dns.origin}"), kind)
        return [t.replace('" "', "").strip('"') for t in records if kind != "A" or not t.endswith(".")]

    def _prove(self, c, account):
        z, want = c.authz, f"{c.token}.{proofs.thumbprint(account['jwk'])}"
        if c.type == "dns-01":
            return proofs.dns_01(self._lookup(f"_acme-challenge.{z.name}", "TXT"), want)
        if c.type == "dns-persist-01":
            url = next(u for u, a in self.accounts.items() if a is account)
            return proofs.dns_persist_01(self._lookup(f"_validation-persist.{z.name}", "TXT"), ISSUER, url, z.wildcard)
        addresses = [z.name] if proofs.is_ip(z.name) else self.resolve(z.name)
        if not addresses:
            raise Refused("dns", f"{z.name} has no address")
        prove = proofs.http_01 if c.type == "http-01" else proofs.tls_alpn_01
        for address in addresses if self.everywhere else addresses[:1]:
            prove(self._connect, address, z.name, c.token, want)
        return None

    def _connect(self, address, port):
        return self.ns.connect(address, port, patience(10))

    def _finalize(self, r):
        o = self._thing(r, Order)
        self._order_shown(o)
        if o.status != "ready":
            raise Refused("orderNotReady", o.status, 403)
        public = proofs.csr_key(unb64(r.payload["csr"]), o.names)
        now = self.now()
        # Valid from now by everybody's clock, a stranger's too.
        leaf = proofs.make_leaf(self._issuer, public, o.names, min(now, time.time()) - 1, now + self.validity)
        c = Certificate(leaf, o.names, r.account, o)
        if self.windows:
            c.window = tuple(now + t for t in self.windows.pop(0))
        o.cert, o.status, o.polls = self._url("x"), "processing", self.processing + 1 if self.processing else 0
        self._things[o.cert] = c
        self.certificates.append(c)
        if o.replaces:
            self._certificate(o.replaces).replaced = True
        return Answer(200, self._order_shown(o), Location=o.url)

    def _cert(self, r):
        url = self.base + r.path
        second = url.endswith("/1")
        c = self._things.get(url if isinstance(self._things.get(url), Certificate) else url.removesuffix("/1"))
        if not isinstance(c, Certificate):
            raise Refused("malformed", "no such thing", 404)
        issuer = self._alternate if second and self.alternates else self._issuer[0]
        link = f'<{url}/1>;rel="alternate"' if self.alternates and not second else None
        return Answer(200, (proofs.pem(c.leaf) + proofs.pem(issuer)).encode(), "application/pem-certificate-chain",
                      Link=link)

    def _revoke(self, r):
        leaf = x509.load_der_x509_certificate(unb64(r.payload["certificate"]))
        c = next((c for c in self.certificates if c.serial == leaf.serial_number), None)
        if not c:
            raise Refused("malformed", "not of this CA", 404)
        own = r.account is None and proofs.public_key(r.jwk).public_numbers() == leaf.public_key().public_numbers()
        if not own and r.account is not c.account:
            raise Refused("unauthorized", "another's certificate", 403)
        if c.revoked is not None:
            raise Refused("alreadyRevoked", "twice")
        c.revoked = r.payload.get("reason", 0)
        return Answer(200)

    # ---- renewal information -----------------------------------------------------------------

    def _certificate(self, ari_id):
        for c in self.certificates:
            if proofs.ari_id(c.leaf) == ari_id:
                return c
        raise Refused("malformed", f"no certificate {ari_id}", 404)

    def _ari(self, r):
        if not self.ari:
            raise Refused("malformed", "no such resource", 404)
        c = self._certificate(r.path.rsplit("/", 1)[1])
        begin, end = _seconds(c.leaf.not_valid_before), _seconds(c.leaf.not_valid_after)
        window = c.window or (begin + (end - begin) * 2 / 3, begin + (end - begin) * 3 / 4)
        d = {"suggestedWindow": {"start": _date(window[0]), "end": _date(window[1])}}
        return Answer(200, d, Retry_After=self.ari_retry_after)


def _date(seconds):
    return datetime.datetime.utcfromtimestamp(seconds).isoformat(timespec="seconds") + "Z"


# ---- HTTPS -------------------------------------------------------------------------------------

class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        a = self.server.ca.handle(self.command, self.path, self.headers, body,
                                  self.client_address[0])
        if a is None:  # nothing is said
            self.close_connection = True
            return
        self.send_response(a.status)
        for k, v in {"Content-Type": a.kind, "Content-Length": len(a.body), **a.headers}.items():
            self.send_header(k, str(v))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(a.body if a.cut is None else a.body[:a.cut])
        self.close_connection |= a.cut is not None

    do_GET = do_HEAD = do_POST = _serve


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def __init__(self, sock, tls, ca):
        socketserver.BaseServer.__init__(self, sock.getsockname(), _Handler)
        self.socket, self.tls, self.ca = sock, tls, ca
        self.server_name, self.server_port = NAME, ca.port
        self._open = set()

    def process_request_thread(self, request, client_address):
        """Handshakes are made on the connection's own thread."""
        try:
            request.settimeout(patience(60))
            request = self.tls.wrap_socket(request, server_side=True)
            self._open.add(request)
            self.finish_request(request, client_address)
        except OSError:
            pass  # the client has gone
        finally:
            self._open.discard(request)
            request.close()

    def end(self):
        self.socket.close()
        for s in list(self._open):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
