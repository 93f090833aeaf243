//! Merged histograms: bins with their counts, quantiles, sums and buckets.
//!
//! A bin is a decimal number with two significant digits; its index is defined by [`bin_index`]. The estimates are
//! those of Envoy 1.40's circllhist, so that both show the same numbers for the same values: the k-th of n values in a
//! bin lies at k/(n+1) of its width, a sum takes the harmonic middle of each bin, and a bucket counts every bin that
//! begins at or below its bound.

/// Bins per power of ten: two-digit numbers from 10 to 99.
pub(super) const BINS_PER_DECADE: u16 = 90;

/// The quantiles that are shown.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];

/// Upper bounds of the buckets of a histogram that no `histogram_bucket_settings` matches.
pub const DEFAULT_BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// The index of the bin that holds `value`: 0 for zero, else `1 + 90 * exponent + (digits - 10)`, where `digits` are
/// the two leading decimal digits.
pub fn bin_index(value: u64) -> u16 {
    let Some(exponent) = value.checked_ilog10() else { return 0 };
    let digits = if exponent == 0 { value * 10 } else { value / 10u64.pow(exponent - 1) };
    let offset = u16::try_from(digits.saturating_sub(10)).unwrap_or(0);
    1 + u16::try_from(exponent).unwrap_or(0) * BINS_PER_DECADE + offset
}

/// The lower bound and the width of a bin.
pub fn bin_bounds(index: u16) -> (f64, f64) {
    let Some(index) = index.checked_sub(1) else { return (0.0, 0.0) };
    let power = 10f64.powi(i32::from(index / BINS_PER_DECADE));
    let digits = f64::from(index % BINS_PER_DECADE + 10);
    (digits / 10.0 * power, power / 10.0)
}

/// A merged histogram: the bins that hold anything, by rising index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bins(Vec<(u16, u64)>);

impl Bins {
    /// Nothing recorded.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds `count` values to a bin.
    pub fn add(&mut self, index: u16, count: u64) {
        match self.0.binary_search_by_key(&index, |bin| bin.0) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(count),
            Err(at) => self.0.insert(at, (index, count)),
        }
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut earlier = earlier.0.iter().peekable();
        let mut fresh = Vec::new();
        for &(index, count) in &self.0 {
            while earlier.next_if(|bin| bin.0 < index).is_some() {}
            let before = earlier.next_if(|bin| bin.0 == index).map_or(0, |bin| bin.1);
            if count > before {
                fresh.push((index, count - before));
            }
        }
        Self(fresh)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bins and their counts, by rising index.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        self.0.iter().copied()
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, bin| sum.saturating_add(bin.1))
    }

    /// The estimated sum of the values, times `scale`.
    pub fn sum(&self, scale: f64) -> f64 {
        let mut sum = 0.0;
        for &(index, count) in &self.0 {
            let (lower, width) = bin_bounds(index);
            if lower > 0.0 {
                let upper = lower + width;
                sum += 2.0 / (1.0 / lower + 1.0 / upper) * as_float(count);
            }
        }
        sum * scale
    }

    /// The estimated [`QUANTILES`], times `scale`; all of them NaN when nothing was recorded.
    pub fn quantiles(&self, scale: f64) -> [f64; QUANTILES.len()] {
        let total = as_float(self.count());
        let mut bins = self.0.iter();
        let Some(first) = bins.next() else { return [f64::NAN; QUANTILES.len()] };
        let mut current = *first;
        let mut below = 0.0;
        QUANTILES.map(|quantile| {
            let wanted = total * quantile;
            while below + as_float(current.1) < wanted {
                let Some(next) = bins.next() else { break };
                below += as_float(current.1);
                current = *next;
            }
            let (lower, width) = bin_bounds(current.0);
            let rank = (wanted - below).ceil().max(1.0);
            (lower + rank / (as_float(current.1) + 1.0) * width) * scale
        })
    }

    /// The estimate of one quantile, from 0 to 1, by the same rule; `None` when nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let wanted = as_float(self.count()) * quantile;
        let mut below = 0.0;
        let last = self.0.last()?.0;
        let (index, count) = self.0.iter().copied().find(|(index, count)| {
            let is_it = *index == last || below + as_float(*count) >= wanted;
            if !is_it {
                below += as_float(*count);
            }
            is_it
        })?;
        let (lower, width) = bin_bounds(index);
        let rank = (wanted - below).ceil().max(1.0);
        Some(lower + rank / (as_float(count) + 1.0) * width)
    }

    /// How many values lie at or below each bound (times `scale`), by the rule of the module.
    pub fn at_or_below(&self, bounds: &[f64], scale: f64) -> Vec<u64> {
        let mut bins = self.0.iter().peekable();
        let mut count = 0u64;
        bounds
            .iter()
            .map(|bound| {
                while let Some(bin) = bins.next_if(|bin| bin_bounds(bin.0).0 * scale <= *bound) {
                    count = count.saturating_add(bin.1);
                }
                count
            })
            .collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "estimates: 53 bits of a count are enough")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Histogram;
    use super::*;

    /// Two leading digits by printing, independent of the arithmetic above.
    fn naive_bounds(value: u64) -> (f64, f64) {
        if value == 0 {
            return (0.0, 0.0);
        }
        let text = value.to_string();
        let (digits, exponent) =
            if text.len() == 1 { (format!("{text}0"), 0) } else { (text[..2].to_owned(), text.len() - 1) };
        let lower: f64 = format!("{digits}e{}", exponent as i32 - 1).parse().unwrap();
        (lower, format!("1e{}", exponent as i32 - 1).parse().unwrap())
    }

    /// The quantile by sorting all values: the bin of the value at that rank, and its place among its bin's values.
    fn naive_quantile(values: &[u64], quantile: f64) -> f64 {
        let mut bins: Vec<u16> = values.iter().map(|value| bin_index(*value)).collect();
        bins.sort_unstable();
        let rank = ((bins.len() as f64 * quantile).ceil() as usize).max(1);
        let bin = bins[rank - 1];
        let before = bins.iter().filter(|other| **other < bin).count();
        let within = bins.iter().filter(|other| **other == bin).count();
        let (lower, width) = bin_bounds(bin);
        lower + (rank - before) as f64 / (within + 1) as f64 * width
    }

    fn recorded(values: &[u64]) -> Bins {
        let cell = Histogram::default();
        let mut bins = Bins::default();
        values.iter().for_each(|value| cell.record(*value));
        cell.visit(&mut |index, count| bins.add(index, count));
        bins
    }

    /// Any magnitude with equal chance, not only the huge ones.
    fn value() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0u32..64).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #[test]
        fn a_value_lies_in_its_bin(value in value()) {
            let (lower, width) = bin_bounds(bin_index(value));
            let (naive_lower, naive_width) = naive_bounds(value);
            prop_assert!((lower - naive_lower).abs() <= naive_lower * 1e-12);
            prop_assert!((width - naive_width).abs() <= naive_width * 1e-12);
        }

        #[test]
        fn the_cell_uses_the_same_bins(values in prop::collection::vec(value(), 1..200)) {
            let mut expected = Bins::default();
            values.iter().for_each(|value| expected.add(bin_index(*value), 1));
            prop_assert_eq!(recorded(&values), expected);
        }

        #[test]
        fn quantiles_agree_with_sorting(values in prop::collection::vec(value(), 1..200)) {
            let quantiles = recorded(&values).quantiles(1.0);
            for (quantile, shown) in QUANTILES.iter().zip(quantiles) {
                let expected = naive_quantile(&values, *quantile);
                prop_assert!((shown - expected).abs() <= expected * 1e-9, "{quantile}: {shown} != {expected}");
                prop_assert_eq!(recorded(&values).quantile(*quantile), Some(shown));
            }
        }

        #[test]
        fn merging_shards_is_recording_everything_in_one(
            left in prop::collection::vec(value(), 0..100),
            right in prop::collection::vec(value(), 0..100),
        ) {
            let mut merged = recorded(&left);
            recorded(&right).iter().for_each(|(index, count)| merged.add(index, count));
            let all: Vec<u64> = left.iter().chain(&right).copied().collect();
            prop_assert_eq!(&merged, &recorded(&all));
            prop_assert_eq!(merged.since(&recorded(&left)), recorded(&right));
        }

        #[test]
        fn buckets_never_fall(values in prop::collection::vec(value(), 0..200)) {
            let bins = recorded(&values);
            let counts = bins.at_or_below(&DEFAULT_BUCKETS, 1.0);
            prop_assert!(counts.is_sorted());
            prop_assert!(counts.last().is_none_or(|last| *last <= bins.count()));
        }
    }

    #[test]
    fn estimates_are_those_that_envoy_printed() {
        // http.ing.downstream_rq_time after requests of 0, 0, 1 and 2 ms.
        let bins = recorded(&[0, 0, 1, 2]);
        assert_eq!(bins.quantiles(1.0), [0.0, 0.0, 0.0, 1.05, 2.05, 2.05, 2.05, 2.05, 2.05, 2.05]);
        assert_eq!(bins.sum(1.0), 3.096_399_535_423_925_5);
        assert_eq!(bins.at_or_below(&[0.5, 1.0, 5.0], 1.0), [2, 3, 4]);
        // upstream_rq_body_size with buckets at 255 and 1000.5.
        let sizes = recorded(&[252, 1000, 1004, 1_234_567]);
        assert_eq!(sizes.at_or_below(&[255.0, 1000.5], 1.0), [1, 3]);
        assert_eq!(sizes.sum(1.0), 1_250_350.140_056_022_4);
        assert_eq!(
            sizes.quantiles(1.0)[..4],
            [255.0, 255.0, 1_033.333_333_333_333_3, 1_066.666_666_666_666_7]
        );
    }
}
