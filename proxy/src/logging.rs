//! The application log: levels for each logger, changeable while it runs, and Envoy's line format.
//!
//! Source: Envoy `docs/root/operations/cli.rst` (`--log-level`, `--component-log-level`, `--log-format`, `--log-path`).

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use prost_types::value::Kind;
use tracing::field::{Field, Visit};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, span};

use crate::admin::LogLevel;
use crate::cli;

/// Envoy's loggers, and the modules that speak through each. Control planes and their tools name any of them
/// (`--component-log-level misc:error`), so all are known, also those that nothing here speaks through. The module with the
/// longest fitting prefix wins; what fits none is `main`.
const LOGGERS: &[(&str, &[&str])] = &[
    ("a2a", &[]),
    ("admin", &["proxy::admin"]),
    ("ai_protocol_manager", &[]),
    ("alternate_protocols_cache", &[]),
    ("aws", &[]),
    ("assert", &[]),
    ("backtrace", &[]),
    ("basic_auth", &[]),
    ("cache_filter", &[]),
    ("client", &["proxy_engine::codec"]),
    ("config", &["proxy::xds", "proxy_engine::state", "xds", "xds_api"]),
    ("connection", &["proxy_engine::net"]),
    ("conn_handler", &["proxy_engine::listener", "proxy_engine"]),
    ("compression", &[]),
    ("credential_injector", &[]),
    ("decompression", &[]),
    ("dns", &["proxy_engine::upstream::dns", "hickory_resolver"]),
    ("dubbo", &[]),
    ("envoy_bug", &[]),
    ("ext_authz", &[]),
    ("ext_proc", &[]),
    ("rocketmq", &[]),
    ("file", &["proxy_engine::log_file", "proxy_extensions::access_log"]),
    ("filter", &["proxy_extensions", "proxy_engine::tcp"]),
    ("forward_proxy", &[]),
    ("geolocation", &[]),
    ("grpc", &[]),
    ("happy_eyeballs", &[]),
    ("hc", &[]),
    ("health_checker", &[]),
    ("http", &["proxy_engine::http"]),
    ("http2", &["h2"]),
    ("hystrix", &[]),
    ("init", &[]),
    ("io", &[]),
    ("jwt", &[]),
    ("json_rpc", &[]),
    ("kafka", &[]),
    ("key_value_store", &[]),
    ("lua", &[]),
    ("local_rate_limit", &[]),
    ("main", &["proxy"]),
    ("matcher", &["proxy_core::matcher"]),
    ("mcp", &[]),
    ("misc", &[]),
    ("mongo", &[]),
    ("multi_connection", &[]),
    ("notification", &[]),
    ("oauth2", &[]),
    ("quic", &[]),
    ("quic_stream", &[]),
    ("pool", &["proxy_engine::upstream::pool"]),
    ("rate_limit_quota", &[]),
    ("rbac", &[]),
    ("rds", &["proxy_engine::state::routes"]),
    ("redis", &[]),
    ("router", &["proxy_engine::router"]),
    ("runtime", &["proxy_core::runtime"]),
    ("stats", &["proxy_core::stats"]),
    ("secret", &[]),
    ("sse", &[]),
    ("tap", &[]),
    ("testing", &[]),
    ("thrift", &[]),
    ("tracing", &[]),
    ("upstream", &["proxy_engine::upstream"]),
    ("udp", &[]),
    ("wasm", &[]),
    ("websocket", &[]),
    ("golang", &[]),
    ("stats_sinks", &[]),
    ("dynamic_modules", &[]),
    ("ip_tagging", &[]),
];

static LEVELS: [AtomicU8; LOGGERS.len()] = [const { AtomicU8::new(LogLevel::Info as u8) }; LOGGERS.len()];

/// The logger of a module: the one with the longest fitting prefix.
fn logger_of(target: &str) -> usize {
    let fits = |module: &str| {
        target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let best = LOGGERS.iter().enumerate().flat_map(|(index, (_, modules))| {
        modules.iter().filter(|module| fits(module)).map(move |module| (module.len(), index))
    });
    let main = LOGGERS.iter().position(|(name, _)| *name == "main").unwrap_or_default();
    best.max().map_or(main, |(_, index)| index)
}

/// Every logger with its level.
pub fn levels() -> Vec<(String, LogLevel)> {
    let level = |index: usize| {
        let value = LEVELS.get(index).map_or(0, |level| level.load(Ordering::Relaxed));
        LogLevel::ALL.get(usize::from(value)).copied().unwrap_or(LogLevel::Info)
    };
    LOGGERS.iter().enumerate().map(|(index, (name, _))| ((*name).to_owned(), level(index))).collect()
}

/// Sets the level of one logger; `false` if there is none of that name.
pub fn set_level(name: &str, level: LogLevel) -> bool {
    let Some(index) = LOGGERS.iter().position(|(logger, _)| *logger == name) else { return false };
    if let Some(cell) = LEVELS.get(index) {
        cell.store(level as u8, Ordering::Relaxed);
    }
    tracing::callsite::rebuild_interest_cache();
    true
}

/// Sets the level of all loggers.
pub fn set_all(level: LogLevel) {
    for cell in &LEVELS {
        cell.store(level as u8, Ordering::Relaxed);
    }
    tracing::callsite::rebuild_interest_cache();
}

/// How lines look: a pattern of spdlog.
static PATTERN: RwLock<String> = RwLock::new(String::new());

/// Changes how lines look.
pub fn set_pattern(pattern: String) {
    *PATTERN.write().unwrap_or_else(PoisonError::into_inner) = pattern;
}

/// The pattern of lines that are JSON objects (`application_log_config.log_format.json_format`).
///
/// # Errors
/// In Envoy's words, if a value has a flag that would break the JSON.
pub fn json_pattern(values: &prost_types::Struct) -> Result<String, String> {
    let pattern = json_of(&Kind::StructValue(values.clone())).to_string();
    for flag in ["%v", "%_"] {
        if pattern.contains(flag) {
            return Err(format!("Usage of {flag} is unavailable for JSON log formats"));
        }
    }
    Ok(pattern)
}

fn json_of(kind: &Kind) -> serde_json::Value {
    let inner = |value: &prost_types::Value| value.kind.as_ref().map_or(serde_json::Value::Null, json_of);
    match kind {
        Kind::NullValue(_) => serde_json::Value::Null,
        Kind::NumberValue(number) => (*number).into(),
        Kind::StringValue(text) => text.as_str().into(),
        Kind::BoolValue(flag) => (*flag).into(),
        Kind::StructValue(values) => {
            values.fields.iter().map(|(key, value)| (key.clone(), inner(value))).collect()
        }
        Kind::ListValue(values) => values.values.iter().map(inner).collect(),
    }
}

/// Starts the log as the command line says.
///
/// # Errors
/// The log file cannot be opened, a component is unknown, or a log was started already.
pub fn start(options: &cli::Options) -> anyhow::Result<()> {
    set_all(level(options.log_level));
    for (component, wanted) in &options.component_log_levels {
        if !set_level(component, level(*wanted)) {
            anyhow::bail!("error: invalid component specified '{component}'");
        }
    }
    let output: Box<dyn Write + Send> = match &options.log_path {
        Some(path) => Box::new(
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| anyhow::anyhow!("Failed to open log-file '{path}': {error}"))?,
        ),
        None => Box::new(io::stderr()),
    };
    set_pattern(options.log_format.clone());
    let log = Log { output: Mutex::new(output), escape: options.log_format_escaped };
    tracing::subscriber::set_global_default(log)?;
    for warning in &options.warnings {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// A level of the command line.
pub(crate) fn level(level: cli::LogLevel) -> LogLevel {
    match level {
        cli::LogLevel::Trace => LogLevel::Trace,
        cli::LogLevel::Debug => LogLevel::Debug,
        cli::LogLevel::Info => LogLevel::Info,
        cli::LogLevel::Warning => LogLevel::Warning,
        cli::LogLevel::Error => LogLevel::Error,
        cli::LogLevel::Critical => LogLevel::Critical,
        cli::LogLevel::Off => LogLevel::Off,
    }
}

fn level_of(level: Level) -> LogLevel {
    match level {
        Level::TRACE => LogLevel::Trace,
        Level::DEBUG => LogLevel::Debug,
        Level::INFO => LogLevel::Info,
        Level::WARN => LogLevel::Warning,
        Level::ERROR => LogLevel::Error,
    }
}

/// Writes events as lines of a pattern.
struct Log {
    output: Mutex<Box<dyn Write + Send>>,
    /// Line ends inside a message are written as `\n`.
    escape: bool,
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let least = LEVELS.get(logger_of(metadata.target())).map_or(0, |level| level.load(Ordering::Relaxed));
        metadata.is_event() && level_of(*metadata.level()) as u8 >= least
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message::default();
        event.record(&mut message);
        let mut text = message.text;
        text.push_str(&message.fields);
        if self.escape {
            text = text.replace('\n', "\\n");
        }
        let pattern = PATTERN.read().unwrap_or_else(PoisonError::into_inner);
        let line = render(&pattern, event.metadata(), &text);
        drop(pattern);
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nobody to tell that the log cannot be written.
        let _ = output.write_all(line.as_bytes());
        let _ = output.flush();
    }
}

#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write;
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// One line by spdlog's pattern flags: the ones that Envoy documents and control planes use.
fn render(pattern: &str, metadata: &Metadata<'_>, text: &str) -> String {
    let now = jiff::Zoned::now();
    let logger = LOGGERS.get(logger_of(metadata.target())).map_or("main", |(name, _)| name);
    let level = level_of(*metadata.level()).name();
    let mut line = String::with_capacity(pattern.len() + text.len() + 32);
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            line.push(char);
            continue;
        }
        match chars.next() {
            Some('v') => line.push_str(text),
            // Envoy's own: the message as a JSON string without its quotes; and without line ends.
            Some('j') => line.push_str(serde_json::Value::from(text).to_string().trim_matches('"')),
            Some('_') => line.push_str(&text.replace('\n', "\\n")),
            Some('l') => line.push_str(level),
            Some('L') => line.extend(level.chars().next().map(|first| first.to_ascii_uppercase())),
            Some('n') => line.push_str(logger),
            Some('t') => line.push_str(std::thread::current().name().unwrap_or("main")),
            Some('P') => line.push_str(&std::process::id().to_string()),
            Some('g' | 's') => line.push_str(metadata.file().unwrap_or("")),
            Some('#') => line.push_str(&metadata.line().unwrap_or(0).to_string()),
            Some('!') => line.push_str(metadata.target()),
            Some('e') => line.push_str(&format!("{:03}", now.millisecond())),
            Some('f') => line.push_str(&format!("{:06}", now.subsec_nanosecond() / 1000)),
            Some('F') => line.push_str(&format!("{:09}", now.subsec_nanosecond())),
            Some('E') => line.push_str(&now.timestamp().as_second().to_string()),
            Some('T' | 'X') => line.push_str(&now.strftime("%H:%M:%S").to_string()),
            Some(
                flag @ ('Y' | 'm' | 'd' | 'H' | 'M' | 'S' | 'y' | 'a' | 'A' | 'b' | 'B' | 'z' | 'I' | 'p'),
            ) => {
                line.push_str(&now.strftime(&format!("%{flag}")).to_string());
            }
            Some('%') => line.push('%'),
            Some(other) => {
                line.push('%');
                line.push(other);
            }
            None => line.push('%'),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_pattern_takes_the_message_as_a_json_string() {
        let value = |text: &str| prost_types::Value { kind: Some(Kind::StringValue(text.to_owned())) };
        let values = |text| prost_types::Struct { fields: [("m".to_owned(), value(text))].into() };
        assert_eq!(json_pattern(&values("%j")).unwrap(), r#"{"m":"%j"}"#);
        assert!(json_pattern(&values("%v")).unwrap_err().contains("%v is unavailable for JSON"));
    }

    #[test]
    fn modules_speak_through_the_logger_with_the_longest_name() {
        let name = |target| LOGGERS[logger_of(target)].0;
        assert_eq!(name("proxy::admin::server"), "admin");
        assert_eq!(name("proxy::server"), "main");
        assert_eq!(name("proxy_engine::upstream::pool::h1"), "pool");
        assert_eq!(name("proxy_engine::upstream::cluster"), "upstream");
        assert_eq!(name("unheard_of"), "main");
        assert_eq!(name("xds::client"), "config");
    }
}
