//! What OSM's controller sends, with its names: listeners, filter chains, routes, clusters, endpoints, secrets. Names of filters and
//! sockets are not Envoy's; types alone say what they are.
//!
//! Left out because Outrigger has no such filter: the HTTP filters `lua` and `wasm`; and `ext_authz`, which OSM has spoken by another
//! client of gRPC (`google_grpc`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use integration::mesh::resources::{address, typed};
use integration::tls::{Authority, Identity};
use serde_json::{Value, json};

/// Where pods are that nothing else is said of.
const NAMESPACE: &str = "test";

/// A service account, and its namespace.
#[derive(Clone, Copy, Debug)]
pub struct Account<'n> {
    pub name: &'n str,
    pub namespace: &'n str,
}

impl Account<'_> {
    /// The secret of its certificate.
    fn certificate(&self) -> String {
        format!("service-cert:{}/{}", self.namespace, self.name)
    }
}

/// A port of a service.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: &'static str,
    /// That of its pods as well.
    pub namespace: &'static str,
    /// As Kubernetes names ports: `http`, `tcp`, `tcp-server-first`.
    pub protocol: &'static str,
    pub port: u16,
    pub ip: IpAddr,
    /// Its pods' addresses are its own, and it has no other.
    pub headless: bool,
    /// Where its pods are.
    pub pods: Vec<(String, IpAddr)>,
    /// Principals that may call it.
    pub allowed: Vec<String>,
    /// What its routes allow them; everything if nothing.
    pub paths: Option<(&'static str, &'static str)>,
    /// How many requests an hour it takes, all together and to each of its routes.
    pub limits: (Option<u32>, Option<u32>),
    /// Services that stand for it, and their weights.
    pub split: Vec<(&'static str, u32)>,
}

impl Service {
    fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    fn is_http(&self) -> bool {
        self.protocol == "http"
    }

    fn cluster(&self) -> String {
        format!("{}|{}", self.key(), self.port)
    }

    /// Where clients find it.
    fn addresses(&self) -> Vec<IpAddr> {
        match self.headless {
            true => self.pods.iter().map(|(_, ip)| *ip).collect(),
            false => vec![self.ip],
        }
    }

    /// What clients of a namespace call it.
    fn domains(&self, from: &str) -> Vec<String> {
        let own = (from == self.namespace).then(|| self.name.to_owned());
        let named = [format!("{}.{}", self.name, self.namespace), self.host()];
        let numbers =
            self.addresses().into_iter().flat_map(|ip| [format!("{ip}:{}", self.port), ip.to_string()]);
        own.into_iter().chain(named).chain(numbers).collect()
    }
}

/// What a policy of egress lets out.
#[derive(Clone, Debug)]
pub enum Egress {
    Http { host: String, path: &'static str, to: SocketAddr },
    Https { server_name: &'static str, to: SocketAddr },
    Tcp { to: SocketAddr },
}

/// What the controller knows.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub services: Vec<Service>,
    /// Names and namespaces of pods' service accounts, where they are not a pod's own name and [`NAMESPACE`].
    pub accounts: BTreeMap<&'static str, Account<'static>>,
    pub permissive: bool,
    pub egress: bool,
    pub policies: Vec<Egress>,
    /// Who may come in from outside, by address, without TLS.
    pub ingress: Option<IpAddr>,
    /// Principals instead of addresses: over TLS.
    pub ingress_principal: Option<String>,
    pub spiffe: bool,
    /// How often requests that fail are sent again.
    pub retries: Option<u32>,
    /// How many requests a connection between sidecars is good for.
    pub requests_per_connection: Option<u32>,
    /// The rate limit service that all services ask.
    pub limiter: Option<SocketAddr>,
}

pub fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

fn sds(name: &str) -> Value {
    json!({"name": name, "sds_config": ads()})
}

fn tls(kind: &str, mut common: Value, fields: Value) -> Value {
    common["tls_params"] =
        json!({"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"});
    let mut all = json!({"common_tls_context": common});
    if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
        all.extend(fields);
    }
    typed("tls", &format!("extensions.transport_sockets.tls.v3.{kind}"), all)
}

fn downstream(own: Account<'_>, ca: &str) -> Value {
    let common = json!({
        "tls_certificate_sds_secret_configs": [sds(&own.certificate())],
        "validation_context_sds_secret_config": sds(ca),
    });
    tls("DownstreamTlsContext", common, json!({"require_client_certificate": true}))
}

pub fn tcp_proxy(prefix: &str, clusters: &[(String, u32)]) -> Value {
    let weighted: Vec<_> =
        clusters.iter().map(|(name, weight)| json!({"name": name, "weight": weight})).collect();
    let fields = match clusters {
        [(only, _)] => json!({"stat_prefix": format!("{prefix}.{only}"), "cluster": only}),
        _ => json!({"stat_prefix": prefix, "weighted_clusters": {"clusters": weighted}}),
    };
    typed("tcp_proxy", "extensions.filters.network.tcp_proxy.v3.TcpProxy", fields)
}

fn manager(prefix: &str, route: &str) -> Value {
    limited_manager(prefix, route, None)
}

/// One that asks a rate limit service.
fn limited_manager(prefix: &str, route: &str, limiter: Option<SocketAddr>) -> Value {
    let global = limiter.map(|at| {
        let grpc = json!({"envoy_grpc": {"cluster_name": limiter_cluster(at)}, "timeout": "10s"});
        let fields = json!({
            "domain": "test", "failure_mode_deny": true, "timeout": "10s", "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "rate_limited_status": {"code": 429},
            "rate_limit_service": {"grpc_service": grpc, "transport_api_version": "V3"},
        });
        typed("http_global_rate_limit", "extensions.filters.http.ratelimit.v3.RateLimit", fields)
    });
    let filters: Vec<Value> = [
        typed("http_rbac", "extensions.filters.http.rbac.v3.RBAC", json!({})),
        typed("http_local_rate_limit", LOCAL_RATE_LIMIT, json!({"stat_prefix": "http_local_rate_limiter"})),
    ]
    .into_iter()
    .chain(global)
    .chain([typed("http_router", "extensions.filters.http.router.v3.Router", json!({}))])
    .collect();
    let fields = json!({
        "stat_prefix": prefix, "codec_type": "AUTO", "http_filters": filters, "generate_request_id": true,
        "rds": {"config_source": ads(), "route_config_name": route},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
    });
    let message = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    typed("http_connection_manager", message, fields)
}

fn limiter_cluster(at: SocketAddr) -> String {
    format!("rate-limiter|{}|{}", at.ip(), at.port())
}

const LOCAL_RATE_LIMIT: &str = "extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// Has a virtual host or a route take so many requests an hour.
fn limit(of: &mut Value, requests: Option<u32>) {
    let Some(requests) = requests else { return };
    let always = json!({"default_value": {"numerator": 100, "denominator": "HUNDRED"}});
    of["typed_per_filter_config"]["http_local_rate_limit"] = json!({
        "@type": format!("type.googleapis.com/envoy.{LOCAL_RATE_LIMIT}"),
        "stat_prefix": "http_local_rate_limiter",
        "token_bucket": {"max_tokens": requests, "tokens_per_fill": requests, "fill_interval": "3600s"},
        "status": {"code": 429},
        "response_headers_to_add": [{"header": {"key": "x-limited", "value": "yes"}}],
        "filter_enabled": always, "filter_enforced": always,
    });
}

fn principals(of: &[String]) -> Vec<Value> {
    of.iter().map(|name| json!({"authenticated": {"principal_name": {"exact": name}}})).collect()
}

fn policy(of: &[String]) -> Value {
    json!({"permissions": [{"any": true}], "principals": [{"or_ids": {"ids": principals(of)}}]})
}

impl Catalog {
    fn of<'c>(&'c self, pod: &'c str) -> impl Iterator<Item = &'c Service> {
        self.services.iter().filter(move |service| service.pods.iter().any(|(name, _)| name == pod))
    }

    pub fn listeners(&self, pod: &str) -> Vec<Value> {
        // One without a chain is not sent.
        let all = [self.outbound(), self.inbound(pod)];
        let is_sent = |listener: &Value| {
            listener["filter_chains"] != json!([]) || listener.get("default_filter_chain").is_some()
        };
        all.into_iter().filter(is_sent).collect()
    }

    fn outbound(&self) -> Value {
        let mut chains: Vec<_> = self.services.iter().map(|service| self.outbound_chain(service)).collect();
        chains.extend(self.policies.iter().map(egress_chain));
        let server_first = self.services.iter().filter(|service| service.protocol == "tcp-server-first");
        let ranges: Vec<_> = server_first
            .map(
                |service| json!({"destination_port_range": {"start": service.port, "end": service.port + 1}}),
            )
            .collect();
        let disabled = match ranges.as_slice() {
            [] => Value::Null,
            [one] => one.clone(),
            all => json!({"or_match": {"rules": all}}),
        };
        let filter = |name: &str, message: &str, disabled: &Value| {
            let mut filter =
                typed(name, &format!("extensions.filters.listener.{name}.v3.{message}"), json!({}));
            if !disabled.is_null() {
                filter["filter_disabled"] = disabled.clone();
            }
            filter
        };
        let filters = [
            filter("original_dst", "OriginalDst", &Value::Null),
            filter("tls_inspector", "TlsInspector", &disabled),
            filter("http_inspector", "HttpInspector", &disabled),
        ];
        let mut listener = json!({
            "name": "outbound-listener", "address": any(15001), "traffic_direction": "OUTBOUND",
            "listener_filters": filters, "continue_on_listener_filters_timeout": true, "filter_chains": chains,
        });
        if self.egress {
            let through = tcp_proxy("passthrough-outbound", &[("passthrough-outbound".to_owned(), 100)]);
            listener["default_filter_chain"] =
                json!({"name": "outbound-egress-filter-chain", "filters": [through]});
        }
        listener
    }

    fn outbound_chain(&self, service: &Service) -> Value {
        let ranges: Vec<_> = service
            .addresses()
            .into_iter()
            .map(|ip| json!({"address_prefix": ip.to_string(), "prefix_len": 32}))
            .collect();
        let protocol = if service.is_http() { "http" } else { "tcp" };
        let filter = match service.is_http() {
            true => manager(
                &format!("mesh-http-conn-manager.rds-outbound.{}", service.port),
                &format!("rds-outbound.{}", service.port),
            ),
            false => tcp_proxy("outbound-mesh-tcp-proxy", &self.backends(service)),
        };
        json!({
            "name": format!("outbound_{}_{}_{protocol}", service.key(), service.port), "filters": [filter],
            "filter_chain_match": {"destination_port": service.port, "prefix_ranges": ranges},
        })
    }

    fn backends(&self, service: &Service) -> Vec<(String, u32)> {
        match service.split.is_empty() {
            true => vec![(service.cluster(), 100)],
            false => service
                .split
                .iter()
                .map(|(name, weight)| (format!("{}/{name}|{}", service.namespace, service.port), *weight))
                .collect(),
        }
    }

    fn inbound(&self, pod: &str) -> Value {
        let mut chains = Vec::new();
        for service in self.of(pod) {
            let protocol = if service.is_http() { "http" } else { "tcp" };
            let local = format!("{}|local", service.cluster());
            let mut filters = Vec::new();
            if !self.permissive {
                let rules = json!({"policies": {"TrafficTarget": policy(&service.allowed)}});
                let fields = json!({"stat_prefix": "RBAC", "rules": rules});
                // For HTTP the routes decide, which answer.
                if !service.is_http() {
                    filters.push(typed("network_rbac", "extensions.filters.network.rbac.v3.RBAC", fields));
                }
            }
            let route = format!("rds-inbound.{}", service.port);
            filters.push(match service.is_http() {
                true => limited_manager(&format!("mesh-http-conn-manager.{route}"), &route, self.limiter),
                false => tcp_proxy("inbound-mesh-tcp-proxy", &[(local, 100)]),
            });
            let found = json!({
                "destination_port": service.port, "server_names": [service.host()], "transport_protocol": "tls",
                "application_protocols": ["osm"],
            });
            chains.push(json!({
                "name": format!("inbound_{}_{}_{protocol}", service.key(), service.port), "filter_chain_match": found,
                "transport_socket": downstream(self.account(pod), "root-cert-for-mtls-inbound"), "filters": filters,
            }));
            chains.extend(self.ingress_chain(service, pod));
        }
        let filter = |name: &str, message: &str| {
            typed(name, &format!("extensions.filters.listener.{name}.v3.{message}"), json!({}))
        };
        json!({
            "name": "inbound-listener", "address": any(15003), "traffic_direction": "INBOUND",
            "listener_filters": [filter("tls_inspector", "TlsInspector"), filter("original_dst", "OriginalDst")],
            "filter_chains": chains,
        })
    }

    fn ingress_chain(&self, service: &Service, pod: &str) -> Option<Value> {
        let mut chain = json!({
            "name": format!("ingress_{}_{}_http", service.key(), service.port),
            "filters": [manager("mesh-http-conn-manager.rds-ingress", "rds-ingress")],
        });
        match (&self.ingress, &self.ingress_principal) {
            (_, Some(_)) => {
                chain["filter_chain_match"] =
                    json!({"destination_port": service.port, "transport_protocol": "tls"});
                chain["transport_socket"] = downstream(self.account(pod), "root-cert-for-mtls-inbound");
            }
            (Some(from), None) => {
                let range = json!([{"address_prefix": from.to_string(), "prefix_len": 32}]);
                chain["filter_chain_match"] =
                    json!({"destination_port": service.port, "source_prefix_ranges": range});
            }
            (None, None) => return None,
        }
        Some(chain)
    }

    fn virtual_host(kind: &str, service: &Service, domains: &[String], routes: Value) -> Value {
        json!({"name": format!("{kind}_virtual-host|{}", service.host()), "domains": domains, "routes": routes})
    }

    pub fn routes(&self, pod: &str) -> Vec<Value> {
        let mut configs = Vec::new();
        for service in self.services.iter().filter(|service| service.is_http()) {
            let domains = service.domains(self.account(pod).namespace);
            let clusters: Vec<_> = self
                .backends(service)
                .iter()
                .map(|(name, weight)| json!({"name": name, "weight": weight}))
                .collect();
            let every = json!({"headers": [{"name": ":method", "safe_regex_match": {"google_re2": {}, "regex": ".*"}}], "safe_regex": {"google_re2": {}, "regex": ".*"}});
            let mut route =
                json!({"weighted_clusters": {"clusters": clusters, "total_weight": 100}, "timeout": "0s"});
            if let Some(retries) = self.retries {
                route["retry_policy"] = json!({
                    "retry_on": "5xx", "num_retries": retries, "per_try_timeout": "1s", "retry_back_off": {"base_interval": "0.02s"},
                });
            }
            let routes = json!([{"match": every, "route": route}]);
            let host = Self::virtual_host("outbound", service, &domains, routes);
            configs.push(json!({"name": format!("rds-outbound.{}", service.port), "validate_clusters": false, "virtual_hosts": [host]}));
        }
        for service in self.of(pod).filter(|service| service.is_http()) {
            let (method, path) = service.paths.unwrap_or((".*", ".*"));
            let matched = json!({"headers": [{"name": ":method", "safe_regex_match": {"google_re2": {}, "regex": method}}], "safe_regex": {"google_re2": {}, "regex": path}});
            let clusters = json!([{"name": format!("{}|local", service.cluster()), "weight": 100}]);
            let route = |rules: Option<Value>| {
                let mut route = json!({"match": matched, "route": {"weighted_clusters": {"clusters": clusters, "total_weight": 100}, "timeout": "0s"}});
                if let Some(rules) = rules {
                    let message = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
                    route["typed_per_filter_config"] =
                        json!({"http_rbac": {"@type": message, "rbac": {"rules": rules}}});
                }
                limit(&mut route, service.limits.1);
                route
            };
            let rules = json!({"policies": {"rbac-for-route": policy(&service.allowed)}});
            let everywhere = ["*".to_owned()];
            let mut host = Self::virtual_host(
                "inbound",
                service,
                &everywhere,
                json!([route((!self.permissive).then_some(rules))]),
            );
            limit(&mut host, service.limits.0);
            if self.limiter.is_some() {
                let key =
                    json!({"generic_key": {"descriptor_key": "service", "descriptor_value": service.key()}});
                host["rate_limits"] = json!([{"actions": [key]}]);
            }
            configs.push(json!({"name": format!("rds-inbound.{}", service.port), "validate_clusters": false, "virtual_hosts": [host]}));
            let rules = self
                .ingress_principal
                .iter()
                .map(|name| json!({"policies": {"rbac-for-route": policy(std::slice::from_ref(name))}}))
                .next();
            let host = Self::virtual_host("ingress", service, &everywhere, json!([route(rules)]));
            configs.push(json!({"name": "rds-ingress", "validate_clusters": false, "virtual_hosts": [host]}));
        }
        for policy in &self.policies {
            let Egress::Http { host, path, to } = policy else { continue };
            let route = json!({"match": {"safe_regex": {"google_re2": {}, "regex": path}}, "route": {"cluster": format!("{host}:{}", to.port()), "timeout": "0s"}});
            let domains = [host.clone(), format!("{host}:{}", to.port())];
            let host =
                json!({"name": format!("egress_virtual-host|{host}"), "domains": domains, "routes": [route]});
            configs.push(json!({"name": format!("rds-egress.{}", to.port()), "validate_clusters": false, "virtual_hosts": [host]}));
        }
        by_name(configs)
    }

    pub fn clusters(&self, pod: &str) -> Vec<Value> {
        let mut clusters = vec![
            json!({"name": "passthrough-outbound", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}),
        ];
        for service in &self.services {
            let name = service.cluster();
            let common = json!({
                "tls_certificate_sds_secret_configs": [sds(&self.account(pod).certificate())],
                "validation_context_sds_secret_config": sds(&format!("root-cert-for-mtls-outbound:{}", service.key())),
                "alpn_protocols": ["osm"],
            });
            let mut socket = tls("UpstreamTlsContext", common, json!({"sni": service.host()}));
            socket["name"] = json!(name);
            let most = u32::MAX;
            clusters.push(json!({
                "name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ads()}, "lb_policy": "ROUND_ROBIN",
                "transport_socket": socket, "typed_extension_protocol_options": protocols(self.requests_per_connection),
                "circuit_breakers": {"thresholds": [{"max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most, "track_remaining": true}]},
            }));
            if service.pods.iter().any(|(name, _)| name == pod) {
                clusters.push(fixed(&format!("{name}|local"), "127.0.0.1", service.port));
            }
        }
        if let Some(at) = self.limiter {
            let mut cluster = fixed(&limiter_cluster(at), &at.ip().to_string(), at.port());
            cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }});
            clusters.push(cluster);
        }
        for policy in &self.policies {
            match policy {
                Egress::Http { host, to, .. } => clusters.push(fixed(&format!("{host}:{}", to.port()), &to.ip().to_string(), to.port())),
                Egress::Https { server_name, to } => clusters.push(fixed(&format!("{server_name}:{}", to.port()), &to.ip().to_string(), to.port())),
                Egress::Tcp { to } => clusters.push(json!({"name": to.port().to_string(), "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"})),
            }
        }
        clusters
    }

    pub fn endpoints(&self) -> Vec<Value> {
        let assignment = |service: &Service| {
            let hosts: Vec<_> = service.pods.iter().map(|(_, ip)| json!({"endpoint": {"address": address((*ip, service.port).into())}, "load_balancing_weight": 100})).collect();
            json!({"cluster_name": service.cluster(), "endpoints": [{"locality": {"zone": "local"}, "priority": 0, "lb_endpoints": hosts}]})
        };
        self.services.iter().map(assignment).collect()
    }

    /// The service account of a pod.
    pub fn account<'n>(&'n self, pod: &'n str) -> Account<'n> {
        self.accounts.get(pod).copied().unwrap_or(Account { name: pod, namespace: NAMESPACE })
    }

    /// The namespace of a service with these pods.
    pub fn namespace(&self, pods: &[&str]) -> &'static str {
        let known = pods.first().and_then(|pod| self.accounts.get(*pod));
        known.map_or(NAMESPACE, |account| account.namespace)
    }

    /// What a pod's certificate calls its service account.
    pub fn principal(&self, pod: &str) -> String {
        let Account { name, namespace } = self.account(pod);
        match self.spiffe {
            true => format!("spiffe://cluster.local/{name}/{namespace}"),
            false => format!("{name}.{namespace}.cluster.local"),
        }
    }

    pub fn secrets(&self, pod: &str, own: &Identity, roots: &[Authority]) -> Vec<Value> {
        let inline = |text: &str| json!({"inline_string": text});
        let roots: String = roots.iter().map(|root| root.pem.as_str()).collect();
        let kind = if self.spiffe { "URI" } else { "DNS" };
        let mut secrets = vec![
            json!({"name": self.account(pod).certificate(), "tls_certificate": {"certificate_chain": inline(&own.chain), "private_key": inline(&own.key)}}),
            json!({"name": "root-cert-for-mtls-inbound", "validation_context": {"trusted_ca": inline(&roots)}}),
        ];
        for service in &self.services {
            let accounts: BTreeSet<_> = service.pods.iter().map(|(name, _)| self.principal(name)).collect();
            let names: Vec<_> =
                accounts.iter().map(|name| json!({"san_type": kind, "matcher": {"exact": name}})).collect();
            let context = json!({"trusted_ca": inline(&roots), "match_typed_subject_alt_names": names});
            secrets.push(json!({"name": format!("root-cert-for-mtls-outbound:{}", service.key()), "validation_context": context}));
        }
        secrets
    }
}

/// Virtual hosts of one port are in one configuration.
fn by_name(configs: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for mut config in configs {
        let hosts = config["virtual_hosts"].take();
        let same = merged.iter_mut().find(|other| other["name"] == config["name"]);
        match (same.and_then(|other| other["virtual_hosts"].as_array_mut()), hosts) {
            (Some(known), Value::Array(hosts)) => known.extend(hosts),
            (_, hosts) => {
                config["virtual_hosts"] = hosts;
                merged.push(config);
            }
        }
    }
    merged
}

pub fn any(port: u16) -> Value {
    json!({"socket_address": {"address": "0.0.0.0", "port_value": port}})
}

fn protocols(requests_per_connection: Option<u32>) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let mut fields = json!({"@type": format!("type.googleapis.com/{options}"), "use_downstream_protocol_config": {"http2_protocol_options": {}}});
    if let Some(most) = requests_per_connection {
        fields["common_http_protocol_options"] = json!({"max_requests_per_connection": most});
    }
    json!({options: fields})
}

fn fixed(name: &str, ip: &str, port: u16) -> Value {
    let host = json!({"endpoint": {"address": {"socket_address": {"address": ip, "port_value": port}}}, "load_balancing_weight": 100});
    json!({
        "name": name, "alt_stat_name": name, "type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY", "respect_dns_ttl": true,
        "typed_extension_protocol_options": protocols(None),
        "load_assignment": {"cluster_name": name, "endpoints": [{"locality": {"zone": "zone"}, "lb_endpoints": [host]}]},
    })
}

fn egress_chain(policy: &Egress) -> Value {
    match policy {
        Egress::Http { to, .. } => json!({
            "name": format!("egress-http.{}", to.port()),
            "filter_chain_match": {"destination_port": to.port(), "application_protocols": ["http/1.0", "http/1.1", "h2c"]},
            "filters": [manager(&format!("mesh-http-conn-manager.rds-egress.{}", to.port()), &format!("rds-egress.{}", to.port()))],
        }),
        Egress::Https { server_name, to } => json!({
            "name": format!("egress-https.{}", to.port()),
            "filter_chain_match": {"destination_port": to.port(), "server_names": [server_name], "transport_protocol": "tls"},
            "filters": [tcp_proxy("egress-tcp-proxy", &[(format!("{server_name}:{}", to.port()), 100)])],
        }),
        Egress::Tcp { to } => json!({
            "name": format!("egress-tcp.{}", to.port()),
            "filter_chain_match": {"destination_port": to.port(), "prefix_ranges": [{"address_prefix": to.ip().to_string(), "prefix_len": 32}]},
            "filters": [tcp_proxy("egress-tcp-proxy", &[(to.port().to_string(), 100)])],
        }),
    }
}
