//! Children of this process: what must happen between fork(2) and exec(2), and what ends them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Has a child begin alone: it leads a process group of its own, gets no descriptor but its three pipes, and is killed
/// when the thread that started it ends, which is at the latest when this process does, in whatever way.
///
/// That every other descriptor is closed in the child is not left to those who opened them: one that a connection was
/// accepted with is without its mark for a moment (`socket::Listener::accept`), and a fork may fall into that.
pub fn alone(command: &mut Command) {
    command.process_group(0);
    let parent = rustix::process::getpid();
    // SAFETY: what runs between fork and exec makes system calls only: it allocates nothing, takes no lock, and touches
    // no memory but its own stack; an error is passed on as a number.
    // JUSTIFICATION: the standard library closes no descriptors and knows no death signal.
    unsafe {
        command.pre_exec(move || {
            close_on_exec()?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before that was set.
            let orphaned = rustix::process::getppid() != Some(parent);
            if orphaned { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
        });
    }
}

/// Marks every descriptor behind the first three, so that exec(2) closes it.
fn close_on_exec() -> io::Result<()> {
    let folder =
        rustix::fs::openat(CWD, c"/proc/self/fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut room = [MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(&folder, &mut room);
    while let Some(entry) = listing.next() {
        let entry = entry?;
        if let Some(fd) = number(entry.file_name().to_bytes()).filter(|fd| *fd > 2) {
            // SAFETY: it was listed a moment ago, and this process, which has one thread now, has closed nothing since.
            // JUSTIFICATION: descriptors of others are known by their numbers only.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

fn number(name: &[u8]) -> Option<RawFd> {
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Waits until this child has ended, without letting go of its number: until it is reaped no other process gets it.
///
/// # Errors
/// There is no such child.
pub fn ended(child: u32, wait: bool) -> io::Result<bool> {
    let id = i32::try_from(child).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let mut options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    options.set(WaitIdOptions::NOHANG, !wait);
    loop {
        match rustix::process::waitid(WaitId::Pid(id), options) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?.is_some()),
        }
    }
}

/// Sends a signal to the group that `child` leads. The child must not have been reaped.
pub fn signal(child: u32, signal: Signal) {
    if let Some(id) = i32::try_from(child).ok().and_then(Pid::from_raw) {
        // Nobody of the group is left when it fails.
        let _ = rustix::process::kill_process_group(id, signal);
    }
}

/// For some dozens of names at a time, on the stack.
const LISTING_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_child_gets_its_pipes_and_nothing_else() {
        let file = std::fs::File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&file, FdFlags::empty()).expect("what is open can be marked");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "ls /proc/$$/fd; cut -d ' ' -f 5 /proc/$$/stat; echo $$"]).stdin(Stdio::null());
        let inherited = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let mark = format!("{}\n", file.as_raw_fd());
        assert!(inherited.contains(&mark), "the check would pass on nothing: {inherited}");
        alone(&mut command);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        let [fds @ .., group, own] = &*lines else { panic!("{said}") };
        assert_eq!(group, own, "it leads its group");
        assert_eq!(fds, ["0", "1", "2"], "{said}");
    }

    #[test]
    fn a_group_ends_as_a_whole_and_is_there_until_it_is_reaped() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 600 & echo $!; wait"]).stdin(Stdio::null()).stdout(Stdio::piped());
        alone(&mut command);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let grandchild = std::path::PathBuf::from(format!("/proc/{}", line.trim()));
        assert!(grandchild.exists());
        assert!(!ended(child.id(), false).unwrap());
        signal(child.id(), Signal::KILL);
        assert!(ended(child.id(), true).unwrap());
        assert!(ended(child.id(), false).unwrap(), "it has not been reaped");
        assert!(!child.wait().unwrap().success());
        assert!(ended(child.id(), false).is_err());
        // Its end of the pipe closes with the last of them.
        assert_eq!(std::io::Read::read(&mut out, &mut [0; 8]).unwrap(), 0);
    }
}
