//! What the worker tells the launcher of an embedded sandbox, and what the launcher answers.
//!
//! The specification travels as the first bytes of the launcher's standard input, before any frame: nothing of it stands
//! in an argument list that other users of the host, or programs inside, could read. The answer is the first line of the
//! launcher's standard error: what was built, or what could not be done.

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// The user and the group that everything inside runs as.
pub const INSIDE_ID: u32 = 1000;
/// The repository inside.
pub const WORKSPACE: &str = "/workspace";
/// The home directory inside.
pub const HOME: &str = "/home/onramp";
/// The directory of a box's files that holds all that was written in it: what a base is made of.
pub const KEPT: &str = "kept";
/// The host name inside.
pub const HOST_NAME: &str = "onramp";
/// The longest specification that a launcher reads, in bytes.
pub const MAX_LAUNCH: usize = 1 << 20;

/// A directory of the host that shows inside with its changes kept apart, so that the host's stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// On the host.
    pub from: PathBuf,
    /// Inside.
    pub to: PathBuf,
}

impl Layer {
    /// What its changes are called among the files of a box and of a base.
    pub fn name(&self) -> String {
        format!("layer{}", self.to.to_string_lossy().replace('/', "_"))
    }
}

/// One embedded sandbox to be built.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Launch {
    /// The box's own directory on the host, owned by the worker's user, with nothing in it that is used.
    pub dir: PathBuf,
    /// The host's user and group behind [`INSIDE_ID`]. `None`: the worker's own, which needs no privilege.
    pub host_id: Option<u32>,
    /// The directory of a prepared base: what workspace, home and layers start from. `None`: they start empty.
    pub base: Option<PathBuf>,
    /// Directories of the host to show read-only at the same path.
    pub expose: Vec<PathBuf>,
    /// Directories of the host to show with their changes kept in the box.
    pub layers: Vec<Layer>,
    /// Device files of GPUs that were lent to the box; each must be one of [`is_gpu_device`].
    pub devices: Vec<PathBuf>,
    /// `cgroup.procs` files that the first process inside writes itself into.
    pub cgroups: Vec<PathBuf>,
    /// Processes and threads inside.
    pub pids: u64,
    /// The largest file that may be written, in bytes.
    pub file_bytes: u64,
    /// The size of `/tmp`, in bytes.
    pub tmp_bytes: u64,
}

/// Whether a path is a device file of a GPU: no other device of the host can be asked for at all.
pub fn is_gpu_device(path: &Path) -> bool {
    let text = path.as_os_str().as_bytes();
    let Some(name) = text.strip_prefix(b"/dev/nvidia") else { return false };
    let plain = |name: &[u8]| name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    match name.strip_prefix(b"-caps/nvidia-cap") {
        Some(number) => !number.is_empty() && number.iter().all(u8::is_ascii_digit),
        None => plain(name),
    }
}

/// Bytes that no worker of ours writes.
fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed launch specification: {what}"))
}

impl Launch {
    /// The bytes to send: a length (`u32`, little endian), then fields that end in NUL, each a key byte and a value.
    ///
    /// # Errors
    /// When a path holds a NUL byte or everything together is longer than [`MAX_LAUNCH`].
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let mut fields: Vec<(u8, &[u8])> = vec![(b'd', self.dir.as_os_str().as_bytes())];
        let numbers = [
            (b'p', Some(self.pids)),
            (b'f', Some(self.file_bytes)),
            (b't', Some(self.tmp_bytes)),
            (b'u', self.host_id.map(u64::from)),
        ]
        .map(|(key, number)| (key, number.map(|number| number.to_string())));
        fields.extend(numbers.iter().filter_map(|(key, text)| Some((*key, text.as_ref()?.as_bytes()))));
        let path = |key: u8, path: &'_ PathBuf| (key, path.as_os_str().as_bytes().to_vec());
        let mut paths: Vec<(u8, Vec<u8>)> = Vec::new();
        paths.extend(self.base.iter().map(|base| path(b'b', base)));
        paths.extend(self.expose.iter().map(|expose| path(b'e', expose)));
        paths.extend(self.layers.iter().flat_map(|layer| [path(b'<', &layer.from), path(b'>', &layer.to)]));
        paths.extend(self.devices.iter().map(|device| path(b'g', device)));
        paths.extend(self.cgroups.iter().map(|cgroup| path(b'c', cgroup)));
        fields.extend(paths.iter().map(|(key, value)| (*key, value.as_slice())));

        let mut body = Vec::new();
        for (key, value) in fields {
            if value.contains(&0) {
                return Err(malformed("a path with a NUL byte"));
            }
            body.push(key);
            body.extend_from_slice(value);
            body.push(0);
        }
        if body.len() > MAX_LAUNCH {
            return Err(malformed("too long"));
        }
        let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
        bytes.extend(body);
        Ok(bytes)
    }

    /// Reads exactly one specification and not a byte more.
    ///
    /// # Errors
    /// When the input ends early or holds anything else.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_LAUNCH {
            return Err(malformed("too long"));
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body)?;
        Self::decode(&body)
    }

    fn decode(body: &[u8]) -> io::Result<Self> {
        let mut launch = Self::default();
        let body = body.strip_suffix(&[0]).ok_or_else(|| malformed("no end"))?;
        for field in body.split(|byte| *byte == 0) {
            let (key, value) = field.split_first().ok_or_else(|| malformed("an empty field"))?;
            let path = || PathBuf::from(OsString::from_vec(value.to_vec()));
            let number = || -> io::Result<u64> {
                let text = std::str::from_utf8(value).ok();
                text.and_then(|text| text.parse().ok()).ok_or_else(|| malformed("not a number"))
            };
            match key {
                b'd' => launch.dir = path(),
                b'b' => launch.base = Some(path()),
                b'e' => launch.expose.push(path()),
                b'<' => launch.layers.push(Layer { from: path(), to: PathBuf::new() }),
                b'>' => launch.layers.last_mut().ok_or_else(|| malformed("a layer without a source"))?.to = path(),
                b'g' if is_gpu_device(&path()) => launch.devices.push(path()),
                b'g' => return Err(malformed("a device that is no GPU")),
                b'c' => launch.cgroups.push(path()),
                b'p' => launch.pids = number()?,
                b'f' => launch.file_bytes = number()?,
                b't' => launch.tmp_bytes = number()?,
                b'u' => launch.host_id = Some(u32::try_from(number()?).map_err(|_| malformed("not a user id"))?),
                _ => return Err(malformed("an unknown field")),
            }
        }
        let absolute = |path: &Path| path.is_absolute();
        let all = launch.expose.iter().chain(launch.layers.iter().flat_map(|layer| [&layer.from, &layer.to]));
        if !absolute(&launch.dir) || !all.chain(&launch.base).all(|path| absolute(path)) {
            return Err(malformed("a path that is not absolute"));
        }
        Ok(launch)
    }
}

/// The first line of the launcher's standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The box stands and its PID 1 reads frames. The notes say what is weaker than it should be.
    Ready {
        /// One sentence each.
        notes: Vec<String>,
    },
    /// It could not be built.
    Refused {
        /// What was tried: `mount /proc`.
        step: String,
        /// The system's error number; 0: there was none.
        errno: i32,
        /// The system's words.
        reason: String,
    },
}

impl Answer {
    /// The line, with its end.
    pub fn to_line(&self) -> String {
        let clean = |text: &str| text.replace(['\n', '\t'], " ");
        match self {
            Self::Ready { notes } => {
                let notes: String = notes.iter().map(|note| format!("\t{}", clean(note))).collect();
                format!("ready{notes}\n")
            }
            Self::Refused { step, errno, reason } => format!("refused\t{}\t{errno}\t{}\n", clean(step), clean(reason)),
        }
    }

    /// Understands a line; `None`: it is not ours.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.trim_end_matches('\n').split('\t').map(str::to_owned);
        match words.next()?.as_str() {
            "ready" => Some(Self::Ready { notes: words.collect() }),
            "refused" => Some(Self::Refused {
                step: words.next()?,
                errno: words.next()?.parse().ok()?,
                reason: words.next().unwrap_or_default(),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch() -> Launch {
        Launch {
            dir: "/var/lib/onramp/boxes/a b,c:d\\e".into(),
            host_id: Some(1_900_000_001),
            base: Some("/bases/1".into()),
            expose: vec!["/root/.cargo/bin".into(), PathBuf::from(OsString::from_vec(b"/x/\xff".to_vec()))],
            layers: vec![Layer { from: "/root/.cargo/registry".into(), to: "/home/onramp/.cargo/registry".into() }],
            devices: vec!["/dev/nvidia0".into(), "/dev/nvidia-caps/nvidia-cap12".into()],
            cgroups: vec!["/sys/fs/cgroup/pids/onramp/cgroup.procs".into()],
            pids: 64,
            file_bytes: 1 << 33,
            tmp_bytes: 1 << 20,
        }
    }

    #[test]
    fn a_launch_arrives_as_it_was_sent_and_the_frames_behind_it_stay_unread() {
        let bytes = [launch().encode().unwrap(), b"frames".to_vec()].concat();
        let mut rest = bytes.as_slice();
        assert_eq!(Launch::read(&mut rest).unwrap(), launch());
        assert_eq!(rest, b"frames");
    }

    #[test]
    fn what_no_worker_writes_is_refused() {
        let whole = launch().encode().unwrap();
        for end in 0..whole.len() {
            assert!(Launch::read(&mut &whole[..end]).is_err(), "cut after {end}");
        }
        for device in ["/dev/sda", "/dev/nvidia/../sda", "/dev/nvidia-caps/nvidia-cap", "/dev/mem", "nvidia0"] {
            assert!(
                Launch { devices: vec![device.into()], ..launch() }
                    .encode()
                    .is_ok_and(|bytes| { Launch::read(&mut bytes.as_slice()).is_err() }),
                "{device}"
            );
        }
        for body in
            [&b"d/x\0?\0"[..], b"d/x\0pmany\0", b"drelative\0", b"d/x\0>/y\0", b"d/x\0u4294967296\0", b"\0", b""]
        {
            assert!(Launch::decode(body).is_err(), "{body:?}");
        }
        assert!(Launch { dir: "/a\0b".into(), ..launch() }.encode().is_err());
    }

    #[test]
    fn an_answer_survives_its_line() {
        let ready = Answer::Ready { notes: vec!["plain workspace".into()] };
        let refused = Answer::Refused { step: "mount /proc".into(), errno: 1, reason: "not\tpermitted\n".into() };
        assert_eq!(Answer::parse(&ready.to_line()), Some(ready));
        assert_eq!(refused.to_line(), "refused\tmount /proc\t1\tnot permitted \n");
        assert_eq!(Answer::parse("thread 'main' panicked"), None);
    }
}
