// Upstreams on Node's http and http2. Says "ready HTTP1_PORT HTTP2_PORT"; ends when its input does.
"use strict";
const http = require("node:http");
const http2 = require("node:http2");

function serve(request, response) {
  if (request.url.endsWith("/echo")) {
    response.writeHead(200, { "x-version": request.httpVersion });
    request.pipe(response);
    return;
  }
  response.writeHead(200, { "content-type": "text/plain", "set-cookie": ["a=1", "b=2"] });
  response.end(`${request.method} ${request.httpVersion}`);
}

const one = http.createServer(serve);
// an upgrade to a protocol of ours: what comes goes back
one.on("upgrade", (request, socket, head) => {
  socket.write("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: interop\r\n\r\n");
  socket.write(head);
  socket.pipe(socket);
});
const two = http2.createServer(serve);
one.listen(0, "127.0.0.1", () => two.listen(0, "127.0.0.1", () => {
  console.log(`ready ${one.address().port} ${two.address().port}`);
}));
process.stdin.resume().on("end", () => process.exit(0));
