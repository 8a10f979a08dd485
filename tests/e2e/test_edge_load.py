# SPDX-License-Identifier: MIT
"""The edge under load of both versions of HTTP while control pushes changes: other tunnels come, change and go, among
them parts of the same domain, and the loaded tunnel's own rules change. No request is lost. `make check-tsan` runs it under ThreadSanitizer."""
import os
import re
import threading

from tests.lab import net
from tests.lab.proc import run

REQUESTS = int(os.environ.get("KM_LOAD_REQUESTS", "4000"))
NGINX = """daemon off; master_process off; pid {dir}/load.pid; error_log stderr warn;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{ listen 127.0.0.1:8090; location / {{ return 200 "{text}"; }} }} }}
"""


def start_nginx(s):
    conf = s.dir / "load.conf"
    conf.write_text(NGINX.format(dir=s.dir, text="x" * 1024))
    s.start("nginx", s.net.agent, "/usr/sbin/nginx", "-e", "stderr", "-c", conf)


def churn(s, loaded, stop, done):
    api = s.api_connection()
    n = 0
    options = {"responseHeaders": {"set": {"X-Round": "1"}}, "addressRateLimit": "5/s"}
    while not stop.is_set():
        t = s.create_tunnel(f"churn{n}.demo.test", conn=api)
        s.api("PATCH", f"/api/tunnels/{t['id']}", {"options": options}, expect=200, conn=api)
        s.api("PATCH", f"/api/tunnels/{t['id']}", {"target": "127.0.0.1:9"}, expect=200, conn=api)
        s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204, conn=api)
        own = {"responseHeaders": {"set": {"X-Round": str(n)}}, "rateLimit": "1000000/s",
               "addressRateLimit": "1000000/s" if n % 2 else None, "redirects": [{"from": "/x/*", "to": f"/{n}/*"}]}
        s.api("PATCH", f"/api/tunnels/{loaded['id']}", {"options": own if n % 3 else None}, expect=200, conn=api)
        part = s.create_tunnel("load.demo.test", path=f"/part{n}", conn=api)
        s.api("DELETE", f"/api/tunnels/{part['id']}", expect=204, conn=api)
        n += 1
    api.close()
    done.append(n)


def load(s, *options):
    out = run(*s.net.stranger.argv("h2load", "-n", str(REQUESTS), "-c", "20", *options, "--connect-to",
                                   f"{net.GATEWAY}:443", "https://load.demo.test/"), timeout=300)
    print(out)
    m = re.search(r"requests: (\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored",
                  out)
    assert m, out
    assert int(m[1]) == int(m[2]) and m[3] == m[4] == "0", out
    return re.search(r"Application protocol: (\S+)", out)[1]


def test_no_request_is_lost_while_tunnels_change(served):
    s = served
    start_nginx(s)
    s.add_certificate("load.demo.test")
    loaded = s.create_tunnel("load.demo.test", "127.0.0.1:8090")
    s.wait_served(domain="load.demo.test")
    stop, done = threading.Event(), []
    churner = threading.Thread(target=churn, args=(s, loaded, stop, done))
    churner.start()
    try:
        assert load(s, "--h1") == "http/1.1"
        assert load(s, "-m", "10") == "h2"
    finally:
        stop.set()
        churner.join()
    assert done and done[0] > 0
    print(f"{2 * REQUESTS} requests answered while {done[0]} rounds of tunnels came, changed and went")
