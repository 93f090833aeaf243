//! Values of commands that are looked up: addresses, host names, metadata, filter state, server names.

use std::io::Write;
use std::net::IpAddr;

use prost_types::{Struct, Value, value::Kind};

use super::super::json;
use super::super::operator::*;
use super::{Shape, put, put_number};
use crate::address::Address;
use crate::extension::access_log::LogEntry;
use crate::filter_state::FilterStateValue;
use crate::metadata::{DynamicMetadata, Metadata};
use crate::stream_info::StreamInfo;
use crate::upstream::Host;

pub(super) fn address(of: AddressOf, info: &StreamInfo) -> Option<&Address> {
    match of {
        AddressOf::DownstreamRemote => Some(info.remote_address()),
        AddressOf::DownstreamDirectRemote => Some(&info.connection.direct_remote),
        AddressOf::DownstreamLocal => Some(&info.connection.local),
        AddressOf::DownstreamDirectLocal => Some(&info.connection.direct_local),
        AddressOf::UpstreamLocal => info.upstream.local.as_ref(),
        AddressOf::UpstreamHost => info.upstream.host.as_ref().map(|host| &host.address),
        AddressOf::UpstreamRemote => {
            let host = info.upstream.host.as_ref().filter(|_| info.upstream.connection_id.is_some());
            host.map(|host| &host.address)
        }
    }
}

pub(super) fn render_address(address: Option<&Address>, form: AddressForm, out: &mut Vec<u8>) -> Shape {
    let Some(address) = address else { return Shape::Missing };
    let _ = match (form, address.ip()) {
        (AddressForm::EndpointId, _) => Ok(()),
        (AddressForm::Port, _) => match address.port() {
            Some(port) => return put_number(out, port.into()),
            // Envoy prints nothing in text and `null` in JSON.
            None => return Shape::Missing,
        },
        (AddressForm::WithoutPort, Some(ip)) => write!(out, "{ip}"),
        (AddressForm::Network(bits), Some(ip)) => {
            let (network, bits) = network(ip, bits);
            write!(out, "{network}/{bits}")
        }
        (AddressForm::Whole, _) | (AddressForm::WithoutPort | AddressForm::Network(_), None) => {
            write!(out, "{address}")
        }
    };
    Shape::Text
}

/// The network of the first `bits` bits of an address, and how many bits that are: no more than it has.
fn network(ip: IpAddr, bits: u8) -> (IpAddr, u8) {
    match ip {
        IpAddr::V4(ip) => {
            let bits = bits.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            (IpAddr::V4((ip.to_bits() & mask).into()), bits)
        }
        IpAddr::V6(ip) => {
            let bits = bits.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            (IpAddr::V6((ip.to_bits() & mask).into()), bits)
        }
    }
}

pub(super) fn put_host_name(out: &mut Vec<u8>, host: &Host) -> Shape {
    if host.hostname.is_empty() {
        return render_address(Some(&host.address), AddressForm::Whole, out);
    }
    put(out, &host.hostname)
}

pub(super) fn put_host_name_without_port(out: &mut Vec<u8>, host: &Host) -> Shape {
    if host.hostname.is_empty() {
        return render_address(Some(&host.address), AddressForm::WithoutPort, out);
    }
    put(out, without_port(&host.hostname))
}

/// A host without the `:port` behind it; IPv6 addresses keep their brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && (!name.contains(':') || name.ends_with(']')) =>
        {
            name
        }
        _ => host,
    }
}

/// Metadata as it was found: one value, or everything in a namespace.
enum Found<'a> {
    Value(&'a Value),
    Namespace(&'a Struct),
}

pub(super) fn render_metadata(
    source: MetadataSource,
    namespace: &str,
    path: &[String],
    info: &StreamInfo,
    out: &mut Vec<u8>,
) -> Shape {
    let mut configured = |metadata: &Metadata| {
        let found = if path.is_empty() {
            metadata.namespace(namespace).map(Found::Namespace)
        } else {
            metadata.value(namespace, path).map(Found::Value)
        };
        put_found(found, out)
    };
    match source {
        MetadataSource::Dynamic => put_found(dynamic_metadata(namespace, path, info), out),
        MetadataSource::Cluster => configured(&info.upstream.cluster_metadata),
        MetadataSource::Route => configured(&info.route_metadata),
        MetadataSource::UpstreamHost => {
            info.upstream.host.as_ref().map_or(Shape::Missing, |host| configured(&host.metadata()))
        }
        MetadataSource::Listener => configured(&info.connection.listener_metadata),
        MetadataSource::FilterChain => configured(&info.connection.filter_chain_metadata),
        MetadataSource::VirtualHost => configured(&info.virtual_host_metadata),
    }
}

fn dynamic_metadata<'e>(namespace: &str, path: &[String], info: &'e StreamInfo) -> Option<Found<'e>> {
    let find = |metadata: &'e DynamicMetadata| {
        if path.is_empty() {
            metadata.namespace(namespace).map(Found::Namespace)
        } else {
            metadata.value(namespace, path).map(Found::Value)
        }
    };
    // A TCP stream is its connection.
    let of_connection = info.protocol.is_none().then_some(&info.connection.metadata);
    find(&info.metadata).or_else(|| of_connection.and_then(find))
}

fn put_found(found: Option<Found<'_>>, out: &mut Vec<u8>) -> Shape {
    match found {
        None => Shape::Missing,
        Some(Found::Namespace(all)) => {
            json::put_struct(out, all);
            Shape::Json
        }
        Some(Found::Value(value)) => match &value.kind {
            None | Some(Kind::NullValue(_)) => Shape::Missing,
            Some(Kind::StringValue(text)) => put(out, text),
            Some(Kind::NumberValue(_) | Kind::BoolValue(_) | Kind::StructValue(_) | Kind::ListValue(_)) => {
                json::put_value(out, value);
                Shape::Json
            }
        },
    }
}

pub(super) fn render_state(state: &dyn FilterStateValue, form: &StateForm, out: &mut Vec<u8>) -> Shape {
    match form {
        StateForm::Plain => state.to_text().map_or(Shape::Missing, |text| put(out, &text)),
        StateForm::Field(name) => state.field(name).map_or(Shape::Missing, |text| put(out, &text)),
        StateForm::Typed => state.to_json().map_or(Shape::Missing, |json| {
            put(out, &json);
            Shape::Json
        }),
    }
}

pub(super) fn render_server_name(choice: ServerName, entry: &LogEntry<'_>, out: &mut Vec<u8>) -> Shape {
    let sni = entry.info.connection.server_name.as_ref().map(|name| name.as_str());
    let host = entry.request.map(|request| request.authority.as_str());
    let filled = |name: &&str| !name.is_empty();
    let (sni, host) = (sni.filter(filled), host.filter(filled));
    let name = match choice {
        ServerName::SniOnly => sni,
        ServerName::SniFirst => sni.or(host),
        ServerName::HostFirst => host.or(sni),
    };
    let Some(name) = name else { return Shape::Missing };
    // A client writes this name: what cannot stand in a host name is replaced.
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    out.extend(name.bytes().map(|byte| if fits(byte) { byte } else { b'_' }));
    Shape::Text
}
