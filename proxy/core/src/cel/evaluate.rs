//! Walking the tree.

use super::attributes::Object;
use super::compile::Node;
use super::value::{List, Map, Value};
use super::{Failed, Outcome};
use crate::facts::Facts;

/// The value of `node`.
pub(super) fn evaluate<'a>(node: &'a Node, facts: &Facts<'a>) -> Outcome<'a> {
    let value = |node| evaluate(node, facts);
    match node {
        Node::Constant(constant) => Ok(constant.value()),
        Node::Root(root) => Ok(Value::Map(Map::Object(Object::Root(*root, *facts)))),
        Node::Unknown => Err(Failed),
        Node::Field(operand, field) => map_of(value(operand)?)?.get(&Value::text(field)).ok_or(Failed),
        Node::Has(operand, field) => {
            let map = map_of(value(operand)?)?;
            let is_there = map.get(&Value::text(field)).is_some();
            if !is_there && map.is_message() { Err(Failed) } else { Ok(Value::Bool(is_there)) }
        }
        Node::Not(operand) => Ok(Value::Bool(!value(operand)?.truth()?)),
        Node::And(nodes) => either(false, nodes, facts),
        Node::Or(nodes) => either(true, nodes, facts),
        Node::Choice(nodes) => {
            let [condition, yes, no] = &**nodes;
            if value(condition)?.truth()? { value(yes) } else { value(no) }
        }
        Node::List(nodes) => {
            let values: Result<_, Failed> = nodes.iter().map(value).collect();
            Ok(Value::List(List::Values(values?)))
        }
        Node::Map(nodes) => entries(nodes, facts),
        Node::Matches(text, pattern) => match value(text)? {
            Value::Text(text) => Ok(Value::Bool(pattern.is_match(&text))),
            _ => Err(Failed),
        },
        Node::Call(function, nodes) => {
            let [one, two, rest @ ..] = &**nodes else {
                return function.call(&value(nodes.first().ok_or(Failed)?)?, &[]);
            };
            if rest.is_empty() {
                return function.call(&value(one)?, &[value(two)?]);
            }
            let others: Result<Vec<_>, Failed> = nodes.iter().skip(1).map(value).collect();
            function.call(&value(one)?, &others?)
        }
    }
}

/// `decisive` if one of the two is, whatever the other is: an error too.
fn either<'a>(decisive: bool, nodes: &'a [Node; 2], facts: &Facts<'a>) -> Outcome<'a> {
    let [one, other] = nodes.each_ref();
    let one = evaluate(one, facts).and_then(|value| value.truth());
    if one == Ok(decisive) {
        return Ok(Value::Bool(decisive));
    }
    let other = evaluate(other, facts)?.truth()?;
    if other == decisive { Ok(Value::Bool(decisive)) } else { one.map(Value::Bool) }
}

fn map_of(value: Value<'_>) -> Result<Map<'_>, Failed> {
    if let Value::Map(map) = value { Ok(map) } else { Err(Failed) }
}

fn entries<'a>(nodes: &'a [(Node, Node)], facts: &Facts<'a>) -> Outcome<'a> {
    let mut entries: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(nodes.len());
    for (key, value) in nodes {
        let key = evaluate(key, facts)?;
        let is_key = matches!(key, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Text(_));
        if !is_key || entries.iter().any(|(known, _)| known.equals(&key)) {
            return Err(Failed);
        }
        entries.push((key, evaluate(value, facts)?));
    }
    Ok(Value::Map(Map::Entries(entries.into())))
}
