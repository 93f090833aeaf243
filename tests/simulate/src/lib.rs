//! What simulations have in common: a run follows from its seed alone, many seeds are tried, and `SEED=n make sim` repeats one.
//!
//! For tests alone; `docs/fuzzing.md` says what is simulated.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `run` with as many seeds as `count`, from 0 on, or with the one that the environment names (`SEED`).
///
/// # Panics
/// If a run does, after its message, with how to repeat it; or if `SEED` is not a number.
pub fn each_seed(count: u64, run: impl Fn(u64)) {
    let named = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>());
    assert!(!matches!(named, Some(Err(_))), "SEED must be a number");
    let seeds = match named {
        Some(Ok(seed)) => seed..=seed,
        _ => 0..=count.saturating_sub(1),
    };
    for seed in seeds {
        let ran = catch_unwind(AssertUnwindSafe(|| run(seed)));
        assert!(ran.is_ok(), "SEED={seed} make sim");
    }
}
