//! The Python class, and the thread behind it. The thread never touches Python.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::{Failure, SamplerError};
use crate::events::{self, Event, Queue};
use crate::pace::Pace;
use crate::reader::{Reader, Stop};
use crate::spec::Spec;
use crate::stats::Stats;
use crate::time::{monotonic_ns, thread_cpu_ns, Timer};

const MAX_POLL_HZ: u32 = 20_000;
/// How often a waiting `poll` lets Python handle signals.
const SIGNAL_CHECK: Duration = Duration::from_millis(100);
const CPU_EVERY_TICKS: u64 = 64;
const SECOND_NS: u64 = 1_000_000_000;
const PANICS_NS: u64 = 10 * SECOND_NS;
const MAX_PANICS: usize = 3;
/// A real-time thread that takes more than this of a core gives the priority back.
const MAX_REALTIME_CPU: f64 = 0.25;

/// What the thread and the Python object share.
struct Shared {
    queue: Queue,
    stats: Arc<Stats>,
    poll_hz: AtomicU32,
    stack_hz: AtomicU32,
    stop: AtomicBool,
    alive: AtomicBool,
    realtime: bool,
    last_error: Mutex<Option<String>>,
}

impl Shared {
    fn fail(&self, text: String) {
        *lock(&self.last_error) = Some(text);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches one process: iterations by its own counter, batches by its own objects, phases by stack.
#[pyclass(frozen, module = "latencyprism_native")]
pub struct Sampler {
    pid: i32,
    spec: Spec,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    started: AtomicBool,
    version: Mutex<String>,
    /// A forked child has no such thread and must not wait for it.
    owner: u32,
}

fn check_rates(poll_hz: i64, stack_hz: i64) -> PyResult<(u32, u32)> {
    let poll = u32::try_from(poll_hz)
        .ok()
        .filter(|hz| (1..=MAX_POLL_HZ).contains(hz));
    let Some(poll) = poll else {
        return Err(PyValueError::new_err(format!(
            "poll_hz is {poll_hz}: give 1 to {MAX_POLL_HZ}"
        )));
    };
    match u32::try_from(stack_hz).ok().filter(|hz| *hz <= poll) {
        Some(stack) => Ok((poll, stack)),
        None => Err(PyValueError::new_err(format!(
            "stack_hz is {stack_hz}: give 0 (no stacks) to poll_hz ({poll_hz})"
        ))),
    }
}

#[pymethods]
impl Sampler {
    #[new]
    #[pyo3(signature = (pid, spec, *, poll_hz=1000, stack_hz=100, queue_capacity=65536, realtime=false))]
    fn new(
        pid: i32,
        spec: &str,
        poll_hz: i64,
        stack_hz: i64,
        queue_capacity: i64,
        realtime: bool,
    ) -> PyResult<Self> {
        let (poll_hz, stack_hz) = check_rates(poll_hz, stack_hz)?;
        let capacity = usize::try_from(queue_capacity)
            .ok()
            .filter(|capacity| (16..=1 << 24).contains(capacity))
            .ok_or_else(|| {
                PyValueError::new_err(format!(
                    "queue_capacity is {queue_capacity}: give 16 to {} events",
                    1 << 24
                ))
            })?;
        Ok(Sampler {
            pid,
            spec: Spec::parse(spec).map_err(PyValueError::new_err)?,
            shared: Arc::new(Shared {
                queue: Queue::new(capacity),
                stats: Arc::default(),
                poll_hz: AtomicU32::new(poll_hz),
                stack_hz: AtomicU32::new(stack_hz),
                stop: AtomicBool::new(false),
                alive: AtomicBool::new(false),
                realtime,
                last_error: Mutex::new(None),
            }),
            thread: Mutex::new(None),
            started: AtomicBool::new(false),
            version: Mutex::new(String::new()),
            owner: std::process::id(),
        })
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        if self.started.swap(true, Relaxed) {
            return Err(SamplerError::new_err(
                "this sampler was already started: make a new Sampler to attach again",
            ));
        }
        let result = py.detach(|| self.attach());
        if let Err(failure) = &result {
            // A failed start may be tried again.
            self.started.store(false, Relaxed);
            self.shared.fail(failure.to_string());
        }
        Ok(result?)
    }

    #[pyo3(signature = (timeout_seconds, max_bytes=1 << 20))]
    fn poll<'py>(
        &self,
        py: Python<'py>,
        timeout_seconds: f64,
        max_bytes: i64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        if !(0.0..=86_400.0).contains(&timeout_seconds) {
            return Err(PyValueError::new_err(format!(
                "timeout_seconds is {timeout_seconds}: give 0 to 86400"
            )));
        }
        let max_bytes = usize::try_from(max_bytes)
            .ok()
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| {
                PyValueError::new_err(format!("max_bytes is {max_bytes}: give more than 0"))
            })?;
        if !self.started.load(Relaxed) {
            return Err(SamplerError::new_err(
                "this sampler is not started: call start() first",
            ));
        }
        let deadline = Instant::now() + Duration::from_secs_f64(timeout_seconds);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let queue = &self.shared.queue;
            let taken = py.detach(|| queue.take(left.min(SIGNAL_CHECK), max_bytes));
            match taken {
                Some(bytes) => return Ok(PyBytes::new(py, &bytes)),
                None if left <= SIGNAL_CHECK => return Ok(PyBytes::new(py, b"")),
                None => py.check_signals()?,
            }
        }
    }

    fn set_rates(&self, poll_hz: i64, stack_hz: i64) -> PyResult<()> {
        let (poll_hz, stack_hz) = check_rates(poll_hz, stack_hz)?;
        self.shared.poll_hz.store(poll_hz, Relaxed);
        self.shared.stack_hz.store(stack_hz, Relaxed);
        Ok(())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = &self.shared.stats;
        let all = PyDict::new(py);
        for (name, value) in [
            ("polls", &stats.polls),
            ("missed_ticks", &stats.missed_ticks),
            ("iterations", &stats.iterations),
            ("missed_iterations", &stats.missed_iterations),
            ("batch_reads", &stats.batch_reads),
            ("batch_failures", &stats.batch_failures),
            ("torn", &stats.torn),
            ("stacks", &stats.stacks),
            ("stack_failures", &stats.stack_failures),
            ("resolves", &stats.resolves),
            ("thread_cpu_ns", &stats.thread_cpu_ns),
            ("syscalls", &stats.syscalls),
            ("realtime", &stats.realtime),
            ("rung", &stats.rung),
            ("self_check", &stats.self_check),
        ] {
            all.set_item(name, value.load(Relaxed))?;
        }
        all.set_item("dropped_events", self.shared.queue.dropped())?;
        Ok(all)
    }

    fn last_error(&self) -> Option<String> {
        lock(&self.shared.last_error).clone()
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.halt());
    }

    #[getter]
    fn python_version(&self) -> String {
        lock(&self.version).clone()
    }

    #[getter]
    fn alive(&self) -> bool {
        self.shared.alive.load(Relaxed)
    }
}

impl Sampler {
    fn attach(&self) -> Result<(), Failure> {
        let stats = Arc::clone(&self.shared.stats);
        let reader = Reader::attach(self.pid, self.spec.clone(), stats)?;
        *lock(&self.version) = reader.version.clone();
        self.shared.alive.store(true, Relaxed);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(format!("sampler-{}", self.pid))
            .spawn(move || run(reader, &shared))
            .map_err(|error| {
                self.shared.alive.store(false, Relaxed);
                Failure::Other(format!(
                    "cannot start the reading thread ({error}): raise the limit on threads"
                ))
            })?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    fn halt(&self) {
        self.shared.stop.store(true, Relaxed);
        let thread = lock(&self.thread).take();
        if std::process::id() != self.owner {
            std::mem::forget(thread);
        } else if let Some(thread) = thread {
            // A panic in it was already reported through last_error.
            let _ = thread.join();
        }
        self.shared.queue.close();
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // The thread needs nothing of Python, so waiting for it here cannot deadlock.
        self.halt();
    }
}

/// Closes the queue however the thread ends.
struct Ending<'s>(&'s Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stats.thread_cpu_ns.store(thread_cpu_ns(), Relaxed);
        self.0.alive.store(false, Relaxed);
        self.0.queue.close();
    }
}

fn run(mut reader: Reader, shared: &Shared) {
    let _ending = Ending(shared);
    raise_priority(shared);
    let mut out: Vec<Event> = Vec::new();
    let mut announced = false;
    let mut timer = Timer::new(monotonic_ns());
    let mut ticks = 0u64;
    let mut last_stack_ns = 0u64;
    let mut pace = Pace::new(monotonic_ns());
    let mut panics: Vec<u64> = Vec::new();
    let mut lag = Lag::new(monotonic_ns());
    loop {
        let poll_hz = shared.poll_hz.load(Relaxed);
        let stack_hz = shared.stack_hz.load(Relaxed);
        let stack_ns = SECOND_NS.checked_div(u64::from(stack_hz));
        let calls = reader.rung() == events::RUNG_STACK;
        let mut period_ns = pace.next_ns(monotonic_ns(), SECOND_NS / u64::from(poll_hz), calls);
        if let Some(stack_ns) = stack_ns {
            // Stacks keep their own rhythm through the quiet times.
            period_ns = period_ns.min(stack_ns);
        }
        let Some(missed) = timer.wait(period_ns, || shared.stop.load(Relaxed)) else {
            return;
        };
        shared.stats.missed_ticks.fetch_add(missed, Relaxed);
        ticks += 1;
        let now_ns = monotonic_ns();
        // A tick comes up to a tenth early by its jitter.
        let stack_due =
            stack_ns.is_some_and(|stack_ns| now_ns - last_stack_ns >= stack_ns - stack_ns / 8);
        if stack_due {
            last_stack_ns = now_ns;
        }
        let tick = AssertUnwindSafe(|| reader.tick(stack_due, &mut out));
        let stop = match panic::catch_unwind(tick) {
            Ok(Ok(())) => None,
            Ok(Err(stop)) => Some(stop),
            Err(_) => {
                let now_ns = monotonic_ns();
                panics.retain(|at| now_ns - at < PANICS_NS);
                panics.push(now_ns);
                if panics.len() >= MAX_PANICS {
                    shared.fail(
                        "the reading thread failed repeatedly on this process: restart the agent, \
                         and report it with the engine's version"
                            .to_owned(),
                    );
                    shared.queue.extend(&mut out);
                    return;
                }
                reader.start_over();
                None
            }
        };
        pace.observe(&out);
        if !announced && stop.is_none() {
            announced = true;
            out.insert(0, reader.attached(monotonic_ns()));
        }
        if out.iter().any(is_failed_check) {
            shared.fail(
                "the fast stack reader disagrees with py-spy on this process: phases come from \
                 py-spy at 10 Hz and batches are missing; report it with the engine's Python version"
                    .to_owned(),
            );
        }
        if let Some(window) = lag.tick(missed) {
            if let Some(event) = window.report(reader.counter()) {
                out.push(event);
            }
            if window.cpu_ratio > MAX_REALTIME_CPU && shared.stats.realtime.swap(0, Relaxed) == 1 {
                ordinary_priority();
            }
        }
        if let Some(stop) = stop {
            let (code, failure) = match stop {
                Stop::Replaced => {
                    shared.fail(format!(
                        "process {} runs another program now: attach to it again",
                        reader.pid()
                    ));
                    shared.queue.extend(&mut out);
                    return;
                }
                Stop::Gone => (events::STATE_PROCESS_GONE, Failure::gone(reader.pid())),
                Stop::Refused => (
                    events::STATE_PERMISSION_LOST,
                    Failure::refused(reader.pid()),
                ),
            };
            shared.fail(failure.to_string());
            let mut event = Event::new(events::STATE, reader.counter(), monotonic_ns());
            event.code = code;
            out.push(event);
            shared.queue.extend(&mut out);
            return;
        }
        shared.queue.extend(&mut out);
        if ticks.is_multiple_of(CPU_EVERY_TICKS) {
            shared.stats.thread_cpu_ns.store(thread_cpu_ns(), Relaxed);
            shared.stats.syscalls.store(reader.syscalls(), Relaxed);
        }
    }
}

fn is_failed_check(event: &Event) -> bool {
    event.kind == events::STATE && event.code == events::STATE_SELF_CHECK_FAILED
}

/// Being late costs accuracy, and a tick is microseconds, so ask for precedence; a refusal is no
/// harm.
fn raise_priority(shared: &Shared) {
    if shared.realtime {
        let lowest = libc::sched_param { sched_priority: 1 };
        let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        // SAFETY: a valid parameter; 0 is the calling thread.
        if unsafe { libc::sched_setscheduler(0, policy, &lowest) } == 0 {
            shared.stats.realtime.store(1, Relaxed);
            return;
        }
    }
    nice();
}

fn ordinary_priority() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: a valid parameter; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &none) };
    nice();
}

fn nice() {
    // SAFETY: plain system calls on the calling thread.
    unsafe {
        let thread = libc::syscall(libc::SYS_gettid) as libc::id_t;
        libc::setpriority(libc::PRIO_PROCESS as _, thread, -10);
    }
}

/// Watches whether the thread gets its turns, and what it takes.
struct Lag {
    window_ns: u64,
    cpu_ns: u64,
    run: u64,
    missed: u64,
}

/// About one second.
struct Window {
    run: u64,
    missed: u64,
    cpu_ratio: f64,
}

impl Lag {
    fn new(now_ns: u64) -> Self {
        Lag {
            window_ns: now_ns,
            cpu_ns: thread_cpu_ns(),
            run: 0,
            missed: 0,
        }
    }

    fn tick(&mut self, missed: u64) -> Option<Window> {
        self.run += 1;
        self.missed += missed;
        let now_ns = monotonic_ns();
        let elapsed_ns = now_ns - self.window_ns;
        if elapsed_ns < SECOND_NS {
            return None;
        }
        let next = Lag::new(now_ns);
        let window = Window {
            run: self.run,
            missed: self.missed,
            cpu_ratio: (next.cpu_ns - self.cpu_ns) as f64 / elapsed_ns as f64,
        };
        *self = next;
        Some(window)
    }
}

impl Window {
    /// A report when more than a fifth of the ticks was missed.
    fn report(&self, counter: i64) -> Option<Event> {
        let due = self.run + self.missed;
        if self.missed * 5 <= due {
            return None;
        }
        let mut event = Event::new(events::STATE, counter, monotonic_ns());
        event.code = events::STATE_LAGGING;
        event.payload = vec![self.missed as i64, due as i64];
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_over_a_fifth_of_the_ticks_is_reported() {
        let window = |run, missed| Window {
            run,
            missed,
            cpu_ratio: 0.0,
        };
        assert_eq!(window(800, 200).report(7), None);
        let event = window(790, 210).report(7).unwrap();
        assert_eq!((event.code, event.counter), (events::STATE_LAGGING, 7));
        assert_eq!(event.payload, [210, 1000]);
    }
}
