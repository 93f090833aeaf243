//! Expressions in CEL as the tree that control planes send (`google.api.expr.v1alpha1.Expr`), from their text.
//!
//! As much of the grammar as tests write. A mistake in an expression is a mistake in a test: it is told by panicking.

#![expect(clippy::expect_used, clippy::panic, reason = "whoever writes a test sees it at once")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The tree of `text`, as JSON.
pub fn parse(text: &str) -> Value {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let expr = parser.choice();
    assert_eq!(parser.at, parser.tokens.len(), "{text}: something is left over");
    expr
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    /// The field of a constant, and its value.
    Constant(&'static str, Value),
    Sign(&'static str),
}

const SIGNS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}",
];

/// By what binds most loosely.
const LEVELS: [&[&str]; 5] =
    [&["||"], &["&&"], &["==", "!=", "<", "<=", ">", ">=", "in"], &["+", "-"], &["*", "/", "%"]];

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_bytes = rest.starts_with("b\"");
        let length = if first == '"' || is_bytes {
            let start = 1 + usize::from(is_bytes);
            let end = start + rest[start..].find('"').expect("a text ends");
            let content = &rest[start..end];
            tokens.push(match is_bytes {
                true => Token::Constant("bytesValue", json!(STANDARD.encode(content))),
                false => Token::Constant("stringValue", json!(content.replace("\\\\", "\\"))),
            });
            end + 1
        } else if first.is_ascii_digit() {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
            let number = &rest[..end.unwrap_or(rest.len())];
            tokens.push(match number.strip_suffix('u') {
                Some(number) => Token::Constant("uint64Value", json!(number)),
                None if number.contains(['.', 'e']) => {
                    Token::Constant("doubleValue", json!(number.parse::<f64>().expect("a number")))
                }
                None => Token::Constant("int64Value", json!(number)),
            });
            number.len()
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            tokens.push(match name {
                "true" | "false" => Token::Constant("boolValue", json!(name == "true")),
                "null" => Token::Constant("nullValue", Value::Null),
                "in" => Token::Sign("in"),
                name => Token::Name(name.to_owned()),
            });
            name.len()
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign)).expect("a sign");
            tokens.push(Token::Sign(sign));
            sign.len()
        };
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

fn call(function: &str, target: Option<Value>, args: Vec<Value>) -> Value {
    match target {
        Some(target) => json!({"callExpr": {"function": function, "target": target, "args": args}}),
        None => json!({"callExpr": {"function": function, "args": args}}),
    }
}

impl Parser {
    fn takes(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.tokens.get(self.at), Some(Token::Sign(next)) if *next == sign);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, sign: &str) {
        assert!(self.takes(sign), "{sign} before {:?}", &self.tokens[self.at..]);
    }

    fn choice(&mut self) -> Value {
        let condition = self.level(0);
        if !self.takes("?") {
            return condition;
        }
        let yes = self.choice();
        self.expect(":");
        let no = self.choice();
        call("_?_:_", None, vec![condition, yes, no])
    }

    fn level(&mut self, level: usize) -> Value {
        let Some(signs) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.level(level + 1);
        while let Some(sign) = signs.iter().find(|sign| self.takes(sign)) {
            let right = self.level(level + 1);
            let function = if *sign == "in" { "@in".to_owned() } else { format!("_{sign}_") };
            left = call(&function, None, vec![left, right]);
        }
        left
    }

    fn unary(&mut self) -> Value {
        for sign in ["!", "-"] {
            if self.takes(sign) {
                let operand = self.unary();
                return call(&format!("{sign}_"), None, vec![operand]);
            }
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Value {
        let mut operand = self.primary();
        loop {
            if self.takes(".") {
                let name = self.name();
                operand = match self.takes("(") {
                    true => call(&name, Some(operand), self.list(")")),
                    false => json!({"selectExpr": {"operand": operand, "field": name}}),
                };
            } else if self.takes("[") {
                let index = self.choice();
                self.expect("]");
                operand = call("_[_]", None, vec![operand, index]);
            } else {
                return operand;
            }
        }
    }

    fn name(&mut self) -> String {
        let Some(Token::Name(name)) = self.tokens.get(self.at).cloned() else { panic!("a name is missing") };
        self.at += 1;
        name
    }

    fn list(&mut self, end: &str) -> Vec<Value> {
        let mut all = Vec::new();
        while !self.takes(end) {
            all.push(self.choice());
            if !self.takes(",") {
                self.expect(end);
                break;
            }
        }
        all
    }

    fn primary(&mut self) -> Value {
        if self.takes("(") {
            let inner = self.choice();
            self.expect(")");
            return inner;
        }
        if self.takes("[") {
            return json!({"listExpr": {"elements": self.list("]")}});
        }
        if self.takes("{") {
            return self.map();
        }
        if let Some(Token::Constant(field, value)) = self.tokens.get(self.at).cloned() {
            self.at += 1;
            return json!({"constExpr": {field: value}});
        }
        let name = self.name();
        if !self.takes("(") {
            return json!({"identExpr": {"name": name}});
        }
        let mut args = self.list(")");
        if name != "has" {
            return call(&name, None, args);
        }
        let mut asked = args.remove(0);
        asked["selectExpr"]["testOnly"] = json!(true);
        asked
    }

    fn map(&mut self) -> Value {
        let mut entries = Vec::new();
        while !self.takes("}") {
            let key = self.choice();
            self.expect(":");
            entries.push(json!({"mapKey": key, "value": self.choice()}));
            if !self.takes(",") {
                self.expect("}");
                break;
            }
        }
        json!({"structExpr": {"entries": entries}})
    }
}
