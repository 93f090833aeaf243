//! From the text of an expression to the tree of the API.
//!
//! Source: <https://github.com/google/cel-spec/blob/master/doc/langdef.md>, "Syntax". As in Envoy the macros over lists (`all`, `exists`,
//! `exists_one`, `map`, `filter`) are refused, and optional syntax is not there.

mod literal;
mod token;

use xds_api::google::api::expr::v1alpha1::constant::ConstantKind;
use xds_api::google::api::expr::v1alpha1::expr::create_struct::Entry;
use xds_api::google::api::expr::v1alpha1::expr::create_struct::entry::KeyKind;
use xds_api::google::api::expr::v1alpha1::expr::{Call, CreateList, CreateStruct, ExprKind, Ident, Select};
use xds_api::google::api::expr::v1alpha1::{Constant, Expr};

use token::{Token, Tokens};

/// How deep an expression may nest, and how long its text may be (in bytes): the parser calls itself.
const MAX_DEPTH: usize = 64;
const MAX_LENGTH: usize = 100_000;

/// Operators between two operands by how tightly they bind, loosest first.
const BINARY: &[&[(&str, &str)]] = &[
    &[
        ("<", "_<_"),
        ("<=", "_<=_"),
        (">=", "_>=_"),
        (">", "_>_"),
        ("==", "_==_"),
        ("!=", "_!=_"),
        ("in", "@in"),
    ],
    &[("+", "_+_"), ("-", "_-_")],
    &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")],
];

/// Words that name nothing.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// Parses `text`, or says what is wrong and where (in bytes).
pub(super) fn parse(text: &str) -> Result<Expr, String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("an expression may have {MAX_LENGTH} bytes"));
    }
    let mut parser = Parser { tokens: Tokens::of(text)?, ids: 0, depth: 0 };
    let expr = parser.expression()?;
    match parser.tokens.next() {
        None => Ok(expr),
        Some(_) => Err(parser.tokens.unexpected()),
    }
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    ids: i64,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn make(&mut self, kind: ExprKind) -> Expr {
        self.ids += 1;
        Expr { id: self.ids, expr_kind: Some(kind) }
    }

    fn call(&mut self, function: &str, target: Option<Expr>, args: Vec<Expr>) -> Expr {
        let target = target.map(Box::new);
        self.make(ExprKind::CallExpr(Box::new(Call { target, function: function.to_owned(), args })))
    }

    fn expression(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} levels"));
        }
        let condition = self.alternatives()?;
        let expr = if self.tokens.take("?") {
            let yes = self.alternatives()?;
            self.tokens.expect(":")?;
            let no = self.expression()?;
            self.call("_?_:_", None, vec![condition, yes, no])
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn alternatives(&mut self) -> Result<Expr, String> {
        let mut terms = vec![self.conditions()?];
        while self.tokens.take("||") {
            terms.push(self.conditions()?);
        }
        Ok(self.balanced("_||_", terms))
    }

    fn conditions(&mut self) -> Result<Expr, String> {
        let mut terms = vec![self.binary(BINARY)?];
        while self.tokens.take("&&") {
            terms.push(self.binary(BINARY)?);
        }
        Ok(self.balanced("_&&_", terms))
    }

    /// A tree of the least depth, so that a long row of conditions is no deep one.
    fn balanced(&mut self, function: &str, mut terms: Vec<Expr>) -> Expr {
        while terms.len() > 1 {
            let mut level = Vec::with_capacity(terms.len().div_ceil(2));
            let mut rest = terms.into_iter();
            while let Some(one) = rest.next() {
                level.push(match rest.next() {
                    Some(two) => self.call(function, None, vec![one, two]),
                    None => one,
                });
            }
            terms = level;
        }
        terms.pop().unwrap_or_default()
    }

    fn binary(&mut self, levels: &[&[(&str, &str)]]) -> Result<Expr, String> {
        let Some((operators, tighter)) = levels.split_first() else { return self.unary() };
        let mut left = self.binary(tighter)?;
        let mut operands = 1;
        while let Some((_, function)) = operators.iter().find(|(operator, _)| self.tokens.take(operator)) {
            operands += 1;
            if operands > MAX_DEPTH {
                return Err(format!("more than {MAX_DEPTH} operands in a row"));
            }
            let right = self.binary(tighter)?;
            left = self.call(function, None, vec![left, right]);
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Expr, String> {
        for (operator, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0_usize;
            while self.tokens.take(operator) {
                count += 1;
            }
            if count == 0 {
                continue;
            }
            if let ("-", 1, Some(Token::Number(number))) = (operator, count, self.tokens.peek()) {
                self.tokens.next();
                let constant = literal::number(number, true)?;
                let constant = self.constant(constant);
                return self.member(constant);
            }
            let operand = self.operand()?;
            return Ok(if count.is_multiple_of(2) {
                operand
            } else {
                self.call(function, None, vec![operand])
            });
        }
        self.operand()
    }

    fn operand(&mut self) -> Result<Expr, String> {
        let primary = self.primary()?;
        self.member(primary)
    }

    /// What follows a value: fields, calls and indices.
    fn member(&mut self, mut value: Expr) -> Result<Expr, String> {
        let mut length = 0;
        loop {
            length += 1;
            if length > MAX_DEPTH {
                return Err(format!("more than {MAX_DEPTH} levels"));
            }
            if self.tokens.take("[") {
                let index = self.expression()?;
                self.tokens.expect("]")?;
                value = self.call("_[_]", None, vec![value, index]);
            } else if self.tokens.take(".") {
                let Some(Token::Word(name)) = self.tokens.next() else {
                    return Err(self.tokens.unexpected());
                };
                value = if self.tokens.take("(") {
                    let args = self.list(")")?;
                    no_comprehension(name, args.len())?;
                    self.call(name, Some(value), args)
                } else {
                    self.select(value, name, false)
                };
            } else {
                return Ok(value);
            }
        }
    }

    fn select(&mut self, operand: Expr, field: &str, test_only: bool) -> Expr {
        let operand = Some(Box::new(operand));
        self.make(ExprKind::SelectExpr(Box::new(Select { operand, field: field.to_owned(), test_only })))
    }

    fn constant(&mut self, kind: ConstantKind) -> Expr {
        self.make(ExprKind::ConstExpr(Constant { constant_kind: Some(kind) }))
    }

    fn primary(&mut self) -> Result<Expr, String> {
        // (A dot before a name says that it is none of a container, of which there is none.)
        let is_absolute = self.tokens.take(".");
        match self.tokens.next() {
            Some(Token::Word(name)) => self.named(name, is_absolute),
            _ if is_absolute => Err(self.tokens.unexpected()),
            Some(Token::Number(text)) => literal::number(text, false).map(|kind| self.constant(kind)),
            Some(Token::Text(text)) => literal::text(text).map(|kind| self.constant(kind)),
            Some(Token::Sign("(")) => {
                let inner = self.expression()?;
                self.tokens.expect(")")?;
                Ok(inner)
            }
            Some(Token::Sign("[")) => {
                let elements = self.list("]")?;
                Ok(self.make(ExprKind::ListExpr(CreateList { elements, optional_indices: Vec::new() })))
            }
            Some(Token::Sign("{")) => self.map(),
            _ => Err(self.tokens.unexpected()),
        }
    }

    fn named(&mut self, name: &'a str, is_absolute: bool) -> Result<Expr, String> {
        match name {
            "true" | "false" if !is_absolute => {
                return Ok(self.constant(ConstantKind::BoolValue(name == "true")));
            }
            "null" if !is_absolute => return Ok(self.constant(ConstantKind::NullValue(0))),
            _ if RESERVED.contains(&name) => return Err(self.tokens.unexpected()),
            _ => {}
        }
        if !self.tokens.take("(") {
            return Ok(self.make(ExprKind::IdentExpr(Ident { name: name.to_owned() })));
        }
        let mut args = self.list(")")?;
        if name != "has" {
            return Ok(self.call(name, None, args));
        }
        match (args.pop().and_then(|arg| arg.expr_kind), args.is_empty()) {
            (Some(ExprKind::SelectExpr(select)), true) if !select.test_only => {
                let Select { operand, field, test_only: _ } = *select;
                let operand = operand.map(|operand| *operand).unwrap_or_default();
                Ok(self.select(operand, &field, true))
            }
            _ => Err("has() asks for one field".into()),
        }
    }

    /// Expressions up to `end`, and that.
    fn list(&mut self, end: &str) -> Result<Vec<Expr>, String> {
        let mut list = Vec::new();
        while !self.tokens.take(end) {
            if !list.is_empty() {
                self.tokens.expect(",")?;
                if end == "]" && self.tokens.take(end) {
                    break;
                }
            }
            list.push(self.expression()?);
        }
        Ok(list)
    }

    fn map(&mut self) -> Result<Expr, String> {
        let mut entries = Vec::new();
        while !self.tokens.take("}") {
            if !entries.is_empty() {
                self.tokens.expect(",")?;
                if self.tokens.take("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.tokens.expect(":")?;
            let value = Some(self.expression()?);
            self.ids += 1;
            let key_kind = Some(KeyKind::MapKey(key));
            entries.push(Entry { id: self.ids, optional_entry: false, key_kind, value });
        }
        Ok(self.make(ExprKind::StructExpr(CreateStruct { message_name: String::new(), entries })))
    }
}

/// The macros over lists are comprehensions.
fn no_comprehension(name: &str, args: usize) -> Result<(), String> {
    match (name, args) {
        ("all" | "exists" | "exists_one" | "filter", 2) | ("map", 2 | 3) => {
            Err("Comprehension support is disabled".into())
        }
        _ => Ok(()),
    }
}
