//! `onramp gc`: removes what nothing refers to any more, or says what it would remove.
//!
//! `serve` does the same at its start and now and then; this is for machines where it does not run.

use std::sync::Arc;

use clap::Args;
use tasks::{Code, Failure};
use workers::{base::Bases, forge::none::NoForge, run::sandbox_failure};

use super::Setting;
use crate::{now, wiring};

#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn gc(setting: Setting, args: GcArgs) -> Result<u8, Failure> {
    let data = setting.config.data_dir()?;
    if !data.is_dir() {
        let message = format!("There is no data directory at {}", data.display());
        return Err(
            Failure::new(Code::Usage, message).next("Name it with --data-dir or data_dir in the configuration.")
        );
    }
    let (sandboxes, why) = wiring::sandboxes(&setting.config, &setting.surroundings).await?;
    eprintln!("{why}");
    if args.dry_run {
        let abandoned = sandboxes.abandoned().await.map_err(sandbox_failure)?;
        abandoned.iter().for_each(|name| println!("would remove sandbox {name}"));
    } else {
        let n = sandboxes.sweep().await.map_err(sandbox_failure)?;
        println!("removed {n} sandbox(es) that nobody works with");
    }
    let forge = Arc::new(NoForge::new(data.clone()));
    let (options, mirrors) = (wiring::bases(&setting.config), data.join("mirrors"));
    let bases = Bases::new(data.join("bases"), options, sandboxes.clone(), forge, mirrors, now);
    // Who builds bases knows which of them are not on record yet.
    let Some(_turn) = bases.take_turn()? else {
        eprintln!("a running `onramp serve` keeps the bases of this data directory in order; they are left to it");
        return Ok(0);
    };
    let collected = bases.collect(now(), args.dry_run).await;
    let word = if args.dry_run { "would remove" } else { "removed" };
    collected.gone.iter().for_each(|name| println!("{word} base {name}"));
    println!("{word} {} base(s), {} MiB", collected.gone.len(), collected.n_bytes.div_ceil(1 << 20));
    if collected.n_in_use > 0 {
        println!("{} more base(s) go when no sandbox uses them", collected.n_in_use);
    }
    sandboxes.close().await;
    Ok(0)
}
