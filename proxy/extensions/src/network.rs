//! Network filters.

pub mod connection_limit;
pub mod direct_response;
pub mod echo;
pub mod ext_authz;
pub mod istio_metadata_exchange;
pub mod istio_stats;
pub mod local_ratelimit;
pub mod ratelimit;
pub mod rbac;
pub mod set_filter_state;
pub mod sni_dynamic_forward_proxy;
