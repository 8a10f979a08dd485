# SPDX-License-Identifier: MIT
"""gRPC without generated code (messages are bytes), on both sides.

grpcpeer.py serve PORT [KEY CERTIFICATE]  on the loopback, without TLS or with
grpcpeer.py call ADDRESS:PORT NAME CA SERVICE    every kind of call; prints what came of each as JSON

The service is called Peer and Tls alike, which tells two tunnels of one domain apart."""
import json
import sys
import time
from concurrent import futures

import grpc


# ---- the service --------------------------------------------------------------------------------

def unary(request, context):
    told = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-last", told.get("x-ask", "none")), ("x-bytes-bin", b"\x00\xff")))
    return request[::-1]


def failing(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no – not now: ü")


def down(request, context):
    for i in range(int(request)):
        yield b"%d:" % i + b"x" * (i % 3000)


def up(requests, context):
    n = size = 0
    for r in requests:
        n, size = n + 1, size + len(r)
    return b"%d %d" % (n, size)


def both(requests, context):
    for r in requests:
        yield r


def endless(request, context):
    while context.is_active():
        yield b"tick"
        time.sleep(0.01)


def stuck(request, context):
    while context.is_active():
        time.sleep(0.01)
    return b""


def serve(port, key=None, certificate=None):
    calls = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Failing": grpc.unary_unary_rpc_method_handler(failing),
        "Down": grpc.unary_stream_rpc_method_handler(down),
        "Up": grpc.stream_unary_rpc_method_handler(up),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Endless": grpc.unary_stream_rpc_method_handler(endless),
        "Stuck": grpc.unary_unary_rpc_method_handler(stuck)}
    server = grpc.server(futures.ThreadPoolExecutor(32))
    server.add_generic_rpc_handlers(tuple(grpc.method_handlers_generic_handler(n, calls) for n in ("Peer", "Tls")))
    if key:
        with open(key, "rb") as k, open(certificate, "rb") as c:
            credentials = grpc.ssl_server_credentials(((k.read(), c.read()),))
        server.add_secure_port(f"127.0.0.1:{port}", credentials)
    else:
        server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("grpc listens", file=sys.stderr, flush=True)
    server.wait_for_termination()


# ---- the calls ----------------------------------------------------------------------------------

def ping_pong(channel, service, n):
    """One message at a time: the next goes when the one before has come back."""
    back = []

    def ours():
        for i in range(n):
            while len(back) < i:
                time.sleep(0.0005)
            yield b"%d" % i
    for m in channel.stream_stream(service + "Both")(ours(), timeout=60):
        back.append(m)
    return [int(m) for m in back] == list(range(n))


def calls(channel, service):
    out = {}
    answer, call = channel.unary_unary(service + "Unary").with_call(b"abc", metadata=(("x-ask", "q"),), timeout=60)
    out["unary"] = [answer.decode(), call.code().name, dict(call.initial_metadata()).get("x-first"),
                    {k: v.hex() if isinstance(v, bytes) else v for k, v in call.trailing_metadata()}]
    big = bytes(range(256)) * 12000
    out["big"] = channel.unary_unary(service + "Unary")(big, timeout=60) == big[::-1]
    try:
        channel.unary_unary(service + "Failing")(b"", timeout=60)
    except grpc.RpcError as e:
        out["failing"] = [e.code().name, e.details()]
    got = list(channel.unary_stream(service + "Down")(b"2000", timeout=60))
    out["down"] = [len(got), sum(map(len, got))]
    out["up"] = channel.stream_unary(service + "Up")((b"y" * 1000 for _ in range(2000)), timeout=60).decode()
    out["both"] = ping_pong(channel, service, 200)
    endless = channel.unary_stream(service + "Endless")(b"", timeout=60)
    out["cancelled"] = [next(endless).decode() for _ in range(3)]
    endless.cancel()
    try:
        channel.unary_unary(service + "Stuck")(b"", timeout=0.3)
    except grpc.RpcError as e:
        out["deadline"] = e.code().name
    many = [channel.unary_unary(service + "Unary").future(b"%04d" % i, timeout=60) for i in range(300)]
    out["many"] = sum(f.result() == (b"%04d" % i)[::-1] for i, f in enumerate(many))
    return out


def main():
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), *sys.argv[3:])
        return
    address, name, ca, service = sys.argv[2:6]
    with open(ca, "rb") as f:
        credentials = grpc.ssl_channel_credentials(f.read())
    options = (("grpc.ssl_target_name_override", name), ("grpc.enable_http_proxy", 0))
    with grpc.secure_channel(address, credentials, options) as channel:
        print(json.dumps(calls(channel, f"/{service}/")))


if __name__ == "__main__":
    main()
