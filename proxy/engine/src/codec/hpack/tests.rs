use proptest::prelude::*;

use super::*;

fn renewed(block: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let renewed = renew(block)?;
    if let Some(block) = &renewed {
        assert_eq!(renew(block), Ok(Some(block.clone())), "what is written is read as it is");
    }
    Ok(renewed)
}

#[test]
fn every_representation_is_read() {
    for (block, expected) in [
        // the static table: a field, a name
        (&b"\x82"[..], &b"\x82"[..]),
        (b"\x01\x01~", b"\x01\x01~"),
        // without indexing, never indexed, with indexing
        (b"\x00\x01a\x01b", b"\x00\x01a\x01b"),
        (b"\x10\x01a\x01b", b"\x00\x01a\x01b"),
        (b"\x40\x01a\x01b", b"\x00\x01a\x01b"),
        // a field of the dynamic table was there before, and so was its name
        (b"\x40\x01a\x01b\xbe\x00\x01c\x01d", b"\x00\x01a\x01b\x00\x01c\x01d"),
        (b"\x40\x01a\x01b\x7e\x01c\xbf\xbe\x0f\x2f\x01x", b"\x00\x01a\x01b"),
        // Huffman
        (b"\x00\x83\xa0\x69\x2f\x01b", b"\x00\x83\xa0\x69\x2f\x01b"),
        (b"\x00\x04late\x00", b"\x00\x83\xa0\x69\x2f\x00"),
        // the first of a name
        (b"\x00\x01a\x01b\x00\x01a\x01c", b"\x00\x01a\x01b"),
        (b"\x82\x00\x07:method\x01c", b"\x82"),
        // sizes of the table
        (b"\x20\x00\x01a\x01b", b"\x00\x01a\x01b"),
        (b"\x20\x3f\xe1\x1f\x40\x01a\x01b\xbe", b"\x00\x01a\x01b"),
        // a name may be anything
        (b"\x00\x00\x01v", b"\x00\x00\x01v"),
        (b"\x00\x02\x00\xff\x00", b"\x00\x02\x00\xff\x00"),
    ] {
        assert_eq!(renewed(block), Ok(Some(expected.to_vec())), "{block:?}");
    }
    assert_eq!(renew(b""), Ok(None));
    assert_eq!(renew(b"\x20"), Ok(None));
}

#[test]
fn what_breaks_the_rules() {
    for block in [
        // indexes of nothing
        &b"\x80"[..],
        b"\xbe",
        b"\x7e\x01a",
        b"\x40\x01a\x01b\xbf",
        // entries that are gone
        b"\x20\x40\x01a\x01b\xbe",
        // a size behind a field, a third one, one that is too large
        b"\x00\x01a\x01b\x20",
        b"\x20\x20\x20",
        b"\x3f\xe2\x1f",
        // what is cut off
        b"\x00",
        b"\x00\x01",
        b"\x00\x01a",
        b"\x00\x01a\x05b",
        b"\x00\x01a\xff",
        b"\xff",
        // an integer that is too large
        b"\x00\x7f\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\xff\x80\x80\x80\x80\x00",
        // Huffman
        b"\x00\x81\xff\x01b",
        b"\x00\x84\xff\xff\xff\xff\x01b",
    ] {
        assert_eq!(renew(block), Err(Malformed), "{block:?}");
    }
}

/// The table holds what its size allows, and an entry that is larger empties it.
#[test]
fn the_table_is_bounded() {
    let mut table = Table::default();
    for _ in 0..1000 {
        table.insert(10, 10);
        assert!(table.size <= TABLE_SIZE);
    }
    assert_eq!(table.entries.len(), TABLE_SIZE / (20 + ENTRY));
    table.insert(TABLE_SIZE, 0);
    assert_eq!((table.entries.len(), table.size), (0, 0));
}

/// A block that refers to a large name again and again costs what its octets cost.
#[test]
fn references_are_not_multiplied() {
    let mut block = vec![0x40];
    write_string(&mut block, &[b'~'; 4000]);
    block.push(0);
    let field = block.clone();
    for _ in 0..100_000 {
        block.extend_from_slice(&[0xbe, 0x0f, 0x2f, 0x00]);
    }
    let written = renewed(&block).unwrap().unwrap();
    assert_eq!(written.len(), field.len());
}

proptest! {
    #[test]
    fn fields_come_back(fields in proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..40), proptest::collection::vec(any::<u8>(), 0..300), 1..20)) {
        let mut block = Vec::new();
        for (name, value) in &fields {
            block.push(0x10);
            write_integer(&mut block, 7, 0, name.len());
            block.extend_from_slice(name);
            write_integer(&mut block, 7, 0, value.len());
            block.extend_from_slice(value);
        }
        let written = renewed(&block).unwrap().unwrap();
        prop_assert!(written.len() <= block.len());
    }

    #[test]
    fn anything_is_read_without_harm(block in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = renewed(&block);
    }
}
