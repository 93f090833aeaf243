//! What can go wrong with a response, and the bytes that make it so.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::protocol::Response;

/// Something that goes wrong once.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Nothing: the response goes out as it is.
    None,
    /// The response carries this nonce: a stale, repeated or empty one.
    Nonce(String),
    /// The response claims to be of this type.
    TypeUrl(String),
    /// The response is sent twice.
    Twice,
    /// The first resource of the response is in it once more.
    Repeat,
    /// A gRPC message with these bytes is sent in its place.
    Garbage(Bytes),
    /// The gRPC message announces this many bytes and none come.
    Announce(u32),
    /// The stream is reset in the middle of the gRPC message.
    Truncate,
    /// The stream ends with this gRPC status in place of the response.
    Close(i32, String),
    /// The response is lost.
    Silence,
    /// The next stream, not response, is refused with this gRPC status.
    Refuse(i32, String),
}

/// What a stream puts on the wire.
#[derive(Debug, PartialEq)]
pub(super) enum Out {
    Bytes(Bytes),
    /// Trailers with this status; the end.
    Status(i32, String),
    Reset,
}

/// The bytes of a response under a fault.
pub(super) fn apply(fault: Fault, mut response: Response) -> Vec<Out> {
    match &fault {
        Fault::Nonce(nonce) => nonce.clone_into(match &mut response {
            Response::StateOfTheWorld(response) => &mut response.nonce,
            Response::Delta(response) => &mut response.nonce,
        }),
        Fault::TypeUrl(type_url) => type_url.clone_into(match &mut response {
            Response::StateOfTheWorld(response) => &mut response.type_url,
            Response::Delta(response) => &mut response.type_url,
        }),
        Fault::Repeat => match &mut response {
            Response::StateOfTheWorld(response) => {
                response.resources.extend(response.resources.first().cloned())
            }
            Response::Delta(response) => response.resources.extend(response.resources.first().cloned()),
        },
        _ => {}
    }
    let message = match &response {
        Response::StateOfTheWorld(response) => response.encode_to_vec(),
        Response::Delta(response) => response.encode_to_vec(),
    };
    let frame = frame(&message);
    match fault {
        Fault::None | Fault::Nonce(_) | Fault::TypeUrl(_) | Fault::Repeat | Fault::Refuse(..) => {
            vec![Out::Bytes(frame)]
        }
        Fault::Twice => vec![Out::Bytes(frame.clone()), Out::Bytes(frame)],
        Fault::Garbage(message) => vec![Out::Bytes(self::frame(&message))],
        Fault::Announce(length) => {
            let mut head = BytesMut::new();
            head.put_u8(0);
            head.put_u32(length);
            vec![Out::Bytes(head.freeze())]
        }
        Fault::Truncate => vec![Out::Bytes(frame.slice(..frame.len() / 2)), Out::Reset],
        Fault::Close(code, message) => vec![Out::Status(code, message)],
        Fault::Silence => Vec::new(),
    }
}

/// A gRPC frame: not compressed, length, message.
fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}
