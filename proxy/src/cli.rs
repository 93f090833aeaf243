//! The command line: every flag of Envoy 1.40, read as Envoy's parser (TCLAP) reads it, because control planes pass
//! flags in all the ways it allows.
//!
//! A value follows its flag as the next argument or, after a space, in the same one (Contour does so); `--flag=value` is
//! taken too, which Envoy is not as kind to. There are no abbreviations and no clusters of short flags. A flag is given
//! once, unless it collects values. What is wrong ends the process with exit code 1.
//! Envoy's documentation: operations/cli.

use std::{fmt, time::Duration};

use rustix::thread::{CpuSet, sched_getaffinity};

mod flags;

pub use flags::HOT_RESTART_VERSION;
use flags::{FLAGS, Flag, Takes};

/// What the process is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run, or check a configuration.
    Run(Box<Options>),
    /// Print this and exit with code 0 (`--help`, `--version`, `--hot-restart-version`).
    Print(String),
}

/// The command line, with Envoy's defaults. Flags without effect are kept, so that the admin interface can show them, and
/// each that is given is a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Options {
    /// `-c`, `--config-path`: the bootstrap file.
    pub config_path: Option<String>,
    /// `--config-yaml`: YAML or JSON that is merged over the file.
    pub config_yaml: Option<String>,
    /// `--mode`
    pub mode: Mode,
    /// `--concurrency`: the number of workers; at least 1. Without it, `None`: one for each hardware thread.
    pub concurrency: Option<u32>,
    /// `--cpuset-threads`
    pub cpuset_threads: bool,
    /// `--allow-unknown-static-fields` (or the deprecated `--allow-unknown-fields`)
    pub allow_unknown_static_fields: bool,
    /// `--reject-unknown-dynamic-fields`
    pub reject_unknown_dynamic_fields: bool,
    /// `--ignore-unknown-dynamic-fields`
    pub ignore_unknown_dynamic_fields: bool,
    /// `--skip-deprecated-logs`
    pub skip_deprecated_logs: bool,
    /// `--admin-address-path`: where the bound address of the admin interface is written.
    pub admin_address_path: Option<String>,
    /// `--local-address-ip-version`
    pub local_address_ip_version: IpVersion,
    /// `-l`, `--log-level`
    pub log_level: LogLevel,
    /// `--component-log-level`: levels of single components, by Envoy's names for them.
    pub component_log_levels: Vec<(String, LogLevel)>,
    /// `--log-format`: a pattern of spdlog.
    pub log_format: String,
    /// `--log-format-escaped`
    pub log_format_escaped: bool,
    /// `--log-path`
    pub log_path: Option<String>,
    /// `--log-stacktrace-single-entry`
    pub log_stacktrace_single_entry: bool,
    /// `--enable-fine-grain-logging`
    pub enable_fine_grain_logging: bool,
    /// `--service-cluster`
    pub service_cluster: String,
    /// `--service-node`
    pub service_node: String,
    /// `--service-zone`
    pub service_zone: String,
    /// `--file-flush-interval-msec`
    pub file_flush_interval: Duration,
    /// `--file-flush-min-size-kb`
    pub file_flush_min_size_kb: u32,
    /// `--drain-time-s`
    pub drain_time: Duration,
    /// `--drain-strategy`
    pub drain_strategy: DrainStrategy,
    /// `--parent-shutdown-time-s`
    pub parent_shutdown_time: Duration,
    /// `--disable-hot-restart`
    pub disable_hot_restart: bool,
    /// `--restart-epoch`
    pub restart_epoch: u32,
    /// `--base-id`
    pub base_id: u32,
    /// `--use-dynamic-base-id`
    pub use_dynamic_base_id: bool,
    /// `--base-id-path`
    pub base_id_path: Option<String>,
    /// `--socket-path`
    pub socket_path: String,
    /// `--socket-mode`: octal digits, as given.
    pub socket_mode: String,
    /// `--skip-hot-restart-on-no-parent`
    pub skip_hot_restart_on_no_parent: bool,
    /// `--skip-hot-restart-parent-stats`
    pub skip_hot_restart_parent_stats: bool,
    /// `--enable-mutex-tracing`
    pub enable_mutex_tracing: bool,
    /// `--enable-core-dump`
    pub enable_core_dump: bool,
    /// `--disable-extensions`
    pub disabled_extensions: Vec<String>,
    /// `--stats-tag`: tags of every statistic, name and value.
    pub stats_tags: Vec<(String, String)>,
    /// What is to be logged as a warning once there is a log.
    pub warnings: Vec<String>,
}

impl Options {
    /// How many workers to run: `--concurrency`, or the hardware threads that this process may use. With `--cpuset-threads`
    /// the quota of a container does not count.
    pub fn workers(&self) -> usize {
        let by_itself = || match self.cpuset_threads {
            true => in_cpuset(sched_getaffinity(None)),
            false => available(),
        };
        self.concurrency.map_or_else(by_itself, |concurrency| usize::try_from(concurrency).unwrap_or(1))
    }
}

/// The processors of a mask (sched_getaffinity(2)). It cannot be read on a machine that has more than 1024: then there is a worker
/// for each that counts without `--cpuset-threads`.
fn in_cpuset(mask: rustix::io::Result<CpuSet>) -> usize {
    mask.map_or_else(|_| available(), |set| usize::try_from(set.count()).unwrap_or(1).max(1))
}

/// The hardware threads that this process may use, within the quota of its container.
fn available() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Default for Options {
    fn default() -> Options {
        Options {
            config_path: None,
            config_yaml: None,
            mode: Mode::Serve,
            concurrency: None,
            cpuset_threads: false,
            allow_unknown_static_fields: false,
            reject_unknown_dynamic_fields: false,
            ignore_unknown_dynamic_fields: false,
            skip_deprecated_logs: false,
            admin_address_path: None,
            local_address_ip_version: IpVersion::V4,
            log_level: LogLevel::Info,
            component_log_levels: Vec::new(),
            log_format: flags::LOG_FORMAT.into(),
            log_format_escaped: false,
            log_path: None,
            log_stacktrace_single_entry: false,
            enable_fine_grain_logging: false,
            service_cluster: String::new(),
            service_node: String::new(),
            service_zone: String::new(),
            file_flush_interval: Duration::from_secs(10),
            file_flush_min_size_kb: 64,
            drain_time: Duration::from_secs(600),
            drain_strategy: DrainStrategy::Gradual,
            parent_shutdown_time: Duration::from_secs(900),
            disable_hot_restart: false,
            restart_epoch: 0,
            base_id: 0,
            use_dynamic_base_id: false,
            base_id_path: None,
            socket_path: "@envoy_domain_socket".into(),
            socket_mode: "600".into(),
            skip_hot_restart_on_no_parent: false,
            skip_hot_restart_parent_stats: false,
            enable_mutex_tracing: false,
            enable_core_dump: false,
            disabled_extensions: Vec::new(),
            stats_tags: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// Defines an enum whose variants have names on the command line.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident: $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $($text:literal)|+,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The value of this name.
            ///
            /// # Errors
            /// Envoy's words for a name that is none.
            pub fn parse(text: &str) -> Result<$name, Error> {
                match text {
                    $($($text)|+ => Ok($name::$variant),)+
                    _ => Err(Error::meaning(format!(concat!($what, " '{}'"), text))),
                }
            }
        }
    };
}

named! {
    /// What to do with the configuration.
    Mode: "unknown mode" {
        /// Serve traffic.
        Serve = "serve",
        /// Check it and exit.
        Validate = "validate",
        /// Start, but without listening, and exit.
        InitOnly = "init_only",
    }
}

named! {
    /// The IP version of the addresses that stand for "this host".
    IpVersion: "unknown IP address version" {
        /// IPv4
        V4 = "v4",
        /// IPv6
        V6 = "v6",
    }
}

named! {
    /// How connections are closed while draining.
    DrainStrategy: "unknown drain-strategy" {
        /// With rising probability over the drain time.
        Gradual = "gradual",
        /// At once.
        Immediate = "immediate",
    }
}

named! {
    /// Envoy's log levels, from the most talkative.
    LogLevel: "invalid log level specified" {
        /// `trace`
        Trace = "trace",
        /// `debug`
        Debug = "debug",
        /// `info`
        Info = "info",
        /// `warning` or `warn`
        Warning = "warning" | "warn",
        /// `error`
        Error = "error",
        /// `critical`
        Critical = "critical",
        /// `off`
        Off = "off",
    }
}

/// A command line that cannot be followed. The process prints it to standard error and exits with code 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: String,
    /// Whether the flags themselves are wrong, so that a hint at `--help` is in order.
    usage: bool,
}

impl Error {
    fn flag(argument: &str, reason: &str) -> Error {
        Error { message: format!("PARSE ERROR: Argument: {argument}\n             {reason}"), usage: true }
    }

    fn meaning(reason: impl fmt::Display) -> Error {
        Error { message: format!("error: {reason}"), usage: false }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.usage { f.write_str("\n\nFor all flags, see --help.") } else { Ok(()) }
    }
}

impl std::error::Error for Error {}

/// The version line: `<program>  version: <revision>/<version>/<status>/<build>/<TLS library>`, five parts as Envoy's. Revision and
/// status (`Clean` or `Modified`) are those of the sources, if they had a history (`scripts/revision.sh`).
pub fn version(program: &str) -> String {
    let revision = option_env!("OUTRIGGER_REVISION").unwrap_or("unknown");
    let status = option_env!("OUTRIGGER_STATUS").unwrap_or("unknown");
    let build = if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" };
    format!("{program}  version: {revision}/{}/{status}/{build}/rustls", env!("CARGO_PKG_VERSION"))
}

/// Reads a command line; the first argument is the program.
///
/// # Errors
/// What Envoy would say about the first thing that is wrong.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Command, Error> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_else(|| "outrigger".into());
    let mut given = Given::default();
    while let Some(argument) = arguments.next() {
        if argument.is_empty() {
            continue;
        }
        let (flag, inline) = find(&argument)?;
        match flag.name {
            "help" => return Ok(Command::Print(flags::help(&program))),
            "version" => return Ok(Command::Print(version(&program))),
            "ignore_rest" => break,
            _ => {}
        }
        if flag.takes != Takes::Values && given.has(flag.name) {
            return Err(Error::flag(&flag.label(), "Argument already set!"));
        }
        let value = match (flag.takes, inline) {
            (Takes::Nothing, _) => String::new(),
            (_, Some(value)) => value.to_owned(),
            (_, None) => arguments
                .next()
                .ok_or_else(|| Error::flag(&flag.label(), "Missing a value for this argument!"))?,
        };
        given.0.push((flag, value));
    }
    if given.has("hot-restart-version") {
        return Ok(Command::Print(flags::HOT_RESTART_VERSION.into()));
    }
    options(&given).map(|options| Command::Run(Box::new(options)))
}

/// The flag that an argument begins with, and the value that stands in the same argument.
fn find(argument: &str) -> Result<(&'static Flag, Option<&str>), Error> {
    let unknown = || Error::flag(argument, "Couldn't find match for argument");
    if argument == "--" {
        return FLAGS
            .iter()
            .find(|flag| flag.name == "ignore_rest")
            .map(|flag| (flag, None))
            .ok_or_else(unknown);
    }
    let long = argument.starts_with("--");
    let delimiter = |c: char| c == ' ' || (long && c == '=');
    let (name, inline) = match argument.split_once(delimiter) {
        Some((name, value)) => (name, Some(value)),
        None => (argument, None),
    };
    let is_named = |flag: &&Flag| match name.strip_prefix("--") {
        Some(name) => flag.name == name,
        None => flag.short.is_some_and(|short| name == short),
    };
    let flag = FLAGS.iter().find(is_named).ok_or_else(unknown)?;
    if flag.takes == Takes::Nothing && inline.is_some() { Err(unknown()) } else { Ok((flag, inline)) }
}

/// The flags that were given, with their values.
#[derive(Default)]
struct Given(Vec<(&'static Flag, String)>);

impl Given {
    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(flag, _)| flag.name == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The text of a flag; an empty one counts as not given.
    fn text(&self, name: &str) -> Option<String> {
        self.all(name).next().filter(|value| !value.is_empty()).map(str::to_owned)
    }

    fn number(&self, name: &str, default: u32) -> Result<u32, Error> {
        let Some((flag, value)) = self.0.iter().find(|(flag, _)| flag.name == name) else {
            return Ok(default);
        };
        // (C++ streams skip leading white space, and an empty text leaves the number at zero.)
        let digits = value.trim_start();
        let digits = digits.strip_prefix('+').unwrap_or(digits);
        if value.is_empty() {
            return Ok(0);
        }
        let plain = digits.starts_with(|c: char| c.is_ascii_digit());
        digits.parse().ok().filter(|_| plain).ok_or_else(|| {
            Error::flag(&flag.label(), &format!("Couldn't read argument value from string '{value}'"))
        })
    }

    fn seconds(&self, name: &str, default: Duration) -> Result<Duration, Error> {
        let default = u32::try_from(default.as_secs()).unwrap_or(u32::MAX);
        self.number(name, default).map(|seconds| Duration::from_secs(seconds.into()))
    }
}

fn options(given: &Given) -> Result<Options, Error> {
    let defaults = Options::default();
    // Numbers first, as Envoy reads all values before it looks at what they mean.
    let concurrency = given.number("concurrency", 0)?;
    let flush = given.number("file-flush-interval-msec", 10_000)?;
    let mut options = Options {
        concurrency: given.has("concurrency").then_some(concurrency.max(1)),
        file_flush_interval: Duration::from_millis(flush.into()),
        file_flush_min_size_kb: given.number("file-flush-min-size-kb", defaults.file_flush_min_size_kb)?,
        drain_time: given.seconds("drain-time-s", defaults.drain_time)?,
        parent_shutdown_time: given.seconds("parent-shutdown-time-s", defaults.parent_shutdown_time)?,
        restart_epoch: given.number("restart-epoch", 0)?,
        base_id: given.number("base-id", 0)?,
        config_path: given.text("config-path"),
        config_yaml: given.text("config-yaml"),
        cpuset_threads: given.has("cpuset-threads"),
        allow_unknown_static_fields: given.has("allow-unknown-static-fields")
            || given.has("allow-unknown-fields"),
        reject_unknown_dynamic_fields: given.has("reject-unknown-dynamic-fields"),
        ignore_unknown_dynamic_fields: given.has("ignore-unknown-dynamic-fields"),
        skip_deprecated_logs: given.has("skip-deprecated-logs"),
        admin_address_path: given.text("admin-address-path"),
        log_format: given.text("log-format").unwrap_or(defaults.log_format),
        log_format_escaped: given.has("log-format-escaped"),
        log_path: given.text("log-path"),
        log_stacktrace_single_entry: given.has("log-stacktrace-single-entry"),
        enable_fine_grain_logging: given.has("enable-fine-grain-logging"),
        service_cluster: given.text("service-cluster").unwrap_or_default(),
        service_node: given.text("service-node").unwrap_or_default(),
        service_zone: given.text("service-zone").unwrap_or_default(),
        disable_hot_restart: given.has("disable-hot-restart"),
        use_dynamic_base_id: given.has("use-dynamic-base-id"),
        base_id_path: given.text("base-id-path"),
        socket_path: given.text("socket-path").unwrap_or(defaults.socket_path),
        socket_mode: given.text("socket-mode").unwrap_or(defaults.socket_mode),
        skip_hot_restart_on_no_parent: given.has("skip-hot-restart-on-no-parent"),
        skip_hot_restart_parent_stats: given.has("skip-hot-restart-parent-stats"),
        enable_mutex_tracing: given.has("enable-mutex-tracing"),
        enable_core_dump: given.has("enable-core-dump"),
        ..Options::default()
    };
    if let Some(list) = given.text("disable-extensions") {
        options.disabled_extensions = list.split(',').map(str::to_owned).collect();
    }
    meanings(given, &mut options)?;
    Ok(options)
}

/// The values that are words, and the combinations that contradict each other.
fn meanings(given: &Given, options: &mut Options) -> Result<(), Error> {
    if let Some(level) = given.text("log-level") {
        options.log_level = LogLevel::parse(&level)?;
    }
    if let Some(version) = given.text("local-address-ip-version") {
        options.local_address_ip_version = IpVersion::parse(&version)?;
    }
    if let Some(mode) = given.text("mode") {
        options.mode = Mode::parse(&mode)?;
    }
    if let Some(strategy) = given.text("drain-strategy") {
        options.drain_strategy = DrainStrategy::parse(&strategy)?;
    }
    if let Some(levels) = given.text("component-log-level") {
        if options.enable_fine_grain_logging {
            return Err(Error::meaning(
                "--component-log-level will not work with --enable-fine-grain-logging",
            ));
        }
        options.component_log_levels = component_log_levels(&levels)?;
    }
    if options.use_dynamic_base_id && options.restart_epoch > 0 {
        let epoch = options.restart_epoch;
        let reason = format!("cannot use --restart-epoch={epoch} with --use-dynamic-base-id");
        return Err(Error::meaning(reason));
    }
    options.stats_tags = given.all("stats-tag").map(stats_tag).collect::<Result<_, _>>()?;
    if options.cpuset_threads && options.concurrency.is_some() {
        let warning =
            "Both --concurrency and --cpuset-threads options are set; not applying --cpuset-threads.";
        options.warnings.push(warning.into());
    }
    if given.has("allow-unknown-fields") {
        let warning = "--allow-unknown-fields is deprecated, use --allow-unknown-static-fields instead.";
        options.warnings.push(warning.into());
    }
    if options.cpuset_threads
        && options.concurrency.is_none()
        && let Err(error) = sched_getaffinity(None)
    {
        let warning = format!("--cpuset-threads: the processors that may be used cannot be read: {error}");
        options.warnings.push(warning);
    }
    // (Epoch 0 is that of a first process, and asks for nothing.)
    let asks = |flag: &Flag, value: &str| flag.name != "restart-epoch" || value != "0";
    let idle = given.0.iter().filter(|(flag, value)| !flag.idle.is_empty() && asks(flag, value));
    options.warnings.extend(idle.map(|(flag, _)| format!("--{} has no effect: {}", flag.name, flag.idle)));
    Ok(())
}

/// `upstream:debug,config:trace`
fn component_log_levels(list: &str) -> Result<Vec<(String, LogLevel)>, Error> {
    let entry = |entry: &str| {
        let Some((component, level)) = entry.split_once(':').filter(|(_, level)| !level.contains(':')) else {
            return Err(Error::meaning(format!("component log level not correctly specified '{entry}'")));
        };
        let level = LogLevel::parse(level)?;
        if !flags::COMPONENTS.contains(&component) {
            return Err(Error::meaning(format!("invalid component specified '{component}'")));
        }
        Ok((component.to_owned(), level))
    };
    list.split(',').map(entry).collect()
}

/// `name:value`
fn stats_tag(tag: &str) -> Result<(String, String), Error> {
    let Some((name, value)) = tag.split_once(':') else {
        return Err(Error::meaning(format!("misformatted stats-tag '{tag}'")));
    };
    let invalid = |part: &str| {
        Error::meaning(format!("misformatted stats-tag '{tag}' contains invalid char in '{part}'"))
    };
    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return Err(invalid(name));
    }
    if value.is_empty() || value.contains('.') {
        return Err(invalid(value));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests;
