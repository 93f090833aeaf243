//! HTTP filters.

pub mod compressor;
pub mod cors;
pub mod ext_authz;
pub mod fault;
pub mod grpc_stats;
pub mod header_mutation;
pub mod health_check;
pub mod istio_alpn;
pub mod istio_metadata_exchange;
pub mod istio_stats;
pub mod jwt_authn;
pub mod local_ratelimit;
pub mod match_delegate;
pub mod ratelimit;
pub mod rbac;
pub mod set_filter_state;
