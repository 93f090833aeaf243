//! A host that is told of clients by the PROXY protocol: headers are taken off and recorded, the rest is passed on.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// It, in front of a server that knows no such headers.
#[derive(Debug)]
pub struct Told {
    addr: SocketAddr,
    headers: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Told {
    /// Starts to listen on loopback.
    pub async fn before(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let headers = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let shared = headers.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let headers = shared.clone();
                tokio::spawn(async move { pass(client, target, &headers).await });
            }
        });
        Ok(Self { addr, headers, task })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The headers so far, each of a connection.
    pub fn headers(&self) -> Vec<Vec<u8>> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn pass(mut client: TcpStream, target: SocketAddr, headers: &Mutex<Vec<Vec<u8>>>) -> Result<()> {
    let mut bytes = Vec::new();
    let length = loop {
        match length(&bytes) {
            Some(length) if length <= bytes.len() => break length,
            _ => {}
        }
        if client.read_buf(&mut bytes).await? == 0 {
            bail!("ended within the header");
        }
    };
    let rest = bytes.split_off(length);
    headers.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    let mut server = TcpStream::connect(target).await?;
    server.write_all(&rest).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// How long the header is that these bytes begin with, once that is known; 0 if they begin with none.
fn length(bytes: &[u8]) -> Option<usize> {
    if let Some(rest) = bytes.strip_prefix(V2) {
        return Some(16 + usize::from(u16::from_be_bytes(*rest.get(2..)?.first_chunk()?)));
    }
    if bytes.starts_with(b"PROXY ") {
        return Some(bytes.windows(2).position(|end| end == b"\r\n")? + 2);
    }
    let begins = V2.starts_with(bytes) || b"PROXY ".starts_with(bytes);
    if begins { None } else { Some(0) }
}

/// A header in words; ports that are known by their names, in values after a colon.
pub fn words(header: &[u8], ports: &[(u16, &str)]) -> Result<String> {
    let name = |port: u16| {
        let known = ports.iter().find(|(known, _)| *known == port);
        known.map_or_else(|| port.to_string(), |(_, name)| (*name).to_owned())
    };
    let Some(rest) = header.strip_prefix(V2) else {
        let line = std::str::from_utf8(header)?;
        let words = line.split(' ').map(|word| match word.trim_end().parse::<u16>() {
            Ok(port) => name(port),
            Err(_) => format!("{word:?}"),
        });
        return Ok(words.collect::<Vec<_>>().join(" "));
    };
    let [command, family, _, _] = *rest.first_chunk::<4>().context("no length")?;
    let mut body = &rest[4..];
    let mut text = format!("v2 {command:02x} {family:02x}");
    let size = match family {
        0 => 0,
        0x11 => 4,
        0x21 => 16,
        other => bail!("family {other:02x}"),
    };
    if size > 0 {
        for (at, which) in ["from", "to"].into_iter().enumerate() {
            let octets = body.get(at * size..(at + 1) * size).context("no address")?;
            let ip: IpAddr = match size {
                4 => Ipv4Addr::from(*octets.first_chunk().context("short")?).into(),
                _ => Ipv6Addr::from(*octets.first_chunk().context("short")?).into(),
            };
            let port = body.get(2 * (size + at)..).and_then(|rest| rest.first_chunk()).context("no port")?;
            write!(text, " {which} {ip} {}", name(u16::from_be_bytes(*port)))?;
        }
        body = &body[2 * size + 4..];
    }
    while let Some((head, rest)) = body.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let (value, rest) = rest.split_at_checked(length).context("a TLV is cut off")?;
        let shown = if length > 20 {
            format!("{length} octets")
        } else {
            let value = value.escape_ascii().to_string();
            let known = ports.iter().map(|(port, name)| (format!(":{port}"), format!(":{name}")));
            format!("{:?}", known.fold(value, |value, (port, name)| value.replace(&port, &name)))
        };
        write!(text, " {}={shown}", head[0])?;
        body = rest;
    }
    anyhow::ensure!(body.is_empty(), "octets are left over");
    Ok(text)
}

/// A header of version 2 for a client of IPv4, with these TLVs.
pub fn v2(command: u8, from: &str, to: &str, tlvs: &[(u8, &[u8])]) -> Result<Vec<u8>> {
    let (from, to): (std::net::SocketAddrV4, std::net::SocketAddrV4) = (from.parse()?, to.parse()?);
    let mut body = [from.ip().octets(), to.ip().octets()].concat();
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    for (kind, value) in tlvs {
        body.push(*kind);
        body.extend(u16::try_from(value.len())?.to_be_bytes());
        body.extend(*value);
    }
    let length = u16::try_from(body.len())?.to_be_bytes();
    Ok([V2, &[0x20 | command, 0x11], &length, &body].concat())
}
