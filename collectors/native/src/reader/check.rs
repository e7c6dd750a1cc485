//! The comparison with py-spy after attaching, and what is left when it fails.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::Ordering::Relaxed;

use py_spy::{PythonSpy, StackTrace};

use crate::events::{self, Event};
use crate::frames::hash_of;
use crate::selfcheck::{SelfCheck, Verdict};
use crate::spec::Spec;
use crate::time::monotonic_ns;

use super::{Reader, Stop};

/// The first events are not to be delayed.
const FIRST_NS: u64 = 150_000_000;
const PERIOD_NS: u64 = 40_000_000;
/// py-spy opens a file for each thread: where that takes long, it is done seldom.
const PAUSES: u64 = 10;
const PATIENCE_NS: u64 = 2_000_000_000;
/// Stacks by py-spy cost a hundred times as much.
const SLOW_PERIOD_NS: u64 = 100_000_000;

pub struct Check {
    /// Kept while it is needed.
    spy: Option<PythonSpy>,
    state: SelfCheck,
    next_ns: u64,
    until_ns: u64,
    verdict: Verdict,
}

impl Check {
    pub fn new(spy: PythonSpy) -> Self {
        let now_ns = monotonic_ns();
        Check {
            spy: Some(spy),
            state: SelfCheck::default(),
            next_ns: now_ns + FIRST_NS,
            until_ns: now_ns + FIRST_NS + PATIENCE_NS,
            verdict: Verdict::NotDone,
        }
    }

    /// Whether the fast stacks were found not to be trusted.
    pub fn failed(&self) -> bool {
        self.verdict == Verdict::Disagreed
    }

    pub fn is_due(&self, now_ns: u64) -> bool {
        self.verdict == Verdict::NotDone && self.spy.is_some() && now_ns >= self.next_ns
    }

    /// py-spy's stack of the thread that runs a root function; `None` when there is none now.
    fn slow(&mut self, spec: &Spec) -> Option<StackTrace> {
        let spy = self.spy.as_mut()?;
        spy.config.lineno = py_spy::config::LineNo::NoLine;
        // It may panic on what it read half-way; then it is not asked again.
        let traces = match catch_unwind(AssertUnwindSafe(|| spy.get_stack_traces())) {
            Ok(traces) => traces.ok()?,
            Err(_) => {
                self.spy = None;
                return None;
            }
        };
        traces.into_iter().find_map(|mut trace| {
            let is_root = |frame: &py_spy::Frame| {
                let root =
                    |root: &crate::spec::Function| root.matches(&frame.filename, &frame.name);
                spec.root.iter().any(root)
            };
            let root = trace.frames.iter().position(is_root)?;
            trace.frames.truncate(root + 1);
            Some(trace)
        })
    }
}

/// The phase nearest to the leaf, and whether a step or a call is on the stack.
fn judge(spec: &Spec, trace: &StackTrace) -> (i64, bool) {
    let mut phase = events::PHASE_NONE;
    let mut inside = false;
    for frame in &trace.frames {
        let (file, name) = (frame.filename.as_str(), frame.name.as_str());
        let found = spec.phases.iter().position(|one| one.matches(file, name));
        if let (events::PHASE_NONE, Some(index)) = (phase, found) {
            phase = index as i64;
        }
        let calls = spec.call.iter().flat_map(|call| &call.functions);
        inside |= spec.step.iter().any(|step| step.matches(file, name))
            || calls.into_iter().any(|call| call.matches(file, name));
    }
    (phase, inside)
}

impl Reader {
    /// One comparison; the last one decides.
    pub(super) fn compare(&mut self, out: &mut Vec<Event>) -> Result<(), Stop> {
        let begin_ns = monotonic_ns();
        let before = self.fast_names()?;
        let slow = self.check.slow(&self.spec);
        let after = self.fast_names()?;
        if let Some(trace) = slow {
            let names = trace.frames.iter().rev();
            let names = names.map(|frame| hash_of(&frame.name)).collect();
            self.check.state.add(before, names, after);
        }
        let now_ns = monotonic_ns();
        self.check.next_ns = now_ns + PERIOD_NS.max(PAUSES * (now_ns - begin_ns));
        if !self.check.state.is_complete() && now_ns < self.check.until_ns {
            return Ok(());
        }
        self.check.verdict = self.check.state.verdict();
        match self.check.verdict {
            Verdict::NotDone => self.check.spy = None,
            Verdict::Agreed => {
                self.check.spy = None;
                self.stats.self_check.store(1, Relaxed);
            }
            Verdict::Disagreed => {
                self.stats.self_check.store(2, Relaxed);
                self.step = None;
                self.call = None;
                self.holder = None;
                let mut event = Event::new(events::STATE, self.clock.counter(), now_ns);
                event.code = events::STATE_SELF_CHECK_FAILED;
                out.push(event);
            }
        }
        Ok(())
    }

    /// Hashes of the function names on the watched thread's stack, root first.
    fn fast_names(&mut self) -> Result<Option<Vec<u64>>, Stop> {
        let walk = self.whole_walk()?;
        let names = || self.frames.trail.iter().rev().copied().collect();
        Ok(walk.map(|_| names()))
    }

    /// A stack by py-spy.
    pub(super) fn slow_stack(&mut self, out: &mut Vec<Event>) -> Result<(), Stop> {
        let at_ns = monotonic_ns();
        if at_ns < self.check.next_ns {
            return Ok(());
        }
        let trace = self.check.slow(&self.spec);
        let now_ns = monotonic_ns();
        self.check.next_ns = at_ns + SLOW_PERIOD_NS.max(PAUSES * (now_ns - at_ns));
        self.stats.stacks.fetch_add(1, Relaxed);
        let mut event = Event::new(events::STACK, self.clock.counter(), at_ns);
        let (phase, inside) = match trace {
            Some(trace) => judge(&self.spec, &trace),
            None => {
                self.stats.stack_failures.fetch_add(1, Relaxed);
                (events::PHASE_TORN, false)
            }
        };
        if inside {
            event.flags = events::FLAG_INSIDE_STEP;
        }
        event.payload = vec![phase];
        out.push(event);
        Ok(())
    }
}
