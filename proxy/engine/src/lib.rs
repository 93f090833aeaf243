//! The mechanisms of the data plane.
//!
//! Modules import only downward: `worker > state > listener > http | tcp > context > router > upstream > codec > tls > net > local`.

pub mod codec;
pub mod context;
pub mod http;
pub mod listener;
pub mod local;
pub mod log_file;
pub mod net;
pub mod router;
pub mod state;
pub mod tcp;
pub mod tls;
pub mod upstream;
pub mod worker;
