//! The gRPC services of xDS and their methods.

use crate::protocol::Variant;
use crate::resource::TypeUrl;

/// Which service a stream calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// `AggregatedDiscoveryService`: all types on one stream.
    Aggregated,
    /// The service of one type.
    Single(TypeUrl),
}

const AGGREGATED: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";

/// Type, service, and what the methods are called after `Stream` and `Delta`.
const SINGLE: &[(TypeUrl, &str, &str)] = &[
    (TypeUrl::LISTENER, "/envoy.service.listener.v3.ListenerDiscoveryService/", "Listeners"),
    (TypeUrl::ROUTE_CONFIGURATION, "/envoy.service.route.v3.RouteDiscoveryService/", "Routes"),
    (
        TypeUrl::SCOPED_ROUTE_CONFIGURATION,
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/",
        "ScopedRoutes",
    ),
    (TypeUrl::VIRTUAL_HOST, "/envoy.service.route.v3.VirtualHostDiscoveryService/", "VirtualHosts"),
    (TypeUrl::CLUSTER, "/envoy.service.cluster.v3.ClusterDiscoveryService/", "Clusters"),
    (TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "/envoy.service.endpoint.v3.EndpointDiscoveryService/", "Endpoints"),
    (TypeUrl::SECRET, "/envoy.service.secret.v3.SecretDiscoveryService/", "Secrets"),
    (TypeUrl::RUNTIME, "/envoy.service.runtime.v3.RuntimeDiscoveryService/", "Runtime"),
    (
        TypeUrl::TYPED_EXTENSION_CONFIG,
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/",
        "ExtensionConfigs",
    ),
];

impl Service {
    /// The path of the streaming method; `None` if the type has none (virtual hosts come by delta only).
    pub fn path(&self, variant: Variant) -> Option<String> {
        let prefix = prefix(variant);
        let type_url = match self {
            Self::Aggregated => return Some(format!("{AGGREGATED}{prefix}AggregatedResources")),
            Self::Single(type_url) => type_url,
        };
        if *type_url == TypeUrl::VIRTUAL_HOST && variant == Variant::StateOfTheWorld {
            return None;
        }
        let (_, service, methods) = SINGLE.iter().find(|(known, _, _)| known == type_url)?;
        Some(format!("{service}{prefix}{methods}"))
    }

    /// What a path calls; the inverse of [`Service::path`].
    pub fn of_path(path: &str) -> Option<(Self, Variant)> {
        let services = SINGLE.iter().map(|(type_url, _, _)| Self::Single(type_url.clone()));
        services.chain([Self::Aggregated]).find_map(|service| {
            let variant = [Variant::StateOfTheWorld, Variant::Delta]
                .into_iter()
                .find(|variant| service.path(*variant).as_deref() == Some(path))?;
            Some((service, variant))
        })
    }
}

fn prefix(variant: Variant) -> &'static str {
    match variant {
        Variant::StateOfTheWorld => "Stream",
        Variant::Delta => "Delta",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_services() {
        let path = |service: &Service, variant| service.path(variant);
        let (stream, delta) = (Variant::StateOfTheWorld, Variant::Delta);
        assert_eq!(
            path(&Service::Single(TypeUrl::LISTENER), stream).as_deref(),
            Some("/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners")
        );
        assert_eq!(
            path(&Service::Aggregated, delta).as_deref(),
            Some("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources")
        );
        assert_eq!(path(&Service::Single(TypeUrl::VIRTUAL_HOST), stream), None);
        assert_eq!(path(&Service::Single(TypeUrl::new("x")), delta), None);
        for (type_url, _, _) in SINGLE {
            let service = Service::Single(type_url.clone());
            let path = service.path(delta).unwrap();
            assert_eq!(Service::of_path(&path), Some((service, delta)));
        }
    }
}
