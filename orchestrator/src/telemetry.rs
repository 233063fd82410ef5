//! Where the log goes: standard error, for people or for machines.
//!
//! Libraries that log what they send are pinned: at debug level bollard writes the environments and commands of what it
//! starts, and HTTP clients write requests. The operator's filter may make everything quieter and our own rooms louder;
//! no filter, however exact, makes those louder than `info`.

use std::io::{self, IsTerminal};

use tasks::{Code, Failure};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, Targets},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Targets that begin so (`hyper_util` too) stay at `info`.
const PINNED: [&str; 5] = ["bollard", "hyper", "reqwest", "h2", "sled"];
/// Logs each failed request as an error, also those that are repeated as a matter of course. What matters of them, the
/// forge tells in words of its own.
const SILENT: &str = "octocrab";

/// Sets up the log of this process.
///
/// # Errors
/// E006 when the filter cannot be read.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Failure> {
    let subscriber = subscriber(format, filter, io::stderr, io::stderr().is_terminal())?;
    // Somebody who embeds us, or a test, may have set up a log already: theirs stays.
    let _ = subscriber.try_init();
    Ok(())
}

/// The log of this process, made but not set up: tests look at what it writes.
///
/// # Errors
/// E006 when the filter cannot be read.
pub fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
    terminal: bool,
) -> Result<impl Subscriber + Send + Sync, Failure>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let wanted = EnvFilter::builder().with_regex(false).parse(filter).map_err(|error| {
        Failure::new(Code::BadConfig, format!("The log filter {filter:?} cannot be read: {error}")).next(
            "Give a level such as `info`, or target=level pairs such as `info,orchestrator=debug`, under [log] filter.",
        )
    })?;
    let pins = PINNED.into_iter().map(|target| (target, LevelFilter::INFO));
    let pins = Targets::new().with_default(LevelFilter::TRACE).with_targets(pins).with_target(SILENT, LevelFilter::OFF);
    let layer = fmt::layer().with_writer(writer);
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        // On a terminal the layer decides by itself, and honours NO_COLOR.
        LogFormat::Text if terminal => layer.with_target(false).boxed(),
        LogFormat::Text => layer.with_ansi(false).boxed(),
    };
    Ok(tracing_subscriber::registry().with(layer.with_filter(wanted.and(pins))))
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, act: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let guard = subscriber(format, filter, move || writer.clone(), false).unwrap().set_default();
        act();
        drop(guard);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_filter_makes_a_library_log_what_it_sends() {
        for filter in
            ["debug", "trace", "bollard=trace", "info,bollard::docker=debug,hyper_util=trace", "[request]=trace"]
        {
            let text = logged(LogFormat::Text, filter, || {
                tracing::debug!(target: "bollard::docker", "env SECRET=canary");
                tracing::trace!(target: "bollard::read", "canary");
                tracing::debug!(target: "hyper_util::client", "canary");
                tracing::error!(target: "octocrab", "failed with error canary");
                tracing::debug!(target: "h2::codec", "canary");
                let request = tracing::trace_span!(target: "reqwest::connect", "request");
                let _entered = request.enter();
                tracing::debug!(target: "reqwest::connect", "canary");
                tracing::warn!(target: "bollard::docker", "the engine is slow");
            });
            assert!(!text.contains("canary"), "{filter}: {text}");
        }
    }

    #[test]
    fn a_library_that_speaks_through_the_log_facade_is_pinned_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let refused = || {
            // Nobody listens there; the client says at debug level where it connects to.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = runtime.block_on(client.get("http://127.0.0.1:1/canary").send());
            assert!(answer.is_err());
        };
        let text = logged(LogFormat::Text, "trace", refused);
        assert!(!text.contains("reqwest") && !text.contains("hyper"), "{text}");
    }

    #[test]
    fn our_own_rooms_get_as_loud_as_the_filter_says() {
        let act = || {
            tracing::debug!(target: "orchestrator::queue", attempt = 7, "leased");
            tracing::info!(target: "workers::run", "started");
            tracing::info!(target: "bollard", "connected");
        };
        let text = logged(LogFormat::Text, "info,orchestrator=debug", act);
        assert_eq!(text.lines().count(), 3, "{text}");
        let text = logged(LogFormat::Text, "warn", act);
        assert_eq!(text, "");
        let text = logged(LogFormat::Json, "orchestrator=debug", act);
        let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        assert_eq!(
            (&line["level"], &line["attempt"], &line["message"]),
            (&"DEBUG".into(), &7.into(), &"leased".into())
        );
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error_with_a_next_step() {
        let failure = subscriber(LogFormat::Text, "orchestrator=loud", io::sink, false).err().unwrap();
        assert_eq!(failure.code, Code::BadConfig);
        assert!(
            failure.message.starts_with("The log filter \"orchestrator=loud\" cannot be read"),
            "{}",
            failure.message
        );
    }
}
