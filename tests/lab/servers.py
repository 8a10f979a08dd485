# SPDX-License-Identifier: MIT
"""Servers of Debian's archive beside the agent, as people have them: nginx, Apache, Caddy, nghttpd.

Each start_* takes a System and a port of the agent's loopback and returns when the server listens."""
import os
import select
import time

from .proc import LabError, patience
from .target import PATTERN

NGINX = """daemon off; pid {dir}/pid; error_log stderr warn; user nobody nogroup; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off; default_type application/octet-stream; root {dir}/files; etag on; max_ranges 8;
    client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3;
    uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
    server {{ listen 127.0.0.1:{port}; location /gone {{ return 204; }} }}
}}
"""

# Prefork, because CGI scripts are then children of the server that serves the request.
APACHE = """ServerRoot {dir}
ServerName localhost
PidFile {dir}/pid
ErrorLog /dev/stderr
LogLevel warn
User nobody
Group nogroup
Listen 127.0.0.1:{port}
{modules}
StartServers 2
DocumentRoot {dir}/files
LimitRequestBody 0
ScriptAlias /cgi/ {dir}/cgi/
<Directory {dir}>
    Require all granted
</Directory>
<Location /denied>
    Require all denied
</Location>
"""
APACHE_MODULES = ("mpm_prefork", "authz_core", "cgi", "alias")

CADDY = """{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind 127.0.0.1
    route /hints {{
        header Link "</style.css>; rel=preload; as=style"
        respond 103
        respond "the answer" 200
    }}
    respond "up" 200
}}
"""

# What Apache runs: the digest of what it gets; events as they are written into a FIFO; a 103 before the answer.
CGI = {
    "sink": "#!/bin/sh\necho 'Content-Type: text/plain'\necho\nsha256sum\n",
    "events": "#!/bin/sh\nprintf 'Content-Type: text/event-stream\\n\\n'\n"
              "while read -r line; do printf 'data: %s\\n\\n' \"$line\"; done < {dir}/fifo\n",
    "nph-hints": "#!/bin/sh\nprintf 'HTTP/1.1 103 Early Hints\\r\\nLink: </a>\\r\\n\\r\\n'\n"
                 "printf 'HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok'\n",
}


def _folder(system, name):
    folder = system.dir / name
    (folder / "files").mkdir(parents=True, exist_ok=True)
    (folder / "files" / "pattern").write_bytes(PATTERN)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)  # whatever the umask: the servers serve as nobody
    os.utime(folder / "files" / "pattern", (1_700_000_000, 1_700_000_000))
    return folder


def _listens(system, proc, port):
    """Until somebody accepts there."""
    end = time.monotonic() + patience(20)
    while True:
        try:
            system.net.agent.connect("127.0.0.1", port).close()
            return proc
        except OSError:
            if not proc.alive() or time.monotonic() > end:
                raise LabError(f"{proc.name} does not listen on {port}: {proc.tail()}") from None
            select.select([], [], [], 0.02)


def start_nginx(system, port):
    folder = _folder(system, "nginx")
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(dir=folder, port=port))
    nginx = system.start("nginx", system.net.agent, "nginx", "-e", "stderr", "-c", conf, "-p", folder)
    return _listens(system, nginx, port)


def start_apache(system, port):
    folder = _folder(system, "apache")
    (folder / "cgi").mkdir(exist_ok=True)
    (folder / "cgi").chmod(0o755)
    os.mkfifo(folder / "fifo")
    os.chmod(folder / "fifo", 0o666)
    for name, text in CGI.items():
        script = folder / "cgi" / name
        script.write_text(text.replace("{dir}", str(folder)))
        script.chmod(0o755)
    modules = "\n".join(f"LoadModule {m}_module /usr/lib/apache2/modules/mod_{m}.so" for m in APACHE_MODULES)
    conf = folder / "apache.conf"
    conf.write_text(APACHE.format(dir=folder, port=port, modules=modules))
    return _listens(system, system.start("apache", system.net.agent, "apache2", "-D", "FOREGROUND", "-f", conf), port)


def start_caddy(system, port):
    folder = _folder(system, "caddy")
    conf = folder / "Caddyfile"
    conf.write_text(CADDY.format(port=port))
    env = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    return _listens(system, system.start("caddy", system.net.agent, "caddy", "run", "--config", conf, "--adapter",
                                         "caddyfile", env=env), port)


def start_nghttpd(system, port, *options):
    """HTTP/2 without TLS."""
    folder = _folder(system, "nghttpd")
    return _listens(system, system.start("nghttpd", system.net.agent, "nghttpd", "--no-tls", "-a", "127.0.0.1", "-d",
                                         folder / "files", *options, port), port)
