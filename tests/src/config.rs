//! Bootstraps as text: a base and what a test adds to it.
//!
//! Text and not messages, because text is what people and control planes hand to the proxy. Addresses that are known only
//! at run time are placeholders `{{name}}`, filled in by [`fill`].

use std::fmt::Write;
use std::net::SocketAddr;

/// The format of every access log of the rig: `key=value` fields separated by `|`.
pub const LOG_FORMAT: &str = "s=%REQ(x-sentinel)%|protocol=%PROTOCOL%|method=%REQ(:METHOD)%|path=%REQ(:PATH)%\
|authority=%REQ(:AUTHORITY)%|code=%RESPONSE_CODE%|flags=%RESPONSE_FLAGS%|details=%RESPONSE_CODE_DETAILS%\
|termination=%CONNECTION_TERMINATION_DETAILS%|rx=%BYTES_RECEIVED%|tx=%BYTES_SENT%|route=%ROUTE_NAME%\
|cluster=%UPSTREAM_CLUSTER%|attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT%|failure=%UPSTREAM_TRANSPORT_FAILURE_REASON%\\n";

/// Moves every line of `text` right by `columns`.
pub fn indent(text: &str, columns: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let _ = writeln!(out, "{:columns$}{line}", "");
    }
    out
}

/// Replaces each `{{name}}` by its value.
pub fn fill<'a>(text: &str, values: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut text = text.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), &value);
    }
    text
}

fn access_log() -> String {
    let format = format!("log_format: {{text_format_source: {{inline_string: \"{LOG_FORMAT}\"}}}}");
    format!("access_log:\n{}", file_log(&format))
}

/// An element of `access_log`: the file of the rig, with these fields that say what is written.
pub fn file_log(format: &str) -> String {
    format!(
        r#"- name: envoy.access_loggers.file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: "{{{{dir}}}}/access.log"
{}"#,
        indent(format, 4)
    )
}

/// A listener whose only filter is the HTTP connection manager. Its statistics prefix and route configuration are named
/// like the listener.
#[derive(Debug, Clone)]
pub struct HttpListener {
    name: String,
    options: String,
    virtual_hosts: String,
    route_config: String,
    filters: String,
    router: String,
    logs: Option<String>,
    listener: String,
    chain: String,
}

impl HttpListener {
    /// With one virtual host of these routes (a YAML list) for every domain.
    pub fn new(name: &str, routes: &str) -> Self {
        let virtual_hosts = format!(
            "- name: all\n  domains: [\"*\"]\n  routes:\n{}",
            indent(routes.trim_start_matches('\n'), 2)
        );
        Self::with_virtual_hosts(name, &virtual_hosts)
    }

    /// With these virtual hosts (a YAML list).
    pub fn with_virtual_hosts(name: &str, virtual_hosts: &str) -> Self {
        Self {
            name: name.to_owned(),
            options: String::new(),
            virtual_hosts: virtual_hosts.to_owned(),
            route_config: String::new(),
            filters: String::new(),
            router: String::new(),
            logs: None,
            listener: String::new(),
            chain: String::new(),
        }
    }

    /// That sends everything to the cluster `up`.
    pub fn to_up(name: &str) -> Self {
        Self::new(name, "- match: {prefix: /}\n  route: {cluster: up}")
    }

    /// Further fields of the connection manager.
    #[must_use]
    pub fn options(mut self, yaml: &str) -> Self {
        self.options.push_str(yaml.trim_end());
        self.options.push('\n');
        self
    }

    /// Further fields of the route configuration.
    #[must_use]
    pub fn route_config(mut self, yaml: &str) -> Self {
        self.route_config.push_str(yaml.trim_end());
        self.route_config.push('\n');
        self
    }

    /// HTTP filters before the router (a YAML list).
    #[must_use]
    pub fn filters(mut self, yaml: &str) -> Self {
        self.filters.push_str(yaml.trim_end());
        self.filters.push('\n');
        self
    }

    /// Fields of the router filter.
    #[must_use]
    pub fn router(mut self, yaml: &str) -> Self {
        self.router.push_str(yaml.trim_end());
        self.router.push('\n');
        self
    }

    /// Access logs (a YAML list) in place of the usual one.
    #[must_use]
    pub fn logs(mut self, yaml: &str) -> Self {
        self.logs = Some(format!("access_log:\n{yaml}"));
        self
    }

    /// Further fields of the filter chain.
    #[must_use]
    pub fn chain(mut self, yaml: &str) -> Self {
        self.chain.push_str(yaml.trim_end());
        self.chain.push('\n');
        self
    }

    /// Further fields of the listener.
    #[must_use]
    pub fn listener(mut self, yaml: &str) -> Self {
        self.listener.push_str(yaml.trim_end());
        self.listener.push('\n');
        self
    }

    /// As an element of `static_resources.listeners`.
    pub fn yaml(&self) -> String {
        let Self { name, options, virtual_hosts, route_config, filters, router, logs, listener, chain } =
            self;
        let delayed_close =
            if options.contains("delayed_close_timeout") { "" } else { "delayed_close_timeout: 0.05s\n" };
        let manager = format!(
            r#"stat_prefix: {name}
{delayed_close}{log}{options}http_filters:
{filters}- name: envoy.filters.http.router
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
{router}route_config:
  name: {name}
{route_config}  virtual_hosts:
{virtual_hosts}"#,
            log = logs.clone().unwrap_or_else(access_log),
            router = indent(router, 4),
            route_config = indent(route_config, 2),
            virtual_hosts = indent(virtual_hosts, 2),
        );
        let filter = format!(
            "- name: envoy.filters.network.http_connection_manager\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n{}",
            indent(&manager, 4)
        );
        let filters = listener_with_filters(name, &filter);
        format!("{filters}{}{}", indent(chain, 4), indent(listener, 2))
    }
}

/// A listener with one filter chain of these network filters (a YAML list).
pub fn listener_with_filters(name: &str, filters: &str) -> String {
    format!(
        "- name: {name}\n  address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n  filter_chains:\n  - filters:\n{}",
        indent(filters, 4)
    )
}

/// The network filter `tcp_proxy` to a cluster, logging like the HTTP listeners.
pub fn tcp_proxy(stat_prefix: &str, options: &str) -> String {
    tcp_proxy_with_logs(stat_prefix, &access_log(), options)
}

/// The network filter `tcp_proxy` with an `access_log` field of its own (may be empty).
pub fn tcp_proxy_with_logs(stat_prefix: &str, logs: &str, options: &str) -> String {
    format!(
        "- name: envoy.filters.network.tcp_proxy\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n    stat_prefix: {stat_prefix}\n{}{}",
        indent(logs, 4),
        indent(options, 4)
    )
}

/// A static cluster of one host, `{{address}}`, with further fields.
pub fn cluster(name: &str, placeholder: &str, extra: &str) -> String {
    format!(
        "- name: {name}\n  type: STATIC\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: {name}\n    endpoints:\n    - lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{{placeholder}}}}}}}}}}}\n{}",
        indent(extra, 2)
    )
}

/// What makes a cluster speak HTTP/2.
pub const H2_CLUSTER: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {}}
"#;

/// A bootstrap with an admin interface on a port that the kernel chooses. `rest` are further top-level fields.
pub fn bootstrap(listeners: &[String], clusters: &[String], rest: &str) -> String {
    format!(
        "admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n{rest}static_resources:\n  listeners:\n{}  clusters:\n{}",
        indent(&listeners.concat(), 2),
        indent(&clusters.concat(), 2)
    )
}

/// The port of an address, as the value of a placeholder.
pub fn port(addr: SocketAddr) -> String {
    addr.port().to_string()
}
