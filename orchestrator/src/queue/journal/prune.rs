//! Segments that may go, because a checkpoint stands for them and the operator does not keep them.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::{Journal, checkpoint, read_start, segment_path, segments, sync_dir};

/// Says up to which segment the journal is being removed, while that is so.
const PRUNING: &str = "pruning";

impl Journal {
    /// Removes closed segments that the checkpoint at the end of `covered` stands for, but keeps the last `kept` of them
    /// and everything after record `read_to`. Removes checkpoints that nothing needs any more.
    pub(in crate::queue) fn prune(&self, covered: u32, kept: u32, read_to: u64) -> io::Result<()> {
        let numbers = segments(&self.dir).map_err(io::Error::other)?;
        let first = numbers.first().copied().unwrap_or(1);
        let checkpoints = checkpoint::all(&self.dir)?;
        // The chain goes on from a checkpoint at the end of the last segment that is gone.
        let until = covered.min(self.segment.saturating_sub(kept.saturating_add(1)));
        let gone = checkpoints.iter().copied().filter(|segment| (first..=until).contains(segment));
        let gone = gone.filter(|segment| read_start(&self.dir, segment + 1).is_ok_and(|end| end.sequence <= read_to));
        let last_gone = gone.max().unwrap_or(first - 1);
        if last_gone >= first {
            // A crash between two of them leaves a beginning that nothing stands for: then the next start does the rest.
            let new = self.dir.join(PRUNING).with_extension("new");
            let mut file = File::create(&new)?;
            file.write_all(last_gone.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, self.dir.join(PRUNING))?;
            sync_dir(&self.dir)?;
        }
        for segment in first..=last_gone {
            self.marks.forget_before(read_start(&self.dir, segment + 1).map_err(io::Error::other)?.sequence + 1);
            fs::remove_file(segment_path(&self.dir, segment))?;
        }
        for segment in checkpoints.into_iter().filter(|segment| ![covered, last_gone].contains(segment)) {
            fs::remove_file(checkpoint::path(&self.dir, segment))?;
        }
        sync_dir(&self.dir)?;
        if last_gone >= first { fs::remove_file(self.dir.join(PRUNING)) } else { Ok(()) }
    }
}

/// Removes the rest of the segments that were being removed when a crash came, if the checkpoint stands for them.
pub(super) fn finish(dir: &Path) -> io::Result<()> {
    let intent = dir.join(PRUNING);
    let last_gone = match fs::read_to_string(&intent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?.trim().parse::<u32>().ok(),
    };
    for segment in 1..=last_gone.filter(|last| checkpoint::path(dir, *last).exists()).unwrap_or(0) {
        match fs::remove_file(segment_path(dir, segment)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_dir(dir)?;
    fs::remove_file(intent)
}
