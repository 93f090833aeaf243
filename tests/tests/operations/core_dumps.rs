//! Core dumps hold keys: the process leaves none unless it is told to.

use integration::config::bootstrap;
use integration::expect::SOON;
use integration::process::{Binary, Proxy};
use rustix::process::Signal;

/// How large a core of a process may be: as it is, and as it may be made.
fn limits(pid: impl std::fmt::Display) -> [String; 2] {
    let all = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = all.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let mut words = line.unwrap_or_default().split_whitespace().map(str::to_owned);
    [words.next().unwrap_or_default(), words.next().unwrap_or_default()]
}

#[tokio::test]
async fn no_core_is_left_unless_it_is_asked_for() {
    let binary = Binary::outrigger().unwrap();
    let allowed = limits("self")[1].clone();
    let none = if allowed == "0" { "0" } else { "1" };
    let expected: [(&[&str], [&str; 2]); 2] =
        [(&[], [none, none]), (&["--enable-core-dump"], [&allowed, &allowed])];
    for (words, expected) in expected {
        let mut proxy = Proxy::start_with(&binary, &bootstrap(&[], &[], ""), words).await.unwrap();
        assert_eq!(limits(proxy.pid()), expected, "{words:?}");
        if words.is_empty() {
            proxy.signal(Signal::ABORT).unwrap();
            let ended = proxy.ended(SOON).await.unwrap_err().to_string();
            assert!(ended.contains("SIGABRT") && !ended.contains("core dumped"), "{ended}");
        } else {
            proxy.stop().await.unwrap();
        }
    }
}
