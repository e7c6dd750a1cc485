//! The process as a whole: is it the same one, may we read it, which Python does it run.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use py_spy::config::LockingStrategy;
use py_spy::{Config, PythonSpy};

use crate::errors::Failure;
use crate::layout::{self, Layout, NoLayout, SUPPORTED};
use crate::memory::{ProcessMemory, Trouble};

/// A handle that cannot come to mean another process.
pub struct Identity {
    pub pid: i32,
    handle: OwnedFd,
}

impl Identity {
    pub fn of(pid: i32) -> Result<Identity, Failure> {
        if pid <= 0 {
            return Err(Failure::Other(format!(
                "{pid} is not a process number: give the engine's pid"
            )));
        }
        // SAFETY: plain system call; the descriptor is ours when it is not negative.
        let handle = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if handle < 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::ESRCH) => Failure::gone(pid),
                // A thread's number, or a kernel before 5.3.
                _ => Failure::Other(format!(
                    "cannot hold process {pid} ({error}): give a process number (not a thread's), \
                     and run Linux 5.3 or newer"
                )),
            });
        }
        // SAFETY: see above.
        let handle = unsafe { OwnedFd::from_raw_fd(handle as i32) };
        let identity = Identity { pid, handle };
        match identity.ended() {
            true => Err(Failure::gone(pid)),
            false => Ok(identity),
        }
    }

    /// Whether the process has exited (it may still wait to be reaped).
    pub fn ended(&self) -> bool {
        let mut wanted = libc::pollfd {
            fd: self.handle.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, no waiting.
        unsafe { libc::poll(&mut wanted, 1, 0) > 0 }
    }
}

/// Where a program's code begins and ends and where its stack begins: exec changes them, and leaves
/// the process number and the start time.
pub type Image = [u64; 3];

/// Fields 26 to 28 of `/proc/<pid>/stat`; all 0 where we may not know them.
pub fn image(pid: i32) -> Option<Image> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(23);
    let mut next = || fields.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

/// Start time in clock ticks since boot, field 22 of `/proc/<pid>/stat`.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Attaches py-spy, without stopping the process.
pub fn spy_on(pid: i32, names: bool) -> Result<PythonSpy, Failure> {
    let identity = Identity::of(pid)?;
    let config = Config {
        blocking: LockingStrategy::NonBlocking,
        native: false,
        full_filenames: true,
        dump_locals: 0,
        collect_thread_names: names,
        ..Config::default()
    };
    PythonSpy::new(pid, &config).map_err(|error| explain(&identity, &error))
}

/// Where the interpreter of an attached process keeps things.
pub fn layout_of(
    memory: &ProcessMemory,
    pid: i32,
    spy: &PythonSpy,
) -> Result<&'static Layout, Failure> {
    let version = &spy.version;
    let interpreter = spy.addresses.interpreter_address as u64;
    layout::layout_of(memory, (version.major, version.minor), interpreter).map_err(|reason| {
        match reason {
            NoLayout::Unreadable(Trouble::Gone) => Failure::gone(pid),
            NoLayout::Unreadable(Trouble::Refused) => Failure::refused(pid),
            NoLayout::Unreadable(_) => Failure::Unsupported(format!(
                "process {pid} runs Python {version}, but does not say where that keeps its \
                 threads: use the engine's /metrics, and report how this Python was built"
            )),
            NoLayout::FreeThreaded => free_threaded(pid),
            NoLayout::UnknownVersion => Failure::Unsupported(format!(
                "process {pid} runs Python {version}, and counters are read from {SUPPORTED} only: \
                 the agent falls back to the engine's /metrics; run the engine on {SUPPORTED} to \
                 have every iteration"
            )),
        }
    })
}

fn free_threaded(pid: i32) -> Failure {
    Failure::Unsupported(format!(
        "process {pid} runs a free-threaded Python, and counters are read from {SUPPORTED} with a \
         GIL only: the agent falls back to the engine's /metrics; run the engine on an ordinary \
         build to have every iteration"
    ))
}

/// Whether the files of a free-threaded build are mapped, `libpython3.13t.so` or a module for it.
fn maps_free_threaded(maps: &str) -> bool {
    let follows = |rest: &str| {
        rest.trim_start_matches(|letter: char| letter.is_ascii_digit())
            .starts_with('t')
    };
    ["/python3.", "/libpython3.", ".cpython-3"]
        .iter()
        .any(|start| maps.split(start).skip(1).any(follows))
}

/// Turns py-spy's error into ours.
pub fn explain(identity: &Identity, error: &anyhow::Error) -> Failure {
    let pid = identity.pid;
    if identity.ended() {
        return Failure::gone(pid);
    }
    let refused = error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    });
    let text = format!("{error:#}");
    if refused || text.contains("ermission denied") || text.contains("not permitted") {
        return Failure::refused(pid);
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    if maps_free_threaded(&maps) {
        return free_threaded(pid);
    }
    Failure::Unsupported(format!(
        "process {pid} cannot be read as Python ({text}): check that it is a Python engine; \
         counters are read from {SUPPORTED}, otherwise use the engine's /metrics"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_lives_and_has_a_start_time() {
        let pid = std::process::id() as i32;
        assert!(!Identity::of(pid).unwrap().ended());
        assert!(start_time(pid).unwrap() > 0);
    }

    #[test]
    fn a_free_threaded_build_is_known_by_its_files() {
        for name in [
            "/usr/bin/python3.13t",
            "/usr/lib/libpython3.14t.so.1.0",
            "/x/lib-dynload/_json.cpython-314t-x86_64-linux-gnu.so",
        ] {
            assert!(
                maps_free_threaded(&format!("7f00-7f01 r-xp 0 0 1 {name}\n")),
                "{name}"
            );
        }
        for name in [
            "/usr/bin/python3.13",
            "/usr/lib/libpython3.14.so.1.0",
            "/usr/lib/python3.12/test.so",
            "/x/_json.cpython-314-x86_64-linux-gnu.so",
        ] {
            assert!(
                !maps_free_threaded(&format!("7f00-7f01 r-xp 0 0 1 {name}\n")),
                "{name}"
            );
        }
    }

    #[test]
    fn a_number_that_is_no_process_is_refused() {
        assert!(matches!(Identity::of(0), Err(Failure::Other(_))));
        assert!(matches!(Identity::of(i32::MAX), Err(Failure::Gone(_))));
    }
}
