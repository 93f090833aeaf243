//! Path normalisation.

use integration::config::HttpListener;
use integration::differential::{Case, Setup};

pub(crate) fn setup() -> Setup {
    let list = |name: &str, options: &str| HttpListener::to_up(name).options(options).yaml();
    Setup::new(
        "paths",
        [
            list("raw", ""),
            list("normal", "normalize_path: true"),
            list("merged", "normalize_path: true\nmerge_slashes: true"),
            list("options", OPTIONS),
            list("reject", "path_with_escaped_slashes_action: REJECT_REQUEST"),
            list("redirect", "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT"),
            list("forward", "path_with_escaped_slashes_action: UNESCAPE_AND_FORWARD\nnormalize_path: true"),
        ],
    )
}

const OPTIONS: &str = "path_normalization_options: {forwarding_transformation: {operations: \
    [{normalize_path_rfc_3986: {}}, {merge_slashes: {}}]}}";

const ESCAPED_DOTS: &str = "Escaped dots with a parameter are resolved like those that are not escaped; Envoy decodes them and \
leaves `/..;`, which is not normal any more";

const BACKSLASHES: &str = "A backslash is a slash before parameters are looked for; Envoy looks for them between slashes only, and leaves `/..;`, \
which is not normal any more, or takes what is behind the backslash for a part of the parameter";

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, listener, target: &str| Case::get(name, listener, target, "");
    vec![
        get("nothing is normalised by default", "raw", "/a/../b//c%2f%2e/./d?e=../f"),
        get("fragment is refused", "raw", "/a#b"),
        get("dot segments", "normal", "/a/../b//c%2f%2e/./d?e=../f"),
        get("above the root", "normal", "/../../etc/passwd"),
        get("unreserved is decoded", "normal", "/%7Euser/%41%2d%zz"),
        get("no escape out of two", "normal", "/a/%%32e%%32e/%2%65%%338%zz%"),
        get("backslash", "normal", "/a\\..\\b"),
        get("encoded NUL", "normal", "/a%00b"),
        get("dots with a parameter", "normal", "/x/..;/admin"),
        get("dots with a value", "normal", "/x/..;a=b/admin?c=/..;/d"),
        get("a dot with a parameter", "normal", "/.;/admin"),
        get("a dot with a parameter, inside", "normal", "/x/.;y/a"),
        get("dots with a parameter at the end", "normal", "/a/b/..;"),
        get("dots with two parameters", "normal", "/a/b/..;c;d/e"),
        get("dots with a parameter behind a backslash", "normal", "/a\\..;y/b")
            .differs("log[0].path", BACKSLASHES)
            .differs("upstream[0].line", BACKSLASHES),
        get("dots with a parameter before a backslash", "normal", "/a/..;\\b")
            .differs("log[0].path", BACKSLASHES)
            .differs("upstream[0].line", BACKSLASHES),
        get("dots with an escaped slash", "normal", "/x/..;%2fa"),
        get("escaped dots with a parameter", "normal", "/x/%2e%2e;/a")
            .differs("log[0].path", ESCAPED_DOTS)
            .differs("upstream[0].line", ESCAPED_DOTS),
        get("half escaped dots with a parameter", "normal", "/x/.%2E;p/a")
            .differs("log[0].path", ESCAPED_DOTS)
            .differs("upstream[0].line", ESCAPED_DOTS),
        get("dots with an escaped semicolon", "normal", "/x/..%3b/a"),
        get("a parameter alone", "normal", "/x/;/a"),
        get("three dots with a parameter", "normal", "/x/...;/a"),
        get("a parameter elsewhere", "normal", "/x/a;b/../c"),
        get("dots with a parameter, not normal", "raw", "/x/..;/admin"),
        get("octets that no URL has", "normal", "/\"<>^`{|}"),
        get("slashes are merged", "merged", "//a///b?c=//"),
        get("path options have no effect", "options", "/a/..//b"),
        get("escaped slash is refused", "reject", "/a%2Fb"),
        get("escaped slash redirects", "redirect", "/a%2Fb%5cc?d=%2F"),
        get("escaped slash is forwarded", "forward", "/a%2F..%5cb"),
        Case::get("escaped slash redirects gRPC", "redirect", "/a%2Fb", "content-type: application/grpc\r\n"),
    ]
}
