//! The table of flags: what each is called, what it takes and what it is for.

use std::fmt::Write as _;

/// What Envoy 1.40 prints for `--hot-restart-version`: a restarter compares the two processes by it.
pub(super) const HOT_RESTART_VERSION: &str = "11.104";

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
    Flag { name, short: None, takes: Takes::Nothing, value: "", help }
}

const fn takes(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag { name, short: None, takes: Takes::Value, value, help }
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
    takes("mode", "MODE", "serve (default), validate (check the configuration and exit) or init_only"),
    takes("concurrency", "N", "Number of worker threads (default: the hardware threads)"),
    switch("cpuset-threads", "Take the number of workers from the cpuset"),
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
    switch("log-stacktrace-single-entry", "Log a stack trace as one entry"),
    switch("enable-fine-grain-logging", "Log levels by source file"),
    takes("service-cluster", "NAME", "Cluster of this node, unless the bootstrap names one"),
    takes("service-node", "ID", "Id of this node, unless the bootstrap names one"),
    takes("service-zone", "NAME", "Zone of this node, unless the bootstrap names one"),
    takes("file-flush-interval-msec", "N", "Milliseconds between flushes of access logs (default 10000)"),
    takes("file-flush-min-size-kb", "N", "Kilobytes that an access log collects before a flush (default 64)"),
    takes("drain-time-s", "N", "Seconds that draining takes (default 600)"),
    takes("drain-strategy", "STRATEGY", "gradual (default) or immediate"),
    takes("parent-shutdown-time-s", "N", "Seconds until a hot-restarted parent exits (default 900)"),
    switch("disable-hot-restart", "Do not take part in hot restart"),
    switch("hot-restart-version", "Print the version of the hot restart protocol and exit"),
    takes("restart-epoch", "N", "How often the process was hot-restarted"),
    takes("base-id", "N", "Keeps several proxies on one host apart"),
    switch("use-dynamic-base-id", "Choose a base id that is free"),
    takes("base-id-path", "FILE", "Where to write the base id"),
    takes("socket-path", "PATH", "Socket of the hot restart (default @envoy_domain_socket)"),
    takes("socket-mode", "MODE", "Permissions of that socket (default 600)"),
    switch("skip-hot-restart-on-no-parent", "Start even if there is no parent to restart from"),
    switch("skip-hot-restart-parent-stats", "Do not take over the statistics of the parent"),
    switch("enable-mutex-tracing", "Measure how threads wait for each other"),
    switch("enable-core-dump", "Allow core dumps, which hold keys"),
    takes("disable-extensions", "LIST", "Extensions to switch off, separated by commas"),
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
        let _ = writeln!(out, "  {short}{name:<42}{}", flag.help);
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
