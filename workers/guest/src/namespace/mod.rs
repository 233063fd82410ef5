//! Builds an embedded sandbox from the kernel's own parts, then becomes its PID 1.
//!
//! Two processes come out of it. The launcher stays outside, does nothing but wait, and ends the box as soon as the
//! worker lets go of it; nothing inside can reach it. Its child is the first process of the new namespaces: it builds
//! the root, gives everything up, and goes on as the guest on the same streams.
//!
//! The order matters: mounts and limits first, while they are still possible; then the identity; then the capabilities;
//! last the filter. A step that fails ends the attempt: no box is ever weaker than its launcher said.

mod confine;
mod idmap;
mod root;
mod sys;

use std::{
    fs::File,
    io::{self, Read, Write},
    mem::ManuallyDrop,
    os::{
        fd::{AsRawFd, FromRawFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use crate::gauges::Gauges;
use guest::launch::{Answer, HOST_NAME, INSIDE_ID, Launch};

const STDIN: RawFd = 0;
const STDOUT: RawFd = 1;
const STDERR: RawFd = 2;

/// A step that could not be done.
struct Refusal {
    step: String,
    error: io::Error,
}

/// Names the step that an error belongs to.
trait Attempt<T> {
    fn attempt(self, step: impl FnOnce() -> String) -> Result<T, Refusal>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, step: impl FnOnce() -> String) -> Result<T, Refusal> {
        self.map_err(|error| Refusal { step: step(), error })
    }
}

/// Reads a [`Launch`] from standard input and returns in PID 1 of the new sandbox only. The launcher's own process ends
/// in here, with the exit code of PID 1 or, when the sandbox cannot be built, after saying why.
pub(crate) fn launch() -> Gauges {
    sys::close_others();
    sys::clear_umask();
    sys::restore_signals();
    // Away from the worker's terminal: a Ctrl-C there is the worker's to handle.
    sys::new_session();
    sys::set_name(c"onramp-guest");
    match fork_inside().and_then(build) {
        Ok((notes, gauges)) => {
            eprint!("{}", Answer::Ready { notes }.to_line());
            gauges
        }
        Err(refusal) => refuse(&refusal),
    }
}

/// What the first process of a box has to build it from.
struct Plan {
    launch: Launch,
    views: root::Views,
    /// To the launcher.
    parent: UnixStream,
}

/// Goes on in the child; the parent supervises it to its end.
fn fork_inside() -> Result<Plan, Refusal> {
    // SAFETY: the descriptor is open all along and, in `ManuallyDrop`, never closed from here.
    let mut stdin = ManuallyDrop::new(unsafe { File::from_raw_fd(STDIN) });
    let launch = Launch::read(&mut *stdin).attempt(|| "read what to build".into())?;
    let (child_end, parent_end) = UnixStream::pair().attempt(|| "create a socket pair".into())?;
    let view = |path: &Path| idmap::owner_as(path, launch.host_id?).ok();
    let views = root::Views {
        base: launch.base.as_ref().and_then(|base| view(&base.join("workspace"))),
        layers: launch.layers.iter().map(|layer| view(&layer.from)).collect(),
    };
    if launch.host_id.is_none() {
        let own = sys::effective_ids();
        sys::unshare_namespaces(sys::CLONE_NEWUSER).attempt(|| "create a user namespace".into())?;
        confine::map_user("self", (INSIDE_ID, INSIDE_ID), own)?;
    }
    sys::unshare_namespaces(sys::CLONE_NEWPID).attempt(|| "create a process namespace".into())?;
    match sys::fork_process().attempt(|| "start a process".into())? {
        Some(pid) => {
            drop(parent_end);
            supervise(pid, child_end, launch.host_id)
        }
        None => Ok(Plan { launch, views, parent: parent_end }),
    }
}

/// The launcher's life: maps the user when it is asked to, then waits until the box or the worker ends.
fn supervise(pid: i32, mut child: UnixStream, host_id: Option<u32>) -> ! {
    let process = sys::open_process(pid).attempt(|| "watch the sandbox".into()).unwrap_or_else(|why| refuse(&why));
    let mut question = [0];
    if let Some(id) = host_id
        && child.read_exact(&mut question).is_ok()
    {
        let mapped = confine::map_user(&pid.to_string(), (INSIDE_ID, INSIDE_ID), (id, id));
        let answered = mapped.and_then(|()| child.write_all(b"!").attempt(|| "answer the sandbox".into()));
        answered.unwrap_or_else(|why| refuse(&why));
    }
    // PID 1 alone holds this end now, so the worker sees the end of the stream when PID 1 ends.
    // SAFETY: nothing in this process uses the descriptor any more.
    drop(unsafe { File::from_raw_fd(STDOUT) });
    // Without events of their own these two report only that the worker closed its ends, on purpose or by dying.
    let mut fds = [(STDIN, 0), (STDERR, 0), (process.as_raw_fd(), sys::POLLIN)].map(|(fd, events)| sys::PollFd {
        fd,
        events,
        revents: 0,
    });
    while fds.iter().all(|fd| fd.revents == 0) {
        sys::wait_for_any(&mut fds, None);
    }
    sys::kill_process(&process);
    // The kernel lets PID 1 be waited for only after everything else in its namespace is gone.
    std::process::exit(sys::wait_for(pid))
}

/// Turns this process, the first of its process namespace, into what PID 1 of a sandbox should be.
fn build(plan: Plan) -> Result<(Vec<String>, Gauges), Refusal> {
    let Plan { launch, views, mut parent } = plan;
    sys::new_session();
    confine::die_with_parent().attempt(|| "bind the sandbox to its worker".into())?;
    confine::join_groups(&launch)?;
    let gauges = Gauges::of_groups(&launch.cgroups);
    let namespaces = sys::CLONE_NEWNS | sys::CLONE_NEWNET | sys::CLONE_NEWIPC | sys::CLONE_NEWUTS;
    sys::unshare_namespaces(namespaces).attempt(|| "create the other namespaces".into())?;
    // It only hides the names of control groups; some kernels are built without.
    let _ = sys::unshare_namespaces(sys::CLONE_NEWCGROUP);
    sys::set_host_name(HOST_NAME).attempt(|| "set the host name".into())?;
    sys::loopback_up().attempt(|| "bring the loopback interface up".into())?;
    let notes = root::assemble(&launch, &views)?;
    confine::limit(&launch, gauges.counts_pids())?;
    confine::become_inside_user(&launch, &mut parent)?;
    confine::seal(&parent)?;
    Ok((notes, gauges))
}

/// Says which step failed, on the line that the worker reads, and ends.
fn refuse(refusal: &Refusal) -> ! {
    let Refusal { step, error } = refusal;
    let (errno, reason) = (error.raw_os_error().unwrap_or(0), error.to_string());
    eprint!("{}", Answer::Refused { step: step.clone(), errno, reason }.to_line());
    std::process::exit(1)
}
