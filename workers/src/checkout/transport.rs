//! Git over https and http: libgit2's smart protocol on top of our own HTTP client.
//!
//! libgit2 is built without TLS, so that one TLS library serves the whole program. The other gain is what a token never
//! touches here: no URL, no configuration file, no credential callback that a rewritten URL could fool. A [`Call`] carries
//! it, and its deadline, to the transport through the thread that libgit2 works on. What the server refused comes back
//! typed in the same `Call`, because libgit2 passes on nothing but a text.

use std::{
    cell::RefCell,
    io::{self, Read, Seek, Write},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use reqwest::{
    Url,
    blocking::{Body, Client, RequestBuilder, Response},
    header,
};
use secrecy::{ExposeSecret, SecretString};
use tempfile::SpooledTempFile;

/// Requests up to this size are sent from memory, larger ones from a temporary file.
const SPOOL_BYTES: usize = 4 << 20;
/// The list of a server's references may have so many bytes.
const MAX_ADVERTISEMENT_BYTES: u64 = 64 << 20;
/// Redirects of the first request, all within one host.
const MAX_REDIRECTS: usize = 4;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// One operation on one remote: who we are there, how long it may take, and what came of it.
#[derive(Debug)]
pub(crate) struct Call {
    token: Option<SecretString>,
    deadline: Instant,
    cancelled: AtomicBool,
    refusal: Mutex<Option<Refusal>>,
    said: Mutex<Vec<u8>>,
}

/// Why the server, or the way to it, did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An HTTP status, and what the server wrote beside it, if that was plain text.
    Status(u16, String),
    /// A redirect to another host, which never sees our credentials.
    Redirect(String),
    /// An answer that is not git's.
    NotGit,
    /// No answer, or one that broke off.
    Unreachable(String),
    /// More references than can be held.
    TooManyReferences,
}

impl Call {
    /// A call with a token, if there is one, that may take so long.
    pub(crate) fn new(token: Option<SecretString>, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            token,
            deadline: Instant::now() + timeout,
            cancelled: AtomicBool::new(false),
            refusal: Mutex::new(None),
            said: Mutex::new(Vec::new()),
        })
    }

    /// Runs libgit2 with this call on the current thread.
    pub(crate) fn enter<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        struct Leave(Option<Arc<Call>>);
        impl Drop for Leave {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _leave = Leave(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// Ends the call between two objects when the guard goes, so that nobody who stopped waiting keeps a thread busy.
    pub(crate) fn cancel_on_drop(self: &Arc<Self>) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }

    /// Whether libgit2 may go on: asked in its progress callbacks.
    pub(crate) fn may_go_on(&self) -> bool {
        !self.is_cancelled() && !self.is_late()
    }

    /// Nobody waits for it any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// The deadline has passed.
    pub(crate) fn is_late(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Its credentials.
    pub(crate) fn token(&self) -> Option<SecretString> {
        self.token.clone()
    }

    /// What was refused, if anything.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what the server said beside the data (`remote: …`), up to a few kilobytes.
    pub(crate) fn hear(&self, text: &[u8]) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = 4096_usize.saturating_sub(said.len());
        said.extend_from_slice(&text[..text.len().min(room)]);
    }

    /// What the server said, without control codes.
    pub(crate) fn said(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        plain(&String::from_utf8_lossy(&said))
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    fn refuse(&self, refusal: Refusal) -> io::Error {
        let text = format!("{refusal:?}");
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        io::Error::other(text)
    }

    /// An error of the HTTP client. Its text may hold the URL, which is cut off.
    fn unreachable(&self, error: reqwest::Error) -> io::Error {
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        self.refuse(Refusal::Unreachable(text))
    }
}

/// Cancels a [`Call`] when it goes.
pub(crate) struct CancelOnDrop(Arc<Call>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Call>>> = const { RefCell::new(None) };
}

/// Registers the transport for `https` and `http`. To be called once, before any other use of libgit2.
pub(super) fn register() -> Result<(), git2::Error> {
    // A provider that somebody installed before is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    for scheme in ["https", "http"] {
        let factory = |remote: &git2::Remote<'_>| {
            let call = CURRENT.with_borrow(Clone::clone);
            let call = call.ok_or_else(|| git2::Error::from_str("the transport was used outside of a call"))?;
            Transport::smart(remote, true, Http { call, root: Mutex::new(None) })
        };
        // SAFETY: libgit2 keeps its transports in a list without a lock; `init_libgit2` calls this once, before any use.
        unsafe { git2::transport::register(scheme, factory) }?;
    }
    Ok(())
}

/// Text from a server for people: one line after another, no control codes.
pub(crate) fn plain(text: &str) -> String {
    let lines = text.split(['\n', '\r']).map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>());
    lines.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The URL as people may see it: without user, password and query.
pub(crate) fn shown_url(url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return url.to_owned() };
    // A URL that cannot have a user has none to remove.
    let _ = parsed.set_username("");
    let _ = parsed.set_password(None);
    parsed.set_query(None);
    parsed.to_string()
}

/// Built on the first use, which is never on an async thread: it has a runtime of its own inside.
fn client() -> Result<&'static Client, reqwest::Error> {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let client = Client::builder()
        // Servers tell git from browsers by the start of this.
        .user_agent(concat!("git/2.0 (onramp ", env!("CARGO_PKG_VERSION"), ")"))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(None)
        .build()?;
    Ok(CLIENT.get_or_init(|| client))
}

/// The connection of one libgit2 remote.
struct Http {
    call: Arc<Call>,
    /// Where the repository really is, after the redirects of the first request.
    root: Mutex<Option<String>>,
}

impl SmartSubtransport for Http {
    fn action(&self, url: &str, action: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        match action {
            Service::UploadPackLs => self.advertise(url, "git-upload-pack"),
            Service::ReceivePackLs => self.advertise(url, "git-receive-pack"),
            Service::UploadPack => Ok(self.exchange(url, "git-upload-pack")),
            Service::ReceivePack => Ok(self.exchange(url, "git-receive-pack")),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}

impl Http {
    /// Asks for the references, and learns where the repository is.
    fn advertise(&self, url: &str, service: &'static str) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        let suffix = format!("/info/refs?service={service}");
        let response = self.ask(&format!("{}{suffix}", url.trim_end_matches('/'))).map_err(to_git)?;
        let root = response.url().as_str().strip_suffix(&suffix).map(str::to_owned);
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = root;
        check_type(&self.call, &response, &format!("application/x-{service}-advertisement")).map_err(to_git)?;
        Ok(Box::new(Advertisement { call: self.call.clone(), body: response, left: MAX_ADVERTISEMENT_BYTES }))
    }

    fn ask(&self, url: &str) -> io::Result<Response> {
        let mut url = Url::parse(url).map_err(|error| self.call.refuse(Refusal::Unreachable(error.to_string())))?;
        for _ in 0..=MAX_REDIRECTS {
            let response = send(&self.call, |client| client.get(url.clone()))?;
            let Some(place) = response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection())
            else {
                return check_status(&self.call, response);
            };
            let next = place.to_str().ok().and_then(|place| url.join(place).ok());
            match next {
                Some(next) if next.origin() == url.origin() => url = next,
                Some(next) => return Err(self.call.refuse(Refusal::Redirect(shown_url(next.as_str())))),
                None => return Err(self.call.refuse(Refusal::NotGit)),
            }
        }
        Err(self.call.refuse(Refusal::NotGit))
    }

    fn exchange(&self, url: &str, service: &'static str) -> Box<dyn SmartSubtransportStream> {
        let root = self.root.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let root = root.unwrap_or_else(|| url.trim_end_matches('/').to_owned());
        Box::new(Exchange {
            call: self.call.clone(),
            url: format!("{root}/{service}"),
            service,
            state: State::Writing(SpooledTempFile::new(SPOOL_BYTES)),
        })
    }
}

/// The list of references, as far as it may go.
struct Advertisement {
    call: Arc<Call>,
    body: Response,
    left: u64,
}

impl Read for Advertisement {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(buffer).map_err(|error| broke_off(&self.call, &error))?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| self.call.refuse(Refusal::TooManyReferences))?;
        Ok(n)
    }
}

impl Write for Advertisement {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One request with a body: written first, sent at the first read.
struct Exchange {
    call: Arc<Call>,
    url: String,
    service: &'static str,
    state: State,
}

enum State {
    Writing(SpooledTempFile),
    Reading(Response),
    Broken,
}

impl Exchange {
    fn send(&self, mut body: SpooledTempFile) -> io::Result<Response> {
        let length = body.stream_position()?;
        body.rewind()?;
        let response = send(&self.call, |client| {
            client
                .post(&self.url)
                .header(header::CONTENT_TYPE, format!("application/x-{}-request", self.service))
                .header(header::ACCEPT, format!("application/x-{}-result", self.service))
                .body(Body::sized(body, length))
        })?;
        let response = check_status(&self.call, response)?;
        check_type(&self.call, &response, &format!("application/x-{}-result", self.service))?;
        Ok(response)
    }
}

impl Write for Exchange {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.state {
            State::Writing(body) if self.call.may_go_on() => body.write(buffer),
            State::Writing(_) | State::Reading(_) | State::Broken => Err(io::ErrorKind::Unsupported.into()),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Exchange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let State::Writing(_) = self.state {
            let State::Writing(body) = std::mem::replace(&mut self.state, State::Broken) else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            self.state = State::Reading(self.send(body)?);
        }
        match &mut self.state {
            State::Reading(response) => response.read(buffer).map_err(|error| broke_off(&self.call, &error)),
            State::Writing(_) | State::Broken => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Sends one request with our credentials, for as long as the call may still take.
fn send(call: &Call, build: impl FnOnce(&Client) -> RequestBuilder) -> io::Result<Response> {
    let client = client().map_err(|error| call.unreachable(error))?;
    let mut request = build(client).timeout(call.left());
    if let Some(token) = &call.token {
        request = request.basic_auth("x-access-token", Some(token.expose_secret()));
    }
    request.send().map_err(|error| call.unreachable(error))
}

fn check_status(call: &Call, response: Response) -> io::Result<Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status.is_redirection() {
        return Err(call.refuse(Refusal::Redirect("another place after the first request".into())));
    }
    let is_text = content_type(&response).starts_with("text/plain");
    let mut text = Vec::new();
    if is_text {
        // The status alone says enough when its text cannot be read.
        let _ = response.take(2048).read_to_end(&mut text);
    }
    Err(call.refuse(Refusal::Status(status.as_u16(), plain(&String::from_utf8_lossy(&text)))))
}

fn check_type(call: &Call, response: &Response, expected: &str) -> io::Result<()> {
    if content_type(response).eq_ignore_ascii_case(expected) { Ok(()) } else { Err(call.refuse(Refusal::NotGit)) }
}

fn content_type(response: &Response) -> &str {
    response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().trim()
}

fn broke_off(call: &Call, error: &io::Error) -> io::Error {
    call.refuse(Refusal::Unreachable(format!("the answer broke off: {error}")))
}

fn to_git(error: io::Error) -> git2::Error {
    git2::Error::new(git2::ErrorCode::GenericError, git2::ErrorClass::Net, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tasks::Failure;

    use super::*;
    use crate::checkout::{
        Base, Mirror, Remote,
        fixture::{HttpGit, Manners, Scratch, git},
    };

    const TOKEN: &str = "s3cr3t-token";

    async fn clone(scratch: &Scratch, remote: &Remote) -> Result<(Mirror, Base), Failure> {
        Mirror::checkout(&scratch.dir.path().join("m"), &"acme/web".parse().unwrap(), remote, None).await
    }

    fn contains(dir: &Path, needle: &str) -> bool {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.into_iter().any(|path| {
            if path.is_dir() {
                contains(&path, needle)
            } else {
                std::fs::read(path).unwrap().windows(needle.len()).any(|part| part == needle.as_bytes())
            }
        })
    }

    #[tokio::test]
    async fn a_repository_comes_over_http_with_a_token_that_stays_nowhere() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        for n in 0..50 {
            scratch.write(format!("dir/{n}.txt"), n.to_string().repeat(5000).as_bytes());
        }
        scratch.commit("More");
        let server = HttpGit::serve(scratch.dir.path(), Manners { token: Some(TOKEN), ..Manners::default() });
        let remote = server.remote("work/.git", Some(TOKEN));
        let (mirror, base) = clone(&scratch, &remote).await.unwrap();
        assert_eq!(base.branch.unwrap().as_str(), "main");
        assert_eq!(mirror.files(&base.commit).await.unwrap().len(), 51);
        scratch.write("a.txt", b"2");
        let next = scratch.commit("Next");
        let (_, base) = clone(&scratch, &remote).await.unwrap();
        assert_eq!(base.commit.as_str(), next);
        assert!(!contains(&scratch.dir.path().join("m"), TOKEN));
        assert!(!server.heard.lock().unwrap().iter().any(|head| head.contains(TOKEN)), "only encoded, in one header");
        assert_eq!(git(mirror.path(), &["fsck", "--full"]), "");
    }

    #[tokio::test]
    async fn what_a_server_refuses_says_who_has_to_act() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let root = scratch.dir.path();
        let server = HttpGit::serve(root, Manners { token: Some(TOKEN), ..Manners::default() });
        let always = |head: &str| HttpGit::serve(root, Manners { always: Some(head.into()), ..Manners::default() });
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cases = [
            (server.remote("work/.git", Some("wrong-s3cr3t")), "E050"),
            (server.remote("work/.git", None), "E003"),
            (server.remote("nowhere", Some(TOKEN)), "E003"),
            (always("403 Forbidden\r\n").remote("x", Some(TOKEN)), "E050"),
            (always("500 Internal Server Error\r\n").remote("x", Some(TOKEN)), "E054"),
            (always("429 Too Many Requests\r\n").remote("x", Some(TOKEN)), "E054"),
            (always("200 OK\r\ncontent-type: text/html\r\n").remote("x", Some(TOKEN)), "E003"),
            (
                always("302 Found\r\nlocation: /x/info/refs?service=git-upload-pack\r\n").remote("x", Some(TOKEN)),
                "E003",
            ),
            (Remote { url: format!("http://{gone}/x"), token: Some(TOKEN.into()) }, "E054"),
        ];
        for (remote, code) in cases {
            let failure = clone(&scratch, &remote).await.unwrap_err();
            assert_eq!(failure.code.as_str(), code, "{failure:?}");
            assert!(!format!("{failure:?}").contains("s3cr3t"), "{failure:?}");
        }
    }

    #[tokio::test]
    async fn a_redirect_is_followed_within_a_host_and_never_to_another() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let manners = Manners { token: Some(TOKEN), moved_from: Some("/old"), ..Manners::default() };
        let server = HttpGit::serve(scratch.dir.path(), manners);
        clone(&scratch, &server.remote("old/work/.git", Some(TOKEN))).await.unwrap();

        let other = HttpGit::serve(scratch.dir.path(), Manners::default());
        let away =
            format!("301 Moved Permanently\r\nlocation: {}/work/.git/info/refs?service=git-upload-pack\r\n", other.url);
        let server = HttpGit::serve(scratch.dir.path(), Manners { always: Some(away), ..Manners::default() });
        let failure = clone(&scratch, &server.remote("x", Some(TOKEN))).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "E003");
        assert!(failure.message.contains("never sent to another host"), "{}", failure.message);
        assert!(other.heard.lock().unwrap().is_empty());
    }

    #[test]
    fn a_server_that_never_answers_is_given_up() {
        let scratch = Scratch::with(&[("a.txt", "1")]);
        let server = HttpGit::serve(scratch.dir.path(), Manners { hangs: true, ..Manners::default() });
        crate::checkout::init_libgit2().unwrap();
        let repo = git2::Repository::init_bare(scratch.dir.path().join("bare")).unwrap();
        let call = Call::new(None, Duration::from_millis(300));
        let remote = server.remote("x", None);
        let mut handle = repo.remote_anonymous(&remote.url).unwrap();
        let error = call.enter(|| handle.connect(git2::Direction::Fetch)).unwrap_err();
        let failure = crate::checkout::fetch::failure(&error, &remote, &call);
        assert_eq!((failure.code.as_str(), failure.message.ends_with("in time")), ("E054", true), "{failure:?}");
    }

    #[test]
    fn a_shown_url_has_no_password() {
        assert_eq!(shown_url("https://u:p4ss@example.org/a/b?x=y"), "https://example.org/a/b");
        assert_eq!(shown_url("/home/ada/web"), "/home/ada/web");
    }
}
