//! The numbers, and what they are held against.

use std::time::Duration;

/// The bars.
#[derive(Default)]
pub(crate) struct Report {
    bars: Vec<(String, bool, String)>,
}

/// What is said of a number of samples, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// A percentile is the smallest sample that so many are not above.
    pub(crate) fn of(samples: &[Duration]) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        let mut ms: Vec<f64> = samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect();
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| ms[((ms.len() as f64 * share).ceil() as usize).clamp(1, ms.len()) - 1];
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99), max: ms[ms.len() - 1] }
    }
}

/// One measurement of one side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) took: Summary,
}

impl Measured {
    pub(crate) fn of(samples: &[Duration], elapsed: Duration) -> Self {
        Self { per_second: samples.len() as f64 / elapsed.as_secs_f64(), took: Summary::of(samples) }
    }

    /// The one in the middle by rate.
    pub(crate) fn median(mut rounds: Vec<Self>) -> Self {
        rounds.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
        rounds[rounds.len() / 2]
    }
}

/// The head of a table of [`row`]s.
pub(crate) fn head(title: &str) {
    println!("\n{title}");
    let names = ["per s", "p50 ms", "p95 ms", "p99 ms", "max ms"];
    println!(
        "{:<46} {:>9} {:>8} {:>8} {:>8} {:>8}  all rounds, per s",
        "", names[0], names[1], names[2], names[3], names[4]
    );
}

/// The round in the middle, with the rates of all.
pub(crate) fn row(name: &str, rounds: &[Measured]) -> Measured {
    let median = Measured::median(rounds.to_vec());
    let Summary { p50, p95, p99, max } = median.took;
    let rates: Vec<String> = rounds.iter().map(|round| format!("{:.0}", round.per_second)).collect();
    let per_second = median.per_second;
    println!("{name:<46} {per_second:>9.0} {p50:>8.2} {p95:>8.2} {p99:>8.2} {max:>8.2}  {}", rates.join(" "));
    median
}

impl Report {
    /// One bar, with what was measured.
    pub(crate) fn bar(&mut self, what: &str, met: bool, measured: String) {
        self.bars.push((what.into(), met, measured));
    }

    /// `measured` must be at least `wanted` times the other side's.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, wanted: f64) {
        self.bar(what, measured >= wanted, format!("{measured:.1}x, wanted at least {wanted}x"));
    }

    pub(crate) fn print_bars(&self) {
        println!("\nBars");
        for (what, met, measured) in &self.bars {
            println!("{:<8} {what}: {measured}", if *met { "met" } else { "MISSED" });
        }
        let n_met = self.bars.iter().filter(|(_, met, _)| *met).count();
        println!("{n_met} of {} met", self.bars.len());
    }
}
