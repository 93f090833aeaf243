//! What is called used must be read. rustc does not tell: generated messages and the parts of the engine that other crates
//! see are public, so it takes every field of them for read. These tests look at the text of the sources instead: they cannot
//! prove that a field has its meaning, but one that nobody ever mentions has none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::*;

/// Fields of messages that are used without being named, and how.
const PASSED_ON: &[(&str, &str)] = &[
    ("envoy.config.core.v3.Node", "the whole node is sent to management servers"),
    ("envoy.config.core.v3.BuildVersion", "part of the node"),
    ("envoy.config.core.v3.Extension", "part of the node"),
    ("envoy.type.v3.SemanticVersion", "part of the node"),
];

/// Fields of messages whose own fields say what becomes of them.
const SHELLS: &[&str] = &[
    "envoy.config.core.v3.SubstitutionFormatString.json_format_options",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.access_log_options",
];

/// Public fields of our own that nobody reads, and what they are for.
const FOR_THEIR_OWN_SAKE: &[(&str, &str)] = &[
    ("posture", "what the authors of an extension say of it; a test asks for it"),
    ("extension_stats", "holds statistics, which exist for as long as it does"),
    ("before_trailers", "filters write it, and the chain reads the place that it borrows"),
    ("full_state", "for other users of the xDS client"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'s> {
    Word(&'s str),
    Mark(char),
}

/// One file: its tokens, without comments, strings and tests.
struct File {
    path: PathBuf,
    text: String,
}

/// The sources of the proxy but for tests.
fn files() -> Vec<File> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let folders = ["proxy/src", "proxy/core/src", "proxy/engine/src", "proxy/extensions/src", "xds/src"];
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if matches!(name, "tests" | "testing" | "simulation" | "unread") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let text = match text.find("#[cfg(test)]\nmod tests {") {
                Some(end) => text[..end].to_owned(),
                None => text,
            };
            files.push(File { path, text });
        }
    }
    assert!(files.len() > 200, "only {} files", files.len());
    files
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let end_of =
        |at: usize, end: &str| text[at..].find(end).map_or(text.len(), |length| at + length + end.len());
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        at = match rest[0] {
            b'/' if rest.starts_with(b"//") => end_of(at, "\n"),
            b'r' if rest.starts_with(b"r#\"") => end_of(at + 3, "\"#"),
            b'r' if rest.starts_with(b"r#") => at + 2,
            b'"' => {
                let mut end = at + 1;
                while end < bytes.len() && bytes[end] != b'"' {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                end + 1
            }
            b'\'' if rest.len() > 2 && rest[1] == b'\\' => end_of(at + 3, "'"),
            b'\'' if rest.len() > 2 && rest[2] == b'\'' => at + 3,
            first if word(first) => {
                let length = rest.iter().position(|byte| !word(*byte)).unwrap_or(rest.len());
                tokens.push(Token::Word(&text[at..at + length]));
                at + length
            }
            first => {
                if !first.is_ascii_whitespace() && first.is_ascii() {
                    tokens.push(Token::Mark(char::from(first)));
                }
                at + 1
            }
        };
    }
    tokens
}

/// How words occur in a file.
#[derive(Default)]
struct Words<'s> {
    all: BTreeSet<&'s str>,
    /// After a dot, and nothing is assigned to it.
    accessed: BTreeSet<&'s str>,
    /// Bound by a pattern, or given a value in a literal: which of the two is hard to say.
    listed: BTreeSet<&'s str>,
    /// Bound by a pattern for sure.
    bound: BTreeSet<&'s str>,
    /// Fields of public structs.
    public: BTreeSet<&'s str>,
}

impl<'s> Words<'s> {
    fn of(text: &'s str) -> Self {
        use Token::{Mark, Word};
        let tokens = tokens(text);
        let at = |index: usize| tokens.get(index).copied().unwrap_or(Mark(' '));
        let mut words = Self::default();
        // The braces around each token: whether they are those of a pattern is known at their end.
        let mut open: Vec<Vec<&str>> = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            let before = |back: usize| index.checked_sub(back).map_or(Mark(' '), at);
            match *token {
                Word(word) => {
                    words.all.insert(word);
                    let next = (at(index + 1), at(index + 2));
                    let assigned = next.0 == Mark('=') && !matches!(next.1, Mark('=' | '>'));
                    if before(1) == Mark('.') && before(2) != Mark('.') && !assigned {
                        words.accessed.insert(word);
                    }
                    let opens = matches!(before(1), Mark('{' | ','));
                    let dropped = next == (Mark(':'), Word("_"));
                    if opens && matches!(next.0, Mark(',' | '}' | ':')) && next.1 != Mark(':') && !dropped {
                        words.listed.insert(word);
                        if let Some(names) = open.last_mut() {
                            names.push(word);
                        }
                    }
                    let is_public = matches!(before(1), Word("pub")) || before(1) == Mark(')');
                    if is_public && next.0 == Mark(':') && next.1 != Mark(':') {
                        words.public.insert(word);
                    }
                }
                Mark('{') => open.push(Vec::new()),
                Mark('}') => {
                    let names = open.pop().unwrap_or_default();
                    let mut after = index + 1;
                    while at(after) == Mark(')') {
                        after += 1;
                    }
                    let ends = match at(after) {
                        Mark('=') => at(after + 1) != Mark('='),
                        Mark('|' | ':') | Word("if" | "in") => true,
                        Mark(_) | Word(_) => false,
                    };
                    if ends || (before(1) == Mark('.') && before(2) == Mark('.')) {
                        words.bound.extend(names);
                    }
                }
                Mark(_) => {}
            }
        }
        words
    }

    /// Whether the field of a message is read, as a field or as one of several choices.
    fn reads(&self, field: &str) -> bool {
        self.accessed.contains(field)
            || self.listed.contains(field)
            || self.all.contains(choice(field).as_str())
    }
}

/// `route_config` as prost names the choice: `RouteConfig`.
fn choice(field: &str) -> String {
    let capital = |part: &str| part[..1.min(part.len())].to_uppercase() + part.get(1..).unwrap_or_default();
    field.split('_').map(capital).collect()
}

/// The words of a message's name, as prost finds them: a capital begins one after a small letter, or before one.
fn words_of(message: &str) -> Vec<String> {
    let letters: Vec<char> = message.chars().collect();
    let is_small =
        |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(|letter| letter.is_lowercase());
    let mut words: Vec<String> = Vec::new();
    for (at, letter) in letters.iter().enumerate() {
        let begins = letter.is_uppercase() && (is_small(at.checked_sub(1)) || is_small(Some(at + 1)));
        match words.last_mut() {
            Some(word) if !begins => word.extend(letter.to_lowercase()),
            _ => words.push(letter.to_lowercase().collect()),
        }
    }
    words
}

/// `RBACPerRoute` as prost names its module: `rbac_per_route`.
fn module_of(message: &str) -> String {
    words_of(message).join("_")
}

/// `RBACPerRoute` as prost names it: `RbacPerRoute`.
fn type_of(message: &str) -> String {
    choice(&module_of(message))
}

#[test]
fn what_is_called_used_is_read() {
    let files = files();
    // (The tables name fields in strings, which do not count.)
    let words: Vec<Words<'_>> = files.iter().map(|file| Words::of(&file.text)).collect();
    // Where a message is read: where its type is named, or where somebody reads a field that holds it.
    let mut readers: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let all: Vec<&MessageFields> = tables().collect();
    for (message, _) in &all {
        // (Choices of a message are in a module with its name.)
        let name = message.rsplit('.').next().unwrap_or_default();
        let names = [module_of(name), type_of(name)];
        let mentions = |words: &Words<'_>| names.iter().any(|name| words.all.contains(name.as_str()));
        let named = (0..words.len()).filter(|at| mentions(&words[*at]));
        readers.entry(message).or_default().extend(named);
    }
    loop {
        let before: usize = readers.values().map(BTreeSet::len).sum();
        for (message, fields) in &all {
            let outer = Message::find(message).unwrap();
            for (field, _) in *fields {
                let Some(inner) = outer.field_named(field).and_then(message_in) else { continue };
                let by: Vec<usize> =
                    readers[message].iter().copied().filter(|at| words[*at].reads(field)).collect();
                if let Some(readers) = readers.get_mut(inner.full_name()) {
                    readers.extend(by);
                }
            }
        }
        if before == readers.values().map(BTreeSet::len).sum::<usize>() {
            break;
        }
    }
    let mut unread = BTreeSet::new();
    for (message, fields) in &all {
        if PASSED_ON.iter().any(|(known, _)| known == message) {
            continue;
        }
        for (field, field_use) in *fields {
            let path = format!("{message}.{field}");
            let read = readers[message].iter().any(|at| words[*at].reads(field));
            if *field_use == FieldUse::Used && !read && !SHELLS.contains(&path.as_str()) {
                unread.insert(path);
            }
        }
    }
    assert!(unread.is_empty(), "called used, but nobody reads them: {unread:#?}");
}

#[test]
fn what_configuration_becomes_is_read() {
    let files = files();
    let words: Vec<Words<'_>> = files.iter().map(|file| Words::of(&file.text)).collect();
    let mut unread = BTreeSet::new();
    for (file, own) in files.iter().zip(&words) {
        for field in &own.public {
            let read =
                words.iter().any(|words| words.accessed.contains(field) || words.bound.contains(field));
            if !read && !FOR_THEIR_OWN_SAKE.iter().any(|(known, _)| known == field) {
                unread.insert(format!("{}: {field}", file.path.display()));
            }
        }
    }
    assert!(unread.is_empty(), "nobody reads them: {unread:#?}");
}

#[test]
fn the_guards_see_what_they_are_for() {
    let words = Words::of(
        r#"
        pub struct Built { pub kept: u8, pub(super) taken: u8, pub lost: u8, pub set: u8 }
        // a.comment
        fn build(proto: Proto) -> Built {
            let Proto { a, b: Some(c), gone: _ } = proto;
            Built { kept: a, taken: c, lost: "a.string", set: 'x' }
        }
        fn read(built: &mut Built) -> bool { built.set = 1; let Built { taken, .. } = built; built.kept == 1 }
        match specifier { Specifier::RouteConfig(config) => {} }
        "#,
    );
    assert_eq!([module_of("RBACPerRoute"), type_of("RBACPerRoute")], ["rbac_per_route", "RbacPerRoute"]);
    assert_eq!([module_of("RouteAction"), type_of("RouteAction")], ["route_action", "RouteAction"]);
    assert_eq!(words.public, ["kept", "lost", "set", "taken"].into());
    for (field, is_read) in [
        ("a", true),
        ("b", true),
        ("gone", false),
        ("route_config", true),
        ("comment", false),
        ("string", false),
    ] {
        assert_eq!(words.reads(field), is_read, "{field}");
    }
    let is_read = |field: &&&str| words.accessed.contains(**field) || words.bound.contains(**field);
    let read: Vec<&str> = words.public.iter().filter(is_read).copied().collect();
    assert_eq!(read, ["kept", "taken"]);
}
