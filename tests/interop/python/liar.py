"""A management server on grpcio that lies, and looks what becomes of the proxy.

liar.py world|changes UPSTREAM_PORT says "ready PORT" on its output and reads the address of the proxy's admin interface from
its input. Then it tells one lie after the other on the aggregated stream, of the state of the world or of changes. After each it makes sure
that the proxy still serves what it was told last in truth, and that it takes the next truth. For each lie it says
"lie NAME: ACK|ACK, believed|NACK|nothing|stream ended", with the reasons of rejections, so that two proxies can be compared.
"""

import asyncio
import json
import sys
import urllib.request

import grpc
from google.protobuf import any_pb2

from envoy.service.discovery.v3 import discovery_pb2
from lies import DELTA_LIES, LIES, WRONG
from truth import CDS, EDS, LDS, RDS, Truth

PATIENCE = 30
DELTA = sys.argv[1] == "changes"


class Stream:
    """One stream of a proxy: what it subscribed to, and what it answered."""

    def __init__(self, context):
        self.context = context
        self.subscribed = set()
        self.answers = []
        self.changed = asyncio.Condition()
        self.requests = 0
        self.ended = False
        self.hung_up = asyncio.Event()
        self.writing = asyncio.Lock()

    async def write(self, data):
        async with self.writing:
            await self.context.write(data)

    async def note(self, change):
        async with self.changed:
            change()
            self.changed.notify_all()

    async def until(self, condition, what):
        async with self.changed:
            try:
                await asyncio.wait_for(self.changed.wait_for(lambda: self.ended or condition()), PATIENCE)
            except TimeoutError:
                raise AssertionError(f"{what}: not within {PATIENCE} s; answers: {self.answers[-5:]}") from None
        return not self.ended

    def answer_to(self, nonce):
        return [(type_url, error) for type_url, with_nonce, error in self.answers if with_nonce == nonce]


class Liar:
    def __init__(self):
        self.truth = Truth(int(sys.argv[2]))
        self.stream = None
        self.opened = asyncio.Condition()
        self.count = 0
        self.nonces = 0
        self.silent = False
        self.hang_up = 0

    def nonce(self):
        self.nonces += 1
        return f"nonce-{self.nonces}"

    def response(self, type_url, resources, nonce, version=None, **more):
        """A response in bytes; resources are messages or packed ones."""
        version = version or f"v-{nonce}"
        packed = [resource if isinstance(resource, any_pb2.Any) else pack(resource) for resource in resources]
        if not DELTA:
            message = discovery_pb2.DiscoveryResponse(
                type_url=type_url, version_info=version, nonce=nonce, resources=packed
            )
        else:
            message = discovery_pb2.DeltaDiscoveryResponse(
                type_url=type_url, system_version_info=version, nonce=nonce,
                resources=[
                    discovery_pb2.Resource(name=name_of(type_url, resource), version=version, resource=one)
                    for one, resource in zip(packed, resources, strict=True)
                ],
                removed_resources=more.get("removed", ()),
            )
        return message.SerializeToString()

    async def serve(self, _requests, context):
        """One stream, until somebody ends it."""
        stream = Stream(context)
        async with self.opened:
            self.stream, self.count = stream, self.count + 1
            self.opened.notify_all()
        hung_up = asyncio.ensure_future(stream.hung_up.wait())
        try:
            while True:
                read = asyncio.ensure_future(context.read())
                read.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.wait((read, hung_up), return_when=asyncio.FIRST_COMPLETED)
                if hung_up.done():
                    context.set_code(grpc.StatusCode.UNAVAILABLE)
                    context.set_details("no more for today")
                    return
                if read.result() == grpc.aio.EOF:
                    return
                await self.take(stream, read.result())
        except grpc.aio.UsageError:
            pass  # what grpcio says of a stream that the proxy has reset
        finally:
            hung_up.cancel()
            await stream.note(lambda: setattr(stream, "ended", True))

    async def take(self, stream, request):
        await stream.note(lambda: setattr(stream, "requests", stream.requests + 1))
        if request.response_nonce:
            error = request.error_detail.message if request.HasField("error_detail") else None
            await stream.note(lambda: stream.answers.append((request.type_url, request.response_nonce, error)))
        wanted = (request.type_url, *sorted(request.resource_names_subscribe if DELTA else request.resource_names))
        new = wanted not in stream.subscribed and (not DELTA or not request.response_nonce)
        if new and not self.silent:
            stream.subscribed.add(wanted)
            await stream.write(
                self.response(request.type_url, self.truth.resources(request.type_url), self.nonce())
            )
            if self.hang_up:
                self.hang_up -= 1
                stream.hung_up.set()

    async def next_stream(self, after):
        async with self.opened:
            await asyncio.wait_for(self.opened.wait_for(lambda: self.count > after), PATIENCE)

    async def send(self, data):
        await self.stream.write(data)

    async def tell(self, type_url, resources):
        """Sends the truth, and waits until it is acknowledged."""
        nonce = self.nonce()
        stream = self.stream
        await self.send(self.response(type_url, resources, nonce))
        if not await stream.until(lambda: stream.answer_to(nonce), f"an answer to {type_url}"):
            raise AssertionError(f"the stream ended on the truth of {type_url}")
        (_, error), *_ = stream.answer_to(nonce)
        assert error is None, f"the truth of {type_url} was rejected: {error}"

    async def settle(self):
        """A truth that changes no route: once it is acknowledged, all that was sent before was seen."""
        self.truth.endpoints_version += 1
        await self.tell(EDS, self.truth.resources(EDS))

    async def expose(self, name, lie):
        before = self.count
        stream, nonce = self.stream, self.nonce()
        try:
            await lie(self, nonce)
            await self.settle()
        except AssertionError:
            if not stream.ended:
                raise
        except Exception:  # grpcio has an exception of its own for each state in which a stream cannot be written to
            # a lie that ends its stream is followed by another stream
            await stream.until(lambda: False, "the end of a stream that cannot be written to")
        if stream.ended or self.count > before:
            await self.next_stream(before)
            await self.subscribed_again()
            await self.settle()
            outcome = "stream ended"
        else:
            answers = [error for _, error in stream.answer_to(nonce)]
            outcome = "nothing" if not answers else "ACK" if answers[0] is None else f"NACK {answers[0]}"
        mark = await self.mark()
        if mark == WRONG:
            outcome = outcome.replace("ACK", "ACK, believed", 1)
        else:
            assert mark == self.truth.mark, f"{name}: serves {mark}, was told {self.truth.mark} last ({outcome})"
        self.truth.mark += 1
        await self.tell(RDS, self.truth.resources(RDS))
        await eventually(self.mark, self.truth.mark, f"{name}: the next truth")
        print(f"lie {name}: {outcome}".replace("\n", " "), flush=True)

    async def subscribed_again(self):
        """The proxy has asked for routes on the stream of now, which comes after all else."""
        while True:
            count, stream = self.count, self.stream
            if await stream.until(lambda: any(one[0] == RDS for one in stream.subscribed), "a new subscription"):
                return
            await self.next_stream(count)

    async def mark(self):
        """The mark of the routes in force; a request that fails ends the program."""
        headers, _ = await asyncio.to_thread(fetch, f"http://127.0.0.1:{self.port}/")
        return int(headers["x-mark"])

    async def run(self, admin):
        self.port = await eventually(lambda: listener(admin), None, "the listener")
        await eventually(self.mark, self.truth.mark, "the first truth")
        for lie in DELTA_LIES if DELTA else LIES:
            await self.expose(lie.__name__.replace("_", " "), lie)


def pack(message):
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def name_of(type_url, resource):
    """The name of a resource; what is none claims to be the true one."""
    for field in ("name", "cluster_name"):
        if not isinstance(resource, any_pb2.Any) and hasattr(resource, field):
            return getattr(resource, field)
    return {CDS: "up", EDS: "up", LDS: "main", RDS: "routes"}.get(type_url, "nothing")


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.headers, answer.read()
    except OSError as error:
        raise AssertionError(f"{url}: {error}") from error


async def listener(admin):
    _, body = await asyncio.to_thread(fetch, f"http://{admin}/listeners?format=json")
    for status in json.loads(body).get("listener_statuses", ()):
        if status["name"] == "main":
            return status["local_address"]["socket_address"]["port_value"]
    return None


async def eventually(probe, wanted, what):
    """Probes until it gives what is wanted, or anything at all."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    value = None
    while asyncio.get_running_loop().time() < deadline:
        value = await probe()
        if value == wanted if wanted is not None else value is not None:
            return value
        await asyncio.sleep(0.01)
    raise AssertionError(f"{what}: still {value}, wanted {wanted}")


async def main():
    liar = Liar()
    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    message = discovery_pb2.DeltaDiscoveryRequest if DELTA else discovery_pb2.DiscoveryRequest
    method = "DeltaAggregatedResources" if DELTA else "StreamAggregatedResources"
    handler = grpc.stream_stream_rpc_method_handler(
        liar.serve, request_deserializer=message.FromString, response_serializer=None
    )
    service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print("ready", port, flush=True)
    await liar.run((await asyncio.to_thread(sys.stdin.readline)).strip())
    print("every lie was survived", flush=True)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
