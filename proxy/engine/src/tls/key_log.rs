//! Secrets of sessions in a file (`TlsKeyLog`), in the format of NSS, by which Wireshark reads what was captured.
//!
//! Nothing is written unless the configuration says so, and only of connections between the addresses that it names.
//!
//! Source: `envoy/extensions/transport_sockets/tls/v3/tls.proto`; the format is that of draft-ietf-tls-keylogfile.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::matcher::CidrSet;
use proxy_core::tls::hex;
use xds_api::envoy::extensions::transport_sockets::tls::v3::TlsKeyLog;

/// Who reads the file reads the traffic: nobody but its owner may.
const MODE: u32 = 0o600;

/// Where secrets are written, and of which connections.
pub(super) struct KeyLog {
    pub(super) file: Arc<KeyLogFile>,
    /// Without a range any address.
    local: CidrSet,
    remote: CidrSet,
}

/// The file.
pub(super) struct KeyLogFile(File);

impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyLogFile").finish_non_exhaustive()
    }
}

/// The addresses of a connection, as far as they are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// Of this side.
    pub local: Option<IpAddr>,
    /// Of the peer.
    pub remote: Option<IpAddr>,
}

impl KeyLog {
    pub(super) fn build(proto: &TlsKeyLog, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let local = CidrSet::build("local_address_range", &proto.local_address_range, cx);
        let remote = CidrSet::build("remote_address_range", &proto.remote_address_range, cx);
        let (local, remote) = (local?, remote?);
        let opened = OpenOptions::new().append(true).create(true).mode(MODE).open(&proto.path);
        let file = opened.map_err(|error| {
            cx.at("path", |cx| cx.reject(format!("unable to open file '{}': {error}", proto.path)))
        })?;
        Ok(Self { file: Arc::new(KeyLogFile(file)), local, remote })
    }

    /// Whether the secrets of a connection between these are written.
    pub(super) fn covers(&self, ends: Ends) -> bool {
        let within = |ranges: &CidrSet, ip: Option<IpAddr>| {
            ranges.is_empty() || ip.is_some_and(|ip| ranges.contains(ip))
        };
        within(&self.local, ends.local) && within(&self.remote, ends.remote)
    }
}

impl rustls::KeyLog for KeyLogFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        // One write a line, at the end of the file: lines of several workers do not mix. A full disk stops no handshake.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}
