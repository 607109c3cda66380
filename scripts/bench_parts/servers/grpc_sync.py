"""gRPC's synchronous Python server: one unary method, bytes in and out, so without protobuf's own cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

from bench_parts.servers.announce import announce, prepare


def echo(request: bytes, context: grpc.ServicerContext) -> bytes:
    return request


if __name__ == "__main__":
    prepare()
    server = grpc.server(
        ThreadPoolExecutor(max_workers=10),
        options=[("grpc.max_receive_message_length", 4 << 20), ("grpc.max_send_message_length", 4 << 20)],
    )
    method = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"call": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    announce(port)
    server.wait_for_termination()
