//! The regression gate: instructions in user mode, counted by callgrind, which repeat where times on a shared machine do
//! not.
//!
//! Two kinds of rows. Whole requests: the real binary with one worker runs under callgrind between a client and an upstream
//! of our own, once with N requests and once with 3 N; the difference is 2 N requests without the start. Pieces: this
//! program runs itself under callgrind, which counts inside of `measured` alone. Counts above the baseline by more than
//! [`baseline::TOLERANCE`] fail, and the functions that grew are named.
//!
//! Usage: `instructions [--update] [--only ROW,...] [--outrigger PATH] [--tables] [--keep FOLDER] [--train REQUESTS]`; `--update`
//! writes the baseline, `--tables` prints the functions, `--keep` leaves what callgrind wrote, for callgrind_annotate and
//! kcachegrind, `--train` counts nothing: it sends as many requests of each row through the proxy, which writes its profile.

mod baseline;
mod callgrind;
mod picks;
mod pieces;
#[path = "../policies.rs"]
mod policies;
mod secured;
mod traffic;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

use baseline::Baseline;
use callgrind::Profile;
use pieces::Piece;
use traffic::Row;

struct Options {
    update: bool,
    tables: bool,
    only: Option<Vec<String>>,
    keep: Option<PathBuf>,
    outrigger: PathBuf,
    train: Option<usize>,
}

impl Options {
    fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let outrigger = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/release/outrigger");
        let mut options =
            Self { update: false, tables: false, only: None, keep: None, outrigger, train: None };
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--update" => options.update = true,
                "--tables" => options.tables = true,
                "--only" => options.only = Some(value()?.split(',').map(str::to_owned).collect()),
                "--keep" => options.keep = Some(value()?.into()),
                "--train" => options.train = Some(value()?.parse().context("--train")?),
                "--outrigger" => options.outrigger = value()?.into(),
                other => bail!("{other}: unknown; see the head of benches/src/instructions/main.rs"),
            }
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|one| one == name))
    }
}

/// What is counted.
#[derive(Clone, Copy)]
enum Subject {
    Request(Row),
    Piece(Piece),
}

impl Subject {
    fn all() -> impl Iterator<Item = Self> {
        Row::ALL
            .into_iter()
            .filter(|row| row.repeats())
            .map(Self::Request)
            .chain(Piece::ALL.into_iter().map(Self::Piece))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Request(row) => row.name(),
            Self::Piece(piece) => piece.name(),
        }
    }

    fn count(self, options: &Options) -> Result<Profile> {
        let keep = options.keep.as_deref();
        let counted = match self {
            Self::Request(row) => callgrind::requests(row, &options.outrigger, keep),
            Self::Piece(piece) => callgrind::piece(piece, keep),
        };
        counted.with_context(|| self.name().to_owned())
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ran = match args.split_first() {
        Some((first, rest)) if first == "--piece" => pieces::run(rest),
        _ => run(args),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nobody may be there to read it
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Vec<String>) -> Result<()> {
    let options = Options::from_args(args.into_iter())?;
    if let Some(requests) = options.train {
        return train(&options, requests);
    }
    let subjects: Vec<Subject> = Subject::all().filter(|subject| options.wants(subject.name())).collect();
    ensure!(!subjects.is_empty(), "no such row");
    let profiles = count_all(&subjects, &options)?;
    let mut out = std::io::stdout().lock();
    if options.tables {
        for (subject, profile) in subjects.iter().zip(&profiles) {
            writeln!(out, "{}\n{}", subject.name(), profile.table())?;
        }
    }
    let rows = subjects.iter().map(|subject| subject.name()).zip(&profiles);
    if options.update {
        return Baseline::update(rows);
    }
    let verdict = Baseline::read()?.compare(rows);
    write!(out, "{}", verdict.text)?;
    ensure!(
        verdict.worse.is_empty(),
        "more instructions than the baseline allows: {}",
        verdict.worse.join(", ")
    );
    Ok(())
}

fn train(options: &Options, requests: usize) -> Result<()> {
    for row in Row::ALL.into_iter().filter(|row| options.wants(row.name())) {
        row.run(options.outrigger.clone(), requests).with_context(|| row.name())?;
    }
    Ok(())
}

/// Counts every subject, as many at once as there are cores: what other processes do changes no count.
fn count_all(subjects: &[Subject], options: &Options) -> Result<Vec<Profile>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = Mutex::new(subjects.iter().enumerate());
    let counted = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let taken = next.lock().ok().and_then(|mut next| next.next());
                    let Some((index, subject)) = taken else { break };
                    let profile = subject.count(options);
                    if let Ok(mut counted) = counted.lock() {
                        counted.push((index, profile));
                    }
                }
            });
        }
    });
    let mut counted = counted.into_inner().unwrap_or_default();
    counted.sort_by_key(|(index, _)| *index);
    counted.into_iter().map(|(_, profile)| profile).collect()
}
