mod simulation;

use super::*;

const PARAMS: Params = Params {
    minimum_interval: Duration::from_secs(60),
    update_interval: Duration::from_millis(100),
    jitter: 0.15,
    most: 1_000,
    least: 3,
    while_measuring: 3,
    sample_count: 50,
    quantile: 0.5,
    buffer: 0.25,
    fixed: None,
};

/// As Envoy was seen to do: 10, then by a sample of 115 ms over a minimum of 135 ms.
#[test]
fn the_limit_moves_as_envoys() {
    let params = Params { while_measuring: 10, least: 4, sample_count: 1, jitter: 0.0, ..PARAMS };
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut gradient = Gradient::new(&params, start);
    assert_eq!((gradient.limit(), gradient.is_measuring(), gradient.due()), (10, true, None));
    gradient.record(&params, start, at(130), 7);
    assert_eq!((gradient.limit(), gradient.is_measuring()), (10, false));
    assert_eq!(gradient.minimum().as_millis(), 135);
    assert_eq!(gradient.due(), Some(at(230)));
    for (now, limit) in [(230, 18), (330, 31), (430, 52)] {
        gradient.record(&params, at(now - 110), at(now), 7);
        gradient.tick(&params, at(now));
        assert_eq!(gradient.limit(), limit);
        assert_eq!(gradient.due(), Some(at(now + 100)));
    }
    assert_eq!(whole(gradient.shown.gradient * 1_000.0), 1_467);
    gradient.tick(&params, at(930));
    assert_eq!(gradient.limit(), 52, "nothing is learnt from nothing");
    gradient.tick(&params, at(60_130));
    assert_eq!((gradient.limit(), gradient.is_measuring()), (10, true));
    gradient.record(&params, at(60_000), at(60_200), 7);
    assert!(gradient.is_measuring(), "it began before");
    gradient.record(&params, at(60_130), at(60_140), 7);
    assert_eq!((gradient.limit(), gradient.is_measuring()), (52, false));
}

#[test]
fn a_fixed_minimum_is_not_looked_for() {
    let params = Params { fixed: Some(Duration::from_millis(10)), least: 7, ..PARAMS };
    let start = Instant::now();
    let mut gradient = Gradient::new(&params, start);
    assert_eq!((gradient.limit(), gradient.is_measuring()), (7, false));
    for round in 1..20 {
        let now = start + Duration::from_millis(round * 100);
        gradient.record(&params, now - Duration::from_millis(90), now, 0);
        gradient.tick(&params, now);
        assert_eq!((gradient.limit(), gradient.is_measuring()), (7, false), "the least, and no doubt");
    }
}
