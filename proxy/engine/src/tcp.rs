//! TCP: connections carried to an upstream byte for byte.

mod copy;
pub mod fields;
mod interval;
pub mod proxy;
mod shedding;
mod told;

pub use proxy::TcpProxy;
