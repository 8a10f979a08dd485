# SPDX-License-Identifier: MIT
"""A WebSocket echo service for the agent's loopback: wsecho.py PORT"""
import asyncio
import sys

import websockets


async def echo(ws):
    async for message in ws:
        await ws.send(message)


async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1]), max_size=1 << 22,
                                compression=None):
        print("wsecho listens", sys.argv[1], flush=True)
        await asyncio.Future()

asyncio.run(main())
