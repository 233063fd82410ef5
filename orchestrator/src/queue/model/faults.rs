//! What goes wrong around the queue: the process is killed, a write is cut short, the disk is full.

use super::*;

impl World {
    /// As if the process had been killed now: its files as they are, and perhaps a write that had just begun.
    pub(super) fn kill(&mut self, torn: u8, jump_s: i64) {
        self.n_kills += 1;
        let (copy, _) = self.copied();
        self.queue = None;
        self.dir = copy;
        if torn > 0 {
            let mut last = fs::OpenOptions::new().append(true).open(last_segment(self.dir.path())).unwrap();
            io::Write::write_all(&mut last, &vec![torn; usize::from(torn)]).unwrap();
        }
        self.reopen(jump_s);
    }

    /// As if the process had been killed in the write that `op` makes, at any byte of it: the index knows nothing of it
    /// yet, and what follows the cut is missing, or is there and says nothing. Then it has happened or it has not.
    pub(super) async fn kill_in_write(&mut self, op: Op, cut: u16, fill: Option<u8>, jump_s: i64) {
        self.n_kills += 1;
        let (before, (was_last, _)) = self.copied();
        let tasks = self.tasks.clone();
        let (keys, leases, used) = (self.keys.clone(), self.leases.clone(), self.used.clone());
        Box::pin(self.step(op)).await;
        let (after, _) = self.copied();
        // Checkpoints are named in between, and are no events.
        let written = self.queue().events_after(was_last, usize::MAX).await.unwrap().len();
        self.queue = None;

        let (was, is) = (last_segment(before.path()), last_segment(after.path()));
        let (from, to) = (fs::metadata(&was).unwrap().len(), fs::metadata(&is).unwrap().len());
        if was.file_name() == is.file_name() && from < to {
            let at = from + u64::from(cut) % (to - from + 1);
            let mut bytes = fs::read(&is).unwrap();
            match fill {
                Some(byte) => bytes[at as usize..].fill(byte),
                None => bytes.truncate(at as usize),
            }
            fs::write(&is, bytes).unwrap();
        }
        fs::remove_dir_all(after.path().join("index")).unwrap();
        copy_quietly(&before.path().join("index"), &made(after.path().join("index"))).unwrap();
        self.dir = after;
        self.reopen(jump_s);
        if self.queue().events_after(was_last, usize::MAX).await.unwrap().len() != written {
            (self.tasks, self.keys, self.leases, self.used) = (tasks, keys, leases, used);
            self.recover();
        }
    }

    /// The next segment lands on a full device. Whoever had to wait for it is refused, and nothing of theirs is left.
    pub(super) async fn full_disk(&mut self, key: u8, repo: usize, issue: u64) {
        let last = last_segment(self.dir.path());
        let number: u32 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let blocked = last.with_file_name(format!("{:06}.new", number + 1));
        // A kill in the middle of an earlier rotation may have left one.
        let _ = fs::remove_file(&blocked);
        std::os::unix::fs::symlink("/dev/full", &blocked).unwrap();
        match self.queue().enqueue(Self::request(key, 1, repo, issue)).await {
            Ok(received) => self.received(received, key, 1, repo, issue),
            Err(QueueError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
        // Gone already where a checkpoint's record went through in between and filled the segment.
        let _ = fs::remove_file(blocked);
    }

    /// The files as they are at one moment, which a copy takes longer than: another one, if something moved meanwhile.
    fn copied(&self) -> (TempDir, (u64, Hash)) {
        loop {
            let copy = fresh_dir();
            let head = self.queue().journal_head();
            if copy_quietly(self.dir.path(), copy.path()).is_ok() && head == self.queue().journal_head() {
                return (copy, head);
            }
        }
    }
}

fn last_segment(dir: &Path) -> PathBuf {
    let files = fs::read_dir(dir.join("journal")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

fn made(dir: PathBuf) -> PathBuf {
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn copy_quietly(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_quietly(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
