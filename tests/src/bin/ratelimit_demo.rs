//! One limit for three proxies, to watch: the public rate limit service and Redis count, the proxies ask.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use integration::global_limit::{Answers, GlobalLimit};
use integration::process::Binary;

const PROXIES: usize = 3;
const LIMIT: u32 = 25;
const EACH: usize = 40;

fn say(text: &str) {
    // whoever closed stdout does not want to hear it
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(demonstrate())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn demonstrate() -> Result<()> {
    say(&format!(
        "{PROXIES} Outriggers, the rate limit service of github.com/envoyproxy/ratelimit, Redis, and one limit: {LIMIT} requests for each user"
    ));
    let limits = GlobalLimit::start(&Binary::subject()?, PROXIES, LIMIT).await?;
    for user in ["alice", "bob"] {
        say(&format!("\n{user} sends {EACH} requests through each of them, all at once"));
        let answers = limits.send(user, EACH).await?;
        for (index, Answers { passed, limited }) in answers.iter().enumerate() {
            say(&format!("  proxy {}: {passed:3} passed, {limited:3} limited (429)", index + 1));
        }
        let passed: usize = answers.iter().map(|answers| answers.passed).sum();
        let limited: usize = answers.iter().map(|answers| answers.limited).sum();
        say(&format!("  together: {passed:2} passed, {limited:3} limited"));
        ensure!(passed == LIMIT as usize, "{passed} passed and not {LIMIT}");
        ensure!(passed + limited == PROXIES * EACH, "requests are missing");
    }
    say("\nWhat the proxies counted");
    for (index, proxy) in limits.proxies().iter().enumerate() {
        let stats = proxy.admin().stats("^cluster\\.up\\.ratelimit\\.").await?;
        let stats: Vec<String> = stats.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        say(&format!("  proxy {}: {}", index + 1, stats.join(", ")));
    }
    say("\nExactly the limit passed, whichever proxy was asked");
    Ok(())
}
