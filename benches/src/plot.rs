//! Bar charts as SVG, without a library: a title and a bar per peer, drawn to read in light and dark pages.

use std::fmt::Write;

use crate::report::number;

const WIDTH: f64 = 640.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 70.0;
const TOP: f64 = 44.0;
const STEP: f64 = 30.0;

/// Horizontal bars with their values; the first is ours and stands out.
pub(crate) fn bars(title: &str, bars: &[(&str, f64)]) -> String {
    let most = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let height = TOP + STEP * bars.len() as f64 + 10.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"14\" role=\"img\" aria-label=\"{title}\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"6\" fill=\"#fbfaf7\"/>\n\
         <text x=\"14\" y=\"26\" font-weight=\"600\" fill=\"#222\">{title}</text>\n"
    );
    for (at, (name, value)) in bars.iter().enumerate() {
        let y = TOP + STEP * at as f64;
        let length = ((WIDTH - LEFT - RIGHT) * value / most).max(1.0);
        let fill = if *name == "outrigger" { "#c8553d" } else { "#8a97a6" };
        let text = y + 15.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\" fill=\"#222\">{name}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"20\" rx=\"2\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{text}\" fill=\"#222\">{}</text>",
            LEFT - 8.0,
            LEFT + length + 6.0,
            number(*value)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width() {
        let svg = bars("t", &[("outrigger", 1.0), ("envoy", 4.0)]);
        assert!(svg.contains(&format!("width=\"{:.1}\" height=\"20\"", WIDTH - LEFT - RIGHT)));
        assert_eq!(svg.matches("<rect").count(), 3);
    }
}
