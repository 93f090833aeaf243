mod text;

use super::*;
use crate::address::Address;
use crate::stream_info::{ConnectionInfo, StreamInfo};
use proptest::prelude::*;
use std::rc::Rc;
use xds_api::google::api::expr::v1alpha1::constant::ConstantKind;
use xds_api::google::api::expr::v1alpha1::expr::{Call, Comprehension, CreateList, ExprKind, Ident, Select};
use xds_api::google::api::expr::v1alpha1::{Constant, Expr};

fn of(kind: ExprKind) -> Expr {
    Expr { id: 1, expr_kind: Some(kind) }
}

fn constant(kind: ConstantKind) -> Expr {
    of(ExprKind::ConstExpr(Constant { constant_kind: Some(kind) }))
}

fn text(text: &str) -> Expr {
    constant(ConstantKind::StringValue(text.into()))
}

fn call(function: &str, args: Vec<Expr>) -> Expr {
    of(ExprKind::CallExpr(Box::new(Call { target: None, function: function.into(), args })))
}

fn member(target: Expr, function: &str, args: Vec<Expr>) -> Expr {
    of(ExprKind::CallExpr(Box::new(Call { target: Some(Box::new(target)), function: function.into(), args })))
}

fn field(root: &str, field: &str) -> Expr {
    let operand = Some(Box::new(of(ExprKind::IdentExpr(Ident { name: root.into() }))));
    of(ExprKind::SelectExpr(Box::new(Select { operand, field: field.into(), test_only: false })))
}

fn info() -> StreamInfo {
    let address = Address::Ip(([127, 0, 0, 1], 80).into());
    let connection = Rc::new(ConnectionInfo::new(address.clone(), address, "l".into()));
    let start = connection.start;
    StreamInfo::new(connection, start, std::time::SystemTime::UNIX_EPOCH)
}

fn holds(expr: &Expr) -> bool {
    let info = info();
    let facts = Facts::of_connection(&info);
    Program::build(expr, None).unwrap().matches(&facts)
}

fn refusal(expr: &Expr) -> String {
    Program::build(expr, None).err().unwrap_or_default()
}

/// An expression over numbers and truths, and what it has to be.
#[derive(Clone, Debug)]
enum Model {
    Int(i64),
    Bool(bool),
    Of(&'static str, Vec<Model>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Int(i128),
    Bool(bool),
    Error,
}

impl Model {
    fn expr(&self) -> Expr {
        match self {
            Self::Int(number) => constant(ConstantKind::Int64Value(*number)),
            Self::Bool(truth) => constant(ConstantKind::BoolValue(*truth)),
            Self::Of(function, args) => call(function, args.iter().map(Self::expr).collect()),
        }
    }

    /// In numbers without bounds, which are checked afterwards.
    fn answer(&self) -> Answer {
        use Answer::{Bool, Error, Int};
        let (function, args) = match self {
            Self::Int(number) => return Int((*number).into()),
            Self::Bool(truth) => return Bool(*truth),
            Self::Of(function, args) => (*function, args.iter().map(Self::answer).collect::<Vec<_>>()),
        };
        let number = |number: i128| if i64::try_from(number).is_ok() { Int(number) } else { Error };
        match (function, &*args) {
            ("_&&_", args) if args.contains(&Bool(false)) => Bool(false),
            ("_||_", args) if args.contains(&Bool(true)) => Bool(true),
            ("_&&_", [Bool(_), Bool(_)]) => Bool(true),
            ("_||_", [Bool(_), Bool(_)]) => Bool(false),
            ("_?_:_", [Bool(condition), yes, no]) => *if *condition { yes } else { no },
            (_, args) if args.contains(&Error) => Error,
            ("!_", [Bool(truth)]) => Bool(!truth),
            ("-_", [Int(one)]) => number(-one),
            ("_==_", [one, other]) => Bool(one == other),
            ("_!=_", [one, other]) => Bool(one != other),
            ("_<_", [Int(one), Int(other)]) => Bool(one < other),
            ("_<_", [Bool(one), Bool(other)]) => Bool(!one & other),
            ("_>=_", [Int(one), Int(other)]) => Bool(one >= other),
            ("_>=_", [Bool(one), Bool(other)]) => Bool(*one | !other),
            ("_+_", [Int(one), Int(other)]) => number(one + other),
            ("_-_", [Int(one), Int(other)]) => number(one - other),
            ("_*_", [Int(one), Int(other)]) => number(one * other),
            ("_/_", [Int(one), Int(other)]) if *other != 0 => number(one / other),
            // The remainder is in range; the division that it is of is not.
            ("_%_", [Int(one), Int(other)]) if *other != 0 && i64::try_from(one / other).is_ok() => {
                number(one % other)
            }
            _ => Error,
        }
    }
}

fn models() -> impl Strategy<Value = Model> {
    let numbers = prop_oneof![-3_i64..4, Just(i64::MAX), Just(i64::MIN), Just(1 << 40), any::<i64>()];
    let leaf = prop_oneof![numbers.prop_map(Model::Int), any::<bool>().prop_map(Model::Bool)];
    let two = ["_&&_", "_||_", "_==_", "_!=_", "_<_", "_>=_", "_+_", "_-_", "_*_", "_/_", "_%_"];
    leaf.prop_recursive(6, 64, 3, move |inner| {
        let one = (prop::sample::select(vec!["!_", "-_"]), inner.clone());
        let pair = (prop::sample::select(two.to_vec()), inner.clone(), inner.clone());
        let choice = (inner.clone(), inner.clone(), inner);
        prop_oneof![
            1 => one.prop_map(|(function, arg)| Model::Of(function, vec![arg])),
            6 => pair.prop_map(|(function, one, other)| Model::Of(function, vec![one, other])),
            1 => choice.prop_map(|(condition, yes, no)| Model::Of("_?_:_", vec![condition, yes, no])),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arithmetic_and_logic_are_those_of_numbers_without_bounds(model in models()) {
        let expr = model.expr();
        let expected = model.answer();
        prop_assert_eq!(holds(&expr), expected == Answer::Bool(true));
        // What is no error equals itself; an error equals nothing.
        let same = call("_==_", vec![expr.clone(), expr.clone()]);
        prop_assert_eq!(holds(&same), expected != Answer::Error);
        if let Answer::Int(number) = expected {
            let number = constant(ConstantKind::Int64Value(i64::try_from(number).unwrap()));
            prop_assert!(holds(&call("_==_", vec![expr, number])));
        }
    }

    #[test]
    fn spans_that_are_written_are_read(nanos in -315_576_000_000_000_000_000_i128..315_576_000_000_000_000_000) {
        prop_assert_eq!(time::parse_span(&time::write_span(nanos)), Ok(nanos));
    }

    #[test]
    fn any_text_is_a_span_or_not(text in "[-+]?[0-9.hmsun]{0,12}") {
        let _ = time::parse_span(&text);
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    assert_eq!(refusal(&call("nofn", vec![])), "No overload found in reference resolve step for nofn");
    assert_eq!(refusal(&Expr::default()), "an expression is empty");
    let loops = of(ExprKind::ComprehensionExpr(Box::<Comprehension>::default()));
    assert_eq!(refusal(&loops), "Comprehension support is disabled");
    // Only with the options that make texts.
    assert_ne!(refusal(&call("string", vec![text("a")])), "");
    assert_ne!(refusal(&member(text("a"), "trim", vec![])), "");
    assert_ne!(refusal(&member(text("a"), "matches", vec![text("(")])), "");
    let long = member(text("a"), "matches", vec![text("(a|b|c){50}")]);
    assert_eq!(refusal(&long), "regular expression exceeds max allowed size");
}

#[test]
fn trees_are_bounded() {
    let deep =
        |levels| (0..levels).fold(constant(ConstantKind::BoolValue(true)), |expr, _| call("!_", vec![expr]));
    assert!(holds(&deep(100)));
    assert_eq!(refusal(&deep(101)), "more than 100 levels or 10000 nodes");
    let list = |count| {
        let elements = vec![text("a"); count];
        of(ExprKind::ListExpr(CreateList { elements, optional_indices: Vec::new() }))
    };
    assert!(holds(&call("@in", vec![text("a"), list(9_997)])));
    assert_ne!(refusal(&list(10_000)), "");
}

#[test]
fn what_is_made_is_bounded() {
    let config = CelExpressionConfig {
        enable_string_conversion: true,
        enable_string_concat: true,
        enable_string_functions: true,
    };
    let twice = |expr: Expr| call("_+_", vec![expr.clone(), expr]);
    let long = (0..14).fold(text(&"a".repeat(32)), |expr, _| twice(expr));
    let info = info();
    let facts = Facts::of_connection(&info);
    let of_size = |expr: Expr, size| {
        let size = constant(ConstantKind::Int64Value(size));
        call("_==_", vec![call("size", vec![expr]), size])
    };
    // A tree of twenty thousand nodes is refused, one of a few is not: it grows by what it says.
    assert!(Program::build(&of_size(long, 1 << 19), Some(&config)).is_err());
    let grown = member(text(&"a".repeat(1000)), "replace", vec![text(""), text(&"b".repeat(1000))]);
    let program = Program::build(&of_size(grown, 1_002_000), Some(&config)).unwrap();
    assert!(!program.matches(&facts), "too long to be made");
}

#[test]
fn what_is_known_is_told() {
    assert!(holds(&call("_==_", vec![field("source", "address"), text("127.0.0.1:80")])));
    assert!(holds(&call("_==_", vec![field("connection", "requested_server_name"), text("")])));
    assert!(!holds(&call("_==_", vec![field("connection", "tls_version"), text("")])));
    assert!(!holds(&call("_==_", vec![field("nothing", "address"), text("")])));
}
