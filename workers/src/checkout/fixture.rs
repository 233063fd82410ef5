//! Real repositories made with the git program, for the tests of this room.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use super::{Base, Mirror, Remote};
use tasks::Failure;

/// A checkout in a directory of its own, and room for mirrors beside it.
pub(crate) struct Scratch {
    pub(crate) dir: tempfile::TempDir,
}

impl Scratch {
    /// A repository without a commit.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        let scratch = Self { dir };
        scratch.git(&["init", "-q", "-b", "main"]);
        scratch
    }

    /// A repository with these files in one commit on `main`.
    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let scratch = Self::empty();
        for (path, content) in files {
            scratch.write(path, content.as_bytes());
        }
        scratch.commit("First");
        scratch
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub(crate) fn write(&self, path: impl AsRef<Path>, content: &[u8]) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn make_executable(&self, path: impl AsRef<Path>) {
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Commits everything, ignored files too, and returns the id.
    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A", "-f"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn git(&self, args: &[&str]) -> String {
        git(&self.path(), args)
    }

    pub(crate) fn remote(&self) -> Remote {
        Remote { url: self.path().to_str().unwrap().to_owned(), token: None }
    }

    pub(crate) async fn checkout(&self, base: Option<&str>) -> Result<(Mirror, Base), Failure> {
        Mirror::checkout(&self.dir.path().join("mirrors"), &"acme/web".parse().unwrap(), &self.remote(), base).await
    }
}

/// Runs git and returns what it wrote, without the last line end.
pub(crate) fn git(dir: &Path, args: &[&str]) -> String {
    String::from_utf8(git_with(dir, args, b"")).unwrap().trim_end_matches('\n').to_owned()
}

/// Runs git with a standard input.
pub(crate) fn git_with(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let (code, output, error) = try_git(dir, args, input);
    assert_eq!(code, Some(0), "git {args:?}: {error}");
    output
}

/// Runs git: exit code, standard output, standard error.
pub(crate) fn try_git(dir: &Path, args: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([("GIT_AUTHOR_NAME", "Ada"), ("GIT_AUTHOR_EMAIL", "ada@example.org")])
        .envs([("GIT_COMMITTER_NAME", "Ada"), ("GIT_COMMITTER_EMAIL", "ada@example.org")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // Git may end before it read everything.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A path of raw bytes.
pub(crate) fn raw(path: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(path))
}

/// How the HTTP server of a test behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manners {
    /// The password that it wants.
    pub(crate) token: Option<&'static str>,
    /// Answers everything with this head and an empty body.
    pub(crate) always: Option<String>,
    /// A path prefix that it redirects away from.
    pub(crate) moved_from: Option<&'static str>,
    /// Does what a push asks for, and then hangs up without an answer.
    pub(crate) loses_push_answers: bool,
    /// Takes requests and never answers.
    pub(crate) hangs: bool,
}

/// A web server on a free port that runs git's own server program, with the repositories below a directory.
pub(crate) struct HttpGit {
    pub(crate) url: String,
    /// The request heads that it got.
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
}

impl HttpGit {
    /// Serves until the test process ends.
    pub(crate) fn serve(root: &Path, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (root, log) = (root.to_owned(), heard.clone());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                if manners.hangs {
                    held.push(stream);
                } else {
                    // A client that hangs up is no defect of the server.
                    let _ = answer(stream, &root, &manners, &log);
                }
            }
        });
        Self { url, heard }
    }

    pub(crate) fn remote(&self, path: &str, token: Option<&str>) -> Remote {
        Remote { url: format!("{}/{path}", self.url), token: token.map(Into::into) }
    }
}

fn answer(stream: TcpStream, root: &Path, manners: &Manners, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let field = |name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")));
        line.map(|line| line[name.len() + 1..].trim().to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; field("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    log.lock().unwrap().push(head.clone());
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let simple =
        |status: &str, more: &str| format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n");
    let wanted = manners.token.map(|token| {
        let pair =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("x-access-token:{token}"));
        format!("Basic {pair}")
    });
    if let Some(head) = &manners.always {
        return out.write_all(
            simple(head.split("\r\n").next().unwrap_or_default(), head.split_once("\r\n").map_or("", |(_, more)| more))
                .as_bytes(),
        );
    }
    if wanted.is_some_and(|wanted| wanted != field("authorization")) {
        return out.write_all(simple("401 Unauthorized", "").as_bytes());
    }
    if let Some(rest) = manners.moved_from.and_then(|prefix| target.strip_prefix(prefix)) {
        return out.write_all(simple("301 Moved Permanently", &format!("location: {rest}\r\n")).as_bytes());
    }
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_HTTP_EXPORT_ALL", "1"), ("GIT_CONFIG_GLOBAL", "/dev/null"), ("REMOTE_USER", "x")])
        .envs([("REQUEST_METHOD", method), ("PATH_INFO", path), ("QUERY_STRING", query)])
        .envs([("CONTENT_TYPE", field("content-type")), ("CONTENT_LENGTH", body.len().to_string())])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut stdin = backend.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&body));
    let output = backend.wait_with_output()?.stdout;
    let _ = writer.join();
    if manners.loses_push_answers && path.ends_with("/git-receive-pack") && method == "POST" {
        return Ok(());
    }
    let end = output.windows(4).position(|part| part == b"\r\n\r\n").unwrap_or(0);
    let fields = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = fields.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let fields: String =
        fields.lines().filter(|line| !line.starts_with("Status")).map(|line| format!("{line}\r\n")).collect();
    let content = &output[end + 4..];
    write!(out, "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\nconnection: close\r\n\r\n", content.len())?;
    out.write_all(content)
}
