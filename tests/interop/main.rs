//! Outrigger among programs that others wrote: control planes, clients, servers and conformance suites.
//!
//! They come from `scripts/interop.sh`, which `make interop` runs first; a test whose program is missing fails. What we had
//! to write around them in Go, Python and JavaScript lies beside this file. With `SUBJECT=envoy` the real Envoy takes the
//! proxy's place, which proves the expectations themselves.

mod clients;
mod control_plane;
mod grpc;
mod h2spec;
mod lies;
mod ratelimit;
mod rig;
