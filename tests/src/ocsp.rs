//! OCSP responses (RFC 6960) made for a test. They are not signed: who staples them does not ask.

/// A response about one certificate, of which `next` tells how long it holds (`20210101000000Z`).
pub fn response(serial: u8, this: &str, next: Option<&str>) -> Vec<u8> {
    with_status(0, &[answer(serial, this, next)])
}

/// One that says no more than that it failed.
pub fn failure() -> Vec<u8> {
    element(0x30, &[&[0x0a, 1, 6]])
}

/// One about several certificates.
pub fn about(serials: &[u8]) -> Vec<u8> {
    let answers: Vec<_> =
        serials.iter().map(|serial| answer(*serial, "20200101000000Z", Some("21000101000000Z"))).collect();
    with_status(0, &answers)
}

/// One whose status is another than successful.
pub fn with_status(status: u8, answers: &[Vec<u8>]) -> Vec<u8> {
    // id-pkix-ocsp-basic, ecdsa-with-SHA256
    const BASIC: &[u8] = &[6, 9, 0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
    const ECDSA: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let answers: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
    let responder = element(0xa2, &[&element(4, &[&[1; 20]])]);
    let data = element(0x30, &[&responder, &element(0x18, &[b"20200101000000Z"]), &element(0x30, &answers)]);
    let basic = element(0x30, &[&data, &element(0x30, &[ECDSA]), &element(3, &[&[0, 1, 2, 3]])]);
    let bytes = element(0xa0, &[&element(0x30, &[BASIC, &element(4, &[&basic])])]);
    element(0x30, &[&[0x0a, 1, status], &bytes])
}

fn answer(serial: u8, this: &str, next: Option<&str>) -> Vec<u8> {
    const SHA1: &[u8] = &[0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];
    let digest = element(4, &[&[7; 20]]);
    let id = element(0x30, &[SHA1, &digest, &digest, &[2, 1, serial]]);
    let next = next.map(|next| element(0xa0, &[&element(0x18, &[next.as_bytes()])])).unwrap_or_default();
    element(0x30, &[&id, &[0x80, 0], &element(0x18, &[this.as_bytes()]), &next])
}

/// An element of DER.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut all = vec![tag];
    match content.len() {
        short @ 0..0x80 => all.push(short as u8),
        middle @ 0x80..0x100 => all.extend([0x81, middle as u8]),
        long => all.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    all.extend(content);
    all
}
