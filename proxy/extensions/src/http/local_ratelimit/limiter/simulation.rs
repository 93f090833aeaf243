//! Random requests at random times through the buckets that workers share, and through those that connections have of their own,
//! beside lists of plain buckets: who is admitted, whose word it was, and what is left.

use proxy_core::config::BuildEnv;
use smallvec::SmallVec;

use super::*;
use crate::shared::token_bucket::simulation::{Plain, TOKEN, at};

/// A descriptor of the configuration and what becomes of its bucket, or of those of the values that it leaves open: who was asked last
/// stands last.
#[derive(Clone)]
struct Rule {
    key: Key,
    like: Plain,
    shadow: bool,
    buckets: Vec<(Vec<String>, Plain)>,
}

impl Rule {
    fn is_open(&self) -> bool {
        self.key.iter().any(|(_, value)| value.is_empty())
    }

    fn is_of(&self, entries: &[Entry<'_>]) -> bool {
        let fits = |(key, value): &(Box<str>, Box<str>), entry: &Entry<'_>| {
            **key == *entry.key && (value.is_empty() || **value == *entry.value)
        };
        self.key.len() == entries.len() && self.key.iter().zip(entries).all(|(own, entry)| fits(own, entry))
    }
}

/// The buckets of everybody, or of one connection.
#[derive(Clone)]
struct Modelled {
    rules: Vec<Rule>,
    default: Option<Plain>,
    spares_default: bool,
    /// How many values have buckets, for each rule.
    kept: usize,
}

/// A bucket that a request asks.
struct Wanted {
    rule: usize,
    values: Vec<String>,
    parts: i64,
}

impl Modelled {
    /// Those of a new connection, where no values are left open.
    fn another(&self, tick: i64) -> Self {
        let rules = self
            .rules
            .iter()
            .filter(|rule| !rule.is_open())
            .map(|rule| Rule { buckets: vec![(Vec::new(), rule.like.filled(tick))], ..rule.clone() });
        Self { rules: rules.collect(), default: self.default.map(|one| one.filled(tick)), ..*self }
    }

    /// The rule of these entries; one that leaves nothing open goes first.
    fn rule(&self, entries: &[Entry<'_>]) -> Option<usize> {
        let of =
            |open: bool| self.rules.iter().position(|rule| rule.is_open() == open && rule.is_of(entries));
        of(false).or_else(|| of(true))
    }

    /// The buckets of what a request is counted as; there is one for all its values afterwards.
    fn find(&mut self, descriptors: &[Descriptor<'_>], tick: i64) -> Vec<Wanted> {
        let mut found = Vec::new();
        for descriptor in descriptors {
            let Some(at) = self.rule(&descriptor.entries) else { continue };
            let (kept, rule) = (self.kept, &mut self.rules[at]);
            let values: Vec<String> = match rule.is_open() {
                true => descriptor.entries.iter().map(|entry| entry.value.to_string()).collect(),
                false => Vec::new(),
            };
            let place = rule.buckets.iter().position(|(of, _)| *of == values);
            let new = || (values.clone(), rule.like.filled(tick));
            let bucket = place.map_or_else(new, |at| rule.buckets.remove(at));
            if rule.buckets.len() == kept {
                rule.buckets.remove(0);
            }
            rule.buckets.push(bucket);
            let hits = i64::try_from(descriptor.hits.unwrap_or(1)).unwrap() * TOKEN;
            let parts = if descriptor.negative_hits { -hits } else { hits };
            found.push(Wanted { rule: at, values, parts });
        }
        found
    }

    fn bucket(&mut self, of: &Wanted) -> &mut Plain {
        let mut buckets = self.rules[of.rule].buckets.iter_mut();
        buckets.find(|(values, _)| *values == of.values).map(|(_, bucket)| bucket).unwrap()
    }

    /// Whether the request is admitted, whether a bucket in shadow had refused it, and what is left in the bucket whose word it was.
    fn admit(&mut self, descriptors: &[Descriptor<'_>], tick: i64) -> (bool, bool, Option<i64>) {
        let mut wanted = self.find(descriptors, tick);
        wanted.sort_by_key(|one| self.rules[one.rule].like.per_tick());
        let mut shadowed = false;
        for one in &wanted {
            if self.bucket(one).take(one.parts, tick) {
                continue;
            }
            if !self.rules[one.rule].shadow {
                return (false, shadowed, Some(self.bucket(one).tokens(tick)));
            }
            shadowed = true;
        }
        let default = self.default.as_mut().filter(|_| wanted.is_empty() || !self.spares_default);
        let of_default = default.map(|default| (default.take(TOKEN, tick), default.tokens(tick)));
        match (of_default, wanted.first()) {
            (Some((false, tokens)), _) => (false, shadowed, Some(tokens)),
            (_, Some(first)) => (true, shadowed, Some(self.bucket(first).tokens(tick))),
            (of_default, None) => (true, shadowed, of_default.map(|(_, tokens)| tokens)),
        }
    }
}

fn configured(model: &Modelled, start: Instant) -> Limiter {
    let descriptor = |rule: &Rule| LocalRateLimitDescriptor {
        entries: (rule.key.iter())
            .map(|(key, value)| EntryProto { key: key.to_string(), value: value.to_string() })
            .collect(),
        token_bucket: Some(rule.like.proto()),
        shadow_mode: rule.shadow,
    };
    let descriptors: Vec<_> = model.rules.iter().map(descriptor).collect();
    let (env, kept) = (BuildEnv::new(1), u32::try_from(model.kept).unwrap());
    let default = model.default.map(|default| default.proto());
    let mut cx = BuildCx::new(&env);
    let built =
        Limiter::build(default.as_ref(), &descriptors, Some(kept), Connections::Together, &mut cx).unwrap();
    // (Full at a moment that is known.)
    let full = built.another(start);
    let limiter = Limiter { open: built.open, ..full };
    if model.spares_default { limiter.sparing_the_default() } else { limiter }
}

const KEYS: [&str; 2] = ["k", "l"];

fn model(random: &mut fastrand::Rng) -> Modelled {
    let mut rules: Vec<Rule> = Vec::new();
    for _ in 0..random.usize(0..6) {
        let entry = |random: &mut fastrand::Rng, key: &str| {
            (key.into(), ["", "1", "2", "3"][random.usize(..4)].into())
        };
        let key: Key = (0..random.usize(1..3)).map(|at| entry(random, KEYS[at])).collect();
        if rules.iter().all(|rule| rule.key != key) {
            rules.push(Rule {
                key,
                like: Plain::any(random),
                shadow: random.u8(..4) == 0,
                buckets: Vec::new(),
            });
        }
    }
    Modelled {
        rules,
        default: (random.u8(..4) > 0).then(|| Plain::any(random)),
        spares_default: random.bool(),
        kept: random.usize(DESCRIPTORS..6),
    }
}

/// The most that a request is counted as here: no more than values are kept, so that none pushes out another of the same request.
const DESCRIPTORS: usize = 3;

fn request(random: &mut fastrand::Rng) -> Vec<Descriptor<'static>> {
    const VALUES: [&str; 7] = ["1", "2", "3", "4", "5", "6", "7"];
    let descriptor = |random: &mut fastrand::Rng| {
        let entries: SmallVec<[Entry<'static>; 2]> = (0..random.usize(1..3))
            .map(|at| Entry { key: KEYS[at].into(), value: VALUES[random.usize(..VALUES.len())].into() })
            .collect();
        Descriptor {
            entries,
            limit: None,
            hits: (random.u8(..4) == 0).then(|| random.u64(0..4)),
            negative_hits: random.u8(..8) == 0,
            headers: HeadersOption::Unspecified,
        }
    };
    (0..random.usize(0..=DESCRIPTORS)).map(|_| descriptor(random)).collect()
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let model = model(&mut random);
    // Those of all workers, and then those of connections.
    let mut limiters = vec![(configured(&model, start), model)];
    let mut tick = 0;
    for step in 0..300 {
        let now = at(start, tick);
        match random.u8(..16) {
            0..12 => {
                let own = random.usize(..limiters.len() * 2) % limiters.len();
                let (limiter, model) = &mut limiters[own];
                let descriptors = request(&mut random);
                let outcome = limiter.admit(&descriptors, now);
                let left = outcome.bucket.map(|bucket| i64::try_from(bucket.tokens.remaining(now)).unwrap());
                let found = (outcome.allowed, outcome.shadowed, left);
                let expected = model.admit(&descriptors, tick);
                assert_eq!(found, expected, "step {step}, limiter {own}: {descriptors:?}");
            }
            12 if limiters.len() < 4 => {
                let (shared, model) = &limiters[0];
                let own = (shared.another(now), model.another(tick));
                limiters.push(own);
            }
            12..15 => tick += random.i64(0..8),
            _ => tick += random.i64(0..300),
        }
    }
}

#[test]
fn requests_are_admitted_as_plain_buckets_say() {
    simulate::each_seed(1000, run);
}
