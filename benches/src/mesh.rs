//! Two sidecars in one process, mutual TLS between them: a plain client, out, in, a plain server. Beside them TLS by itself, and
//! access control. Only of Outrigger and Envoy, who take the same configuration.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use integration::tls::{Authority, ClientOptions, Session, Wanted};

use crate::limiter::Limiter;
use crate::load::{h2load, per_request, wrk};
use crate::options::{Measure, Options, Part};
use crate::peers::{Backend, Peer, Process, fill, folder, free_ports};
use crate::report::{Report, median};
use crate::{features, handshakes, proc, say};

/// A proxy that is both sidecars.
pub(crate) struct Mesh {
    peer: Peer,
    process: Process,
    out_h1: u16,
    out_h2: u16,
    /// With mutual TLS, as the two that follow have TLS.
    pub(crate) in_h1: u16,
    pub(crate) tls_ecdsa: u16,
    pub(crate) tls_rsa: u16,
    plain: u16,
    /// The same as `plain` with something more each.
    features: [(Measure, u16); 4],
    _limiter: Limiter,
    /// Whom `in_h1` lets in.
    pub(crate) client: ClientOptions,
}

/// Adds a sample per round, measure and peer.
pub(crate) fn measure(options: &Options, backend: &Backend, report: &mut Report) -> Result<()> {
    let peers: Vec<Peer> =
        [Peer::Outrigger, Peer::Envoy].into_iter().filter(|peer| options.peers.contains(peer)).collect();
    let loads: Vec<Measure> = Measure::MESH.into_iter().filter(|load| options.wants(*load)).collect();
    if !loads.is_empty() {
        let running: Vec<Mesh> =
            peers.iter().map(|peer| Mesh::start(*peer, options, backend)).collect::<Result<_>>()?;
        for round in 1..=options.rounds {
            for measure in &loads {
                for mesh in &running {
                    report.add_all(*measure, mesh.peer, mesh.run(*measure, options));
                }
            }
            say(&format!("round {round} of {} of sidecars done", options.rounds));
        }
    }
    if options.wants(Measure::IdleMtls) {
        for _ in 0..options.starts() {
            for peer in &peers {
                let idle = Mesh::start(*peer, options, backend).and_then(|mesh| mesh.idle(options));
                report.add_all(Measure::IdleMtls, *peer, idle);
            }
        }
        say("idlemtls done");
    }
    Ok(())
}

impl Mesh {
    fn start(peer: Peer, options: &Options, backend: &Backend) -> Result<Self> {
        let dir = folder()?;
        let authority = Authority::new("mesh")?;
        let issue = |name, algorithm| {
            let sans = &["dns:a.test", name];
            authority.issue(&Wanted { sans, algorithm, ..Wanted::default() })
        };
        let ecdsa = Wanted::default().algorithm;
        let server = issue("uri:spiffe://cluster.test/server", ecdsa)?;
        let client = issue("uri:spiffe://cluster.test/client", ecdsa)?;
        let rsa = issue("uri:spiffe://cluster.test/rsa", Wanted::RSA_2048)?;
        let roots = dir.path().join("authority.pem");
        std::fs::write(&roots, &authority.pem)?;
        let [out_h1, out_h2, in_h1, in_h2, tls_ecdsa, tls_rsa, plain, admin] = free_ports()?;
        let ports: [u16; 4] = free_ports()?;
        let features: [(Measure, u16); 4] = std::array::from_fn(|at| (Measure::FEATURES[at], ports[at]));
        let limiter = Limiter::start()?;
        let values = [
            ("OUT_H1", out_h1.to_string()),
            ("OUT_H2", out_h2.to_string()),
            ("IN_H1", in_h1.to_string()),
            ("IN_H2", in_h2.to_string()),
            ("TLS_ECDSA", tls_ecdsa.to_string()),
            ("TLS_RSA", tls_rsa.to_string()),
            ("PLAIN", plain.to_string()),
            (
                "FEATURES",
                features.iter().map(|(feature, port)| features::listener(*feature, *port)).collect(),
            ),
            ("LIMITER", limiter.port.to_string()),
            ("ADMIN", admin.to_string()),
            ("BACKEND_H1", backend.h1.to_string()),
            ("BACKEND_H2", backend.h2.to_string()),
            ("AUTHORITY", roots.display().to_string()),
            ("SERVER", server.files(dir.path(), "server")?),
            ("CLIENT", client.files(dir.path(), "client")?),
            ("RSA", rsa.files(dir.path(), "rsa")?),
        ];
        let path = dir.path().join("mesh.yaml");
        std::fs::write(&path, fill(include_str!("../configs/mesh.yaml"), &values))?;
        let path = path.display().to_string();
        let mut process = peer.spawn(dir, &path, 1, options)?;
        process.answers(admin, "/ready")?;
        for port in [out_h1, plain].into_iter().chain(ports) {
            process.answers(port, "/")?;
        }
        let client = ClientOptions::with(&client);
        Ok(Self {
            peer,
            process,
            out_h1,
            out_h2,
            in_h1,
            tls_ecdsa,
            tls_rsa,
            plain,
            features,
            _limiter: limiter,
            client,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn run(&self, measure: Measure, options: &Options) -> Result<Vec<(Part, f64)>> {
        let http1 = |port, path, connections| {
            per_request(self.pid(), options, || wrk(port, path, connections, &[], options))
        };
        match measure {
            Measure::MtlsH2 => per_request(self.pid(), options, || h2load(self.out_h2, "64", "1", options)),
            Measure::MtlsBig => http1(self.out_h1, "/big/1m", "8"),
            Measure::MtlsOne => {
                let values = http1(self.out_h1, "/", "1")?;
                let cpu = part(&values, Part::Main)?;
                Ok(vec![(Part::Main, part(&values, Part::Median)?), (Part::Cpu, cpu)])
            }
            Measure::Handshakes | Measure::HandshakesRsa | Measure::HandshakesMtls => {
                handshakes::run(measure, self, options)
            }
            _ => match self.features.iter().find(|(feature, _)| *feature == measure) {
                Some((_, port)) => {
                    let cpu = |port| -> Result<f64> { part(&http1(port, "/", "64")?, Part::Main) };
                    // Between two of those without: what the machine does meanwhile falls on both.
                    let (before, with, after) = (cpu(self.plain)?, cpu(*port)?, cpu(self.plain)?);
                    Ok(vec![(Part::Main, with * 2.0 / (before + after)), (Part::Cpu, with)])
                }
                None => http1(self.out_h1, "/", "64"),
            },
        }
    }

    /// Memory per connection that made one request and stays.
    fn idle(&self, options: &Options) -> Result<[(Part, f64); 1]> {
        let count = if options.quick { 1_000 } else { 3_000 };
        let config = self.client.config()?;
        let open = |count: usize| -> Result<Vec<Session>> {
            let one = |at| {
                let mut session = Session::over((Ipv4Addr::LOCALHOST, self.in_h1).into(), &config, "a.test")?;
                session
                    .request("GET / HTTP/1.1\r\nhost: t\r\n\r\n")
                    .with_context(|| format!("connection {at}"))?;
                Ok(session)
            };
            (0..count).map(one).collect()
        };
        let warm = open(50)?;
        let before = proc::resident_kib(self.pid())?;
        let connections = open(count)?;
        let after = proc::resident_kib(self.pid())?;
        drop((warm, connections));
        Ok([(Part::Main, (after as f64 - before as f64) / count as f64)])
    }
}

fn part(values: &[(Part, f64)], wanted: Part) -> Result<f64> {
    let values: Vec<f64> =
        values.iter().filter(|(part, _)| *part == wanted).map(|(_, value)| *value).collect();
    median(&values).context("nothing measured")
}
