//! What `outrigger-iptables` does, proven with the kernel: a pod and its peer as network namespaces, joined by a cable; a proxy, a
//! workload and servers in them that tell who reached them and how.
//!
//! Nothing here skips itself: it takes root, iptables, nft and iproute2 (`make test` installs them).

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails in a helper fails its test")]

mod agreement;
mod changes;
mod dns;
mod program;
mod rig;
mod sidecar;
mod tproxy;
