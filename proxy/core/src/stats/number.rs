//! Numbers as Envoy prints them: each format prints floating point in its own way.

/// Like printf's `%.<precision>g`: that many significant digits, without zeros at the end.
pub(super) fn general(value: f64, precision: usize) -> String {
    if !value.is_finite() {
        return plain(value);
    }
    let scientific = format!("{value:.*e}", precision.saturating_sub(1));
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = i32::try_from(precision).unwrap_or(i32::MAX);
    if (-4..digits).contains(&exponent) {
        let decimals = usize::try_from(digits - 1 - exponent).unwrap_or(0);
        return trim(&format!("{value:.decimals$}")).to_owned();
    }
    with_exponent(trim(mantissa), exponent)
}

/// The shortest decimal that reads back as the same number, never with an exponent.
pub(super) fn plain(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value}") }
}

/// The shortest decimal, with an exponent where that is shorter (as in Envoy's JSON); `null` for NaN.
pub(super) fn json(value: f64) -> String {
    if !value.is_finite() {
        return "null".to_owned();
    }
    let fixed = format!("{value}");
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let scientific = with_exponent(mantissa, exponent.parse().unwrap_or(0));
    if scientific.len() < fixed.len() { scientific } else { fixed }
}

fn with_exponent(mantissa: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

fn trim(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_in_envoy() {
        assert_eq!(general(1_800_000.0, 6), "1.8e+06");
        assert_eq!(general(300_000.0, 6), "300000");
        assert_eq!(general(0.5, 6), "0.5");
        assert_eq!(general(1000.5, 6), "1000.5");
        assert_eq!(general(1.05, 32), "1.0500000000000000444089209850063");
        assert_eq!(general(3.096_399_535_423_925_5, 32), "3.096399535423925541977041575592");
        assert_eq!(general(1_250_350.140_056_022_4, 32), "1250350.1400560224428772926330566");
        assert_eq!(general(0.0, 32), "0");
        assert_eq!(general(0.000_01, 6), "1e-05");
        assert_eq!(plain(f64::NAN), "nan");
        assert_eq!(plain(45.333_333_333_333_336), "45.333333333333336");
        assert_eq!(plain(1_250_000.0), "1250000");
        assert_eq!(json(300_000.0), "3e+05");
        assert_eq!(json(1_800_000.0), "1800000");
        assert_eq!(json(60_000.0), "60000");
        assert_eq!(json(0.1), "0.1");
        assert_eq!(json(f64::NAN), "null");
    }
}
