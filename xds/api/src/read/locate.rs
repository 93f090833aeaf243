//! From a path back to the place in the text, for errors that were found after reading.

use super::{Format, Source};
use crate::{
    error::Error,
    json, text_format,
    tree::{Entry, Node, Position, Value},
    yaml,
};

/// Gives errors that have only a path the file and, if the text still parses, the place of the innermost part of the
/// path that the text has: for a missing field, that of the message that lacks it.
///
/// (After a merge of two texts the paths of list elements are those of the merged message; locate them in neither.)
pub fn locate(errors: &mut [Error], source: &Source<'_>) {
    let text = String::from_utf8_lossy(source.text);
    let tree = match source.format {
        Format::Yaml => yaml::parse(&text),
        Format::Json => json::parse(&text),
        Format::Text => text_format::parse(&text),
        Format::Binary => return,
    };
    let Ok(tree) = tree else { return };
    for error in errors.iter_mut().filter(|error| error.position.is_none()) {
        let at = place(&tree, &error.path);
        error.file.get_or_insert_with(|| source.name.into());
        error.position = Some((at.line, at.column));
    }
}

fn place(tree: &Node<'_>, path: &str) -> Position {
    let (mut node, mut at, mut rest) = (tree, tree.at, path);
    while let Some((step, after)) = next_step(rest) {
        rest = after;
        let found = match (step, &node.value) {
            (Step::Name(name), Value::Map(entries)) => find(entries, name),
            (Step::Key(key), Value::Map(entries)) => entries
                .iter()
                .find(|entry| format!("{:?}", entry.key) == key)
                .map(|entry| (&entry.node, entry.at)),
            (Step::Index(index), Value::List(nodes)) => nodes.get(index).map(|node| (node, node.at)),
            // (One value stands for a list.)
            (Step::Index(0), _) => Some((node, at)),
            _ => None,
        };
        let Some(found) = found else { break };
        (node, at) = found;
    }
    at
}

/// The field of this name in either spelling, also in the `value` of a `TypedStruct`.
fn find<'t, 'a>(entries: &'t [Entry<'a>], name: &str) -> Option<(&'t Node<'a>, Position)> {
    let plain = |text: &str| text.replace('_', "").to_ascii_lowercase();
    let direct = entries.iter().find(|entry| entry.key == name || plain(&entry.key) == plain(name));
    if let Some(entry) = direct {
        return Some((&entry.node, entry.at));
    }
    let is_any = entries.iter().any(|entry| entry.key == "@type");
    match entries.iter().find(|entry| is_any && entry.key == "value").map(|entry| &entry.node.value) {
        Some(Value::Map(inner)) => find(inner, name),
        _ => None,
    }
}

enum Step<'p> {
    Name(&'p str),
    Index(usize),
    /// In quotes and escaped, as the path shows it.
    Key(&'p str),
}

/// The first step of a path, and what follows.
fn next_step(path: &str) -> Option<(Step<'_>, &str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    if let Some(inner) = path.strip_prefix('[') {
        if !inner.starts_with('"') {
            let (index, rest) = inner.split_once(']')?;
            return Some((Step::Index(index.parse().ok()?), rest));
        }
        let mut escaped = false;
        let end = inner.bytes().skip(1).position(|byte| {
            let end = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            end
        })?;
        let (key, rest) = inner.split_at_checked(end + 2)?;
        return Some((Step::Key(key), rest.strip_prefix(']')?));
    }
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at_checked(end)?;
    (!name.is_empty()).then_some((Step::Name(name), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_back_to_the_text() {
        let text = "a:\n- b_c: 1\n- bC: 2\n  m:\n    x.y[\"z: 3\nt:\n  '@type': a\n  value:\n    q: 5\none: {k: 1}\n";
        for (path, at) in [
            ("", (1, 1)),
            ("a", (1, 1)),
            ("a[0].b_c", (2, 3)),
            ("a[1].b_c", (3, 3)),
            ("a[1].m[\"x.y[\\\"z\"]", (5, 5)),
            ("a[1].missing.x", (3, 3)),
            ("a[7]", (1, 1)),
            ("t.q", (9, 5)),
            ("one[0].k", (10, 7)),
            ("a[1].m[\"unterminated", (4, 3)),
        ] {
            let mut errors = [Error::new(path, "r")];
            locate(&mut errors, &Source::yaml("f.yaml", text.as_bytes()));
            assert_eq!(errors[0].position, Some(at), "{path}");
            assert_eq!(errors[0].file.as_deref(), Some("f.yaml"));
        }
    }

    #[test]
    fn what_has_a_place_keeps_it() {
        let mut errors = [Error { position: Some((7, 8)), ..Error::new("a", "r") }];
        locate(&mut errors, &Source::yaml("f.yaml", b"a: 1"));
        assert_eq!(errors[0].position, Some((7, 8)));
        let mut errors = [Error::new("a", "r")];
        locate(&mut errors, &Source::yaml("f.yaml", b"a: ["));
        assert_eq!(errors[0].position, None);
    }
}
