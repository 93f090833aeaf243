//! URI templates: no panic, and the same verdict as a matcher that tries every way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_core::matcher::{UriTemplate, UriTemplateRewrite};

#[derive(Debug)]
enum Token {
    Octet(u8),
    /// `*`: at least one octet of a segment.
    Segment,
    /// `**`: anything.
    Rest,
}

fuzz_target!(|input: (&str, &str, &str)| {
    let (template, rewrite, path) = input;
    if template.len() > 64 || path.len() > 64 {
        return;
    }
    let Ok(built) = UriTemplate::new(template) else { return };
    let tokens = tokens(template);
    assert_eq!(built.matches(path), matches(&tokens, path.as_bytes()), "{template} {path}");
    let Ok(rewrite) = UriTemplateRewrite::new(rewrite, &built) else { return };
    let rewritten = rewrite.rewrite(&built, path);
    assert_eq!(rewritten.is_some(), built.matches(path));
    assert!(rewritten.is_none_or(|path| path.starts_with('/')));
});

/// A template that is valid: variables stand for their patterns, or for one segment.
fn tokens(template: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = template;
    while let Some(first) = rest.bytes().next() {
        if let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            tokens.extend(pattern(name.split_once('=').map_or("*", |(_, pattern)| pattern)));
            rest = after;
        } else if first == b'*' {
            let operator = if rest.starts_with("**") { "**" } else { "*" };
            tokens.extend(pattern(operator));
            rest = &rest[operator.len()..];
        } else {
            tokens.push(Token::Octet(first));
            rest = &rest[1..];
        }
    }
    tokens
}

fn pattern(mut text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    while let Some(first) = text.bytes().next() {
        let (token, length) = match first {
            b'*' if text.starts_with("**") => (Token::Rest, 2),
            b'*' => (Token::Segment, 1),
            octet => (Token::Octet(octet), 1),
        };
        tokens.push(token);
        text = &text[length..];
    }
    tokens
}

fn is_pchar(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@".contains(&octet)
}

fn matches(tokens: &[Token], path: &[u8]) -> bool {
    // Which rests of the path can still be met, token by token.
    let mut starts = vec![false; path.len() + 1];
    starts[0] = true;
    for token in tokens {
        let mut next = vec![false; path.len() + 1];
        for start in (0..starts.len()).filter(|start| starts[*start]) {
            match token {
                Token::Octet(octet) => {
                    if path.get(start) == Some(octet) {
                        next[start + 1] = true;
                    }
                }
                Token::Segment => {
                    let run = path[start..].iter().take_while(|octet| is_pchar(**octet)).count();
                    next[start + 1..=start + run].fill(true);
                }
                Token::Rest => {
                    let run =
                        path[start..].iter().take_while(|octet| is_pchar(**octet) || **octet == b'/').count();
                    next[start..=start + run].fill(true);
                }
            }
        }
        starts = next;
    }
    starts[path.len()]
}
