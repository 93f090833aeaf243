//! What several extensions use.

pub mod by_name;
pub mod ext_authz;
pub mod istio;
pub mod pace;
pub mod per_worker;
pub mod rate_limit;
pub mod rbac;
pub mod runtime_flag;
pub mod runtime_number;
pub mod set_filter_state;
pub mod token_bucket;
pub mod uri;
