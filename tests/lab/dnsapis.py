# SPDX-License-Identifier: MIT
"""Stand-ins for two companies' DNS APIs, as strict as their documentation: Cloudflare's version 4 and Amazon
Route 53's of 2013-04-01, whose signatures are computed here once more. What they refuse by their own rules
is kept in `complaints`, for a test to find none there."""
import datetime
import hashlib
import hmac
import http.server
import json
import re
import secrets
import threading
import urllib.parse
import xml.etree.ElementTree as ET


class _Api:
    def __init__(self, ns, address="127.0.0.1"):
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                n = int(self.headers.get("Content-Length") or 0)
                with api.lock:
                    status, body, headers = api.answer(self, self.rfile.read(n))
                self.send_response(status)
                for k, v in {"Content-Length": len(body), **headers}.items():
                    self.send_header(k, v)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = handle_any

            def log_message(self, *a):
                pass

        def make():
            return http.server.ThreadingHTTPServer((address, 0), Handler)

        self.lock = threading.RLock()
        self.requests, self.complaints, self.trouble = [], [], []
        self.server = ns.call(make)
        self.server.daemon_threads = True
        self.host = f"{address}:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, request, body):
        url = urllib.parse.urlsplit(request.path)
        self.requests.append(f"{request.command} {request.path}")
        if self.trouble:  # (status, headers) once each, before anything else
            status, headers = self.trouble.pop(0)
            return self.refuse(status, "busy", headers)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
        return self.handle(request, url, query, body)

    def complain(self, text):
        self.complaints.append(text)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)


class Cloudflare(_Api):
    """zones: {name: [(record name, content), …]}, of which the token may see `visible`."""

    def __init__(self, ns, zones, per_page=None):
        self.token = secrets.token_hex(20)
        self.per_page = per_page
        self.zones = {secrets.token_hex(16): name for name in zones}
        self.records = {}  # id -> (zone id, name, content, ttl)
        for zone, name in self.zones.items():
            for record, content in zones[name]:
                self.records[secrets.token_hex(16)] = (zone, record, content, 60)
        super().__init__(ns)
        self.url = f"http://{self.host}/client/v4"

    def texts(self):
        return sorted((name, content) for _, name, content, _ in self.records.values())

    def reply(self, result, status=200, **info):
        doc = {"success": True, "errors": [], "messages": [], "result": result}
        if info:
            doc["result_info"] = info
        return status, json.dumps(doc).encode(), {"Content-Type": "application/json"}

    def refuse(self, status, message, headers=None, code=10000):
        doc = {"success": False, "errors": [{"code": code, "message": message}], "messages": [], "result": None}
        return status, json.dumps(doc).encode(), {"Content-Type": "application/json", **(headers or {})}

    def page(self, items, query, smallest, largest):
        per_page, page = int(query.get("per_page", 20)), int(query.get("page", 1))
        if not smallest <= per_page <= largest or page < 1:
            self.complain(f"per_page={per_page} page={page}")
            return self.refuse(400, "per_page is out of range", code=6003)
        per_page = self.per_page or per_page
        pages = (len(items) + per_page - 1) // per_page
        part = items[(page - 1) * per_page:page * per_page]
        return self.reply(part, page=page, per_page=per_page, count=len(part), total_count=len(items),
                          total_pages=pages)

    def handle(self, request, url, query, body):
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.refuse(403, "Authentication error")
        path = url.path.removeprefix("/client/v4")
        if path == "/zones" and request.command == "GET":
            if set(query) - {"name", "per_page", "page", "status"}:
                self.complain(f"zones?{url.query}")
            return self.page([{"id": z, "name": n, "status": "active"} for z, n in self.zones.items()
                              if n == query.get("name", n)], query, 5, 50)
        m = re.fullmatch("/zones/([0-9a-f]{32})/dns_records(?:/([0-9a-f]{32}))?", path)
        if not m or m[1] not in self.zones:
            return self.refuse(404, "Could not route to the resource", code=7003)
        if request.command == "GET" and not m[2]:
            return self.list(m[1], query)
        if request.command == "POST" and not m[2]:
            return self.create(m[1], request, body)
        if request.command == "DELETE" and m[2]:
            if m[2] not in self.records:
                return self.refuse(404, "Record does not exist.", code=81044)
            del self.records[m[2]]
            return self.reply({"id": m[2]})
        return self.refuse(405, "Method not allowed", code=10405)

    def list(self, zone, query):
        if set(query) - {"type", "name", "content", "per_page", "page"} or query.get("type") != "TXT":
            self.complain(f"list {query}")
        return self.page([{"id": i, "type": "TXT", "name": n, "content": c, "ttl": t, "zone_id": z}
                          for i, (z, n, c, t) in self.records.items()
                          if z == zone and n == query.get("name", n)], query, 1, 5000000)

    def create(self, zone, request, body):
        if request.headers.get("Content-Type") != "application/json":
            self.complain("Content-Type")
        doc = json.loads(body)
        name, ttl = doc["name"], doc["ttl"]
        if set(doc) != {"type", "name", "content", "ttl"} or doc["type"] != "TXT":
            self.complain(f"create {doc}")
        if ttl != 1 and not 60 <= ttl <= 86400:
            return self.refuse(400, "Invalid TTL. Must be between 60 and 86400 seconds, or 1 for Automatic.",
                               code=9021)
        if not (name == self.zones[zone] or name.endswith("." + self.zones[zone])):
            self.complain(f"{name} in {self.zones[zone]}")
        if not re.fullmatch('"[ -~]*"', doc["content"]):
            self.complain("TXT content is not in quotes")
        if (name, doc["content"]) in self.texts():
            return self.refuse(400, "An identical record already exists.", code=81058)
        i = secrets.token_hex(16)
        self.records[i] = (zone, name, doc["content"], ttl)
        return self.reply({"id": i, **doc})


_NS = "https://route53.amazonaws.com/doc/2013-04-01/"


class Route53(_Api):
    """zones: (id, name, private) in any order; sets: {(zone id, name): (ttl, [value in quotes, …])}."""

    def __init__(self, ns, zones, per_page=100):
        self.key_id = "AKIA" + secrets.token_hex(8).upper()
        self.secret = secrets.token_urlsafe(30)
        self.region, self.per_page = "us-east-1", per_page
        self.zones = sorted(zones, key=lambda z: (z[1].split(".")[::-1], z[0]))
        self.sets = {}
        super().__init__(ns)
        self.url = f"http://{self.host}"

    def xml(self, root, inner, status=200, headers=None):
        text = f'<?xml version="1.0"?>\n<{root} xmlns="{_NS}">{inner}</{root}>'
        return status, text.encode(), {"Content-Type": "text/xml", **(headers or {})}

    def refuse(self, status, message, headers=None, code="Throttling"):
        return self.xml("ErrorResponse", f"<Error><Type>Sender</Type><Code>{code}</Code><Message>{message}"
                        "</Message></Error><RequestId>x</RequestId>", status, headers)

    # ---- Signature Version 4 ----
    def signature(self, request, url, body, names, date):
        def quote(s):
            return urllib.parse.quote(s, safe="-_.~")

        query = "&".join(f"{quote(k)}={quote(v)}" for k, v in
                         sorted(urllib.parse.parse_qsl(url.query, keep_blank_values=True)))
        headers = "".join(f"{n}:{' '.join(request.headers[n].split())}\n" for n in names)
        canonical = "\n".join([request.command, urllib.parse.quote(url.path, safe="/-_.~"), query, headers,
                               ";".join(names), hashlib.sha256(body).hexdigest()])
        scope = f"{date[:8]}/{self.region}/route53/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in (date[:8], self.region, "route53", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()

    def wrong_signature(self, request, url, body):
        m = re.fullmatch("AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)/([0-9]{8})/([a-z0-9-]+)/route53/aws4_request, "
                         "SignedHeaders=([a-z;-]+), Signature=([0-9a-f]{64})", request.headers.get("Authorization", ""))
        date = request.headers.get("X-Amz-Date", "")
        if not m or not re.fullmatch("[0-9]{8}T[0-9]{6}Z", date):
            return "MissingAuthenticationToken"
        if m[1] != self.key_id:
            return "InvalidClientTokenId"
        names = m[4].split(";")
        if names != sorted(names) or not {"host", "x-amz-date"} <= set(names) or m[2] != date[:8] or m[3] != self.region:
            return "IncompleteSignature"
        when = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ")
        if abs(when - datetime.datetime.utcnow()) > datetime.timedelta(minutes=15):
            return "SignatureDoesNotMatch"
        if not hmac.compare_digest(self.signature(request, url, body, names, date), m[5]):
            return "SignatureDoesNotMatch"
        return None

    # ---- the API ----
    def handle(self, request, url, query, body):
        wrong = self.wrong_signature(request, url, body)
        if wrong:
            return self.refuse(403, "The request signature we calculated does not match the signature you "
                               "provided. Check your AWS Secret Access Key &amp; signing method.", code=wrong)
        if request.command == "GET" and url.path == "/2013-04-01/hostedzonesbyname":
            return self.zones_by_name(query)
        m = re.fullmatch("/2013-04-01/hostedzone/([A-Z0-9]+)/rrset(/?)", url.path)
        if not m or m[1] not in [z[0] for z in self.zones]:
            return self.refuse(404, f"No hosted zone found with ID: {url.path}", code="NoSuchHostedZone")
        if request.command == "GET" and not m[2]:
            return self.list_sets(m[1], query)
        if request.command == "POST" and m[2]:
            return self.change(m[1], body)
        return self.refuse(400, "what?", code="InvalidAction")

    def zones_by_name(self, query):
        if set(query) - {"dnsname", "hostedzoneid", "maxitems"}:
            self.complain(f"hostedzonesbyname {query}")
        first = (query["dnsname"].rstrip(".").split(".")[::-1], query.get("hostedzoneid", ""))
        zones = [z for z in self.zones if (z[1].split(".")[::-1], z[0]) >= first]
        n = min(int(query.get("maxitems", 100)), self.per_page)
        inner = "<HostedZones>" + "".join(
            f"<HostedZone><Id>/hostedzone/{i}</Id><Name>{name}.</Name><CallerReference>x</CallerReference><Config>"
            f"<PrivateZone>{str(private).lower()}</PrivateZone></Config><ResourceRecordSetCount>2"
            "</ResourceRecordSetCount></HostedZone>" for i, name, private in zones[:n]) + "</HostedZones>"
        inner += f"<DNSName>{query['dnsname']}</DNSName><IsTruncated>{str(len(zones) > n).lower()}</IsTruncated>"
        if len(zones) > n:
            inner += f"<NextDNSName>{zones[n][1]}.</NextDNSName><NextHostedZoneId>{zones[n][0]}</NextHostedZoneId>"
        return self.xml("ListHostedZonesByNameResponse", inner + f"<MaxItems>{n}</MaxItems>")

    def list_sets(self, zone, query):
        if set(query) != {"name", "type", "maxitems"} or query["type"] != "TXT":
            self.complain(f"rrset {query}")
        first = query["name"].rstrip(".").split(".")[::-1]
        inner = ""
        for (z, name), (ttl, values) in sorted(self.sets.items(), key=lambda s: s[0][1].split(".")[::-1]):
            if z == zone and name.split(".")[::-1] >= first:
                inner += (f"<ResourceRecordSet><Name>{name}.</Name><Type>TXT</Type><TTL>{ttl}</TTL><ResourceRecords>"
                          + "".join(f"<ResourceRecord><Value>{v.replace('&', '&amp;').replace('<', '&lt;')}</Value>"
                                    "</ResourceRecord>" for v in values) + "</ResourceRecords></ResourceRecordSet>")
                break  # maxitems=1
        return self.xml("ListResourceRecordSetsResponse",
                        f"<ResourceRecordSets>{inner}</ResourceRecordSets><IsTruncated>false</IsTruncated>"
                        "<MaxItems>1</MaxItems>")

    def change(self, zone, body):
        root, ns = ET.fromstring(body), {"r": _NS}
        if root.tag != f"{{{_NS}}}ChangeResourceRecordSetsRequest":
            return self.refuse(400, "malformed", code="InvalidInput")
        change, = root.findall("r:ChangeBatch/r:Changes/r:Change", ns)
        rrset = change.find("r:ResourceRecordSet", ns)
        name, kind, ttl = (rrset.find(f"r:{t}", ns).text for t in ("Name", "Type", "TTL"))
        values = [v.text for v in rrset.findall("r:ResourceRecords/r:ResourceRecord/r:Value", ns)]
        name = name.rstrip(".")
        if kind != "TXT" or not values or len(set(values)) != len(values) or not all(
                re.fullmatch('"[^"]*"( "[^"]*")*', v) for v in values):
            return self.refuse(400, "Invalid Resource Record", code="InvalidChangeBatch")
        action = change.find("r:Action", ns).text
        at = (zone, name)
        if action == "UPSERT":
            self.sets[at] = (int(ttl), values)
        elif action == "DELETE":
            if at not in self.sets or (int(ttl), sorted(values)) != (self.sets[at][0], sorted(self.sets[at][1])):
                return self.refuse(400, "Tried to delete resource record set but the values provided do not match the "
                                   "current values", code="InvalidChangeBatch")
            del self.sets[at]
        else:
            return self.refuse(400, f"{action}?", code="InvalidInput")
        return self.xml("ChangeResourceRecordSetsResponse", "<ChangeInfo><Id>/change/C1</Id><Status>PENDING</Status>"
                        "<SubmittedAt>2026-01-01T00:00:00Z</SubmittedAt></ChangeInfo>")
