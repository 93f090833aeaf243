//! Sockets: the only place that talks to the kernel about them.

pub mod connection;
pub mod gate;
pub mod leaving;
pub mod link;
pub mod option;
pub mod outbox;
pub mod pipe;
pub mod secure;
pub mod socket;
mod sys;
