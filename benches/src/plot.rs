//! Plots as SVG, readable on a white page and on a dark one, in colours that most colour-blind readers
//! can tell apart. Drawing needs no fonts; the viewer has some.

use std::path::Path;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use plotters::coord::combinators::{BindKeyPoints as _, IntoLogRange as _};
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 520);
/// Okabe and Ito's colours, with grey for yellow, which is hard to see on white.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x00, 0x00, 0x00),
    RGBColor(0x99, 0x99, 0x99),
];
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
/// The axis of percentiles is logarithmic in n, where one request in n lies beyond: 99 % is n = 100.
const PERCENTILES: [f64; 6] = [1.0, 2.0, 10.0, 100.0, 1_000.0, MOST];
const MOST: f64 = 10_000.0;

/// Latencies, recorded in microseconds, by percentile: one line for each contender.
pub(crate) fn distribution(
    path: &Path,
    title: &str,
    series: &[(&str, Histogram<u64>)],
) -> Result<()> {
    let lines = || series.iter().map(|(name, latencies)| (*name, percentiles(latencies)));
    // Requests up to the fifth percentile are left out of the vertical range.
    let seen = lines().flat_map(|(_, points)| points).filter(|point| point.0 >= 1.0 / 0.95);
    let (least, most) = seen.fold((1e6, 1e-3), |(least, most): (f64, f64), (_, ms)| {
        (least.min(ms), most.max(ms * 1.1))
    });
    let marks: Vec<f64> =
        (-3..7).flat_map(|ten| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(ten))).collect();
    let from = marks.iter().rfind(|mark| **mark <= least).copied().unwrap_or(least);

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    // A long title is in smaller letters, so that it fits.
    let letters = (94 * 20 / title.chars().count().max(1)).min(20);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", letters as u32, &INK))
        .margin(10)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (1.0..MOST).log_scale().with_key_points(PERCENTILES.to_vec()),
            (from..most).log_scale().with_key_points(marks),
        )?;
    chart
        .configure_mesh()
        .x_desc("percentile of requests")
        .y_desc("latency in ms")
        .x_label_formatter(&|one_in| format!("{} %", 100.0 - 100.0 / one_in))
        .y_label_formatter(&f64::to_string)
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13, &INK))
        .draw()?;
    for ((name, points), colour) in lines().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        let line = chart.draw_series(LineSeries::new(points, style))?;
        line.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .label_font(("sans-serif", 14, &INK))
        .draw()?;
    root.present().with_context(|| format!("cannot write {}", path.display()))
}

/// The points of a line: n, and milliseconds. It ends where fewer than ten requests lie beyond.
fn percentiles(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    const STEPS: u32 = 200;

    let known = (latencies.len() as f64 / 10.0).clamp(1.0, MOST);
    let at = |step: u32| {
        let one_in = MOST.powf(f64::from(step) / f64::from(STEPS));
        let latency = latencies.value_at_quantile(1.0 - 1.0 / one_in).max(1);
        (one_in, latency as f64 / 1000.0)
    };
    (0..=STEPS).map(at).take_while(|point| point.0 <= known).collect()
}

#[test]
fn a_line_ends_where_hardly_anything_lies_beyond() {
    let mut latencies = Histogram::<u64>::new(3).unwrap();
    (1..=1000).for_each(|ms| latencies.record(ms * 1000).unwrap());
    let points = percentiles(&latencies);
    let (one_in, ms) = points[points.len() - 1];
    let nines = one_in.log10();
    assert!((1.97..=2.0).contains(&nines) && (988.0..993.0).contains(&ms), "{nines} {ms}");
    assert_eq!(percentiles(&Histogram::new(3).unwrap()).len(), 1);
}
