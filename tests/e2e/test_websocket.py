# SPDX-License-Identifier: MIT
"""WebSockets pass through, and changes to other tunnels do not touch them."""
import asyncio
import threading

import websockets

from tests.lab import net
from tests.lab.proc import patience

FRAMES = 10000


def test_echo_survives_pushes(served):
    s = served
    s.start_wsecho(8081)
    s.add_certificate("ws.demo.test")
    s.create_tunnel("ws.demo.test", "127.0.0.1:8081")
    sock = s.net.stranger.connect(net.GATEWAY, 443)
    stop = threading.Event()
    done = []

    def churn():
        api = s.api_connection()
        n = 0
        while not stop.is_set():
            t = s.create_tunnel(f"churn{n}.demo.test", conn=api)
            s.api("PATCH", f"/api/tunnels/{t['id']}", {"target": "127.0.0.1:9"}, expect=200, conn=api)
            s.api("DELETE", f"/api/tunnels/{t['id']}", expect=204, conn=api)
            n += 1
        api.close()
        done.append(n)

    async def talk():
        async with websockets.connect("wss://ws.demo.test/", ssl=s.tls, sock=sock,
                                      server_hostname="ws.demo.test", compression=None,
                                      max_size=1 << 22) as ws:
            for i in range(FRAMES):
                message = f"{i}:" + "x" * (i % 4096)
                await ws.send(message)
                assert await ws.recv() == message
            big = "y" * (1 << 20)
            await ws.send(big)
            assert await ws.recv() == big

    # The route must have arrived before the upgrade is asked for.
    def reached():
        try:
            return s.get("/", domain="ws.demo.test").status not in (404, 502, 503)
        except OSError:
            return False
    while not reached():
        pass
    churner = threading.Thread(target=churn)
    churner.start()
    try:
        asyncio.run(asyncio.wait_for(talk(), patience(240)))
    finally:
        stop.set()
        churner.join()
    assert done and done[0] > 0
    print(f"\n{FRAMES} frames echoed while {done[0]} other tunnels came, changed and went")
