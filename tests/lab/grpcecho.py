# SPDX-License-Identifier: MIT
"""gRPC without generated code: messages are bytes as they are.

grpcecho.py serve PORT               a service on the loopback, HTTP/2 without TLS
grpcecho.py ask ADDRESS NAME CAFILE  asks it over TLS for everything that gRPC can do; exit status 0 when all was right"""
import pathlib
import queue
import sys
from concurrent import futures

import grpc

SERVICE = "lab.Echo"


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        kind = details.method.rsplit("/", 1)[1]
        makers = {"unary": grpc.unary_unary_rpc_method_handler, "fail": grpc.unary_unary_rpc_method_handler,
                  "many": grpc.unary_stream_rpc_method_handler, "sum": grpc.stream_unary_rpc_method_handler,
                  "both": grpc.stream_stream_rpc_method_handler}
        return makers[kind](getattr(self, kind))

    def unary(self, request, context):
        context.set_trailing_metadata((("behind", "it"), ("raw-bin", b"\0\xff")))
        return request

    def fail(self, request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: 100 % {}".format(request.decode()))

    def many(self, request, context):
        for i in range(int(request)):
            yield b"%d" % i

    def sum(self, requests, context):
        return b"%d" % sum(map(len, requests))

    def both(self, requests, context):
        yield from requests


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Handler(),))
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("grpc listens", flush=True)
    server.wait_for_termination()


def ask(address, name, ca):
    credentials = grpc.ssl_channel_credentials(pathlib.Path(ca).read_bytes())
    big = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", name), *big]) as channel:
        unary = channel.unary_unary(f"/{SERVICE}/unary")
        answer, call = unary.with_call(b"hello", timeout=20)
        assert answer == b"hello"
        behind = dict(call.trailing_metadata())
        assert behind["behind"] == "it" and behind["raw-bin"] == b"\0\xff"
        long = bytes(range(256)) * 16384
        assert unary(long, timeout=20) == long
        try:
            channel.unary_unary(f"/{SERVICE}/fail")("\u00e9 x".encode(), timeout=20)
            raise AssertionError("it did not fail")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.FAILED_PRECONDITION and e.details() == "no: 100 % \u00e9 x", e
        many = channel.unary_stream(f"/{SERVICE}/many")(b"2000", timeout=20)
        assert [int(m) for m in many] == list(range(2000))
        assert channel.stream_unary(f"/{SERVICE}/sum")(iter([b"x" * 1000] * 500), timeout=20) == b"500000"
        # Each message is sent when the answer to the one before has come.
        say = queue.Queue()
        both = channel.stream_stream(f"/{SERVICE}/both")(iter(say.get, None), timeout=20)
        for i in range(100):
            say.put(b"%d" % i)
            assert next(both) == b"%d" % i
        say.put(None)
        assert list(both) == [] and both.code() == grpc.StatusCode.OK
        # Calls at once, on one connection; one that is cancelled ends at the server.
        calls = [unary.future(b"%d" % i, timeout=20) for i in range(50)]
        assert [c.result() for c in calls] == [b"%d" % i for i in range(50)]
        endless = channel.unary_stream(f"/{SERVICE}/many")(b"100000000", timeout=20)
        assert next(endless) == b"0"
        endless.cancel()
        assert unary(b"after", timeout=20) == b"after"
    print("all of it")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        ask(*sys.argv[2:])
