//! One child, as its own thread sees it: begun, listened to on its standard error, waited for, reaped with its group.
//! The thread lives as long as the child; the kernel kills the child should the thread end first.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::base::limits::{BUFFER_BYTES, STDIO_STACK_BYTES};
use crate::uring::child::{self, alone};

use super::chatter::Chatter;

/// How a child is begun: nothing of it comes from a request.
#[derive(Clone, Debug)]
pub struct Launch {
    /// A path, where it has a `/`; else a name to look up.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it starts; `None` for the gateway's own folder.
    pub cwd: Option<PathBuf>,
    /// All of its environment.
    pub env: Vec<(OsString, OsString)>,
    /// User and group; `None` for the gateway's own.
    pub user: Option<(u32, u32)>,
}

/// What becomes of a child.
#[derive(Debug)]
pub(super) enum Event {
    /// It runs.
    Begun(Arc<Grip>),
    /// It could not be begun.
    Failed(String),
    /// It has ended, and all of its group.
    Ended(String),
}

/// What signals a child's group, for as long as there is one.
#[derive(Debug)]
pub(super) struct Grip {
    pid: u32,
    reaped: Mutex<bool>,
}

impl Grip {
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Once the child is reaped its number may be somebody else's: nothing is signalled then.
    pub(super) fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            child::signal(self.pid, signal);
        }
    }

    fn reap(&self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        // What it has left behind.
        child::signal(self.pid, Signal::KILL);
        *reaped = true;
        child.wait()
    }
}

impl Launch {
    fn command(&self) -> Command {
        let mut command = Command::new(self.path());
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        if let Some((user, group)) = self.user {
            // Its supplementary groups go with it.
            command.uid(user).gid(group);
        }
        command
    }

    /// The program, looked up where the child would look, or else where the gateway does.
    fn path(&self) -> PathBuf {
        let own = self.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
        let folders = own.or_else(|| std::env::var_os("PATH"));
        if self.program.contains('/') {
            return self.program.clone().into();
        }
        let folders = folders.unwrap_or_default();
        let found = std::env::split_paths(&folders).filter(|folder| folder.is_absolute());
        let found = found.map(|folder| folder.join(&self.program)).find(|path| is_program(path));
        found.unwrap_or_else(|| self.program.clone().into())
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Begins a child on a thread of its own; `tell` hears what becomes of it.
///
/// # Errors
/// There can be no more threads.
pub(super) fn begin(
    launch: Arc<Launch>,
    name: Arc<str>,
    (stdin, stdout): (OwnedFd, OwnedFd),
    tell: impl Fn(Event) + Send + 'static,
) -> std::io::Result<()> {
    let title: String = format!("stdio-{name}").chars().take(15).collect();
    let tend = move || {
        let mut command = launch.command();
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        alone(&mut command);
        let begun = command.spawn();
        // With it go this process's copies of the child's ends.
        drop(command);
        tell(match begun {
            Ok(child) => tend(child, &name, &tell),
            Err(error) => Event::Failed(format!("cannot be started ({}): {error}", launch.program)),
        });
    };
    std::thread::Builder::new().name(title).stack_size(STDIO_STACK_BYTES).spawn(tend).map(|_| ())
}

fn tend(mut child: Child, name: &str, tell: &impl Fn(Event)) -> Event {
    let grip = Arc::new(Grip { pid: child.id(), reaped: Mutex::new(false) });
    tracing::info!("server {name}: process {} began", child.id());
    tell(Event::Begun(grip.clone()));
    if let Some(stderr) = child.stderr.take() {
        listen(name, child.id(), stderr);
    }
    let _ = child::ended(child.id(), true);
    Event::Ended(match grip.reap(&mut child) {
        Ok(status) => said(status),
        Err(error) => format!("is not known of any more: {error}"),
    })
}

/// How a child ended, in words.
fn said(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (_, Some(signal)) => format!("was killed by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

/// Reads what a child has to say until it ends, and what it said last.
fn listen(name: &str, pid: u32, mut stderr: ChildStderr) {
    let mut chatter = Chatter::new(Instant::now());
    let mut buffer = vec![0; BUFFER_BYTES.min(8 * 1024)];
    let log = |left_out: u64, line: &str| {
        if left_out > 0 {
            tracing::warn!("server {name}: {left_out} lines of process {pid} are left out");
        }
        tracing::info!("server {name}: process {pid}: {line}");
    };
    let end = i32::try_from(pid).ok().and_then(Pid::from_raw).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let _ = rustix::io::ioctl_fionbio(stderr.as_fd(), true);
    let mut after_end = AFTER_END_MAX;
    let mut ended = false;
    loop {
        match stderr.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => {
                chatter.push(&buffer[..got], Instant::now(), log);
                // A process that has left the group may hold the pipe, and go on.
                after_end -= usize::from(ended);
                if after_end == 0 {
                    break;
                }
            }
            Err(fault) if fault.kind() == std::io::ErrorKind::Interrupted => {}
            Err(fault) if fault.kind() == std::io::ErrorKind::WouldBlock && !ended => {
                ended = waited(&stderr, end.as_ref()) || child::ended(pid, false).unwrap_or(true);
            }
            Err(_) => break,
        }
    }
    chatter.finish(Instant::now(), log);
}

/// Waits until there is something to read, or the child has ended; whether it surely has.
fn waited(stderr: &ChildStderr, end: Option<&OwnedFd>) -> bool {
    let mut fds = vec![PollFd::new(stderr, PollFlags::IN)];
    fds.extend(end.map(|end| PollFd::new(end, PollFlags::IN)));
    // A kernel without descriptors for processes is asked now and then.
    let patience = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let polled = poll(&mut fds, if end.is_some() { None } else { Some(&patience) });
    polled.is_ok() && fds.get(1).is_some_and(|fd| !fd.revents().is_empty())
}

/// So many reads of what a child has left in its pipe.
const AFTER_END_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn launch(script: &str) -> Launch {
        let env = vec![("ONLY".into(), "this".into())];
        Launch { program: "sh".into(), args: vec!["-c".into(), script.into()], cwd: None, env, user: None }
    }

    /// What becomes of a child, and what it writes.
    fn run(launch: Launch) -> (mpsc::Receiver<Event>, std::os::unix::net::UnixStream, std::os::unix::net::UnixStream) {
        let (stdin, stdin_far) = std::os::unix::net::UnixStream::pair().unwrap();
        let (stdout, stdout_far) = std::os::unix::net::UnixStream::pair().unwrap();
        let (tell, told) = mpsc::channel();
        let tell = move |event| drop(tell.send(event));
        begin(Arc::new(launch), "test".into(), (stdin_far.into(), stdout_far.into()), tell).unwrap();
        stdout.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        (told, stdin, stdout)
    }

    #[test]
    fn a_child_has_what_it_was_given_and_is_reaped() {
        let (told, stdin, mut stdout) = run(launch("env | grep -v -e ^PWD -e ^SHLVL -e ^_=; read line; exit 7"));
        let Ok(Event::Begun(grip)) = told.recv() else { panic!("it was not begun") };
        drop(stdin);
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        assert_eq!(said, "ONLY=this\n");
        assert!(matches!(told.recv(), Ok(Event::Ended(why)) if why == "exited with 7"));
        assert!(!Path::new(&format!("/proc/{}", grip.pid())).exists());
        grip.signal(Signal::KILL);
    }

    #[test]
    fn what_a_child_leaves_behind_goes_with_it() {
        let (told, _stdin, mut stdout) = run(launch("sleep 600 & echo $!; exit 0"));
        let mut said = String::new();
        stdout.read_to_string(&mut said).unwrap();
        assert!(matches!(told.recv(), Ok(Event::Begun(_))));
        assert!(matches!(told.recv(), Ok(Event::Ended(why)) if why == "exited with 0"));
        let gone = || !Path::new("/proc").join(said.trim()).join("exe").exists();
        let end = Instant::now() + Duration::from_secs(10);
        while !gone() {
            assert!(Instant::now() < end, "the child of the child lives");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_flood_of_talk_does_not_hold_a_child_up() {
        let (told, _stdin, _stdout) = run(launch("head -c 4000000 /dev/zero | tr '\\0' '\\n' >&2; exit 3"));
        assert!(matches!(told.recv(), Ok(Event::Begun(_))));
        let ended = told.recv_timeout(Duration::from_secs(60));
        assert!(matches!(ended, Ok(Event::Ended(why)) if why == "exited with 3"));
    }

    #[test]
    fn what_cannot_be_begun_says_why() {
        let (told, ..) = run(Launch { program: "no-such-program".into(), ..launch("") });
        let Ok(Event::Failed(why)) = told.recv() else { panic!("it was begun") };
        assert!(why.contains("no-such-program") && why.contains("No such file"), "{why}");
    }
}
