"""Clients on httpx, websockets and grpcio: clients.py KIND PORT, where PORT leads to the servers in servers.py and ../go."""

import asyncio
import os
import sys
import zlib

import grpc
import httpx
import websockets.asyncio.client

PORT = int(sys.argv[2])
BASE = f"http://127.0.0.1:{PORT}"


async def over_httpx():
    sent = os.urandom(2 << 20)

    async def pieces():
        for start in range(0, len(sent), 50_000):
            yield sent[start : start + 50_000]

    for version in ("HTTP/1.1", "HTTP/2"):
        two = version == "HTTP/2"
        async with httpx.AsyncClient(http1=not two, http2=two, base_url=BASE, timeout=60) as client:
            for upstream in ("go1", "go2"):
                answers = await asyncio.gather(*(client.get(f"/{upstream}/small") for _ in range(100)))
                for answer in answers:
                    assert answer.status_code == 200 and answer.http_version == version, answer
                    assert answer.text.startswith("GET HTTP/"), answer.text
                known = await client.post(f"/{upstream}/upload", content=sent)
                unknown = await client.post(f"/{upstream}/upload", content=pieces())
                for answer in (known, unknown):
                    assert answer.text == f"{len(sent)} {zlib.crc32(sent):08x}", answer.text
                async with client.stream("GET", f"/{upstream}/download", params={"size": 5_000_000}) as answer:
                    length = sum([len(piece) async for piece in answer.aiter_bytes()])
                    assert length == 5_000_000, length


async def over_websockets():
    connect = websockets.asyncio.client.connect
    async with connect(f"ws://127.0.0.1:{PORT}/ws", max_size=None, open_timeout=30) as connection:
        for turn in range(100):
            await connection.send(f"turn {turn}")
            assert await connection.recv() == f"turn {turn}"
        large = os.urandom(3 << 20)
        await connection.send(large)
        assert await connection.recv() == large
        await asyncio.wait_for(await connection.ping(), 30)
        await connection.send("bye")
        await connection.wait_closed()
        assert (connection.close_code, connection.close_reason) == (4001, "as you wish"), connection.close_code
    async with connect(f"ws://127.0.0.1:{PORT}/ws") as connection:
        await connection.close(4002, "mine")
        assert connection.close_code == 4002


async def over_grpcio():
    async with grpc.aio.insecure_channel(f"127.0.0.1:{PORT}") as channel:
        unary = channel.unary_unary("/interop.Echo/Unary")
        call = unary(b"yes", metadata=(("x-echo", "there and back"),))
        assert await call == b"yes"
        assert dict(await call.trailing_metadata())["x-echo"] == "there and back"
        await refused(unary(b"no"), grpc.StatusCode.FAILED_PRECONDITION, "not that: \u2603")
        await refused(unary(b"wait", timeout=0.3), grpc.StatusCode.DEADLINE_EXCEEDED)
        large = os.urandom(3 << 20)
        assert await unary(large) == large

        chat = channel.stream_stream("/interop.Echo/Chat")()
        for turn in range(200):
            await chat.write(b"%d" % turn)
            assert await chat.read() == b"%d" % turn
        await chat.done_writing()
        assert await chat.read() == grpc.aio.EOF
        assert await chat.code() == grpc.StatusCode.OK

        count = channel.unary_stream("/interop.Echo/Count")(b"2000")
        assert [int(message) async for message in count] == list(range(2000))
        total = channel.stream_unary("/interop.Echo/Total")
        assert await total(iter([b"x" * 10_000] * 200)) == b"2000000"
        await refused(channel.unary_unary("/interop.Echo/None")(b""), grpc.StatusCode.UNIMPLEMENTED)

        left = channel.stream_stream("/interop.Echo/Chat")()
        await left.write(b"last")
        assert await left.read() == b"last"
        assert left.cancel()


async def refused(call, code, details=None):
    try:
        await call
    except grpc.aio.AioRpcError as error:
        assert error.code() == code, error
        assert details is None or error.details() == details, error
    else:
        raise AssertionError(f"not refused with {code}")


KINDS = {"httpx": over_httpx, "websockets": over_websockets, "grpcio": over_grpcio}
asyncio.run(asyncio.wait_for(KINDS[sys.argv[1]](), 100))
print(sys.argv[1], "ok")
