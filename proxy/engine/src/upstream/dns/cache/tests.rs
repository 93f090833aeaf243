//! A cache with a resolver that answers what the test says, under a paused clock.

use proxy_core::config::{BuildCx, BuildEnv};
use proxy_core::dns_cache::{Answer, DnsCaches};
use xds_api::envoy::config::cluster::v3::cluster::RefreshRate;
use xds_api::envoy::extensions::common::dynamic_forward_proxy::v3::{
    DnsCacheCircuitBreakers, DnsCacheConfig,
};
use xds_api::envoy::r#type::matcher::v3::AddressMatcher;
use xds_api::xds::core::v3::CidrRange;

use super::task::run;
use super::*;
use crate::upstream::dns::tests::Script;
use crate::upstream::dns::{LookupFamily, ResolveError, Resolver};

fn config() -> DnsCacheConfig {
    DnsCacheConfig { name: "c".into(), ..DnsCacheConfig::default() }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A cache whose names `resolver` finds.
fn start(config: &DnsCacheConfig, resolver: Arc<dyn Resolver>) -> Arc<Cache> {
    let env = BuildEnv::new(1);
    let caches = Caches::default();
    let cache = caches.make(config, &mut BuildCx::new(&env)).unwrap();
    let job = caches.take_jobs().unwrap().try_recv().unwrap();
    tokio::spawn(run(job, resolver));
    cache
}

fn wanted(name: &str) -> Wanted<'_> {
    Wanted { name, port: 80 }
}

fn known(cache: &Cache, name: &str) -> Option<Answer> {
    match cache.look_up(wanted(name)) {
        LookUp::Known(answer) => Some(answer),
        LookUp::Wait(_) | LookUp::Full | LookUp::Busy => None,
    }
}

async fn find(cache: &Cache, name: &str) -> Answer {
    match cache.look_up(wanted(name)) {
        LookUp::Known(answer) => answer,
        LookUp::Wait(waiting) => waiting.await,
        LookUp::Full => panic!("full"),
        LookUp::Busy => panic!("busy"),
    }
}

fn shown(answer: &Answer) -> String {
    match answer {
        Ok(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        Err(reason) => reason.to_string(),
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Writes down what it is told.
#[derive(Default)]
struct Diary(Mutex<Vec<String>>);

impl Diary {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Follower for Diary {
    fn resolved(&self, host: &Arc<DnsHost>, addresses: &[Address]) {
        let known = host.answer().map_or("nothing".to_owned(), |answer| shown(&answer));
        let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        self.0.lock().unwrap().push(format!("{} {} after {known}", host.hostname, addresses.join(" ")));
    }
    fn gone(&self, host: &DnsHost) {
        self.0.lock().unwrap().push(format!("{} gone", host.hostname));
    }
}

fn follow(cache: &Cache) -> Arc<Diary> {
    let diary = Arc::new(Diary::default());
    let follower: Weak<Diary> = Arc::downgrade(&diary);
    cache.follow(follower);
    diary
}

#[tokio::test(start_paused = true)]
async fn all_who_want_a_name_wait_for_one_question() {
    let script = Script::new();
    script.answer("a.test", &["10.0.0.1", "10.0.0.2"], 60);
    let cache = start(&config(), script.clone());
    let diary = follow(&cache);
    let (one, other) = (cache.look_up(wanted("a.test")), cache.look_up(wanted("a.test")));
    let (LookUp::Wait(one), LookUp::Wait(other)) = (one, other) else { panic!("it is known") };
    assert_eq!(cache.pending.used(), 2);
    let (one, other) = tokio::join!(one, other);
    assert_eq!(
        (shown(&one), shown(&other)),
        ("10.0.0.1:80 10.0.0.2:80".into(), "10.0.0.1:80 10.0.0.2:80".into())
    );
    assert_eq!((cache.pending.used(), script.times().len()), (0, 1));
    assert_eq!(diary.take(), ["a.test:80 10.0.0.1:80 10.0.0.2:80 after nothing"]);
    assert_eq!(shown(&known(&cache, "a.test").unwrap()), "10.0.0.1:80 10.0.0.2:80");
    assert_eq!(follow(&cache).take().len(), 1, "who comes later is told as well");
}

#[tokio::test(start_paused = true)]
async fn names_are_asked_for_again_by_their_time_to_live() {
    let script = Script::new();
    script.answer("a.test", &["10.0.0.1", "10.0.0.2"], 20);
    let cache = start(&config(), script.clone());
    let diary = follow(&cache);
    find(&cache, "a.test").await.unwrap();
    diary.take();
    // Servers give their addresses in turns.
    script.answer("a.test", &["10.0.0.2", "10.0.0.1"], 0);
    pass(21).await;
    assert_eq!((script.times(), diary.take().len()), (vec![0, 20], 0));
    script.answer("a.test", &["10.0.0.3"], 60);
    pass(5).await;
    assert_eq!(script.times(), [0, 20, 25], "not more often than that");
    assert_eq!(diary.take(), ["a.test:80 10.0.0.3:80 after 10.0.0.1:80 10.0.0.2:80"]);
    // What is wrong for a while keeps what was known.
    script.fail("a.test");
    pass(60).await;
    assert_eq!(shown(&known(&cache, "a.test").unwrap()), "10.0.0.3:80");
    assert_eq!(cache.stats.host_address_changed.value(), 2);
    assert_eq!((cache.stats.dns_query_success.value(), cache.stats.dns_query_failure.value()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn failures_are_known_until_the_next_question() {
    let script = Script::new();
    script.fail("a.test");
    let config = DnsCacheConfig { dns_refresh_rate: seconds(10), ..config() };
    let cache = start(&config, script.clone());
    assert_eq!(shown(&find(&cache, "a.test").await), "no");
    assert_eq!(shown(&known(&cache, "a.test").unwrap()), "no");
    script.answer("a.test", &["10.0.0.1"], 60);
    pass(11).await;
    assert_eq!(script.times(), [0, 10]);
    assert_eq!(shown(&known(&cache, "a.test").unwrap()), "10.0.0.1:80");
}

#[tokio::test(start_paused = true)]
async fn failures_back_off() {
    let script = Script::new();
    let rate = RefreshRate { base_interval: seconds(2), max_interval: seconds(8) };
    let config = DnsCacheConfig { dns_failure_refresh_rate: Some(rate), host_ttl: seconds(1000), ..config() };
    let cache = start(&config, script.clone());
    assert!(find(&cache, "a.test").await.is_err());
    pass(500).await;
    let times = script.times();
    assert!(times.len() > 62 && times.windows(2).all(|pair| pair[1] - pair[0] <= 9), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn failures_are_forgotten_where_they_are_not_asked_for_again() {
    let script = Script::new();
    script.fail("a.test");
    let config = DnsCacheConfig { disable_dns_refresh_on_failure: true, max_hosts: Some(1), ..config() };
    let cache = start(&config, script.clone());
    assert!(find(&cache, "a.test").await.is_err());
    pass(1).await;
    assert_eq!((cache.hosts.values().len(), cache.stats.num_hosts.value()), (0, 0));
    script.answer("a.test", &["10.0.0.1"], 0);
    assert!(find(&cache, "a.test").await.is_ok(), "somebody wants it again");
    // One with addresses is asked for again.
    script.fail("a.test");
    pass(100).await;
    assert_eq!(shown(&known(&cache, "a.test").unwrap()), "10.0.0.1:80");
    assert_eq!(script.times(), [0, 1, 6, 66]);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_nobody_goes_to_is_forgotten() {
    let script = Script::new();
    script.answer("a.test", &["10.0.0.1"], 60);
    script.answer("b.test", &["10.0.0.2"], 60);
    let cache = start(&DnsCacheConfig { host_ttl: seconds(90), ..config() }, script);
    let diary = follow(&cache);
    find(&cache, "a.test").await.unwrap();
    find(&cache, "b.test").await.unwrap();
    let used = cache.hosts.get(&wanted("b.test")).unwrap();
    diary.take();
    for _ in 0..10 {
        pass(50).await;
        used.touch(tokio::time::Instant::now().into_std());
    }
    assert_eq!(diary.take(), ["a.test:80 gone"]);
    assert_eq!((cache.stats.host_removed.value(), cache.stats.num_hosts.value()), (1, 1));
    pass(200).await;
    assert_eq!((diary.take().len(), cache.hosts.values().len()), (1, 0));
    assert!(find(&cache, "a.test").await.is_ok(), "somebody wants it again");
}

#[tokio::test(start_paused = true)]
async fn what_is_unknown_is_bounded() {
    let script = Script::new();
    let breaker = DnsCacheCircuitBreakers { max_pending_requests: Some(2) };
    let config = DnsCacheConfig { max_hosts: Some(2), dns_cache_circuit_breaker: Some(breaker), ..config() };
    let cache = start(&config, script.clone());
    let waiting = [cache.look_up(wanted("a.test")), cache.look_up(wanted("b.test"))];
    assert!(waiting.iter().all(|one| matches!(one, LookUp::Wait(_))));
    assert!(matches!(cache.look_up(wanted("a.test")), LookUp::Busy));
    assert_eq!(cache.stats.dns_rq_pending_overflow.value(), 1);
    drop(waiting);
    assert!(matches!(cache.look_up(wanted("c.test")), LookUp::Full));
    assert_eq!(cache.stats.host_overflow.value(), 1);
    assert!(matches!(cache.look_up(wanted("a.test")), LookUp::Wait(_)));
    let long = "a.".repeat(200);
    assert_eq!(shown(&known(&cache, &long).unwrap()), "cares_failure:Misformatted_domain_name");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_name_is_not_asked_for() {
    let script = Script::new();
    let cache = start(&DnsCacheConfig { dns_lookup_family: 1, ..config() }, script.clone());
    for name in ["a b", "a,b", "::1", "a:b"] {
        assert_eq!(shown(&find(&cache, name).await), "cares_failure:Misformatted_domain_name", "{name}");
    }
    assert_eq!(shown(&find(&cache, "10.0.0.1").await), "10.0.0.1:80");
    assert!(script.times().is_empty());
}

#[tokio::test(start_paused = true)]
async fn mapped_addresses_do_not_pass_the_filter() {
    let range =
        |address: &str, prefix| CidrRange { address_prefix: address.into(), prefix_len: Some(prefix) };
    let inside = range("10.0.0.0", 8);
    let mapped = range("::ffff:0:0", 96);
    let all_v6 = range("::", 0);
    for (ranges, invert_match, passes) in [
        (vec![], false, "10.0.0.1 192.0.2.1 ::ffff:10.0.0.1 ::ffff:192.0.2.1 2001:db8::1"),
        (vec![inside.clone()], false, "192.0.2.1 ::ffff:192.0.2.1 2001:db8::1"),
        (vec![mapped], false, "10.0.0.1 192.0.2.1 2001:db8::1"),
        (vec![inside], true, "10.0.0.1"),
        (vec![all_v6], true, "2001:db8::1"),
    ] {
        let filter = AddressMatcher { ranges, invert_match };
        let config = DnsCacheConfig { resolved_address_filter: Some(filter), ..config() };
        let script = Script::new();
        let cache = start(&config, script.clone());
        let mut passed = Vec::new();
        for ip in ["10.0.0.1", "192.0.2.1", "::ffff:10.0.0.1", "::ffff:192.0.2.1", "2001:db8::1"] {
            let name = format!("{}.test", ip.replace(':', "-"));
            script.answer(&name, &[ip], 60);
            let (literal, named) = (find(&cache, ip).await, find(&cache, &name).await);
            assert_eq!(literal, named, "{ip}");
            match literal {
                Ok(_) => passed.push(ip),
                Err(reason) => assert_eq!(&*reason, "address_denied"),
            }
        }
        assert_eq!(passed.join(" "), passes);
    }
}

/// Never answers.
struct Silence;

impl Resolver for Silence {
    fn resolve(
        &self,
        _: Arc<str>,
        _: LookupFamily,
    ) -> futures_util::future::BoxFuture<'static, Result<schedule::Answer, ResolveError>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_has_a_deadline() {
    let cache = start(&config(), Arc::new(Silence));
    let begun = tokio::time::Instant::now();
    assert_eq!(shown(&find(&cache, "a.test").await), "resolve_timeout");
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!((cache.stats.dns_query_timeout.value(), cache.stats.dns_query_failure.value()), (1, 1));
}

#[test]
fn caches_are_shared_by_name_while_they_are_used() {
    let env = BuildEnv::new(1);
    let caches = Caches::default();
    let build = |config: &DnsCacheConfig| {
        let mut cx = BuildCx::new(&env);
        caches.cache(config, &mut cx).map_err(|_| cx.into_errors().remove(0).to_string())
    };
    let one = build(&config()).unwrap();
    assert!(Arc::ptr_eq(&one, &build(&config()).unwrap()));
    let other = DnsCacheConfig { max_hosts: Some(1), ..config() };
    assert_eq!(build(&other).unwrap_err(), "config specified DNS cache 'c' with different settings");
    drop(one);
    build(&other).unwrap();
}
