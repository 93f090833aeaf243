//! Expressions that are written as text.

use super::*;

/// As text, with parentheses around everything or only where a model has a model.
fn written(model: &Model, closed: bool) -> String {
    let inner = |model: &Model| match model {
        Model::Of(..) => format!("({})", written(model, closed)),
        _ => written(model, closed),
    };
    match model {
        Model::Int(number) => number.to_string(),
        Model::Bool(truth) => truth.to_string(),
        Model::Of("_?_:_", args) => {
            format!("{} ? {} : {}", inner(&args[0]), inner(&args[1]), inner(&args[2]))
        }
        Model::Of(function, args) if args.len() == 1 => {
            format!("{}({})", &function[..1], written(&args[0], closed))
        }
        Model::Of(function, args) => {
            let text = format!("{} {} {}", inner(&args[0]), function.trim_matches('_'), inner(&args[1]));
            if closed { format!("({text})") } else { text }
        }
    }
}

/// Pieces of expressions.
const PIECES: &[&str] = &[
    "a", "1", "1u", "0x", ".", "(", ")", "[", "]", "{", "}", "?", ":", ",", "!", "-", "in", "has", "'", "\"",
    "'''", "r'", "b\"", "\\", "&&", "||", "==", "//", "\n", "é", "1e", "true", "null",
];

proptest! {
    #[test]
    fn what_is_written_is_read(model in models()) {
        let info = info();
        let facts =
            Facts::of_connection(&info);
        let built = Program::build(&model.expr(), None).unwrap();
        for closed in [false, true] {
            let text = written(&model, closed);
            let read = Program::parse(&text, None).unwrap();
            prop_assert_eq!(read.text(&facts), built.text(&facts), "{}", text);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(
        text in "[ -~\n\\PC]{0,40}",
        pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..24),
    ) {
        let _ = Program::parse(&text, None);
        let _ = Program::parse(&pieces.concat(), None);
        let _ = Program::parse(&pieces.join(" "), None);
    }
}

#[test]
fn wrong_text_is_refused_with_its_place() {
    let refused = |text: &str| Program::parse(text, None).err().unwrap_or_default();
    for (text, reason) in [
        ("", "unexpected end"),
        ("1 +", "unexpected end"),
        ("a b", "unexpected b at 2"),
        ("(1", "unexpected end: expected ')'"),
        ("f(1 2)", "unexpected 2 at 4: expected ','"),
        ("while", "unexpected while at 0"),
        ("'abc", "a string does not end at 0"),
        ("'a\nb'", "a string does not end in its line at 0"),
        ("1 # 2", "unknown sign at 2"),
        ("'\\q'", "no such escape: \\q"),
        ("'\\ud800'", "no such escape: \\u"),
        ("9223372036854775808", "9223372036854775808 is no number of 64 bits"),
        ("-1u", "1u is no number of 64 bits"),
        ("[1].all(x, x > 0)", "Comprehension support is disabled"),
        ("has(a)", "has() asks for one field"),
        ("nope(1)", "No overload found in reference resolve step for nope"),
    ] {
        assert_eq!(refused(text), reason, "{text}");
    }
    let deep = format!("{}1{}", "(".repeat(65), ")".repeat(65));
    assert_eq!(refused(&deep), "more than 64 levels");
    assert_eq!(refused(&format!("1{}", " + 1".repeat(64))), "more than 64 operands in a row");
    assert!(refused(&"1 ".repeat(60_000)).starts_with("an expression may have"));
    let row = format!("true{}", " && true".repeat(1000));
    assert!(Program::parse(&row, None).is_ok(), "a row of conditions is not deep");
}
