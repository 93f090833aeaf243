//! The differential rig: the same configuration, the same bytes, two proxies, and every difference in what is observable.
//!
//! A [`Setup`] is one bootstrap; both proxies are started once for it, each with upstreams of its own. A [`Case`] says what
//! a client sends to one of its listeners and what the upstream answers. What can be observed of a case is written down as
//! [`Facts`] (a flat map of names and values, with what legitimately varies replaced by a word), and the facts of both
//! sides are compared. A difference that we keep on purpose is declared in the case with its reason; a declared
//! difference that does not show is an error too, so that the declarations stay true.

mod check;
mod facts;
mod side;

pub use facts::Facts;
pub use side::Side;

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

use crate::config;
use crate::frames::hello;
use crate::process::Binary;
use crate::upstream::Reply;
use crate::upstream::h2::H2Reply;

/// Fails where what was written down of a whole course of events differs, with each of the differences.
///
/// # Errors
/// The differences.
pub fn expect_same(wanted: &[String], found: &[String]) -> Result<()> {
    let mut differences = String::new();
    for (wanted, found) in wanted.iter().zip(found).filter(|(wanted, found)| wanted != found) {
        let _ = writeln!(differences, "Envoy {wanted}\nhere  {found}");
    }
    ensure!(differences.is_empty() && wanted.len() == found.len(), "{differences}");
    Ok(())
}

/// One bootstrap shared by many cases.
///
/// Placeholders: `{{up}}` (scripted HTTP/1 upstream), `{{h2up}}` (HTTP/2 upstream), `{{echo}}` (TCP echo server), `{{refused}}`,
/// `{{blackhole}}` and `{{dns}}` (a DNS server with [`crate::dns::DnsServer::set_zone`]) are ports; `{{dir}}` is a folder.
#[derive(Debug, Clone)]
pub struct Setup {
    pub name: &'static str,
    pub bootstrap: String,
}

impl Setup {
    /// With these listeners and the clusters `up`, `h2up`, `echo`, `refused` and `blackhole`.
    pub fn new(name: &'static str, listeners: impl IntoIterator<Item = String>) -> Self {
        Self::with_clusters(name, listeners, [])
    }

    /// Like [`Setup::new`], with further clusters.
    pub fn with_clusters(
        name: &'static str,
        listeners: impl IntoIterator<Item = String>,
        clusters: impl IntoIterator<Item = String>,
    ) -> Self {
        let listeners: Vec<String> = listeners.into_iter().collect();
        let mut all = vec![
            config::cluster("up", "up", ""),
            config::cluster("h2up", "h2up", config::H2_CLUSTER),
            config::cluster("echo", "echo", ""),
            config::cluster("refused", "refused", ""),
            config::cluster("blackhole", "blackhole", "")
                .replace("connect_timeout: 1s", "connect_timeout: 0.15s"),
        ];
        all.extend(clusters);
        Self { name, bootstrap: config::bootstrap(&listeners, &all, "") }
    }
}

impl Setup {
    /// With this `node` (YAML).
    #[must_use]
    pub fn with_node(mut self, node: &str) -> Self {
        self.bootstrap.insert_str(0, &format!("node: {node}\n"));
        self
    }
}

/// One thing that a client does.
#[derive(Debug, Clone)]
pub enum Do {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Reads one response (and interim ones before it) to a request with that method.
    Response(&'static str),
    /// Reads one interim response.
    Interim,
    /// Reads at least that many bytes, as they are.
    Bytes(usize),
    /// Reads HTTP/2 frames until a stream ends or is reset.
    StreamEnd,
    /// Sends FIN.
    HalfClose,
    /// Waits until the proxy ends the connection.
    AwaitEnd,
    /// Waits until the upstream has received that many requests.
    AwaitUpstream(usize),
    /// The same of the HTTP/2 upstream.
    AwaitH2Upstream(usize),
    /// Closes the connection; after that one can only wait for upstreams.
    Leave,
    /// Asks the admin interface to do this (POST).
    Admin(&'static str),
    /// Lets time pass, where time is what is tested.
    Pause(Duration),
}

/// A request over HTTP/2.
#[derive(Debug, Clone)]
pub struct H2Request {
    pub method: &'static str,
    /// Absolute: `http://authority/path`.
    pub uri: &'static str,
    pub fields: Vec<(&'static str, &'static str)>,
    pub body: &'static str,
    pub trailers: Vec<(&'static str, &'static str)>,
    /// Of an extended CONNECT (RFC 8441).
    pub protocol: Option<&'static str>,
}

impl H2Request {
    /// A GET without body.
    pub fn get(uri: &'static str) -> Self {
        Self { method: "GET", uri, fields: vec![], body: "", trailers: vec![], protocol: None }
    }

    /// An extended CONNECT to `protocol`, whose client sends these bytes and no more.
    pub fn upgrade(uri: &'static str, protocol: &'static str, body: &'static str) -> Self {
        Self { method: "CONNECT", protocol: Some(protocol), body, ..Self::get(uri) }
    }

    /// A POST with that body.
    pub fn post(uri: &'static str, body: &'static str) -> Self {
        Self { method: "POST", body, ..Self::get(uri) }
    }

    /// Adds a header.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: &'static str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// Adds a trailer.
    #[must_use]
    pub fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        self.trailers.push((name, value));
        self
    }

    fn build(&self) -> Result<(http::Request<Bytes>, Option<http::HeaderMap>)> {
        let mut request = http::Request::builder().method(self.method).uri(self.uri);
        for (name, value) in &self.fields {
            request = request.header(*name, *value);
        }
        let mut trailers = http::HeaderMap::new();
        for (name, value) in &self.trailers {
            trailers.append(http::HeaderName::from_bytes(name.as_bytes())?, value.parse()?);
        }
        if let Some(protocol) = self.protocol {
            request = request.extension(h2::ext::Protocol::from_static(protocol));
        }
        let request = request.body(Bytes::from_static(self.body.as_bytes()))?;
        Ok((request, (!trailers.is_empty()).then_some(trailers)))
    }
}

/// What the client of a case is.
#[derive(Debug, Clone)]
pub enum Input {
    Bytes(Vec<Do>),
    H2(Vec<H2Request>),
    /// HTTP/2 frames made by hand ([`crate::frames`]), sent at once.
    Frames(Vec<u8>),
}

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: &'static str,
    pub listener: &'static str,
    pub input: Input,
    pub upstream: Vec<Reply>,
    pub h2_upstream: Vec<H2Reply>,
    /// Names of facts that differ on purpose (a `*` at the end stands for anything), and why.
    pub known: Vec<(&'static str, &'static str)>,
    /// Facts that are not the same at each run of Envoy, and why.
    pub varying: Vec<(&'static str, &'static str)>,
    /// For listeners without HTTP: how many lines the access log gets.
    pub tcp_log_lines: Option<usize>,
    /// A gauge that comes down to nothing when the case is over, where neither client nor log tell.
    pub ends_with: Option<&'static str>,
}

impl Case {
    /// A client that takes these steps.
    pub fn steps(name: &'static str, listener: &'static str, steps: impl IntoIterator<Item = Do>) -> Self {
        Self {
            name,
            listener,
            input: Input::Bytes(steps.into_iter().collect()),
            upstream: vec![],
            h2_upstream: vec![],
            known: vec![],
            varying: vec![],
            tcp_log_lines: None,
            ends_with: None,
        }
    }

    /// It is over when this gauge is down to nothing.
    #[must_use]
    pub fn ends_with(mut self, gauge: &'static str) -> Self {
        self.ends_with = Some(gauge);
        self
    }

    /// A client that sends these bytes and reads one response. The method is the first word of the bytes.
    pub fn send(name: &'static str, listener: &'static str, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        let method = if bytes.starts_with(b"HEAD ") { "HEAD" } else { "GET" };
        Self::steps(name, listener, [Do::Send(bytes), Do::Response(method)])
    }

    /// A GET of this target with these header lines (each ending with CRLF).
    pub fn get(name: &'static str, listener: &'static str, target: &str, lines: &str) -> Self {
        Self::send(name, listener, format!("GET {target} HTTP/1.1\r\nhost: test\r\n{lines}\r\n"))
    }

    /// These requests, one after the other on one HTTP/2 connection.
    pub fn h2(
        name: &'static str,
        listener: &'static str,
        requests: impl IntoIterator<Item = H2Request>,
    ) -> Self {
        let mut case = Self::steps(name, listener, []);
        case.input = Input::H2(requests.into_iter().collect());
        case
    }

    /// A client that sends these HTTP/2 frames after the usual greeting.
    pub fn frames(
        name: &'static str,
        listener: &'static str,
        frames: impl IntoIterator<Item = Vec<u8>>,
    ) -> Self {
        let mut case = Self::steps(name, listener, []);
        case.input = Input::Frames([hello(), frames.into_iter().collect::<Vec<_>>().concat()].concat());
        case
    }

    /// A case that reads a further response.
    #[must_use]
    pub fn and_response(mut self, method: &'static str) -> Self {
        if let Input::Bytes(steps) = &mut self.input {
            steps.push(Do::Response(method));
        }
        self
    }

    /// What the HTTP/1 upstream does with the next request.
    #[must_use]
    pub fn reply(mut self, reply: Reply) -> Self {
        self.upstream.push(reply);
        self
    }

    /// The bytes that the HTTP/1 upstream answers.
    #[must_use]
    pub fn raw(self, bytes: impl AsRef<[u8]>) -> Self {
        self.reply(Reply::raw(bytes))
    }

    /// What the HTTP/2 upstream answers.
    #[must_use]
    pub fn h2_reply(mut self, reply: H2Reply) -> Self {
        self.h2_upstream.push(reply);
        self
    }

    /// Declares a difference that we keep, and why.
    #[must_use]
    pub fn differs(mut self, fact: &'static str, reason: &'static str) -> Self {
        self.known.push((fact, reason));
        self
    }

    /// Declares that a fact is not the same at each run of Envoy, and why.
    #[must_use]
    pub fn varies(mut self, fact: &'static str, reason: &'static str) -> Self {
        self.varying.push((fact, reason));
        self
    }

    /// For listeners without HTTP: how many lines the access log gets.
    #[must_use]
    pub fn tcp(mut self, log_lines: usize) -> Self {
        self.tcp_log_lines = Some(log_lines);
        self
    }
}

/// The outcome of running cases on two proxies.
#[derive(Debug, Default)]
pub struct Report {
    pub cases: usize,
    /// Name of the case and its differences, one per line.
    pub failures: Vec<(String, String)>,
}

impl Report {
    /// An error that lists the failures, if there are any.
    pub fn into_result(self) -> Result<()> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let mut text = format!("{} of {} cases differ\n", self.failures.len(), self.cases);
        for (name, differences) in &self.failures {
            let _ = writeln!(text, "\n== {name}\n{differences}");
        }
        Err(anyhow::anyhow!(text))
    }
}

/// Runs the cases of a setup on both proxies. The environment variable `CASE` restricts them to names that contain it.
///
/// # Errors
/// If a proxy does not start; everything else is in the report.
pub async fn compare(setup: &Setup, cases: &[Case], reference: &Binary, subject: &Binary) -> Result<Report> {
    let mut left = Side::start(reference, setup).await.with_context(|| format!("setup {}", setup.name))?;
    let mut right = Side::start(subject, setup).await.with_context(|| format!("setup {}", setup.name))?;
    let only = std::env::var("CASE").unwrap_or_default();
    let mut report = Report::default();
    for case in cases.iter().filter(|case| case.name.contains(&only)) {
        report.cases += 1;
        let expected = left.run(case).await;
        let actual = right.run(case).await;
        let known: &[_] = if reference.kind == subject.kind { &[] } else { &case.known };
        if std::env::var_os("SHOW").is_some() {
            report.failures.push((case.name.to_owned(), expected.to_string()));
        }
        let differences = expected.differences(&actual, known, &case.varying);
        if !differences.is_empty() {
            report.failures.push((case.name.to_owned(), differences));
        }
        if let Err(error) = right.revive(subject, setup).await {
            report.failures.push((case.name.to_owned(), format!("{error:#}")));
            break;
        }
    }
    Ok(report)
}
