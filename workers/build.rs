//! Builds the guest: a static program, from `guest/src` and the standard library alone, with the compiler of this build.
//!
//! It is compiled here rather than as a dependency because it must be static whatever the rest is, must be small in every
//! profile, and must be at hand as bytes when the worker is compiled. Nothing but the toolchain of this build is needed.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    println!("cargo::rerun-if-changed=guest/src");
    let out = PathBuf::from(variable("OUT_DIR"));
    let target = variable("TARGET");
    assert!(target.contains("-linux-"), "Onramp's sandboxes need Linux; {target} cannot run their guest.");

    let first = match compile(&target, &out) {
        Ok(()) => return,
        Err(text) => text,
    };
    let arch = target.split('-').next().unwrap_or_default();
    let musl = format!("{arch}-unknown-linux-musl");
    if target != musl && is_installed(&musl) && compile(&musl, &out).is_ok() {
        return;
    }
    panic!(
        "The guest of the sandboxes cannot be linked statically: install the static C library (Debian, Ubuntu: libc6-dev; \
         Fedora: glibc-static; Alpine: musl-dev) or run `rustup target add {musl}`, then build again.\n{first}"
    );
}

/// Compiles the library (the protocol) and the program on top of it. The error is what the compiler said.
fn compile(target: &str, out: &Path) -> Result<(), String> {
    let library = format!("guest={}", out.join("libguest.rlib").display());
    rustc(target, out, &["--crate-name", "guest", "--crate-type", "rlib", "guest/src/lib.rs"])?;
    rustc(
        target,
        out,
        &["--crate-name", "onramp_guest", "--crate-type", "bin", "guest/src/main.rs", "--extern", &library],
    )?;
    std::fs::rename(out.join("onramp_guest"), out.join("onramp-guest")).map_err(|error| error.to_string())
}

fn rustc(target: &str, out: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(variable("RUSTC"));
    command
        .args(arguments)
        .args(["--edition", "2024", "--target", target, "--cap-lints", "allow", "--out-dir"])
        .arg(out);
    for option in ["target-feature=+crt-static", "opt-level=3", "panic=abort", "strip=symbols", "codegen-units=1"] {
        command.args(["-C", option]);
    }
    // The linker that was configured for this very target, and only for it.
    if let Some(linker) = linker().filter(|_| target == variable("TARGET")) {
        command.arg("-C").arg(format!("linker={linker}"));
    }
    let output = command.output().map_err(|error| format!("the compiler did not start: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn is_installed(target: &str) -> bool {
    let output = Command::new(variable("RUSTC")).args(["--print", "target-libdir", "--target", target]).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

#[expect(clippy::disallowed_methods, reason = "the environment is how cargo talks to a build script")]
fn linker() -> Option<String> {
    env::var("RUSTC_LINKER").ok()
}

#[expect(clippy::disallowed_methods, reason = "the environment is how cargo talks to a build script")]
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
