//! Addresses that are known to be unusable; every usable one is chosen by the kernel at bind time.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// A loopback port that refuses connections for as long as this value lives: it is bound, but nobody listens.
#[derive(Debug)]
pub struct Refusing {
    addr: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    /// Binds the port.
    pub fn new() -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        let addr =
            socket.local_addr()?.as_socket().context("bound to something that is not an IP address")?;
        Ok(Self { addr, _socket: socket })
    }

    /// Where connections are refused.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// A loopback port whose accept queue is full: a connection attempt neither succeeds nor fails, so only the
/// connect timeout of whoever tries ends it.
#[derive(Debug)]
pub struct Blackhole {
    addr: SocketAddr,
    _listener: Socket,
    _fillers: Vec<Socket>,
}

impl Blackhole {
    /// Listens with a backlog of one and fills it without ever accepting.
    pub fn new() -> Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(0)?;
        let addr =
            listener.local_addr()?.as_socket().context("bound to something that is not an IP address")?;
        let mut fillers = Vec::new();
        for _ in 0..4 {
            let filler = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            filler.set_nonblocking(true)?;
            // in progress is the point: what does not fit in the queue stays in SYN_SENT
            let _ = filler.connect(&addr.into());
            fillers.push(filler);
        }
        Ok(Self { addr, _listener: listener, _fillers: fillers })
    }

    /// Where connections hang.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Passes connections on to another address until it is frozen: then those that stand carry nothing more, and stay open.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    frozen: tokio::sync::watch::Sender<usize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Relay {
    /// To `target`, from a port of the kernel's choice.
    pub async fn to(target: SocketAddr) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let frozen = tokio::sync::watch::Sender::new(0);
        let freezes = frozen.subscribe();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut freezes = freezes.clone();
                freezes.mark_unchanged();
                connections.spawn(async move {
                    let Ok(mut far) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = freezes.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Ok(Self { addr, frozen, accepting })
    }

    /// Where it accepts.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Freezes the connections that stand.
    pub fn freeze(&self) {
        self.frozen.send_modify(|count| *count += 1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
