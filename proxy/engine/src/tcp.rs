//! TCP: connections carried to an upstream byte for byte.

pub mod proxy;

pub use proxy::TcpProxy;
