//! Data on standard output.

use std::io::Write as _;

use tasks::{Failure, Timestamp};
use workers::text;

/// One line without control codes: titles come from people on the forge.
pub(super) fn plain(text: &str) -> String {
    text::clean(text.as_bytes()).lines().collect::<Vec<_>>().join(" ")
}

/// A moment for people.
pub(super) fn when(at: Timestamp) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// Lines of data. A reader that went away (`| head`) is not an error; `false`: it did.
pub(super) fn print<S: AsRef<str>>(lines: &[S]) -> bool {
    let mut out = std::io::stdout().lock();
    lines.iter().all(|line| writeln!(out, "{}", line.as_ref()).is_ok()) && out.flush().is_ok()
}

/// One value for programs.
pub(super) fn print_json<T: serde::Serialize>(value: &T) -> Result<u8, Failure> {
    print(&[serde_json::to_string_pretty(value).map_err(Failure::internal)?]);
    Ok(0)
}
