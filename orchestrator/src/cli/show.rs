//! Progress for people: one line per event with the time since the start, on whichever stream is given.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Instant,
};

use tasks::{CheckResult, EgressRecord, Evidence, GpuUse};
use workers::{
    progress::{Progress, ProgressEvent},
    text,
};

/// Prints progress as it happens.
#[derive(Clone)]
pub(super) struct Show {
    started: Instant,
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    colour: bool,
}

impl Show {
    pub(super) fn new(out: impl Write + Send + 'static, colour: bool) -> Self {
        Self { started: Instant::now(), out: Arc::new(Mutex::new(Box::new(out))), colour }
    }

    /// A line of its own, with the time; further lines of the text are set below it.
    pub(super) fn line(&self, text: &str) {
        let elapsed = self.started.elapsed();
        let text = text.trim_end().replace('\n', "\n           ");
        self.write(&format!("{:>3}.{:02}s  {text}\n", elapsed.as_secs(), elapsed.subsec_millis() / 10));
    }

    /// Text as it is.
    pub(super) fn write(&self, text: &str) {
        // A reader that went away (`| head`) is not an error of the work.
        if let Ok(mut out) = self.out.lock() {
            let _ = out.write_all(text.as_bytes());
            let _ = out.flush();
        }
    }

    pub(super) fn heading(&self, text: &str) {
        self.write(&format!("\n{}\n", self.paint("1", text)));
    }

    /// The sink for an attempt.
    pub(super) fn progress(&self) -> Progress {
        let show = self.clone();
        Progress::new(move |event| show.event(&event))
    }

    fn event(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Stage(stage) => self.line(&self.paint("1", stage.word())),
            ProgressEvent::Waiting(text) => self.line(&format!("  {}", self.paint("33", text))),
            ProgressEvent::Step(text) => self.line(&format!("  {text}")),
            ProgressEvent::Warning(text) => self.line(&format!("  {} {text}", self.paint("33", "warning:"))),
            ProgressEvent::Agent(text) => self.line(&format!("  {} {text}", self.paint("2", "agent:"))),
            ProgressEvent::Check(check) => self.line(&format!("  {}", self.check(check))),
            ProgressEvent::Diff(_) => {}
        }
    }

    fn check(&self, check: &CheckResult) -> String {
        let result = text::result_words(check);
        let result = if check.passed() { self.paint("32", &result) } else { self.paint("31", &result) };
        let time = text::duration_words(check.duration_ms);
        format!("check {}: {result} in {time}", check.name)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The evidence as a table for a terminal.
    pub(super) fn evidence(&self, evidence: &Evidence) {
        let width = evidence.checks.iter().map(|check| check.command.chars().count()).max().unwrap_or(0).min(60);
        for check in &evidence.checks {
            let mark = if check.passed() { self.paint("32", "pass") } else { self.paint("31", "FAIL") };
            let time = text::duration_words(check.duration_ms);
            let optional = if check.required { "" } else { " (not required)" };
            self.write(&format!("  {mark}  {:<width$}  {time}{optional}\n", check.command));
        }
        let rows = [
            ("base", evidence.base.to_string()),
            ("tree", format!("{} (judged, tested and committed)", evidence.tree)),
            (
                "patch",
                format!(
                    "{} changed file(s), +{} -{}, sha256 {}",
                    evidence.n_files,
                    evidence.n_added,
                    evidence.n_removed,
                    &evidence.patch_sha256[..16]
                ),
            ),
            ("checks", evidence.checks_from.clone()),
            ("sandbox", format!("{}, {}", evidence.sandbox, evidence.environment)),
            ("gpu", evidence.gpu.as_ref().map_or_else(String::new, gpu_words)),
            ("agent", format!("{}, {} round(s)", evidence.agent, evidence.rounds)),
            ("time", text::duration_words(evidence.duration_ms)),
            ("models", evidence.egress.as_ref().map_or_else(String::new, models_words)),
            ("outside", evidence.egress.as_ref().map_or_else(String::new, outside_words)),
        ];
        for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
            self.write(&format!("  {name:<8}{value}\n"));
        }
    }
}

/// What each model cost. A price that nobody knows is said to be unknown.
fn models_words(egress: &EgressRecord) -> String {
    let words = egress.models.iter().map(|model| {
        let (read, cached, written) = (model.tokens.input, model.tokens.cached, model.tokens.output);
        let cost = model.known_cost().map_or_else(|| "price unknown".to_owned(), |cost| cost.to_string());
        let (n, name) = (model.n_exchanges, text::clean(model.model.as_bytes()));
        format!(
            "{name} at {}: {n} answers, {read} tokens read ({cached} cached), {written} written, {cost}",
            model.provider
        )
    });
    words.collect::<Vec<_>>().join("; ")
}

/// What was reached, and what was refused.
fn outside_words(egress: &EgressRecord) -> String {
    let (reached, refused): (Vec<_>, Vec<_>) = egress.hosts.iter().partition(|host| host.blocked.is_none());
    let names = |hosts: &[&tasks::HostUse]| hosts.iter().map(|host| host.host.as_str()).collect::<Vec<_>>().join(", ");
    let mut words = format!("{} connections to the public internet", egress.n_external);
    if let Some(n_bytes) = egress.interface_bytes {
        words.push_str(&format!(", {n_bytes} bytes on network interfaces of the sandbox"));
    }
    if !reached.is_empty() {
        words.push_str(&format!("; reached {}", names(&reached)));
    }
    if !refused.is_empty() {
        words.push_str(&format!("; refused {}", names(&refused)));
    }
    words
}

fn gpu_words(used: &GpuUse) -> String {
    format!("{}, lent for {}", used.devices.join(", "), text::duration_words(used.lent_ms))
}
