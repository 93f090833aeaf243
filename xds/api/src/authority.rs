//! The authority of calls by gRPC.
//!
//! Source: `envoy/config/core/v3/grpc_service.proto` (`EnvoyGrpc.authority`).

use http::uri::Authority;

/// What is sent as `:authority` of calls to `cluster`: `given`, or without that the name of the cluster. A cluster may be named freely, an
/// authority not: what it cannot hold becomes `_`. `None` if what was given is no authority.
pub fn authority(cluster: &str, given: &str) -> Option<Authority> {
    if !given.is_empty() {
        return Authority::try_from(given).ok();
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._~".contains(c) { c } else { '_' };
    Authority::try_from(cluster)
        .or_else(|_| Authority::try_from(cluster.chars().map(plain).collect::<String>()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_given_or_made_of_names_of_clusters() {
        let of = |cluster, given| authority(cluster, given).map(|authority| authority.to_string());
        assert_eq!(of("xds_cluster", "").as_deref(), Some("xds_cluster"));
        let given = "istiod.istio-system.svc:15012";
        assert_eq!(of("xds", given).as_deref(), Some(given));
        assert_eq!(of("outbound|80||a b/ö", "").as_deref(), Some("outbound_80__a_b__"));
        assert_eq!(of("xds", "a b"), None);
    }
}
