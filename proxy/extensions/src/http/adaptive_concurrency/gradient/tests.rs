use fastrand::Rng;

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

/// A service that does so many requests at once in `base`, and more of them the slower, with clients that never rest.
struct World {
    random: Rng,
    params: Params,
    start: Instant,
    /// Milliseconds since the start.
    now: u64,
    gradient: Gradient,
    capacity: u64,
    base: u64,
    /// When each request in progress began and ends, in milliseconds.
    running: Vec<(u64, u64)>,
    done: u64,
    measured: u32,
}

impl World {
    fn new(seed: u64, params: Params, capacity: u64, base: u64) -> Self {
        let start = Instant::now();
        Self {
            random: Rng::with_seed(seed),
            params,
            start,
            now: 0,
            gradient: Gradient::new(&params, start),
            capacity,
            base,
            running: Vec::new(),
            done: 0,
            measured: 0,
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Lets so many milliseconds pass while as many clients ask; the largest limit and the sum of limits of all milliseconds.
    fn run(&mut self, millis: u64, clients: usize) -> (u32, u64) {
        let (mut largest, mut sum) = (0, 0);
        for _ in 0..millis {
            self.now += 1;
            let now = self.at(self.now);
            let was_measuring = self.gradient.is_measuring();
            if self.gradient.due().is_some_and(|due| due <= now) {
                self.gradient.tick(&self.params, now);
            }
            self.measured += u32::from(!was_measuring && self.gradient.is_measuring());
            let at = self.now;
            let ended: Vec<(u64, u64)> = self.running.extract_if(.., |(_, end)| *end <= at).collect();
            for (began, _) in ended {
                self.done += 1;
                self.gradient.record(&self.params, self.at(began), now, self.random.u64(..));
            }
            while self.running.len() < clients.min(self.gradient.limit() as usize) {
                let load = (self.running.len() as u64 + 1).max(self.capacity);
                let took = self.base * load / self.capacity;
                let took = took * self.random.u64(95..=105) / 100;
                self.running.push((self.now, self.now + took.max(1)));
            }
            largest = largest.max(self.gradient.limit());
            sum += u64::from(self.gradient.limit());
        }
        (largest, sum)
    }
}

#[test]
fn the_limit_settles_a_little_above_what_the_service_can_do() {
    for seed in 0..20 {
        let mut world = World::new(seed, PARAMS, 20, 20);
        world.run(10_000, 200);
        let before = world.done;
        let (largest, sum) = world.run(20_000, 200);
        // Where 1.25 * 20 + sqrt(1.25 * 20) meets the limit.
        let mean = sum / 20_000;
        assert!((25..36).contains(&mean) && largest < 60, "seed {seed}: {mean} and at most {largest}");
        let throughput = (world.done - before) / 20;
        assert!(throughput > 900, "seed {seed}: {throughput} of 1,000 a second");
    }
}

#[test]
fn where_nothing_is_slow_the_limit_grows_to_the_most() {
    for seed in 0..5 {
        let mut world = World::new(seed, Params { most: 200, ..PARAMS }, 1_000, 20);
        let (largest, _) = world.run(20_000, 500);
        assert_eq!((largest, world.gradient.limit()), (200, 200), "seed {seed}");
    }
}

#[test]
fn the_minimum_is_looked_for_again_from_time_to_time() {
    for seed in 0..10 {
        let mut world = World::new(seed, PARAMS, 20, 20);
        // From 60 to 69 seconds lie between two looks, and one takes less than a second.
        world.run(300_000, 100);
        assert!((4..=5).contains(&world.measured), "seed {seed}: {}", world.measured);
        let minimum = world.gradient.minimum().as_millis();
        assert!((18..=22).contains(&minimum), "seed {seed}: {minimum}");
    }
}

#[test]
fn a_service_that_became_slow_is_not_throttled_for_ever() {
    for seed in 0..10 {
        let mut world =
            World::new(seed, Params { minimum_interval: Duration::from_secs(3600), ..PARAMS }, 20, 20);
        world.run(10_000, 100);
        world.base = 200;
        let (_, _) = world.run(60_000, 100);
        assert!(world.measured >= 1, "seed {seed}: the minimum was doubted");
        let minimum = world.gradient.minimum().as_millis();
        assert!((180..=220).contains(&minimum), "seed {seed}: {minimum}");
        let (_, sum) = world.run(20_000, 100);
        assert!(sum / 20_000 > 20, "seed {seed}: {}", sum / 20_000);
    }
}

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
