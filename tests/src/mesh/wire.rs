//! What passes between the pods: every frame that the node forwards, put together to the bytes of each TCP stream.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Both ends of a stream, who sends first.
pub type Flow = (SocketAddr, SocketAddr);

/// What was said on connections to a port, by each side of each.
#[derive(Debug, Default)]
pub struct Spoken {
    pub by_clients: Vec<Vec<u8>>,
    pub by_servers: Vec<Vec<u8>>,
}

/// Every kind of frame, in the network's byte order.
const ALL: i32 = 0x0003_u16.to_be() as i32;
/// As much as may wait until somebody looks.
const WAITING: usize = 64 << 20;

/// Frames of all interfaces of a namespace, from when this was made.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    streams: BTreeMap<Flow, Stream>,
}

/// The bytes from one end to the other, by their offset from the first.
#[derive(Debug, Default)]
struct Stream {
    first: u32,
    pieces: BTreeMap<u32, Vec<u8>>,
}

impl Wire {
    /// Begins to watch.
    ///
    /// # Errors
    /// This takes root.
    pub fn watch(netns: &Netns) -> Result<Self> {
        let socket = netns.within(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ALL))))?;
        let socket = socket.context("a socket for frames takes root")?;
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, WAITING)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, streams: BTreeMap::new() })
    }

    /// The bytes of every stream until now, none of them missing.
    pub fn streams(&mut self) -> Result<BTreeMap<Flow, Vec<u8>>> {
        let mut frame = vec![0; 256 << 10];
        loop {
            match (&self.socket).read(&mut frame) {
                Ok(length) => self.take(&frame[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.streams.iter().map(|(flow, stream)| Ok((*flow, stream.bytes(flow)?))).collect()
    }

    /// What was said on connections to a port until now, where anything was.
    pub fn on(&mut self, port: u16) -> Result<Spoken> {
        let mut spoken = Spoken::default();
        for ((from, to), bytes) in self.streams()?.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
            if to.port() == port {
                spoken.by_clients.push(bytes);
            } else if from.port() == port {
                spoken.by_servers.push(bytes);
            }
        }
        Ok(spoken)
    }

    /// Whether anybody sent these bytes.
    pub fn saw(&mut self, bytes: &[u8]) -> Result<bool> {
        Ok(self.streams()?.values().any(|stream| contains(stream, bytes)))
    }

    fn take(&mut self, frame: &[u8]) {
        let Some((flow, sequence, begins, payload)) = segment(frame) else { return };
        if begins {
            // A port that is used again: another stream.
            self.streams.insert(flow, Stream { first: sequence.wrapping_add(1), pieces: BTreeMap::new() });
        }
        let Some(stream) = self.streams.get_mut(&flow) else { return };
        if !payload.is_empty() {
            let piece = stream.pieces.entry(sequence.wrapping_sub(stream.first)).or_default();
            if piece.len() < payload.len() {
                *piece = payload.to_vec();
            }
        }
    }
}

impl Stream {
    fn bytes(&self, flow: &Flow) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (offset, piece) in &self.pieces {
            // A segment may be sent twice; a keepalive repeats the byte before the first.
            let Some(known) = bytes.len().checked_sub(*offset as usize) else {
                ensure!(*offset > u32::MAX / 2, "{flow:?}: bytes are missing at {}", bytes.len());
                continue;
            };
            bytes.extend_from_slice(piece.get(known..).unwrap_or_default());
        }
        Ok(bytes)
    }
}

/// Whether `all` has `part` in it.
pub fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// A TCP segment of an Ethernet frame: its ends, its sequence number, whether it begins a stream, its bytes.
fn segment(frame: &[u8]) -> Option<(Flow, u32, bool, &[u8])> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let word = |bytes: &[u8], at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match kind {
        [0x08, 0x00] if packet.get(9) == Some(&6) => {
            let head = usize::from(packet.first()? & 15) * 4;
            let address = |at| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?.into(), address(16)?.into(), packet.get(head..usize::from(word(packet, 2)?))?)
        }
        [0x86, 0xdd] if packet.get(6) == Some(&6) => {
            let address = |at| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?.into(), address(24)?.into(), packet.get(40..40 + usize::from(word(packet, 4)?))?)
        }
        _ => return None,
    };
    let flow = (SocketAddr::new(from, word(tcp, 0)?), SocketAddr::new(to, word(tcp, 2)?));
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let head = usize::from(tcp.get(12)? >> 4) * 4;
    Some((flow, sequence, tcp.get(13)? & 2 != 0, tcp.get(head..)?))
}

/// Certificates that a stream shows in the clear, as TLS 1.2 does: the body of each handshake message of that type.
pub fn handshake_messages(stream: &[u8], of: u8) -> Result<Vec<Vec<u8>>> {
    let (mut handshake, mut rest) = (Vec::new(), stream);
    // Handshake records up to the first of another kind; what follows is encrypted.
    while let [22, 3, _, high, low, ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(record) = rest.get(5..5 + length) else { bail!("a record is cut off") };
        handshake.extend_from_slice(record);
        rest = &rest[5 + length..];
    }
    let (mut found, mut rest) = (Vec::new(), handshake.as_slice());
    while let [kind, a, b, c, ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some(body) = rest.get(4..4 + length) else { break };
        if *kind == of {
            found.push(body.to_vec());
        }
        rest = &rest[4 + length..];
    }
    Ok(found)
}
