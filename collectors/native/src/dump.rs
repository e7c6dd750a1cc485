//! All stacks of a process once, by py-spy's portable slow path.

use serde::Serialize;

use crate::errors::Failure;
use crate::process::{explain, spy_on, Identity};

const ATTEMPTS: usize = 3;

#[derive(Serialize)]
struct Thread {
    thread_id: u64,
    thread_name: Option<String>,
    os_thread_id: Option<u64>,
    active: bool,
    frames: Vec<Frame>,
}

#[derive(Serialize)]
struct Frame {
    name: String,
    filename: String,
    line: i32,
}

/// The stacks as JSON, leaf first. The process is not stopped, so a stack may be torn; whole
/// failures are tried again.
pub fn dump(pid: i32) -> Result<String, Failure> {
    let identity = Identity::of(pid)?;
    let mut spy = spy_on(pid, true)?;
    let mut traces = spy.get_stack_traces();
    for _ in 1..ATTEMPTS {
        if traces.is_ok() {
            break;
        }
        traces = spy.get_stack_traces();
    }
    let threads: Vec<Thread> = traces
        .map_err(|error| explain(&identity, &error))?
        .into_iter()
        .map(|trace| Thread {
            thread_id: trace.thread_id,
            thread_name: trace.thread_name,
            os_thread_id: trace.os_thread_id,
            active: trace.active,
            frames: trace
                .frames
                .into_iter()
                .map(|frame| Frame {
                    name: frame.name,
                    filename: frame.filename,
                    line: frame.line,
                })
                .collect(),
        })
        .collect();
    serde_json::to_string(&threads)
        .map_err(|error| Failure::Other(format!("cannot write the stacks ({error}): report it")))
}
