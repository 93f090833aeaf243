//! Proof over real sockets: the proxy between real clients, servers and control planes.
//!
//! Everything here is black-box: a program that takes Envoy's command line and bootstrap is started on ports that the
//! kernel chooses, and is talked to over loopback. The same rig therefore drives the real Envoy and Outrigger, which is
//! what `tests/differential` does with every case. Nothing in this crate sleeps to "let things settle": every wait is for
//! an observable event and has a deadline.

pub mod admin;
pub mod client;
pub mod collector;
pub mod config;
pub mod control_plane;
pub mod cost;
pub mod differential;
pub mod dns;
pub mod expect;
pub mod frames;
pub mod global_limit;
pub mod health_service;
pub mod http1;
pub mod mesh;
pub mod netns;
pub mod ocsp;
pub mod ports;
pub mod process;
pub mod talk;
pub mod tls;
pub mod told;
pub mod unveil;
pub mod upstream;
pub mod weather;
