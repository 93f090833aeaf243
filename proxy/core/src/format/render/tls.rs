//! Values of commands about TLS sessions and certificates.

use std::time::{Duration, UNIX_EPOCH};

use super::super::operator::TlsField;
use super::super::time::TimeFormat;
use super::{Shape, put, put_some};
use crate::stream_info::StreamInfo;
use crate::tls::{Certificate, PeerCertificate, SanKind, TlsInfo, hex};

fn session(upstream: bool, info: &StreamInfo) -> Option<&TlsInfo> {
    if upstream { info.upstream.tls.as_deref() } else { info.connection.tls.as_deref() }
}

pub(super) fn render(upstream: bool, field: &TlsField, info: &StreamInfo, out: &mut Vec<u8>) -> Shape {
    let Some(session) = session(upstream, info) else { return Shape::Missing };
    let peer = session.peer.first();
    let content = peer.and_then(|peer| peer.content.as_ref());
    let local = session.local.as_deref();
    let issuer = session.peer.get(1).or(session.issuer.as_deref());
    match field {
        TlsField::Version => put_some(out, Some(session.version)),
        TlsField::Cipher => put_some(out, Some(session.cipher)),
        TlsField::Group => put_some(out, Some(session.group)),
        TlsField::ServerName => put_some(out, session.server_name.as_deref()),
        TlsField::PeerSubject => put_some(out, content.map(|content| content.subject.as_str())),
        TlsField::PeerIssuer => put_some(out, content.map(|content| content.issuer.as_str())),
        TlsField::PeerSerial => put_some(out, content.map(|content| content.serial.as_str())),
        TlsField::PeerSha1 => put_all(out, peer.map(|peer| hex(&peer.sha1))),
        TlsField::PeerSha256 => put_all(out, peer.map(|peer| hex(&peer.sha256))),
        TlsField::PeerCertificate => put_all(out, peer.map(PeerCertificate::url_encoded_pem)),
        TlsField::PeerSans(kind) => put_sans(out, content, kind),
        TlsField::ChainSha1 => put_all(out, session.peer.iter().map(|peer| hex(&peer.sha1))),
        TlsField::ChainSha256 => put_all(out, session.peer.iter().map(|peer| hex(&peer.sha256))),
        TlsField::ChainSerials => {
            let contents = session.peer.iter().filter_map(|peer| peer.content.as_ref());
            put_all(out, contents.map(|content| &content.serial))
        }
        TlsField::IssuerSerial => put_some(
            out,
            issuer.and_then(|peer| peer.content.as_ref()).map(|content| content.serial.as_str()),
        ),
        TlsField::IssuerSha256 => put_all(out, issuer.map(|peer| hex(&peer.sha256))),
        TlsField::LocalSubject => put_some(out, local.map(|local| local.subject.as_str())),
        TlsField::LocalSans(kind) => put_sans(out, local, kind),
    }
}

fn put_all(out: &mut Vec<u8>, values: impl IntoIterator<Item = impl AsRef<str>>) -> Shape {
    let mut shape = Shape::Missing;
    for value in values {
        if shape == Shape::Text {
            out.push(b',');
        }
        shape = put(out, value.as_ref());
    }
    shape
}

fn put_sans(out: &mut Vec<u8>, certificate: Option<&Certificate>, kind: &SanKind) -> Shape {
    let is_other = |kind: &SanKind| matches!(kind, SanKind::Other(_));
    let sans = certificate.into_iter().flat_map(|certificate| &certificate.sans);
    let of_kind = sans.filter(|san| san.kind == *kind || (is_other(kind) && is_other(&san.kind)));
    put_all(out, of_kind.map(|san| &san.value))
}

pub(super) fn render_time(
    upstream: bool,
    end: bool,
    format: &TimeFormat,
    info: &StreamInfo,
    out: &mut Vec<u8>,
) -> Shape {
    let peer = session(upstream, info).and_then(|session| session.peer.first());
    let Some(content) = peer.and_then(|peer| peer.content.as_ref()) else { return Shape::Missing };
    let seconds = if end { content.not_after } else { content.not_before };
    let away = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 { UNIX_EPOCH.checked_sub(away) } else { UNIX_EPOCH.checked_add(away) };
    let Some(time) = time else { return Shape::Missing };
    format.render(time, out);
    Shape::Text
}
