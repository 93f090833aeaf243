//! Clients that send one request after the other and note what came back.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::client::Client;
use integration::expect::SOON;
use integration::http1::field;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::say;

/// How many of the last answers of a phase must come from the upstreams that are expected.
const SETTLED: usize = 100;

/// Between two requests of one client: the demonstration shall not occupy the machine.
const PAUSE: Duration = Duration::from_millis(2);

/// What the clients noted.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    latencies: Vec<Duration>,
    by_upstream: BTreeMap<String, usize>,
    last: VecDeque<String>,
    pub(crate) failures: Vec<String>,
}

impl Notes {
    fn take(&mut self, upstream: &str, latency: Duration) {
        self.latencies.push(latency);
        *self.by_upstream.entry(upstream.to_owned()).or_default() += 1;
        self.last.push_back(upstream.to_owned());
        if self.last.len() > SETTLED {
            self.last.pop_front();
        }
    }

    fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort();
        let at = (sorted.len() as f64 * share) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }

    /// All requests in one line.
    pub(crate) fn summary(&self) -> String {
        format!(
            "Requests: {}, failures: {}, latency ms: median {:.2}, 99 % {:.2}, 99.9 % {:.2}, longest {:.2}",
            self.latencies.len() + self.failures.len(),
            self.failures.len(),
            self.percentile(0.5),
            self.percentile(0.99),
            self.percentile(0.999),
            self.percentile(1.0),
        )
    }
}

/// Running clients.
pub(crate) struct Traffic {
    notes: Arc<Mutex<Notes>>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    /// Starts that many clients, each with a connection that it keeps.
    pub(crate) fn start(addr: SocketAddr, count: usize) -> Self {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let stop = watch::Sender::new(false);
        let mut clients = JoinSet::new();
        for _ in 0..count {
            clients.spawn(run(addr, notes.clone(), stop.subscribe()));
        }
        Self { notes, stop, clients }
    }

    /// Waits, then says what was answered in that time. At its end only the expected upstreams may have answered.
    pub(crate) async fn phase(&self, name: &str, length: Duration, expected: &[&str]) -> Result<()> {
        let before = lock(&self.notes).by_upstream.clone();
        let failed = lock(&self.notes).failures.len();
        tokio::time::sleep(length).await;
        let notes = lock(&self.notes);
        let counts: Vec<String> = notes
            .by_upstream
            .iter()
            .map(|(upstream, count)| (upstream, count - before.get(upstream).copied().unwrap_or(0)))
            .filter(|(_, count)| *count > 0)
            .map(|(upstream, count)| format!("{upstream} {count}"))
            .collect();
        say(&format!(
            "  {name}\n    answers: {}; failures: {}",
            counts.join(", "),
            notes.failures.len() - failed
        ));
        ensure!(notes.last.len() == SETTLED, "{name}: too little traffic");
        for upstream in &notes.last {
            ensure!(
                expected.contains(&upstream.as_str()),
                "{name}: {upstream} still answers, only {expected:?} should"
            );
        }
        for upstream in expected {
            ensure!(notes.last.iter().any(|other| other == upstream), "{name}: {upstream} does not answer");
        }
        Ok(())
    }

    /// Lets every client finish its request.
    pub(crate) async fn stop(mut self) -> Notes {
        self.stop.send_replace(true);
        while self.clients.join_next().await.is_some() {}
        std::mem::take(&mut *lock(&self.notes))
    }
}

async fn run(addr: SocketAddr, notes: Arc<Mutex<Notes>>, stop: watch::Receiver<bool>) {
    let mut connection = None;
    while !*stop.borrow() {
        let start = Instant::now();
        match request(addr, &mut connection).await {
            Ok(upstream) => lock(&notes).take(&upstream, start.elapsed()),
            Err(error) => {
                lock(&notes).failures.push(format!("{error:#}"));
                connection = None;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn request(addr: SocketAddr, connection: &mut Option<Client>) -> Result<String> {
    let mut client = match connection.take() {
        Some(client) => client,
        None => Client::connect(addr).await?,
    };
    client.send(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n").await?;
    let response = client.response("GET", SOON).await?;
    ensure!(
        response.head.status()? == 200,
        "{} {}",
        response.head.line,
        String::from_utf8_lossy(&response.body)
    );
    ensure!(response.complete, "cut short");
    if !response.head.connection_says("close") {
        *connection = Some(client);
    }
    Ok(field(&response.head.fields, "x-upstream").unwrap_or("nobody").to_owned())
}
