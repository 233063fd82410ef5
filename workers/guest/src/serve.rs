//! The guest proper: reads frames, does what they ask, writes frames.

/// Serves the frames on standard input until it ends, then ends everything inside.
pub(crate) fn serve() -> ! {
    crate::sys::harden();
    std::process::exit(0)
}
