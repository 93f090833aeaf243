//! What headers of the PROXY protocol carry beside addresses.

/// A value of a type that both ends know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tlv {
    /// The type.
    pub kind: u8,
    /// The value, at most 65535 octets where it came in a header.
    pub value: Box<[u8]>,
}
