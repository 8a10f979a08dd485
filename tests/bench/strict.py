# SPDX-License-Identifier: MIT
"""How strict nginx, haproxy, h2o and caddy are with the requests of tests/e2e/test_desync.py, which the gateway refuses
(all of them: that is what the test says): how many each passes on to a target; and which of those that the gateway
passes on one of them refuses. All plain HTTP/1.1, on a loopback of their own.

usage: strict.py [--build DIR]
"""
import argparse
import os
import pathlib
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/e2e")]

TARGET = 7100
PEERS = {
    "nginx": (7101, """daemon off; pid {d}/pid; error_log stderr crit; worker_processes 1; events {{ }}
http {{
    access_log off; client_body_temp_path {d}/1; proxy_temp_path {d}/2; fastcgi_temp_path {d}/3; uwsgi_temp_path {d}/4;
    scgi_temp_path {d}/5;
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_http_version 1.1; proxy_pass http://127.0.0.1:{target}; }} }}
}}
""", ("nginx", "-e", "stderr", "-c")),
    "haproxy": (7102, """defaults
    mode http
    timeout client 2s
    timeout server 2s
    timeout connect 2s
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    server s 127.0.0.1:{target}
""", ("haproxy", "-db", "-f")),
    "h2o": (7103, """user: root
listen: {{host: 127.0.0.1, port: {port}}}
hosts: {{default: {{paths: {{"/": {{proxy.reverse.url: "http://127.0.0.1:{target}/"}}}}}}}}
""", ("h2o", "-c")),
    "caddy": (7104, """{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{target}
}}
""", ("caddy", "run", "--adapter", "caddyfile", "--config")),
}


def serve(sock, desync):
    """A target that answers whatever it is sent."""
    s = desync.Stream(sock)
    try:
        while True:
            head = s.until(b"\r\n\r\n").lower()
            if b"transfer-encoding: chunked" in head:
                while n := int(s.until(b"\r\n").split(b";")[0], 16):
                    s.exactly(n + 2)
                while s.until(b"\r\n") != b"\r\n":
                    pass
            elif b"content-length:" in head:
                s.exactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    except (desync.Gone, OSError, ValueError):
        sock.close()


def accept(server, desync):
    while True:
        threading.Thread(target=serve, args=(server.accept()[0], desync), daemon=True).start()


def ask(port, data):
    """The answer's status; None: the end, or silence."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as s:
            s.sendall(data)
            answer = s.recv(4096)
            while answer.startswith(b"HTTP/1.1 1"):
                answer = s.recv(4096)
            return int(answer.split()[1]) if answer.startswith(b"HTTP/") else None
    except OSError:
        return None


def up(port, timeout=20):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if ask(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") == 200:
            return
        select.select([], [], [], 0.05)
    sys.exit(f"nobody answers on {port}")


def compare(desync):
    refused = [desync.latin(text) for _, text, _ in desync.refused()]
    refused += [desync.latin(desync.CHUNKED + c) for c in desync.CHUNKS]
    print(f"{len(refused)} requests that the gateway refuses")
    for name, (port, _, _) in PEERS.items():
        n = sum(ask(port, r + desync.latin(desync.SMUGGLED)) == 200 for r in refused)
        print(f"  {name:8} passes on {n:4}", flush=True)
    print(f"{len(desync.PASSED)} that it passes on in one form; refused by")
    for text, _ in desync.PASSED:
        by = [name for name, (port, _, _) in PEERS.items() if ask(port, desync.latin(text)) not in (200, None)]
        if by:
            print(f"  {', '.join(by):16} {text!r}"[:160])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    os.environ["KM_BUILD"] = str(pathlib.Path(p.parse_args().build).resolve())
    from tests.lab import net
    import test_desync as desync
    net.leave_host()
    threading.Thread(target=accept, args=(socket.create_server(("127.0.0.1", TARGET), backlog=64), desync),
                     daemon=True).start()
    procs = []
    with tempfile.TemporaryDirectory(prefix="kmstrict-") as tmp:
        try:
            for name, (port, text, argv) in PEERS.items():
                conf = pathlib.Path(tmp) / f"{name}.conf"
                conf.write_text(text.format(d=tmp, port=port, target=TARGET))
                env = {**os.environ, "HOME": tmp, "XDG_DATA_HOME": tmp, "XDG_CONFIG_HOME": tmp}
                procs.append(subprocess.Popen([*argv, conf], env=env, stdout=subprocess.DEVNULL,
                                              stderr=subprocess.DEVNULL))
            for port, _, _ in PEERS.values():
                up(port)
            compare(desync)
        finally:
            for proc in procs:
                proc.terminate()
                proc.wait()


if __name__ == "__main__":
    main()
