//! A load generator that does not wait for answers: requests fall due at a given mean rate, whatever the proxy does.
//!
//! Latency counts from the moment a request was due, not from when it could be sent: one that finds every connection busy
//! waits in line with the clock running, so a proxy that stalls cannot hide what it kept waiting (coordinated omission).
//! The intervals are exponential, from a fixed seed: every proxy gets the same arrivals.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";
/// How every answer of the backend ends.
const LAST: &[u8] = b"from the backend\n";
/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One connection; `due` is set while it waits for an answer.
struct Connection {
    stream: TcpStream,
    due: Option<Instant>,
    answer: Vec<u8>,
}

/// The generator.
struct OpenLoop {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    idle: Vec<usize>,
    waiting: VecDeque<Instant>,
    latencies: Vec<Duration>,
}

/// Sends requests at `rate` a second for `duration`; the latency of each, in the order of the answers.
pub(crate) fn run(port: u16, connections: usize, rate: f64, duration: Duration) -> Result<Vec<Duration>> {
    let mut open_loop = OpenLoop::connect(port, connections)?;
    let start = Instant::now();
    let mut arrivals = Arrivals { seed: 0x9e37_79b9_7f4a_7c15, rate };
    let mut next = start + arrivals.interval();
    while next < start + duration {
        let now = Instant::now();
        while next <= now {
            open_loop.waiting.push_back(next);
            next += arrivals.interval();
        }
        open_loop.send()?;
        open_loop.receive(next.saturating_duration_since(Instant::now()))?;
    }
    while !open_loop.is_done() {
        ensure!(start.elapsed() < duration + PATIENCE, "{} answers did not come", open_loop.open());
        open_loop.send()?;
        open_loop.receive(Duration::from_millis(10))?;
    }
    Ok(open_loop.latencies)
}

impl OpenLoop {
    fn connect(port: u16, count: usize) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(count);
        for at in 0..count {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            epoll::add(&epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN)?;
            connections.push(Connection { stream, due: None, answer: Vec::new() });
        }
        let idle = (0..count).collect();
        Ok(Self { epoll, connections, idle, waiting: VecDeque::new(), latencies: Vec::new() })
    }

    fn is_done(&self) -> bool {
        self.open() == 0
    }

    fn open(&self) -> usize {
        self.waiting.len() + self.connections.len() - self.idle.len()
    }

    /// Sends what is due, as far as there are idle connections.
    fn send(&mut self) -> Result<()> {
        while let Some(&due) = self.waiting.front()
            && let Some(at) = self.idle.pop()
        {
            self.waiting.pop_front();
            let connection = self.connections.get_mut(at).context("no such connection")?;
            // so few bytes always fit
            connection.stream.write_all(REQUEST)?;
            connection.due = Some(due);
        }
        Ok(())
    }

    /// Takes the answers that are there within `timeout`.
    fn receive(&mut self, timeout: Duration) -> Result<()> {
        let mut events = Vec::with_capacity(128);
        let timeout = Timespec::try_from(timeout)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => drop(other?),
        }
        for event in events {
            let at = usize::try_from(event.data.u64())?;
            let connection = self.connections.get_mut(at).context("no such connection")?;
            if !connection.has_answer()? {
                continue;
            }
            let due = connection.due.take().context("an answer that nobody asked for")?;
            self.latencies.push(due.elapsed());
            self.idle.push(at);
        }
        Ok(())
    }
}

impl Connection {
    /// Reads what is there; whether the answer is complete.
    fn has_answer(&mut self) -> Result<bool> {
        let mut buffer = [0; 2048];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("closed after {:?}", String::from_utf8_lossy(&self.answer)),
            Ok(count) => self.answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if !self.answer.ends_with(LAST) {
            return Ok(false);
        }
        ensure!(self.answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&self.answer));
        self.answer.clear();
        Ok(true)
    }
}

/// Exponential intervals with a mean of `1 / rate`.
struct Arrivals {
    seed: u64,
    rate: f64,
}

impl Arrivals {
    fn interval(&mut self) -> Duration {
        // xorshift64: evenly spread is all that is asked of it
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let even = ((self.seed >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-even.ln() / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn arrivals_keep_the_rate() {
        let mut arrivals = Arrivals { seed: 1, rate: 1000.0 };
        let total: Duration = (0..10_000).map(|_| arrivals.interval()).sum();
        assert!((9.5..10.5).contains(&total.as_secs_f64()), "{total:?}");
    }

    /// One connection to a server that takes 20 ms an answer, and requests due every 10 ms on average: what waits in line
    /// counts, so latencies grow far beyond the 20 ms that each answer took after it was sent.
    #[test]
    fn waiting_for_a_connection_counts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1024];
            while stream.read(&mut buffer).is_ok_and(|count| count > 0) {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\nfrom the backend\n").unwrap();
            }
        });
        let latencies = run(port, 1, 100.0, Duration::from_millis(500)).unwrap();
        let longest = latencies.iter().max().unwrap();
        assert!(latencies.len() > 20 && *longest > Duration::from_millis(150), "{latencies:?}");
    }
}
