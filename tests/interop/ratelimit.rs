//! The public rate limit service (github.com/envoyproxy/ratelimit) with Redis: one limit for three proxies.

use anyhow::Result;
use integration::global_limit::GlobalLimit;
use integration::process::Binary;

#[tokio::test(flavor = "multi_thread")]
async fn three_proxies_share_a_limit_exactly() -> Result<()> {
    const LIMIT: usize = 25;
    let limits = GlobalLimit::start(&Binary::subject()?, 3, 25).await?;
    for user in ["alice", "bob"] {
        let answers = limits.send(user, 40).await?;
        let passed: usize = answers.iter().map(|answers| answers.passed).sum();
        let limited: usize = answers.iter().map(|answers| answers.limited).sum();
        assert_eq!((passed, limited), (LIMIT, 3 * 40 - LIMIT), "{user}: {answers:?}");
        // The limit is used up: whichever proxy is asked, nothing passes any more.
        let later = limits.send(user, 5).await?;
        assert!(later.iter().all(|answers| answers.passed == 0 && answers.limited == 5), "{user}: {later:?}");
    }
    let (mut ok, mut over) = (0, 0);
    for proxy in limits.proxies() {
        let stats = proxy.admin().stats("^cluster\\.up\\.ratelimit\\.").await?;
        let count = |name: &str| stats.get(&format!("cluster.up.ratelimit.{name}")).copied().unwrap_or(0);
        assert_eq!(count("error"), 0);
        ok += count("ok");
        over += count("over_limit");
    }
    assert_eq!((ok, over), (2 * 25, 2 * (3 * 45 - 25)));
    Ok(())
}
