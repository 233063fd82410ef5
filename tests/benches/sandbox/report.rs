//! The numbers, and what they are held against.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use crate::machine;

/// Every sample of every phase, and the bars.
pub(crate) struct Report {
    /// (phase, contender) to its samples in the order in which they were taken.
    samples: BTreeMap<(String, String), Vec<Duration>>,
    bars: Vec<(String, bool, String)>,
}

/// What is said of a number of samples.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    min: f64,
    max: f64,
    n: usize,
}

impl Summary {
    /// In milliseconds. A percentile is the smallest sample that so many are not above.
    pub(crate) fn of(samples: &[Duration]) -> Self {
        let mut ms: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| ms[((ms.len() as f64 * share).ceil() as usize).clamp(1, ms.len()) - 1];
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), min: ms[0], max: ms[ms.len() - 1], n: ms.len() }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { samples: BTreeMap::new(), bars: Vec::new() }
    }

    pub(crate) fn add(&mut self, phase: &str, contender: &str, sample: Duration) {
        self.samples.entry((phase.into(), contender.into())).or_default().push(sample);
    }

    pub(crate) fn summary(&self, phase: &str, contender: &str) -> Summary {
        Summary::of(&self.samples[&(phase.to_owned(), contender.to_owned())])
    }

    /// All contenders of a phase, one a line.
    pub(crate) fn print(&self, phase: &str, title: &str, load_before: &str) {
        println!("\n{title}");
        println!("load before {load_before}, after {}; milliseconds", machine::load());
        let width = 44;
        println!("{:<width$} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9}", "", "n", "p50", "p95", "p99", "min", "max");
        for ((_, contender), samples) in self.samples.iter().filter(|((of, _), _)| of == phase) {
            let Summary { p50, p95, p99, min, max, n } = Summary::of(samples);
            println!("{contender:<width$} {n:>5} {p50:>9.2} {p95:>9.2} {p99:>9.2} {min:>9.2} {max:>9.2}");
        }
    }

    /// `measured` must be at least `wanted`.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, wanted: f64) {
        self.bars.push((what.into(), measured >= wanted, format!("{measured:.1}x, wanted at least {wanted}x")));
    }

    /// `measured` must be at most `wanted`.
    pub(crate) fn at_most(&mut self, what: &str, measured: f64, wanted: f64) {
        self.bars.push((what.into(), measured <= wanted, format!("{measured:.2}x, wanted at most {wanted}x")));
    }

    pub(crate) fn holds(&mut self, what: &str, holds: bool, measured: String) {
        self.bars.push((what.into(), holds, measured));
    }

    pub(crate) fn print_bars(&self) {
        println!("\nBars");
        for (what, met, measured) in &self.bars {
            println!("{:<8} {what}: {measured}", if *met { "met" } else { "MISSED" });
        }
        let n_met = self.bars.iter().filter(|(_, met, _)| *met).count();
        println!("{n_met} of {} met", self.bars.len());
    }

    /// One line a sample: phase, contender, microseconds.
    pub(crate) fn raw(&self) -> String {
        let mut out = String::from("phase\tcontender\tmicroseconds\n");
        for ((phase, contender), samples) in &self.samples {
            for sample in samples {
                let _ = writeln!(out, "{phase}\t{contender}\t{}", sample.as_micros());
            }
        }
        out
    }
}
