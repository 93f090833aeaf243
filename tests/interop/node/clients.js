// Clients on Node's http and http2 of the upstreams in servers.js: clients.js PORT, which leads /node1 and /node2 to them.
"use strict";
const assert = require("node:assert");
const crypto = require("node:crypto");
const http = require("node:http");
const http2 = require("node:http2");
const { once } = require("node:events");

const port = Number(process.argv[2]);
const sent = crypto.randomBytes(2 << 20);

async function collect(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function one(agent, method, path, body) {
  const request = http.request({ host: "127.0.0.1", port, method, path, agent });
  request.end(body);
  const [response] = await once(request, "response");
  return { status: response.statusCode, headers: response.headers, body: await collect(response) };
}

async function http1(upstream) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 8 });
  const answers = await Promise.all(Array.from({ length: 200 }, () => one(agent, "GET", `/${upstream}`)));
  for (const answer of answers) {
    assert.strictEqual(answer.status, 200);
    assert.match(answer.body.toString(), /^GET [12]\./);
    assert.deepStrictEqual(answer.headers["set-cookie"], ["a=1", "b=2"]);
  }
  const echoed = await one(agent, "POST", `/${upstream}/echo`, sent);
  assert.ok(echoed.body.equals(sent), "the body came back changed");
  agent.destroy();
}

async function two(session, headers, body) {
  const stream = session.request(headers);
  stream.end(body);
  const [answer] = await once(stream, "response");
  return { headers: answer, body: await collect(stream) };
}

async function overHttp2(upstream) {
  const session = http2.connect(`http://127.0.0.1:${port}`);
  const get = { ":path": `/${upstream}` };
  for (const answer of await Promise.all(Array.from({ length: 200 }, () => two(session, get)))) {
    assert.strictEqual(answer.headers[":status"], 200);
    assert.deepStrictEqual(answer.headers["set-cookie"], ["a=1", "b=2"]);
  }
  const echoed = await two(session, { ":path": `/${upstream}/echo`, ":method": "POST" }, sent);
  assert.ok(echoed.body.equals(sent), "the body came back changed");
  session.close();
  await once(session, "close");
}

async function upgrade() {
  const headers = { connection: "upgrade", upgrade: "interop" };
  const request = http.request({ host: "127.0.0.1", port, path: "/node1", headers });
  request.end();
  const [response, socket, head] = await once(request, "upgrade");
  assert.strictEqual(response.statusCode, 101);
  let received = head.toString();
  socket.write("there ");
  socket.write("and back");
  while (received.length < 14) received += (await once(socket, "data"))[0];
  assert.strictEqual(received, "there and back");
  socket.end();
  await once(socket, "close");
}

async function main() {
  for (const upstream of ["node1", "node2"]) {
    await http1(upstream);
    await overHttp2(upstream);
  }
  await upgrade();
  console.log("node ok");
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
