//! The proxy's own headers under another name (`header_prefix`): cases of other groups once more, as they are (what they
//! call `x-envoy-*` means nothing then) and with the new names.

use integration::differential::{Case, Do, Input, Setup};

use crate::{headers, options};

/// The setup of another group, with a prefix.
fn renamed(mut setup: Setup) -> Setup {
    setup.bootstrap.insert_str(0, "header_prefix: X-Foo\n");
    setup
}

/// The cases, each with the usual names and with the new ones where they differ.
fn twice(cases: Vec<Case>) -> Vec<Case> {
    let mut all = Vec::new();
    for case in cases {
        let mut renamed = case.clone();
        let mut has_names = false;
        if let Input::Bytes(steps) = &mut renamed.input {
            for step in steps {
                if let Do::Send(bytes) = step {
                    let text = String::from_utf8_lossy(bytes);
                    has_names |= text.contains("x-envoy-");
                    *bytes = text.replace("x-envoy-", "x-foo-").into_bytes();
                }
            }
        }
        all.push(case);
        if has_names {
            all.push(renamed);
        }
    }
    all
}

pub(crate) fn groups() -> [(Setup, Vec<Case>); 2] {
    [
        (renamed(headers::setup()), twice(headers::cases())),
        (renamed(options::setup()), twice(options::cases())),
    ]
}
