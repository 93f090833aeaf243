"""Upstreams on websockets and grpcio. Says "ready WEBSOCKET_PORT GRPC_PORT"; ends when its input does."""

import asyncio
import sys

import grpc
import websockets.asyncio.server


async def sock(connection):
    """Sends back each message; the message `bye` ends the connection with a code of its own."""
    async for message in connection:
        if message == "bye":
            await connection.close(4001, "as you wish")
        else:
            await connection.send(message)


async def unary(request, context):
    """Refuses `no`; sends back anything else, and the metadata x-echo as trailing metadata."""
    if request == b"no":
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not that: \u2603")
    if request == b"wait":
        await asyncio.Event().wait()
    sent = dict(context.invocation_metadata())
    context.set_trailing_metadata((("x-echo", sent.get("x-echo", "")),))
    return request


async def chat(requests, _context):
    """Sends back each message as it comes."""
    async for request in requests:
        yield request


async def count(request, _context):
    """Sends that many messages."""
    for number in range(int(request)):
        yield b"%d" % number


async def total(requests, _context):
    """Answers with the length of all messages."""
    return b"%d" % sum([len(request) async for request in requests])


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Total": grpc.stream_unary_rpc_method_handler(total),
}


async def main():
    rpc = grpc.aio.server()
    rpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("interop.Echo", HANDLERS),))
    rpc_port = rpc.add_insecure_port("127.0.0.1:0")
    await rpc.start()
    async with websockets.asyncio.server.serve(sock, "127.0.0.1", 0, max_size=None) as web:
        print("ready", web.sockets[0].getsockname()[1], rpc_port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await rpc.stop(None)


asyncio.run(main())
