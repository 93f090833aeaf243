//! Scenarios of things going wrong, one test each, named after the list in `docs/faults.md`.
//!
//! After each of them the same rule holds ([`rig::Rig::passes`]): the process lives and says so, nothing panicked, a good request on
//! a new connection is answered at once, nothing is left under way, memory is back, and the upstream saw what was meant. What a
//! peer makes the proxy spend is measured. `FULL=1` runs the sizes of the list, else they are smaller and still show the effect.

mod admin;
mod config;
mod downstream;
mod hosts;
#[path = "../xds/rig.rs"]
#[allow(dead_code, unused_imports, reason = "the rig of the tests of xDS, of which some is needed here")]
mod management;
mod network;
mod overload;
mod panics;
mod rig;
mod slow;
mod soak;
mod upstream;
mod xds;
