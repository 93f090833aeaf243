//! What can be wrong with a configuration, and where: a file position where one is known, and always a path.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use crate::schema::Field;

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The file, if the configuration came from one.
    pub file: Option<Arc<str>>,
    /// Line and column, both from 1, if known.
    pub position: Option<(u32, u32)>,
    /// Where in the message: `static_resources.listeners[0].address`; empty for the message itself.
    pub path: String,
    /// What is wrong, in Envoy's words where Envoy has some (`value is required`).
    pub reason: String,
}

impl Error {
    /// An error at a path, without a position in a file.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Error {
        Error { file: None, position: None, path: path.into(), reason: reason.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if self.file.is_some() || self.position.is_some() {
            f.write_char(' ')?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Error {}

/// Everything that is wrong with a configuration; never empty when returned as an error. Displays one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl From<Error> for Errors {
    fn from(error: Error) -> Errors {
        Errors(vec![error])
    }
}

/// Where a walk through a message is. Displays as `a.b[0].c["key"]`.
#[derive(Clone, Debug, Default)]
pub struct Path(Vec<Segment>);

#[derive(Clone, Debug)]
pub(crate) enum Segment {
    Field(Field),
    Index(u32),
    Key(Box<str>),
    /// A name that no table knows: an unknown field, or a `oneof`.
    Name(Box<str>),
}

impl Path {
    pub(crate) fn push(&mut self, segment: Segment) {
        self.0.push(segment);
    }

    pub(crate) fn pop(&mut self) {
        self.0.pop();
    }

    /// The fields on the way, the outermost first.
    pub fn fields(&self) -> impl DoubleEndedIterator<Item = Field> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Field(field) => Some(*field),
            Segment::Index(_) | Segment::Key(_) | Segment::Name(_) => None,
        })
    }

    /// The path with one more segment.
    pub(crate) fn with(&self, segment: Segment) -> String {
        let mut path = self.clone();
        path.push(segment);
        path.to_string()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            let name = match segment {
                Segment::Field(field) => field.name(),
                Segment::Name(name) => name,
                Segment::Index(index) => {
                    write!(f, "[{index}]")?;
                    continue;
                }
                Segment::Key(key) => {
                    write!(f, "[{key:?}]")?;
                    continue;
                }
            };
            if at > 0 {
                f.write_char('.')?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Message;

    #[test]
    fn errors_read_like_a_compilers() {
        let error = Error {
            file: Some("a.yaml".into()),
            position: Some((3, 5)),
            ..Error::new("node.id", "value is required")
        };
        assert_eq!(error.to_string(), "a.yaml:3:5: node.id: value is required");
        assert_eq!(Error::new("", "empty").to_string(), "empty");
        assert_eq!(Errors(vec![Error::new("a", "b"), Error::new("c", "d")]).to_string(), "a: b\nc: d");
    }

    #[test]
    fn paths_show_fields_indices_and_keys() {
        let bootstrap = Message::find("envoy.config.bootstrap.v3.Bootstrap").unwrap();
        let mut path = Path::default();
        path.push(Segment::Field(bootstrap.field_named("static_resources").unwrap()));
        path.push(Segment::Name("listeners".into()));
        path.push(Segment::Index(2));
        assert_eq!(path.with(Segment::Key("a\"b".into())), "static_resources.listeners[2][\"a\\\"b\"]");
        path.pop();
        assert_eq!(path.to_string(), "static_resources.listeners");
    }
}
