//! DNS capture: the workload's queries go to the proxy's resolver on port 15053, the resolver's own go to the server, and answers
//! find back to whoever asked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use integration::netns::Netns;

use crate::rig::{Pod, User, Version, WORKLOAD};

const RESOLVER: User = User { uid: 1337, gid: 1337 };
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers one query over UDP, of which a resolver asks `upstream` first, and one over TCP.
fn answer(netns: &Netns, name: &'static str, at: SocketAddr, upstream: Option<SocketAddr>) {
    let sockets = move || {
        // the rules know the resolver's answers by whose they are
        upstream.map(|_| RESOLVER.become_one()).transpose().unwrap();
        (UdpSocket::bind(at).unwrap(), TcpListener::bind(at).unwrap())
    };
    let sockets = netns.within(sockets).unwrap();
    netns
        .within(move || {
            let (udp, tcp) = sockets;
            udp.set_read_timeout(Some(PATIENCE)).unwrap();
            let say = move |question: &str| {
                let more = upstream.map(|upstream| ask_udp(RESOLVER, upstream, question)).unwrap_or_default();
                format!("{name} says {question}; {more}")
            };
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                // a test that asks nothing ends without an answer
                let Ok((length, from)) = udp.recv_from(&mut buffer) else { return };
                let question = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let _ = udp.send_to(say(&question).as_bytes(), from);
            });
            std::thread::spawn(move || {
                let Ok((mut client, _)) = tcp.accept() else { return };
                let _ = client.write_all(format!("{name} says tcp").as_bytes());
            });
        })
        .unwrap();
}

/// Asks from this thread's namespace with a connected socket, to which only the server that was asked can answer.
fn ask_udp(user: User, server: SocketAddr, question: &str) -> String {
    let ask = || -> std::io::Result<String> {
        user.become_one()?;
        let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        socket.send(question.as_bytes())?;
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    ask().unwrap_or_else(|error| format!("error: {error}"))
}

fn ask_tcp(user: User, server: SocketAddr) -> String {
    let ask = || -> std::io::Result<String> {
        user.become_one()?;
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    ask().unwrap_or_else(|error| format!("error: {error}"))
}

fn check(flags: &str, resolv_conf: &str) {
    for version in Version::BOTH {
        let pod = Pod::new(&[]).unwrap();
        let server = SocketAddr::new(version.peer(), 53);
        // on the loopback, where redirected queries arrive, so that answers come from there
        answer(&pod.pod, "resolver", SocketAddr::new(version.loopback(), 15053), Some(server));
        answer(&pod.peer, "server", server, None);
        let mut command = Command::new("unshare");
        let set_up = "printf \"$1\" >\"$2\"; mount --bind \"$2\" /etc/resolv.conf; shift 2; exec \"$@\"";
        let conf = tempfile::NamedTempFile::new().unwrap();
        let program = integration::process::outrigger_iptables().unwrap();
        command.args(["--mount", "sh", "-ec", set_up, "sh", resolv_conf]).arg(conf.path()).arg(program);
        command
            .args(["--preset", "istio", "--ip-families", "both", "--redirect-dns"])
            .args(flags.split_whitespace());
        let output = pod.pod.run(&mut command).unwrap();
        assert!(output.status.success(), "{flags}: {}", String::from_utf8_lossy(&output.stderr));
        let text = pod.pod.within(|| ask_udp(WORKLOAD, server, "udp")).unwrap();
        assert_eq!(text, "resolver says udp; server says udp; ", "{flags} {version:?}");
        let text = pod.pod.within(|| ask_tcp(WORKLOAD, server)).unwrap();
        assert_eq!(text, "resolver says tcp", "{flags} {version:?}");
        // the resolver's own queries go to the server, whichever it asks
        let other = SocketAddr::new(version.excluded(), 53);
        // (It waits for a question no longer than who asks waits for an answer.)
        answer(&pod.peer, "server", other, None);
        let text = pod.pod.within(|| ask_udp(RESOLVER, other, "own")).unwrap();
        assert_eq!(text, "server says own; ", "{flags} {version:?}");
    }
}

#[test]
fn all_queries() {
    for back_end in ["--force-iptables-binary legacy", "--force-iptables-binary nft", "--native-nftables"] {
        check(&format!("--capture-all-dns {back_end}"), "");
    }
}

#[test]
fn queries_to_the_servers_of_resolv_conf() {
    let servers = "nameserver 10.9.0.1\\nnameserver 2001:db8:9::1\\n";
    check("", servers);
    check("--native-nftables", servers);
}
