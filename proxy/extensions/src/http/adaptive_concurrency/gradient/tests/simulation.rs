//! A service with a queue behind the limit, and what that does in the long run.

use fastrand::Rng;

use super::*;

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
    simulate::each_seed(20, |seed| {
        let mut world = World::new(seed, PARAMS, 20, 20);
        world.run(10_000, 200);
        let before = world.done;
        let (largest, sum) = world.run(20_000, 200);
        // Where 1.25 * 20 + sqrt(1.25 * 20) meets the limit.
        let mean = sum / 20_000;
        assert!((25..36).contains(&mean) && largest < 60, "{mean} and at most {largest}");
        let throughput = (world.done - before) / 20;
        assert!(throughput > 900, "{throughput} of 1,000 a second");
    });
}

#[test]
fn where_nothing_is_slow_the_limit_grows_to_the_most() {
    simulate::each_seed(5, |seed| {
        let mut world = World::new(seed, Params { most: 200, ..PARAMS }, 1_000, 20);
        let (largest, _) = world.run(20_000, 500);
        assert_eq!((largest, world.gradient.limit()), (200, 200));
    });
}

#[test]
fn the_minimum_is_looked_for_again_from_time_to_time() {
    simulate::each_seed(10, |seed| {
        let mut world = World::new(seed, PARAMS, 20, 20);
        // From 60 to 69 seconds lie between two looks, and one takes less than a second.
        world.run(300_000, 100);
        assert!((4..=5).contains(&world.measured), "{}", world.measured);
        let minimum = world.gradient.minimum().as_millis();
        assert!((18..=22).contains(&minimum), "{minimum}");
    });
}

#[test]
fn a_service_that_became_slow_is_not_throttled_for_ever() {
    simulate::each_seed(10, |seed| {
        let mut world =
            World::new(seed, Params { minimum_interval: Duration::from_secs(3600), ..PARAMS }, 20, 20);
        world.run(10_000, 100);
        world.base = 200;
        let (_, _) = world.run(60_000, 100);
        assert!(world.measured >= 1, "the minimum was doubted");
        let minimum = world.gradient.minimum().as_millis();
        assert!((180..=220).contains(&minimum), "{minimum}");
        let (_, sum) = world.run(20_000, 100);
        assert!(sum / 20_000 > 20, "{}", sum / 20_000);
    });
}
