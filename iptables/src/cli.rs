//! The command line and the environment of `istio-iptables`, with presets and `explain` added.
//!
//! As there: an environment variable gives a flag's default, the flag itself wins. A list is separated by commas, empty
//! places in it do not count.

use std::collections::HashMap;
use std::time::Duration;

use crate::backend::Variant;
use crate::explain::Packet;
use crate::options::Options;

mod flags;
mod meaning;

pub use meaning::Surroundings;

/// What the program is asked to do.
#[derive(Clone, Debug)]
pub struct Request {
    pub options: Options,
    pub command: Command,
    pub nft: bool,
    /// The variant of iptables that must be used.
    pub variant: Option<Variant>,
    /// The network namespace to work in, by path.
    pub network_namespace: Option<String>,
    /// Whether the lock of iptables is the namespace's and not the host's.
    pub cni: bool,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Command {
    /// Print the rules.
    DryRun,
    /// Say what would happen to a packet.
    Explain(Box<Packet>),
    /// Set up, or take away, and check.
    Run {
        work: Work,
        /// Whether the rules are tried with a connection, and how.
        validation: Option<Validation>,
    },
}

/// What is done to the rules in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing (`--skip-rule-apply`).
    Skip,
    /// Take ours away (`--cleanup-only`).
    Cleanup,
    /// Put the plan in place where there is nothing.
    Apply,
    /// Put the plan in place of something else of the mesh, too (`--reconcile`).
    Reconcile,
    /// Put it in place even if it is there (`--force-apply`).
    Force,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validation {
    pub port: u16,
    pub timeout: Duration,
}

/// Why there is no request.
#[derive(Debug)]
pub enum Refusal {
    /// Help or the version, or a wrong flag, as clap words it.
    Clap(clap::Error),
    /// A flag, and what is wrong with its value.
    Value { flag: String, reason: String },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Clap(error) => write!(f, "{}", error.render()),
            Refusal::Value { flag, reason } => write!(f, "{flag}: {reason}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Reads the command line; the first argument is the program.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(
    arguments: impl IntoIterator<Item = String>,
    environment: &HashMap<String, String>,
    surroundings: &Surroundings,
) -> Result<Request, Refusal> {
    // in Istio's image the program is a command of the agent, and is called with this word
    let words = arguments.into_iter().enumerate();
    let words =
        words.filter(|(place, word)| !(*place == 1 && word == "istio-iptables")).map(|(_, word)| word);
    let matches = flags::command().try_get_matches_from(words).map_err(Refusal::Clap)?;
    let explain = matches.subcommand_matches("explain");
    let given = flags::Given { matches: explain.unwrap_or(&matches), environment };
    meaning::request(&given, explain.is_some(), surroundings)
}

#[cfg(test)]
mod tests;
