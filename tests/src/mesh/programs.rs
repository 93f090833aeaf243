//! The workloads: programs that know nothing of a mesh, as they come with the distribution.
//!
//! `scripts/sidecar.sh` installs them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

/// The distribution's Python, which has grpcio.
pub const PYTHON: &str = "/usr/bin/python3";

/// Answers each call of `/echo.Echo/Say` with what it was sent and who it was told that the caller is.
const GRPC_SERVER: &str = r#"
import grpc, sys
from concurrent import futures
def say(request, context):
    told = dict(context.invocation_metadata())
    return request + b"|" + told.get("x-forwarded-client-cert", "").encode()
handler = grpc.method_handlers_generic_handler("echo.Echo", {"Say": grpc.unary_unary_rpc_method_handler(say)})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((handler,))
if sys.argv[2] == "tls":
    pair = [(open("key.pem", "rb").read(), open("cert.pem", "rb").read())]
    server.add_secure_port("[::]:" + sys.argv[1], grpc.ssl_server_credentials(pair))
else:
    server.add_insecure_port("[::]:" + sys.argv[1])
server.start()
server.wait_for_termination()
"#;

/// Its own certificate, which it signs itself.
const CERTIFICATE: &str = r#"
import ssl, subprocess
subprocess.run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    " -keyout key.pem -out cert.pem -subj /CN=workload -addext subjectAltName=DNS:workload".split(), check=True)
"#;

const HTTPS_SERVER: &str = r#"
import http.server, sys
server = http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"#;

/// As `osm-healthcheck`: whether a connection to the port of the header `Original-Tcp-Port` can be made.
const TCP_PROBE: &str = r#"
import http.server, socket, sys
class Probe(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            socket.create_connection(("localhost", int(self.headers["Original-Tcp-Port"])), 1).close()
            self.send_response(200)
        except OSError:
            self.send_response(404)
        self.end_headers()
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Probe).serve_forever()
"#;

/// A channel over TLS believes whatever certificate the server shows.
const GRPC_CLIENT: &str = r#"
import grpc, sys
if sys.argv[3] == "tls":
    import ssl
    ip, port = sys.argv[1].split(":")
    believed = grpc.ssl_channel_credentials(ssl.get_server_certificate((ip, int(port))).encode())
    channel = grpc.secure_channel(sys.argv[1], believed, [("grpc.ssl_target_name_override", "workload")])
else:
    channel = grpc.insecure_channel(sys.argv[1])
try:
    print(channel.unary_unary("/echo.Echo/Say")(sys.argv[2].encode(), timeout=10).decode())
except grpc.RpcError as error:
    print(error.code().name)
"#;

/// Sends back what comes; with a greeting, that first.
const TCP_SERVER: &str = r#"
import asyncio, sys
async def serve(reader, writer):
    try:
        writer.write(sys.argv[2].encode().decode("unicode_escape").encode("latin-1"))
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        pass
async def main():
    server = await asyncio.start_server(serve, ["0.0.0.0", "::"], int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"#;

/// A rate limit service: so many requests pass, all others are over the limit.
const RATE_LIMITS: &str = r#"
import grpc, itertools, sys
from concurrent import futures
most, asked = int(sys.argv[2]), itertools.count(1)
def should(request, context):
    # overall_code: OK or OVER_LIMIT
    return bytes([8, 1 if next(asked) <= most else 2])
handler = grpc.unary_unary_rpc_method_handler(should)
service = "envoy.service.ratelimit.v3.RateLimitService"
server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"ShouldRateLimit": handler}),))
server.add_insecure_port("[::]:" + sys.argv[1])
server.start()
server.wait_for_termination()
"#;

/// What a workload is.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// nginx, which says `port|client's address|x-forwarded-client-cert|host`; `/slow` takes two seconds, `/status/503` is no success.
    Nginx,
    /// Python's `http.server` on its empty working directory.
    HttpServer,
    /// Such a one that listens at this address only.
    HttpServerAt(Ipv4Addr),
    /// Such a one over TLS, with a certificate of its own.
    HttpsServer,
    /// A server of gRPC.
    Grpc,
    /// Such a one over TLS, with a certificate of its own.
    GrpcOverTls,
    /// OSM's helper for probes of TCP ports.
    TcpProbe,
    /// A server that sends back what it is sent.
    Echo,
    /// A rate limit service that lets so many requests pass.
    RateLimits(&'static str),
    /// One that says this before, with Python's escapes.
    Greeting(&'static str),
}

/// How large the answer on `/slow` is, and how much of it nginx sends in a second.
pub const SLOW: (usize, usize) = (192 << 10, 64 << 10);

fn nginx(dir: &Path, port: u16) -> String {
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};", dir.display()))
        .concat();
    let (dir, rate) = (dir.display(), SLOW.1);
    format!(
        r#"daemon off; worker_processes 1; pid {dir}/pid; error_log stderr;
events {{ worker_connections 512; }}
http {{ access_log off; {paths} keepalive_requests 100000;
  server {{
    listen 0.0.0.0:{port} reuseport; listen [::]:{port} reuseport;
    location / {{ return 200 "$server_port|$remote_addr|$http_x_forwarded_client_cert|$host\n"; }}
    location = /status/503 {{ return 503; }}
    location = /slow {{ alias {dir}/slow; limit_rate {rate}; }}
  }}
}}
"#
    )
}

impl Program {
    /// Where its pod reaches it.
    pub(super) fn ip(self) -> Ipv4Addr {
        match self {
            Program::HttpServerAt(ip) => ip,
            _ => Ipv4Addr::LOCALHOST,
        }
    }

    /// The command that serves on `port`, with files in `dir`.
    pub(super) fn command(self, dir: &Path, port: u16) -> std::io::Result<Command> {
        let python = |words: &[&str]| {
            let mut command = Command::new(PYTHON);
            command.args(words);
            command
        };
        let number = port.to_string();
        Ok(match self {
            Program::Nginx => {
                std::fs::write(dir.join("nginx.conf"), nginx(dir, port))?;
                std::fs::write(dir.join("slow"), vec![b'.'; SLOW.0])?;
                let mut command = Command::new("nginx");
                command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf"));
                command.args(["-e", "stderr"]);
                command
            }
            Program::HttpServer => python(&["-m", "http.server", "--bind", "::", &number]),
            Program::HttpServerAt(ip) => python(&["-m", "http.server", "--bind", &ip.to_string(), &number]),
            Program::HttpsServer => python(&["-c", &[CERTIFICATE, HTTPS_SERVER].concat(), &number]),
            Program::Grpc => python(&["-c", GRPC_SERVER, &number, "plain"]),
            Program::GrpcOverTls => python(&["-c", &[CERTIFICATE, GRPC_SERVER].concat(), &number, "tls"]),
            Program::TcpProbe => python(&["-c", TCP_PROBE, &number]),
            Program::RateLimits(most) => python(&["-c", RATE_LIMITS, &number, most]),
            Program::Echo => python(&["-c", TCP_SERVER, &number, ""]),
            Program::Greeting(greeting) => python(&["-c", TCP_SERVER, &number, greeting]),
        })
    }
}

/// A command of a client of [`Program::Grpc`], or of [`Program::GrpcOverTls`]: says a word there, and prints the answer or the
/// status.
pub fn grpc_client(target: &str, word: &str, over_tls: bool) -> Command {
    let mut command = Command::new(PYTHON);
    command.args(["-c", GRPC_CLIENT, target, word, if over_tls { "tls" } else { "plain" }]);
    command
}
