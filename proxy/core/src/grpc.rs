//! Status codes of gRPC: their names, and where a response carries them.
//!
//! Source: gRPC `statuscodes.md`; Envoy `source/common/grpc` documentation of `%GRPC_STATUS%`.

use http::HeaderMap;

use crate::headers::GRPC_STATUS;

/// Names of the codes 0-16, in CamelCase and SNAKE_CASE, as Envoy spells them.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The name of a code in CamelCase; `None` for codes that gRPC does not define.
pub fn camel_name(code: u32) -> Option<&'static str> {
    NAMES.get(usize::try_from(code).ok()?).map(|(camel, _)| *camel)
}

/// The name of a code in SNAKE_CASE; `None` for codes that gRPC does not define.
pub fn snake_name(code: u32) -> Option<&'static str> {
    NAMES.get(usize::try_from(code).ok()?).map(|(_, snake)| *snake)
}

/// `grpc-status` of a head or of trailers, if it is there and a number.
pub fn status_in(headers: &HeaderMap) -> Option<u32> {
    headers.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()
}
