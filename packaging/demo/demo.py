# SPDX-License-Identifier: MIT
"""make demo: the whole system on this machine, in network namespaces of its own.

  demo.py          starts it, shows one request, stays until Ctrl-C
  demo.py --once   one round, exit status 0 when the stranger got the target's answer"""
import os
import pathlib
import signal
import ssl
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.lab import LabError, System  # noqa: E402
from tests.lab.pebble import Pebble  # noqa: E402

TEXT = "Hello from a service behind NAT."


def main():
    if sys.argv[1:] not in ([], ["--once"]):
        print("usage: demo.py [--once]", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("The demo makes network namespaces: run it with sudo.", file=sys.stderr)
        return 1
    stop = threading.Event()
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda *_: (stop.set(), _interrupt()))
    status, s = 1, None
    try:
        print("Making six hosts: stranger, gateway, control, NAT router, agent, and a CA (pebble) …", flush=True)
        s = System("kmdemo")
        ca = Pebble(s)
        # There is no DNS server here that could be asked beforehand: names are in /etc/hosts.
        s.use_ca(ca, acme_preflight="off")
        print("Starting control with its database …", flush=True)
        s.start_control()
        gateway = s.api("POST", "/api/gateways", {"name": "gateway-1"}, expect=201)
        agent = s.api("POST", "/api/agents", {"name": "agent-1"}, expect=201)
        s.gateway_id, s.agent_id = gateway["id"], agent["id"]
        print("Starting gateway, agent and the service on the agent's loopback …", flush=True)
        s.start_target(text=TEXT)
        s.start_gateway(gateway["joinToken"])
        s.start_agent(agent["joinToken"])
        s.create_tunnel()
        _, seconds = s.wait_served()
        url = f"https://{s.domain}/"
        curl = f"ip netns exec {s.net.stranger.name} curl --cacert {ca.root} {url}"
        answer = s.net.stranger.exec("curl", "-sS", "--cacert", str(ca.root), url)
        issuer = s.net.stranger.exec("openssl", "x509", "-noout", "-issuer", input=ssl.DER_cert_to_PEM_cert(s.leaf()))
        print(f"""
The tunnel is up, its certificate obtained: {seconds * 1000:.0f} ms after POST /api/tunnels.

  URL      {url}
  issuer   {issuer.strip().removeprefix("issuer=")}   (its root: {ca.root})
  try      sudo {curl}
  token    {s.dir}/control/admin.token   (REST: https://control.demo.test:3000/api,
           root certificate {s.dir}/control/root.crt)
  logs     {s.logs}/
  agents   sudo ip netns exec {s.net.stranger.name} curl --cacert {s.dir}/control/root.crt \\
             -H "Authorization: Bearer $(sudo cat {s.dir}/control/admin.token)" \\
             https://control.demo.test:3000/api/agents

$ {curl}
{answer}""", flush=True)
        status = 0 if answer.strip() == TEXT else 1
        if sys.argv[1:] != ["--once"]:
            print("Ctrl-C ends it and leaves nothing behind.", flush=True)
            stop.wait()
    except KeyboardInterrupt:
        print()
    except LabError as e:
        print(f"demo: {e}", file=sys.stderr)
        if s is not None:
            s.dump_logs()
    finally:
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, signal.SIG_IGN)
        if s is not None:
            complaints = s.close()
            for c in complaints:
                print(f"demo: {c}", file=sys.stderr)
            if complaints:
                status = 1
    return status


def _interrupt():
    raise KeyboardInterrupt


sys.exit(main())
