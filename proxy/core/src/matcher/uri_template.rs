//! URI templates: `/videos/{id}/*/{file=**}.mp4` as a path match, and rewrites that name its variables.
//!
//! `*` is one path segment, `**` the rest of the path and the last operator, `{name}` or `{name=pattern}` captures; a
//! variable may have literals before and after it in its segment, an operator only at the end of the template. Envoy takes
//! a `*` inside a literal for a quantifier (`/a*b` matches `/aab`); here it is refused.
//! Source: Envoy `api/envoy/extensions/path/{match,rewrite}/uri_template/v3`.

use regex::Regex;
use xds_api::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use xds_api::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;

use crate::config::{BuildCx, Rejected};

/// A template may name so many variables.
const MAX_VARIABLES: usize = 5;
/// The name of a variable may be so long.
const MAX_NAME: usize = 16;
/// What `*` and literals may consist of: `pchar` of RFC 3986 without `*` and `=`, as the inside of a class.
const PCHAR: &str = r"a-zA-Z0-9\-._~%!$\&'()+,;:@";

/// A path pattern with named variables.
#[derive(Clone, Debug)]
pub struct UriTemplate {
    regex: Regex,
}

/// A path made of literals and of what the variables of a [`UriTemplate`] matched.
#[derive(Clone, Debug)]
pub struct UriTemplateRewrite {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug)]
enum Part {
    Literal(Box<str>),
    /// Number of the capture group.
    Variable(usize),
}

impl UriTemplate {
    /// Builds from the message.
    pub fn build(proto: &UriTemplateMatchConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let UriTemplateMatchConfig { path_template } = proto;
        Self::new(path_template).map_err(|reason| {
            cx.at("path_template", |cx| {
                cx.reject(format!("path_match_policy.path_template {path_template} is invalid: {reason}"))
            })
        })
    }

    /// Reads a template.
    pub fn new(template: &str) -> Result<Self, String> {
        let regex = format!(r"\A(?-u){}\z", Template::read(template)?);
        Ok(Self { regex: Regex::new(&regex).map_err(|error| error.to_string())? })
    }

    /// Whether `path`, without query, matches.
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }
}

impl UriTemplateRewrite {
    /// Builds from the message; every variable must be one of `template`.
    pub fn build(
        proto: &UriTemplateRewriteConfig,
        template: &UriTemplate,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let UriTemplateRewriteConfig { path_template_rewrite } = proto;
        Self::new(path_template_rewrite, template)
            .map_err(|reason| cx.at("path_template_rewrite", |cx| cx.reject(reason)))
    }

    /// Reads a rewrite.
    pub fn new(rewrite: &str, template: &UriTemplate) -> Result<Self, String> {
        if !rewrite.starts_with('/') {
            return Err("a rewrite must start with '/'".to_owned());
        }
        if rewrite.contains("//") {
            return Err("a rewrite must not contain '//'".to_owned());
        }
        let mut parts = Vec::new();
        let mut rest = rewrite;
        while !rest.is_empty() {
            let (literal, variable) =
                rest.split_once('{').map_or((rest, None), |(text, rest)| (text, Some(rest)));
            if !literal.is_empty() {
                if !literal.bytes().all(|byte| byte == b'/' || is_literal(byte)) {
                    return Err(format!("'{literal}' has characters that a path cannot have"));
                }
                parts.push(Part::Literal(literal.into()));
            }
            let Some(variable) = variable else { break };
            let (name, after) =
                variable.split_once('}').ok_or_else(|| "unmatched variable bracket".to_owned())?;
            let group = template
                .regex
                .capture_names()
                .position(|group| group == Some(name))
                .ok_or_else(|| format!("the path template has no variable '{name}'"))?;
            parts.push(Part::Variable(group));
            rest = after;
        }
        Ok(Self { parts: parts.into_boxed_slice() })
    }

    /// The new path for `path`, without query; `None` if `template` does not match it.
    pub fn rewrite(&self, template: &UriTemplate, path: &str) -> Option<String> {
        let captures = template.regex.captures(path)?;
        let mut rewritten = String::with_capacity(path.len() + 16);
        for part in &self.parts {
            match part {
                Part::Literal(text) => rewritten.push_str(text),
                Part::Variable(group) => {
                    rewritten.push_str(captures.get(*group).map_or("", |group| group.as_str()));
                }
            }
        }
        Some(rewritten)
    }
}

/// Reads a template into the regex that matches it.
struct Template<'t> {
    rest: &'t str,
    regex: String,
    names: Vec<&'t str>,
    seen_text_glob: bool,
}

impl<'t> Template<'t> {
    fn read(template: &'t str) -> Result<String, String> {
        let Some(rest) = template.strip_prefix('/') else {
            return Err("a template must start with '/'".to_owned());
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a template must consist of printable ASCII".to_owned());
        }
        let mut reader = Self { rest, regex: "/".to_owned(), names: Vec::new(), seen_text_glob: false };
        while !reader.rest.is_empty() {
            reader.segment()?;
            match reader.rest.strip_prefix('/') {
                Some(after) => {
                    reader.regex.push('/');
                    reader.rest = after;
                }
                None if reader.rest.is_empty() => break,
                None => return Err(format!("'{}' cannot follow an operator or a variable", reader.rest)),
            }
        }
        Ok(reader.regex)
    }

    fn segment(&mut self) -> Result<(), String> {
        if self.rest.starts_with('*') {
            self.operator()?;
            if !self.rest.is_empty() && !self.rest.starts_with('/') {
                let suffix = std::mem::take(&mut self.rest);
                self.literal(suffix)?;
            }
            return Ok(());
        }
        let literal = self.until(['/', '{']);
        let Some(variable) = self.rest.strip_prefix('{') else { return self.literal(literal) };
        if !literal.is_empty() {
            self.literal(literal)?;
        }
        let (inside, after) =
            variable.split_once('}').ok_or_else(|| "unmatched variable bracket".to_owned())?;
        self.variable(inside)?;
        self.rest = after;
        let suffix = self.until(['/', '{']);
        if suffix.is_empty() { Ok(()) } else { self.literal(suffix) }
    }

    /// Takes the text up to one of `ends`.
    fn until(&mut self, ends: [char; 2]) -> &'t str {
        let (text, after) = self.rest.split_at(self.rest.find(ends).unwrap_or(self.rest.len()));
        self.rest = after;
        text
    }

    fn operator(&mut self) -> Result<(), String> {
        if self.seen_text_glob {
            return Err("'**' must be the last operator".to_owned());
        }
        if let Some(after) = self.rest.strip_prefix("**") {
            self.rest = after;
            self.seen_text_glob = true;
            self.regex.push_str(&format!("[{PCHAR}/]*"));
        } else {
            self.rest = self.rest.get(1..).unwrap_or_default();
            self.regex.push_str(&format!("[{PCHAR}]+"));
        }
        Ok(())
    }

    fn variable(&mut self, inside: &'t str) -> Result<(), String> {
        let (name, pattern) =
            inside.split_once('=').map_or((inside, None), |(name, rest)| (name, Some(rest)));
        let is_name = name.starts_with(|char: char| char.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || name.len() > MAX_NAME {
            return Err(format!("'{name}' is not a name of 1 to {MAX_NAME} letters, digits and underscores"));
        }
        if self.names.contains(&name) {
            return Err(format!("variable '{name}' occurs twice"));
        }
        if self.names.len() == MAX_VARIABLES {
            return Err(format!("more than {MAX_VARIABLES} variables"));
        }
        self.names.push(name);
        self.regex.push_str(&format!("(?P<{name}>"));
        let after = self.rest;
        self.rest = pattern.unwrap_or("*");
        if self.rest.is_empty() {
            return Err(format!("the pattern of variable '{name}' is empty"));
        }
        loop {
            if self.rest.starts_with('*') {
                self.operator()?;
            } else {
                let literal = self.until(['/', '/']);
                self.literal(literal)?;
            }
            match self.rest.strip_prefix('/') {
                Some(rest) if !rest.is_empty() => {
                    self.regex.push('/');
                    self.rest = rest;
                }
                None if self.rest.is_empty() => break,
                _ => return Err(format!("the pattern of variable '{name}' is malformed")),
            }
        }
        self.rest = after;
        self.regex.push(')');
        Ok(())
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        if literal.is_empty() || !literal.bytes().all(is_literal) {
            return Err(format!("'{literal}' is not a valid path segment"));
        }
        self.regex.push_str(&regex::escape(literal));
        Ok(())
    }
}

fn is_literal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(template: &str, path: &str) -> bool {
        UriTemplate::new(template).unwrap().matches(path)
    }

    #[test]
    fn operators_match_as_envoy_documents() {
        assert!(matches("/videos/*/*/*.m4s", "/videos/123414/hls/1080p5000_00001.m4s"));
        assert!(matches("/videos/{file}", "/videos/1080p5000_00001.m4s"));
        assert!(!matches("/videos/{file}", "/videos/a/b"));
        assert!(matches("/**.mpd", "/content/123/india/dash/55/manifest.mpd"));
        assert!(matches("/{country}/{lang=**}", "/fr/a/b/c"));
        assert!(matches("/{country}/{lang=**}", "/fr/"));
        assert!(matches("/a/{x=b/*}/c", "/a/b/z/c"));
        assert!(!matches("/a/{x=b/*}/c", "/a/z/z/c"));
        assert!(matches("/a.b(c)", "/a.b(c)"));
        assert!(!matches("/a.b", "/axb"));
        assert!(matches("/a/", "/a/"));
        assert!(matches("/", "/"));
        assert!(matches("/x{v}y/z", "/xQy/z"));
        assert!(!matches("/x{v}y/z", "/xy/z"));
        assert!(matches("/{a}-x/{b}", "/1-x/2"));
        assert!(matches("/**/a", "/x/y/a"));
    }

    #[test]
    fn malformed_templates_are_refused() {
        for template in [
            "/a b",
            "/{",
            "/{a",
            "/{1a}",
            "/{a}/{a}",
            "/{a=}",
            "/{a=*/}",
            "/**/*",
            "/**/{a}",
            "/*.m/x",
            "/a*b",
            "/{b=a*}",
            "/{a}{b}",
            "/{a}.{b}",
            "/*{a}",
            "//",
            "/{a}/{b}/{c}/{d}/{e}/{f}",
            "/{abcdefghijklmnopq}",
            "/a=b",
            "/é",
        ] {
            assert!(UriTemplate::new(template).is_err(), "{template} was accepted");
        }
    }

    #[test]
    fn rewrites_use_the_variables() {
        let template = UriTemplate::new("/api/{region}/{rest=**}").unwrap();
        let rewrite = UriTemplateRewrite::new("/v2/{rest}/in/{region}", &template).unwrap();
        assert_eq!(rewrite.rewrite(&template, "/api/eu/a/b").as_deref(), Some("/v2/a/b/in/eu"));
        assert_eq!(rewrite.rewrite(&template, "/nope"), None);
        for bad in ["x", "/a//b", "/{nope}", "/{region", "/a b"] {
            assert!(UriTemplateRewrite::new(bad, &template).is_err(), "{bad} was accepted");
        }
    }
}
