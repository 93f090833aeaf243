//! Policies of the data plane, one extension a file.

/// Every extension of this crate.
pub fn extensions() -> proxy_core::extension::Extensions {
    proxy_core::extension::Extensions::default()
}
