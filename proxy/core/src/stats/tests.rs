use std::sync::Arc;

use super::*;

crate::stats! {
    /// Per-thread.
    pub(super) sharded struct Traffic {
        /// A counter.
        counter rq_total,
        /// A gauge.
        gauge rq_active,
        /// A dotted name.
        counter reset = "http2.rx_reset",
        /// A histogram.
        histogram rq_time (Milliseconds) [on_demand],
        /// Codes.
        codes upstream_rq,
    }

    /// One for all.
    pub(super) shared struct State {
        /// A gauge.
        gauge members,
        /// A counter.
        counter changes,
        /// A text.
        text version_text,
        /// Hidden.
        gauge secret [hidden],
        /// A histogram.
        histogram update_duration (Milliseconds),
    }
}

fn sum_counter(registry: &Registry, prefix: &str, name: &str) -> u64 {
    let mut total = 0;
    for scope in registry.live_scopes().iter().filter(|scope| scope.prefix() == prefix) {
        for member in &scope.0.lock_members().groups {
            let group = &member.group;
            group.visit(&mut |index, cell| {
                if group.stats()[index].name == name
                    && let Cell::Counter(counter) = cell
                {
                    total += counter.value();
                }
            });
        }
    }
    total
}

#[test]
fn the_table_names_the_fields_in_order() {
    let names: Vec<_> = <Traffic as Group>::STATS.iter().map(|stat| stat.name).collect();
    assert_eq!(names, ["rq_total", "rq_active", "http2.rx_reset", "rq_time", "upstream_rq"]);
    let state = <State as Group>::STATS;
    assert_eq!(state[2].kind, Kind::Text);
    assert_eq!(state[3].visibility, Visibility::Hidden);
    assert_eq!(state[4].kind, Kind::Histogram(Unit::Milliseconds));
}

#[test]
fn every_thread_writes_its_own_copy() {
    let registry = Registry::new(2);
    let cells: Cells<Traffic> = registry.scope("cluster.a").cells();
    std::thread::scope(|threads| {
        for shard in 0..8u16 {
            let cells = cells.clone();
            threads.spawn(move || {
                // Two of the eight are registered, the others are strays.
                if shard < 2 {
                    set_shard(ShardId(shard + 1));
                }
                for _ in 0..10_000 {
                    cells.here().rq_total.inc();
                }
            });
        }
    });
    assert_eq!(sum_counter(&registry, "cluster.a", "rq_total"), 80_000);
}

#[test]
fn a_reader_sees_only_what_was_written_while_the_owner_writes() {
    let registry = Registry::new(1);
    let cells: Cells<Traffic> = registry.scope("cluster.a").cells();
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            set_shard(ShardId(1));
            for value in 0..200_000u64 {
                let here = cells.here();
                here.rq_total.inc();
                here.rq_time.record(value);
                here.upstream_rq.inc(200);
            }
        });
        let mut last = 0;
        while !writer.is_finished() {
            let seen = sum_counter(&registry, "cluster.a", "rq_total");
            assert!(seen >= last, "a counter went back: {last} -> {seen}");
            last = seen;
        }
    });
    assert_eq!(sum_counter(&registry, "cluster.a", "rq_total"), 200_000);
}

#[test]
fn stray_threads_that_follow_each_other_keep_the_counts() {
    let registry = Registry::new(0);
    let cells: Cells<Traffic> = registry.scope("x").cells();
    for _ in 0..50 {
        let cells = cells.clone();
        std::thread::spawn(move || cells.here().rq_total.add(3)).join().unwrap();
    }
    assert_eq!(sum_counter(&registry, "x", "rq_total"), 150);
}

#[test]
fn owners_of_one_prefix_share_the_group_and_the_last_takes_it_along() {
    let registry = Registry::new(0);
    let old: Cells<Traffic> = registry.scope("cluster.a:b").cells();
    old.here().rq_total.inc();
    let new: Cells<Traffic> = registry.scope("cluster.a_b").cells();
    drop(old);
    new.here().rq_total.inc();
    assert_eq!(sum_counter(&registry, "cluster.a_b", "rq_total"), 2);
    drop(new);
    assert!(registry.live_scopes().is_empty());
    let again: Cells<Traffic> = registry.scope("cluster.a_b").cells();
    again.here().rq_total.inc();
    assert_eq!(sum_counter(&registry, "cluster.a_b", "rq_total"), 1);
}

#[test]
fn gauges_may_go_down_on_another_thread_than_up() {
    let up = Gauge::default();
    let down = Gauge::default();
    assert!(!up.used());
    up.add(5);
    down.sub(3);
    assert_eq!(up.share() + down.share(), 2);
    assert!(up.used() && down.used());
}

#[test]
fn a_zero_makes_a_cell_used() {
    let counter = Counter::default();
    assert!(!counter.used());
    counter.add(0);
    assert!(counter.used());
    assert_eq!(counter.value(), 0);
    let gauge = SharedGauge::default();
    gauge.set(0);
    assert!(gauge.used());
    gauge.set(u64::MAX);
    assert_eq!(gauge.value(), u64::MAX);
}

#[test]
fn codes_beyond_the_inline_slots_are_counted_too() {
    let codes = Codes::default();
    assert!(!codes.used());
    for code in [200, 200, 201, 204, 301, 404, 500, 503, 418, 999] {
        codes.inc(code);
    }
    let mut seen = std::collections::BTreeMap::new();
    codes.visit_codes(&mut |code, count| {
        seen.insert(code, count);
    });
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        [(200, 2), (201, 1), (204, 1), (301, 1), (404, 1), (418, 1), (500, 1), (503, 1)]
    );
    let mut classes = Vec::new();
    codes.visit_classes(&mut |class, count| classes.push((class, count)));
    assert_eq!(classes, [(2, 4), (3, 1), (4, 2), (5, 2)]);
    assert_eq!(codes.completed(), 10);
}

#[test]
fn one_offs_are_found_again_by_name() {
    let registry = Registry::new(0);
    registry.counter("runtime.load_success").add(2);
    registry.counter("runtime.load_success").inc();
    assert_eq!(registry.counter("runtime.load_success").value(), 3);
    registry.text("version").set("v1");
    assert_eq!(&*registry.text("version").value(), "v1");
    // Another kind under the same name does not disturb the first.
    registry.gauge("runtime.load_success").set(9);
    assert_eq!(registry.counter("runtime.load_success").value(), 3);
    let scope = registry.scope("listener.a");
    scope.histogram("x", Unit::Bytes).record(1);
    assert!(scope.histogram("x", Unit::Bytes).as_histogram().used());
}

#[test]
fn an_untouched_group_costs_a_few_dozen_bytes() {
    assert!(size_of::<shard::Shards<Traffic>>() <= 64);
    let registry: Arc<Registry> = Registry::new(2);
    let scope = registry.scope("cluster.a");
    let cells: Cells<Traffic> = scope.cells();
    let mut copies = 0;
    scope.0.lock_members().groups[0].group.visit(&mut |_, _| copies += 1);
    assert_eq!(copies, 0);
    cells.here().rq_total.inc();
    scope.0.lock_members().groups[0].group.visit(&mut |_, _| copies += 1);
    assert_eq!(copies, 5);
}
