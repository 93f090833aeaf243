//! TCP: connections carried to an upstream byte for byte.

mod copy;
pub mod fields;
pub mod proxy;

pub use proxy::TcpProxy;
