//! Requests without a pause while something changes; each that fails is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, ensure};

use super::pod::{Pod, WORKLOAD};
use crate::expect::{SOON, eventually};

/// Requests on one connection: some are open when something changes, some begin then.
const REQUESTS: usize = 20;

/// Clients of a pod's workload.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// This many clients send GETs for `host` to these addresses in turn.
    pub fn start(pod: &Pod, to: &[SocketAddr], host: &str, clients: usize) -> Result<Self> {
        let (stop, requests): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let client = |number: usize| {
            let (stop, requests, to) = (stop.clone(), requests.clone(), to[number % to.len()]);
            let request = format!("GET /load HTTP/1.1\r\nhost: {host}\r\n\r\n");
            pod.inside(WORKLOAD, move || std::thread::spawn(move || send(to, &request, &stop, &requests)))
        };
        let clients = (0..clients).map(client).collect::<Result<_>>()?;
        Ok(Self { stop, requests, clients })
    }

    /// Waits for more requests.
    pub async fn more(&self, requests: usize) -> Result<()> {
        let wanted = self.requests.load(Ordering::Relaxed) + requests;
        let seen = async || (self.requests.load(Ordering::Relaxed) >= wanted).then_some(());
        eventually("more requests", 6 * SOON, seen).await
    }

    /// Ends it: how many requests there were. None of them failed.
    pub fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let ends = self.clients.into_iter().map(JoinHandle::join);
        let failed: Vec<String> =
            ends.flat_map(|end| end.unwrap_or_else(|_| vec!["a panic".into()])).collect();
        let requests = self.requests.load(Ordering::Relaxed);
        ensure!(failed.is_empty(), "{} of {requests} failed: {:?}", failed.len(), failed.first());
        Ok(requests)
    }
}

fn send(to: SocketAddr, request: &str, stop: &AtomicBool, requests: &AtomicUsize) -> Vec<String> {
    let mut failed = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let connected = TcpStream::connect_timeout(&to, SOON);
        let Ok(mut stream) = connected.inspect_err(|error| failed.push(format!("connecting: {error}")))
        else {
            continue;
        };
        for _ in 0..REQUESTS {
            match get(&mut stream, request) {
                Ok(open) => {
                    requests.fetch_add(1, Ordering::Relaxed);
                    if !open || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
                Err(error) => {
                    failed.push(error.to_string());
                    break;
                }
            }
        }
    }
    failed
}

/// A request and its response, which must be 200; whether another may follow on the connection.
fn get(stream: &mut TcpStream, request: &str) -> Result<bool> {
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let field = |name: &str| {
                head.lines().find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix(name).map(|value| value.trim().to_owned())
                })
            };
            let length: usize =
                field("content-length:").and_then(|text| text.parse().ok()).unwrap_or_default();
            if body.len() >= length {
                ensure!(head.starts_with("HTTP/1.1 200 "), "{text}");
                return Ok(field("connection:").as_deref() != Some("close"));
            }
        }
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "closed after {text:?}");
        answer.extend_from_slice(&buffer[..count]);
    }
}
