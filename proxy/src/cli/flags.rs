//! The table of flags: what each is called, what it takes and what it is for.

use std::fmt::Write as _;

/// What `--hot-restart-version` prints and `/hot_restart_version` answers: what an Envoy says that was built without hot restart.
/// A restarter compares the two processes by it.
pub const HOT_RESTART_VERSION: &str = "disabled";

const NO_HOT_RESTART: &str = "there is no hot restart";

/// The default of `--log-format`.
pub(super) const LOG_FORMAT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// What follows a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Value,
    /// A value each time it is given.
    Values,
}

#[derive(Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<&'static str>,
    pub(super) takes: Takes,
    /// What stands for the value in the help; empty if there is none.
    value: &'static str,
    help: &'static str,
    /// Why nothing comes of it; empty if something does.
    pub(super) idle: &'static str,
}

impl Flag {
    /// How a parse error names the flag.
    pub(super) fn label(&self) -> String {
        match self.short {
            Some(short) => format!("{short} (--{})", self.name),
            None => format!("(--{})", self.name),
        }
    }
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Nothing, value: "", help, idle: "" }
}

const fn takes(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Value, value, help, idle: "" }
}

/// The flag is taken, and told to have no effect.
const fn idle(why: &'static str, flag: Flag) -> Flag {
    Flag { idle: why, ..flag }
}

pub(super) const FLAGS: &[Flag] = &[
    Flag {
        short: Some("-c"),
        ..takes(
            "config-path",
            "FILE",
            "The bootstrap: .yaml, .json, .pb or .pb_text; any other file is read as YAML",
        )
    },
    takes("config-yaml", "YAML", "Configuration merged over that of --config-path"),
    takes(
        "mode",
        "MODE",
        "serve (default), validate (check the configuration and exit), or init_only (start and exit)",
    ),
    takes("concurrency", "N", "Number of worker threads (default: the hardware threads)"),
    switch(
        "cpuset-threads",
        "As many workers as the cpuset has processors, whatever the quota of the container",
    ),
    switch("allow-unknown-static-fields", "Accept unknown fields in the bootstrap"),
    switch("allow-unknown-fields", "Deprecated: as --allow-unknown-static-fields"),
    switch("reject-unknown-dynamic-fields", "Reject xDS resources with unknown fields"),
    switch("ignore-unknown-dynamic-fields", "Do not even count unknown fields of xDS resources"),
    switch("skip-deprecated-logs", "Do not warn about deprecated fields"),
    takes("admin-address-path", "FILE", "Where to write the address of the admin interface"),
    takes("local-address-ip-version", "VERSION", "v4 (default) or v6"),
    Flag {
        short: Some("-l"),
        ..takes("log-level", "LEVEL", "trace, debug, info (default), warning, error, critical or off")
    },
    takes("component-log-level", "LIST", "Levels of components, such as upstream:debug,config:trace"),
    takes("log-format", "PATTERN", "Pattern of log lines (spdlog's syntax)"),
    switch("log-format-escaped", "Escape C-style sequences in log lines"),
    takes("log-path", "FILE", "Log to a file instead of standard error"),
    idle(
        "a stack trace is one entry in any case",
        switch("log-stacktrace-single-entry", "Log a stack trace as one entry"),
    ),
    idle("levels are those of loggers", switch("enable-fine-grain-logging", "Log levels by source file")),
    takes("service-cluster", "NAME", "Cluster of this node, unless the bootstrap names one"),
    takes("service-node", "ID", "Id of this node, unless the bootstrap names one"),
    takes("service-zone", "NAME", "Zone of this node, unless the bootstrap names one"),
    takes("file-flush-interval-msec", "N", "Milliseconds between flushes of access logs (default 10000)"),
    takes("file-flush-min-size-kb", "N", "Kilobytes that an access log collects before a flush (default 64)"),
    takes("drain-time-s", "N", "Seconds that draining takes (default 600)"),
    takes("drain-strategy", "STRATEGY", "gradual (default) or immediate"),
    idle(
        NO_HOT_RESTART,
        takes("parent-shutdown-time-s", "N", "Seconds until a hot-restarted parent exits (default 900)"),
    ),
    switch("disable-hot-restart", "Write no base id; hot restart there is none in any case"),
    switch("hot-restart-version", "Print the version of the hot restart protocol, 'disabled', and exit"),
    idle(NO_HOT_RESTART, takes("restart-epoch", "N", "How often the process was hot-restarted")),
    takes(
        "base-id",
        "N",
        "The number that --base-id-path writes (default 0); proxies on one host share nothing",
    ),
    switch("use-dynamic-base-id", "Have --base-id-path write a number that no other process has"),
    takes("base-id-path", "FILE", "Where to write the base id"),
    idle(
        NO_HOT_RESTART,
        takes("socket-path", "PATH", "Socket of the hot restart (default @envoy_domain_socket)"),
    ),
    idle(NO_HOT_RESTART, takes("socket-mode", "MODE", "Permissions of that socket (default 600)")),
    idle(
        NO_HOT_RESTART,
        switch("skip-hot-restart-on-no-parent", "Start even if there is no parent to restart from"),
    ),
    idle(
        NO_HOT_RESTART,
        switch("skip-hot-restart-parent-stats", "Do not take over the statistics of the parent"),
    ),
    idle(
        "nobody measures who waits for a lock",
        switch("enable-mutex-tracing", "Measure how threads wait for each other"),
    ),
    switch("enable-core-dump", "Allow core dumps, which hold keys"),
    takes(
        "disable-extensions",
        "LIST",
        "Extensions that are unknown then, as CATEGORY/NAME, separated by commas",
    ),
    Flag {
        takes: Takes::Values,
        ..takes("stats-tag", "NAME:VALUE", "A tag of every statistic; may be repeated")
    },
    switch("version", "Print the version and exit"),
    Flag { short: Some("-h"), ..switch("help", "Print this and exit") },
    switch("ignore_rest", "Ignore what follows; so does -- alone"),
];

/// The text of `--help`.
pub(super) fn help(program: &str) -> String {
    let mut out = format!("Usage: {program} -c FILE [flags]\n\nFlags:\n");
    for flag in FLAGS {
        let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("{short}, "));
        let name = format!("--{} {}", flag.name, flag.value);
        let _ = write!(out, "  {short}{name:<42}{}", flag.help);
        let _ = match flag.idle {
            "" => writeln!(out),
            why => writeln!(out, " (no effect: {why})"),
        };
    }
    out.push_str(
        "\nA value may also stand in the same argument as its flag: '--flag value' or --flag=value.\n",
    );
    out
}

/// Envoy's names for the parts of the proxy that log (`/logging` of Envoy 1.40).
pub(super) const COMPONENTS: &[&str] = &[
    "a2a",
    "admin",
    "ai_protocol_manager",
    "alternate_protocols_cache",
    "assert",
    "aws",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "compression",
    "config",
    "conn_handler",
    "connection",
    "credential_injector",
    "decompression",
    "dns",
    "dubbo",
    "dynamic_modules",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "golang",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "ip_tagging",
    "json_rpc",
    "jwt",
    "kafka",
    "key_value_store",
    "local_rate_limit",
    "lua",
    "main",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "pool",
    "quic",
    "quic_stream",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "rocketmq",
    "router",
    "runtime",
    "secret",
    "sse",
    "stats",
    "stats_sinks",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "udp",
    "upstream",
    "wasm",
    "websocket",
];
