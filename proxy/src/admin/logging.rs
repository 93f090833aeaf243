//! `/logging`: shows and changes the levels of loggers.

use std::fmt::Write as _;

use http::StatusCode;

use super::request::Request;
use super::response::Response;
use super::state::AdminState;

/// How much a logger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// What helps to find a fault.
    Debug,
    /// What happens.
    Info,
    /// What may need attention.
    Warning,
    /// What failed.
    Error,
    /// What ends the process.
    Critical,
    /// Nothing.
    Off,
}

impl LogLevel {
    /// All of them, from the most to the least talkative.
    pub const ALL: [Self; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    /// Its name in Envoy.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// The level of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

pub(super) fn logging(state: &dyn AdminState, request: &Request) -> Response {
    match change(state, request) {
        Ok(()) => Response::text(active(state)),
        Err(reason) => Response::error(StatusCode::BAD_REQUEST, usage(state, reason)),
    }
}

/// Nothing changes unless the whole request is right.
fn change(state: &dyn AdminState, request: &Request) -> Result<(), &'static str> {
    let (name, value) = match request.params() {
        [] => return Ok(()),
        [(name, value)] => (name.as_str(), value.as_str()),
        _ => return Err("invalid number of parameters"),
    };
    match name {
        "level" if value.is_empty() => Ok(()),
        "level" => {
            state.set_all_loggers(level(value)?);
            Ok(())
        }
        "paths" if value.is_empty() => Ok(()),
        "paths" => change_many(state, value),
        "group" => Err("group parameter requires fine-grain logging to be enabled"),
        logger => {
            let level = level(value)?;
            if state.set_logger(logger, level) { Ok(()) } else { Err("unknown logger name") }
        }
    }
}

fn change_many(state: &dyn AdminState, paths: &str) -> Result<(), &'static str> {
    let known = state.loggers();
    let mut wanted = Vec::new();
    for path in paths.split(',') {
        let (name, value) = path.split_once(':').unwrap_or((path, ""));
        if name.is_empty() || value.is_empty() {
            return Err("empty logger name or empty logger level");
        }
        let level = level(value)?;
        if !known.iter().any(|(known, _)| known == name) {
            return Err("unknown logger name");
        }
        wanted.push((name, level));
    }
    for (name, level) in wanted {
        state.set_logger(name, level);
    }
    Ok(())
}

fn level(name: &str) -> Result<LogLevel, &'static str> {
    LogLevel::from_name(name).ok_or("unknown logger level")
}

fn active(state: &dyn AdminState) -> String {
    let mut out = "active loggers:\n".to_owned();
    for (name, level) in state.loggers() {
        let _ = writeln!(out, "  {name}: {}", level.name());
    }
    out.push('\n');
    out
}

fn usage(state: &dyn AdminState, reason: &str) -> String {
    let levels: String = LogLevel::ALL.iter().map(|level| format!("{} ", level.name())).collect();
    format!(
        "error: {reason}\n\n\
         usage: /logging?<name>=<level> (change single level)\n\
         usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
         usage: /logging?level=<level> (change all levels)\n\
         usage: /logging?group=<group_name>:<level> (change group of loggers)\n\
         levels: {levels}\n{}",
        active(state)
    )
}
