//! For shells and readers: completions and man pages, made from the same definition that parses the arguments.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use tasks::{Code, Failure};

use super::Cli;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for each command into this directory, instead of the first page to standard output
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "onramp", &mut text);
    // A reader that went away has what it wanted.
    let _ = std::io::stdout().write_all(&text);
    Ok(0)
}

pub(super) fn man(args: &ManArgs) -> Result<u8, Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(Failure::internal)?;
        let _ = std::io::stdout().write_all(&page);
        return Ok(0);
    };
    pages(dir).map_err(|error| {
        Failure::new(Code::Usage, format!("The pages cannot be written into {}: {error}", dir.display()))
            .next("Name a directory that is there, such as ~/.local/share/man/man1.")
    })
}

fn pages(dir: &Path) -> std::io::Result<u8> {
    if !dir.is_dir() {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    clap_mangen::generate_to(Cli::command(), dir)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_each_command_and_a_completion_for_each_shell() {
        let dir = tempfile::tempdir().unwrap();
        pages(dir.path()).unwrap();
        for page in ["onramp.1", "onramp-serve.1", "onramp-init.1", "onramp-audit-verify.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(text.contains(".SH NAME"), "{page}: {text}");
        }
        assert!(pages(&dir.path().join("nowhere")).is_err());
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "onramp", &mut text);
            assert!(String::from_utf8_lossy(&text).contains("serve"), "{shell}");
        }
    }
}
