//! Sockets: the only place that talks to the kernel about them.

pub mod connection;
pub mod socket;
mod sys;
