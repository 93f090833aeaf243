//! Wire protocols: bytes to messages and back. No sockets, no clocks: the connection code feeds and drains buffers.

pub mod h1;
