//! What a control plane sends the proxy of a pod: listeners, routes, clusters, endpoints and secrets, named and cut as
//! Istio's are (JSON, which is YAML).

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::{Egress, Mesh, Mode, Pod, Protocol, Service};

/// Where outbound connections are redirected to.
pub const OUTBOUND: u16 = 15001;
/// Where inbound ones are.
pub const INBOUND: u16 = 15006;
/// Where probes of the pod's health are answered, without TLS.
pub const HEALTH: u16 = 15021;

/// An extension.
pub fn typed(name: &str, message: &str, fields: Value) -> Value {
    let mut config = json!({"@type": format!("type.googleapis.com/envoy.{message}")});
    if let (Value::Object(config), Value::Object(fields)) = (&mut config, fields) {
        config.extend(fields);
    }
    json!({"name": name, "typed_config": config})
}

pub fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}})
}

fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

/// Secrets come over a stream of their own.
fn sds(name: &str, cluster: &str) -> Value {
    let service = json!([{"envoy_grpc": {"cluster_name": cluster}}]);
    let api = json!({"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": service});
    json!({"name": name, "sds_config": {"resource_api_version": "V3", "api_config_source": api}})
}

pub fn tcp_proxy(stat_prefix: &str, cluster: &str) -> Value {
    let fields = json!({"stat_prefix": stat_prefix, "cluster": cluster});
    typed("envoy.filters.network.tcp_proxy", "extensions.filters.network.tcp_proxy.v3.TcpProxy", fields)
}

/// The connection manager with these HTTP filters before the router.
pub fn http(stat_prefix: &str, mut filters: Vec<Value>, fields: Value) -> Value {
    let router = "extensions.filters.http.router.v3.Router";
    filters.push(typed("envoy.filters.http.router", router, json!({})));
    let mut all = json!({"stat_prefix": stat_prefix, "http_filters": filters, "upgrade_configs": [{"upgrade_type": "websocket"}]});
    if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
        all.extend(fields);
    }
    let message = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    typed("envoy.filters.network.http_connection_manager", message, all)
}

fn listener_filter(kind: &str, message: &str, fields: Value) -> Value {
    let message = format!("extensions.filters.listener.{kind}.v3.{message}");
    typed(&format!("envoy.filters.listener.{kind}"), &message, fields)
}

fn socket(message: &str, config: &Value) -> Value {
    let message = format!("extensions.transport_sockets.tls.v3.{message}");
    typed("envoy.transport_sockets.tls", &message, config.clone())
}

impl Mesh {
    fn common_tls(&self, names: &[String], alpn: &[&str]) -> Value {
        let names: Vec<_> =
            names.iter().map(|name| json!({"san_type": "URI", "matcher": {"exact": name}})).collect();
        json!({
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": self.highest_tls},
            "alpn_protocols": alpn,
            "tls_certificate_sds_secret_configs": [sds("default", self.sds_cluster)],
            "combined_validation_context": {
                "default_validation_context": {"match_typed_subject_alt_names": names},
                "validation_context_sds_secret_config": sds("ROOTCA", self.sds_cluster),
            },
        })
    }

    /// The listeners of a pod.
    pub(super) fn listeners(&self, pod: &Pod) -> Vec<Value> {
        let mut listeners = vec![self.virtual_outbound(), self.virtual_inbound(pod)];
        for service in &self.services {
            for (at, cluster) in self.destinations(service) {
                listeners.push(outbound(service, at, &cluster));
            }
        }
        listeners
    }

    /// The addresses that a service is reached at, and the cluster for each.
    fn destinations(&self, service: &Service) -> Vec<(SocketAddr, String)> {
        let at = |ip: IpAddr| (SocketAddr::new(ip, service.port), service.cluster());
        match service.headless {
            false => service.addresses.each().map(at).to_vec(),
            true => {
                let pods = self.pods.iter().filter(|pod| service.pods.contains(&pod.name));
                pods.flat_map(|pod| pod.addresses.each()).map(at).collect()
            }
        }
    }

    fn virtual_outbound(&self) -> Value {
        let elsewhere = match self.egress {
            Egress::AllowAny => "PassthroughCluster",
            Egress::RegistryOnly => "BlackHoleCluster",
        };
        json!({
            "name": "virtualOutbound", "traffic_direction": "OUTBOUND", "use_original_dst": true,
            "address": any("0.0.0.0", OUTBOUND), "additional_addresses": [{"address": any("::", OUTBOUND)}],
            "filter_chains": [
                {"name": "virtualOutbound-blackhole", "filter_chain_match": {"destination_port": OUTBOUND},
                 "filters": [tcp_proxy("BlackHoleCluster", "BlackHoleCluster")]},
                {"name": "virtualOutbound-catchall-tcp", "filters": [tcp_proxy(elsewhere, elsewhere)]},
            ],
        })
    }

    fn virtual_inbound(&self, pod: &Pod) -> Value {
        let mut filters = vec![listener_filter("original_dst", "OriginalDst", json!({}))];
        if self.tproxy {
            filters.push(listener_filter("original_src", "OriginalSrc", json!({"mark": 1337})));
        }
        filters.push(listener_filter("tls_inspector", "TlsInspector", json!({})));
        let mut chains = vec![json!({
            "name": "virtualInbound-blackhole", "filter_chain_match": {"destination_port": INBOUND},
            "filters": [tcp_proxy("BlackHoleCluster", "BlackHoleCluster")],
        })];
        for service in self.services.iter().filter(|service| service.pods.contains(&pod.name)) {
            chains.extend(self.inbound_chains(service));
        }
        if self.mode == Mode::Permissive {
            let through = tcp_proxy("InboundPassthroughCluster", "InboundPassthroughCluster");
            chains.push(json!({"name": "virtualInbound", "filters": [through]}));
        }
        json!({
            "name": "virtualInbound", "traffic_direction": "INBOUND", "transparent": self.tproxy,
            "address": any("0.0.0.0", INBOUND), "additional_addresses": [{"address": any("::", INBOUND)}],
            "listener_filters": filters, "continue_on_listener_filters_timeout": true,
            "listener_filters_timeout": "5s", "filter_chains": chains,
        })
    }

    fn inbound_chains(&self, service: &Service) -> Vec<Value> {
        let (port, name) = (service.target, format!("0.0.0.0_{}", service.target));
        let filters = self.inbound_filters(service);
        let tls = json!({"require_client_certificate": true, "common_tls_context": self.common_tls(&[], &["h2", "http/1.1", "istio"])});
        let mut chains = vec![json!({
            "name": name, "filter_chain_match": {"destination_port": port, "transport_protocol": "tls"},
            "transport_socket": socket("DownstreamTlsContext", &tls), "filters": filters,
        })];
        if self.mode == Mode::Permissive {
            chains.push(json!({
                "name": format!("{name}-plain"), "filters": filters,
                "filter_chain_match": {"destination_port": port, "transport_protocol": "raw_buffer"},
            }));
        }
        chains
    }

    fn inbound_filters(&self, service: &Service) -> Vec<Value> {
        let cluster = format!("inbound|{}||", service.target);
        let rules = service.allowed.as_ref().map(|allowed| {
            let principal =
                |name: &String| json!({"authenticated": {"principal_name": {"exact": self.spiffe(name)}}});
            let principals: Vec<_> = allowed.iter().map(principal).collect();
            let policy = json!({"permissions": [{"any": true}], "principals": principals});
            json!({"action": "ALLOW", "policies": {"ns[default]-policy[callers]-rule[0]": policy}})
        });
        match service.protocol {
            Protocol::Tcp => {
                let message = "extensions.filters.network.rbac.v3.RBAC";
                let rbac = rules.map(|rules| {
                    typed(
                        "envoy.filters.network.rbac",
                        message,
                        json!({"stat_prefix": "tcp.", "rules": rules}),
                    )
                });
                rbac.into_iter().chain([tcp_proxy(&cluster, &cluster)]).collect()
            }
            Protocol::Http | Protocol::Http2 => {
                let message = "extensions.filters.http.rbac.v3.RBAC";
                let rbac =
                    rules.map(|rules| typed("envoy.filters.http.rbac", message, json!({"rules": rules})));
                let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}});
                let hosts = json!([{"name": "inbound", "domains": ["*"], "routes": [route]}]);
                let fields = json!({
                    "forward_client_cert_details": "APPEND_FORWARD",
                    "set_current_client_cert_details": {"subject": true, "dns": true, "uri": true},
                    "route_config": {"name": cluster, "validate_clusters": false, "virtual_hosts": hosts},
                });
                vec![http(&format!("inbound_{}", service.target), rbac.into_iter().collect(), fields)]
            }
        }
    }

    /// The route configurations that listeners of a pod refer to.
    pub(super) fn routes(&self) -> Vec<Value> {
        let services = self.services.iter().filter(|service| service.protocol != Protocol::Tcp);
        let config = |service: &Service| {
            let route =
                json!({"match": {"prefix": "/"}, "route": {"cluster": service.cluster(), "timeout": "0s"}});
            let hosts = json!([{"name": service.host(), "domains": ["*"], "routes": [route]}]);
            json!({"name": service.route(), "validate_clusters": false, "virtual_hosts": hosts})
        };
        services.map(config).collect()
    }

    /// The clusters of a pod.
    pub(super) fn clusters(&self, pod: &Pod) -> Vec<Value> {
        let mut clusters = vec![
            original_dst("PassthroughCluster"),
            from_loopback("InboundPassthroughCluster", false, self.tproxy),
            json!({"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "10s"}),
        ];
        for service in &self.services {
            clusters.push(self.outbound_cluster(service));
            if service.pods.contains(&pod.name) {
                let name = format!("inbound|{}||", service.target);
                clusters.push(from_loopback(&name, service.protocol == Protocol::Http2, self.tproxy));
            }
        }
        clusters
    }

    fn outbound_cluster(&self, service: &Service) -> Value {
        let names: Vec<String> = service.pods.iter().flat_map(|pod| self.expected(pod)).collect();
        let alpn: &[&str] = match service.protocol {
            Protocol::Tcp => &["istio"],
            Protocol::Http => &["http/1.1"],
            Protocol::Http2 => &["h2"],
        };
        let tls = json!({"sni": service.sni(), "common_tls_context": self.common_tls(&names, alpn)});
        let mut cluster = match service.headless {
            true => original_dst(&service.cluster()),
            false => json!({
                "name": service.cluster(), "type": "EDS", "connect_timeout": "10s",
                "eds_cluster_config": {"eds_config": ads(), "service_name": service.cluster()},
            }),
        };
        cluster["transport_socket"] = socket("UpstreamTlsContext", &tls);
        http2(&mut cluster, service.protocol == Protocol::Http2);
        cluster
    }

    /// The hosts of the services. Each pod has two addresses, and one host.
    pub(super) fn endpoints(&self) -> Vec<Value> {
        let services = self.services.iter().filter(|service| !service.headless);
        let assignment = |service: &Service| {
            let pods = self.pods.iter().filter(|pod| service.pods.contains(&pod.name));
            let host = |pod: &Pod| {
                let ip = if service.over_v6 { pod.addresses.v6.into() } else { pod.addresses.v4.into() };
                json!({"endpoint": {"address": address(SocketAddr::new(ip, service.target))}})
            };
            let hosts: Vec<_> = pods.map(host).collect();
            json!({"cluster_name": service.cluster(), "endpoints": [{"lb_endpoints": hosts}]})
        };
        services.map(assignment).collect()
    }

    /// What a pod proves itself with, and what it believes.
    pub(super) fn secrets(&self, pod: &Pod) -> Vec<Value> {
        let own = self.identities.get(&pod.name);
        let inline = |text: &str| json!({"inline_string": text});
        let own = own.map(|own| {
            let certificate =
                json!({"certificate_chain": inline(&own.chain), "private_key": inline(&own.key)});
            json!({"name": "default", "tls_certificate": certificate})
        });
        let roots: String = self.roots.iter().map(|root| root.pem.as_str()).collect();
        let roots = json!({"name": "ROOTCA", "validation_context": {"trusted_ca": inline(&roots)}});
        own.into_iter().chain([roots]).collect()
    }
}

fn any(ip: &str, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

/// Bound to no port: who meant this address is handed over.
fn outbound(service: &Service, at: SocketAddr, cluster: &str) -> Value {
    let filter = match service.protocol {
        Protocol::Tcp => tcp_proxy(cluster, cluster),
        Protocol::Http | Protocol::Http2 => http(
            &format!("outbound_{at}"),
            Vec::new(),
            json!({"rds": {"route_config_name": service.route(), "config_source": ads()}}),
        ),
    };
    json!({
        "name": format!("{}_{}", at.ip(), at.port()), "address": address(at), "bind_to_port": false,
        "traffic_direction": "OUTBOUND", "filter_chains": [{"filters": [filter]}],
    })
}

fn original_dst(name: &str) -> Value {
    json!({"name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s"})
}

/// To the workload, from an address by which the kernel's rules know such connections (or the client's).
fn from_loopback(name: &str, is_http2: bool, is_transparent: bool) -> Value {
    let mut cluster = original_dst(name);
    if !is_transparent {
        let from = |ip: &str| json!({"address": ip, "port_value": 0});
        cluster["upstream_bind_config"] = json!({"source_address": from("127.0.0.6"), "extra_source_addresses": [{"address": from("::6")}]});
    }
    http2(&mut cluster, is_http2);
    cluster
}

fn http2(cluster: &mut Value, wanted: bool) {
    if wanted {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let h2 = json!({"http2_protocol_options": {}});
        cluster["typed_extension_protocol_options"] = json!({
            options: {"@type": format!("type.googleapis.com/{options}"), "explicit_http_config": h2},
        });
    }
}
