//! Everything that is logged while tests run, kept to be looked at: no test may cause an error in the log, and no secret
//! may stand in it, at any level that an operator can switch on.

use std::{
    io::Write,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use orchestrator::config::LogFormat;
use tracing_subscriber::util::SubscriberInitExt as _;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static INSTALLED: Once = Once::new();

/// Looks at the log from here on. Tests of one process share the log: an error may belong to one that ran meanwhile.
#[derive(Debug)]
pub struct Log {
    start: usize,
}

impl Log {
    /// Starts to look, and to log, if nobody did before.
    pub fn watch() -> Self {
        INSTALLED.call_once(|| {
            // The program's own log, at the loudest level that an operator would choose.
            let log = orchestrator::telemetry::subscriber(LogFormat::Text, "debug", || Keep, false);
            log.expect("a level is a filter").init();
        });
        Self { start: lines().len() }
    }

    /// What was logged since.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lines()[self.start..]).into_owned()
    }

    /// The errors among it.
    pub fn errors(&self) -> Vec<String> {
        // `<time> <level> <spans>: <target>: <message>`
        let is_error = |line: &&str| line.split_whitespace().nth(1) == Some("ERROR");
        self.text().lines().filter(is_error).map(str::to_owned).collect()
    }
}

fn lines() -> MutexGuard<'static, Vec<u8>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Keep;

impl Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lines().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
