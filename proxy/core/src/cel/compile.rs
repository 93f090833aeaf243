//! From the tree of the API to one that is evaluated: names are looked up, functions found, expressions of regular
//! expressions compiled.

use std::borrow::Cow;

use jiff::Timestamp;
use xds_api::envoy::config::core::v3::CelExpressionConfig;
use xds_api::google::api::expr::v1alpha1 as proto;
use xds_api::google::api::expr::v1alpha1::constant::ConstantKind;
use xds_api::google::api::expr::v1alpha1::expr::create_struct::entry::KeyKind;
use xds_api::google::api::expr::v1alpha1::expr::{Call, ExprKind};

use super::attributes::Root;
use super::function::Function;
use super::time::{bounded, from_nanos};
use super::value::Value;
use crate::matcher::Search;

/// How deep a tree may be, and of how many nodes: it is walked for each request.
const MAX_DEPTH: usize = 100;
const MAX_NODES: usize = 10_000;

/// One node.
pub(super) enum Node {
    Constant(Constant),
    Root(Root),
    /// A name that tells nothing: whoever asks for it gets no value.
    Unknown,
    Field(Box<Node>, Box<str>),
    /// Whether there is such a field.
    Has(Box<Node>, Box<str>),
    Not(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Choice(Box<[Node; 3]>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    /// A regular expression that is known.
    Matches(Box<Node>, Search),
    Call(Function, Box<[Node]>),
}

/// A value that is written down.
pub(super) enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Box<[u8]>),
    Bytes(Box<[u8]>),
    Time(Timestamp),
    Span(i128),
    Type(&'static str),
}

impl Constant {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Int(number) => Value::Int(*number),
            Self::Uint(number) => Value::Uint(*number),
            Self::Double(number) => Value::Double(*number),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
            Self::Time(time) => Value::Time(*time),
            Self::Span(span) => Value::Span(*span),
            Self::Type(name) => Value::Type(name),
        }
    }
}

/// Compiles a tree that came as such, or as text: there Envoy knows its node, and we say that we do not tell.
pub(super) fn compile(
    expr: &proto::Expr,
    config: CelExpressionConfig,
    is_text: bool,
) -> Result<Node, String> {
    Compiler { config, is_text, nodes: 0 }.node(expr, 0)
}

struct Compiler {
    config: CelExpressionConfig,
    is_text: bool,
    nodes: usize,
}

impl Compiler {
    fn node(&mut self, expr: &proto::Expr, depth: usize) -> Result<Node, String> {
        self.nodes += 1;
        if depth > MAX_DEPTH || self.nodes > MAX_NODES {
            return Err(format!("more than {MAX_DEPTH} levels or {MAX_NODES} nodes"));
        }
        let depth = depth + 1;
        let proto::Expr { id: _, expr_kind } = expr;
        match expr_kind.as_ref().ok_or("an expression is empty")? {
            ExprKind::ConstExpr(constant) => self::constant(constant).map(Node::Constant),
            ExprKind::IdentExpr(ident) => Ok(name(&ident.name)),
            ExprKind::SelectExpr(select) => {
                let operand = select.operand.as_ref().ok_or("a selection has no operand")?;
                let operand = Box::new(self.node(operand, depth)?);
                if let (Node::Root(Root::Xds), "node") = (&*operand, &*select.field)
                    && self.is_text
                {
                    return Err("xds.node is not available".into());
                }
                let field = select.field.as_str().into();
                Ok(if select.test_only { Node::Has(operand, field) } else { Node::Field(operand, field) })
            }
            ExprKind::CallExpr(call) => self.call(call, depth),
            ExprKind::ListExpr(list) => {
                if !list.optional_indices.is_empty() {
                    return Err("optional elements are not available".into());
                }
                self.all(&list.elements, depth).map(|nodes| Node::List(nodes.into()))
            }
            ExprKind::StructExpr(map) => {
                if !map.message_name.is_empty() {
                    return Err(format!("messages ({}) cannot be made", map.message_name));
                }
                let entries = map.entries.iter().map(|entry| {
                    let (Some(KeyKind::MapKey(key)), Some(value), false) =
                        (&entry.key_kind, &entry.value, entry.optional_entry)
                    else {
                        return Err("an entry of a map needs a key and a value".to_owned());
                    };
                    Ok((self.node(key, depth)?, self.node(value, depth)?))
                });
                entries.collect::<Result<Box<[_]>, _>>().map(Node::Map)
            }
            ExprKind::ComprehensionExpr(_) => Err("Comprehension support is disabled".into()),
        }
    }

    fn all(&mut self, exprs: &[proto::Expr], depth: usize) -> Result<Vec<Node>, String> {
        exprs.iter().map(|expr| self.node(expr, depth)).collect()
    }

    fn call(&mut self, call: &Call, depth: usize) -> Result<Node, String> {
        let Call { target, function, args } = call;
        let mut nodes = match target {
            Some(target) => vec![self.node(target, depth)?],
            None => Vec::new(),
        };
        nodes.extend(self.all(args, depth)?);
        let nodes = match special(function, target.is_some(), nodes) {
            Ok(node) => return Ok(node),
            Err(nodes) => nodes,
        };
        let found = Function::find(function, target.is_some(), nodes.len(), self.config);
        let found =
            found.ok_or_else(|| format!("No overload found in reference resolve step for {function}"))?;
        match (found, <[Node; 2]>::try_from(nodes)) {
            (Function::Matches, Ok([text, Node::Constant(Constant::Text(pattern))])) => {
                let pattern = String::from_utf8_lossy(&pattern);
                Ok(Node::Matches(Box::new(text), Search::limited(&pattern)?))
            }
            (found, Ok(nodes)) => Ok(Node::Call(found, Box::new(nodes))),
            (found, Err(nodes)) => Ok(Node::Call(found, nodes.into())),
        }
    }
}

/// What does not evaluate all of its operands.
fn special(function: &str, has_target: bool, nodes: Vec<Node>) -> Result<Node, Vec<Node>> {
    match (function, has_target) {
        ("!_", false) => <[Node; 1]>::try_from(nodes).map(|[node]| Node::Not(Box::new(node))),
        ("_&&_", false) => <[Node; 2]>::try_from(nodes).map(|nodes| Node::And(Box::new(nodes))),
        ("_||_", false) => <[Node; 2]>::try_from(nodes).map(|nodes| Node::Or(Box::new(nodes))),
        ("_?_:_", false) => <[Node; 3]>::try_from(nodes).map(|nodes| Node::Choice(Box::new(nodes))),
        _ => Err(nodes),
    }
}

fn name(name: &str) -> Node {
    let types = ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type"];
    match (Root::of(name), types.into_iter().find(|known| *known == name)) {
        (Some(root), _) => Node::Root(root),
        (None, Some(known)) => Node::Constant(Constant::Type(known)),
        (None, None) => Node::Unknown,
    }
}

#[allow(deprecated, reason = "constants of time are in the API")]
fn constant(proto: &proto::Constant) -> Result<Constant, String> {
    const SECOND: i128 = 1_000_000_000;
    let nanos = |seconds: i64, nanos: i32| i128::from(seconds) * SECOND + i128::from(nanos);
    Ok(match proto.constant_kind.as_ref().ok_or("a constant is empty")? {
        ConstantKind::NullValue(_) => Constant::Null,
        ConstantKind::BoolValue(truth) => Constant::Bool(*truth),
        ConstantKind::Int64Value(number) => Constant::Int(*number),
        ConstantKind::Uint64Value(number) => Constant::Uint(*number),
        ConstantKind::DoubleValue(number) => Constant::Double(*number),
        ConstantKind::StringValue(text) => Constant::Text(text.as_bytes().into()),
        ConstantKind::BytesValue(bytes) => Constant::Bytes(bytes.as_slice().into()),
        ConstantKind::DurationValue(span) => {
            let span = bounded(Some(nanos(span.seconds, span.nanos)));
            Constant::Span(span.map_err(|_| "a duration is out of range")?)
        }
        ConstantKind::TimestampValue(time) => {
            let time = from_nanos(nanos(time.seconds, time.nanos));
            Constant::Time(time.map_err(|_| "a timestamp is out of range")?)
        }
    })
}
