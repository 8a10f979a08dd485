# SPDX-License-Identifier: MIT
"""A service that upgrades to a plain echo, for many connections: upgrade.py PORT"""
import asyncio
import sys


async def serve(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: echo" not in head.lower():
            writer.write(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo\r\nConnection: close\r\n"
                         b"Content-Length: 0\r\n\r\n")
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    print("upgrade listens", sys.argv[1], flush=True)
    async with server:
        await server.serve_forever()

asyncio.run(main())
