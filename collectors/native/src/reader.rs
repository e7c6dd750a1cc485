//! One engine under observation: what is resolved in it, and what one tick does.

mod batch;
mod check;
mod poll;
mod sheet;
mod still;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crate::calls::{Calls, Ended};
use crate::clock::Clock;
use crate::errors::Failure;
use crate::events::{self, Event};
use crate::frames::{Found, Frames, Seen, Walk};
use crate::layout::Layout;
use crate::lookahead::Lookahead;
use crate::memory::{Fields, Memory, ProcessMemory, Trouble};
use crate::objects::{Objects, Slot, INT_BYTES};
use crate::places::{Ask, Place};
use crate::process::{self, Identity};
use crate::spec::{CounterKind, Holder, Path, Spec};
use crate::stats::Stats;
use crate::time::monotonic_ns;

use batch::Batches;
use check::Check;
use sheet::Sheet;
use still::Still;

const RETRIES: usize = 3;
const ATTACH_ATTEMPTS: usize = 40;
const RESOLVE_AGAIN_NS: u64 = 250_000_000;
const HEALTH_NS: u64 = 100_000_000;
const FORGET_NS: u64 = 10_000_000_000;
/// Resolutions in a row that find only another choice of the counter before it is taken: an object
/// that is freed meanwhile seems to lack the attribute.
const ASTRAY: u32 = 12;
/// Stacks in a row without the root function before the thread is looked for again.
const ROOTLESS_STACKS: u32 = 20;

/// Why the reader stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Gone,
    Refused,
    /// Another program runs in the process now.
    Replaced,
}

/// The counter, found.
struct Counter {
    choice: usize,
    slot: Slot,
    kind: CounterKind,
    /// The slot's last content, and the number in it.
    pointer: u64,
    number: i64,
}

/// The engine's thread, found.
struct Resolved {
    thread: u64,
    root: Found,
    /// The root's `self`; 0 when it has none.
    own: u64,
    /// Without one, calls are counted.
    counter: Option<Counter>,
}

/// An attribute that ticks look at besides the counter.
struct Followed {
    slot: Slot,
    /// The slot's last content.
    object: u64,
}

pub struct Reader {
    identity: Identity,
    image: Option<process::Image>,
    pub version: String,
    interpreter: u64,
    layout: &'static Layout,
    objects: Objects<Lookahead<ProcessMemory>>,
    frames: Frames,
    spec: Spec,
    batches: Batches,
    stats: Arc<Stats>,
    resolved: Option<Resolved>,
    /// The choice of the counter that counts, and how often in a row another was found.
    choice: usize,
    astray: u32,
    /// The step, the call, and the frame that has the batch where that is another one.
    step: Option<Place>,
    call: Option<Place>,
    holder: Option<Place>,
    calls: Calls,
    /// The object that tells calls apart, as the last look saw it.
    known_identity: u64,
    /// Where a look around found no call: the top of the data stack.
    fruitless: (u64, u64),
    queue: Option<Followed>,
    end: Option<Followed>,
    ended: Ended,
    overlap: bool,
    /// The address of None, once it was seen.
    none: u64,
    clock: Clock,
    still: Still,
    sheet: Sheet,
    check: Check,
    resolve_again_ns: u64,
    health_ns: u64,
    forget_ns: u64,
    relearn_ns: u64,
    follow_again_ns: u64,
    look_around_ns: u64,
    rootless: u32,
}

impl Reader {
    /// Attaches to a running engine and finds its counter, or its calls.
    pub fn attach(pid: i32, spec: Spec, stats: Arc<Stats>) -> Result<Reader, Failure> {
        let identity = Identity::of(pid)?;
        let started = process::start_time(pid);
        let image = process::image(pid);
        let spy = process::spy_on(pid, false)?;
        let memory = ProcessMemory::new(pid);
        let layout = process::layout_of(&memory, pid, &spy)?;
        let resumed = spec.call.as_ref().is_some_and(|call| call.resumed);
        let mut reader = Reader {
            version: spy.version.to_string(),
            interpreter: spy.addresses.interpreter_address as u64,
            layout,
            objects: Objects::new(Lookahead::new(memory), layout),
            frames: Frames::new(spec.clone()),
            batches: Batches::new(&spec),
            spec,
            stats,
            resolved: None,
            choice: 0,
            astray: 0,
            step: None,
            call: None,
            holder: None,
            calls: Calls::new(resumed),
            known_identity: 0,
            fruitless: (0, 0),
            queue: None,
            end: None,
            ended: Ended::default(),
            overlap: false,
            none: 0,
            clock: Clock::default(),
            still: Still::new(monotonic_ns()),
            sheet: Sheet::default(),
            check: Check::new(spy),
            resolve_again_ns: 0,
            health_ns: 0,
            forget_ns: 0,
            relearn_ns: 0,
            follow_again_ns: 0,
            look_around_ns: 0,
            rootless: 0,
            identity,
            image,
        };
        let mut outcome = Err(Trouble::Absent);
        for attempt in 0..ATTACH_ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            outcome = reader.resolve();
            if outcome.is_ok() || matches!(outcome, Err(Trouble::Gone | Trouble::Refused)) {
                break;
            }
        }
        if reader.identity.ended() || process::start_time(pid) != started {
            return Err(Failure::gone(pid));
        }
        match outcome {
            Ok(()) => Ok(reader),
            Err(Trouble::Gone) => Err(Failure::gone(pid)),
            Err(Trouble::Refused) => Err(Failure::refused(pid)),
            Err(Trouble::Torn | Trouble::Absent) => Err(reader.missing()),
        }
    }

    fn missing(&mut self) -> Failure {
        let pid = self.identity.pid;
        let roots = list(self.spec.root.iter().map(|root| root.function.clone()));
        if self.find_root().is_err() {
            return Failure::Anchor(format!(
                "no thread of process {pid} is running {roots}: attach to the engine core process \
                 once it serves, or correct \"root\" in the spec"
            ));
        }
        let paths = list(self.spec.counter.iter().map(|c| c.path.steps.join(".")));
        Failure::Anchor(format!(
            "process {pid} runs {roots}, but none of the counters {paths} leads to a value there: \
             correct \"counter\" in the spec for this engine version"
        ))
    }

    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    pub fn syscalls(&self) -> u64 {
        self.objects.memory.inner.calls()
    }

    pub fn counter(&self) -> i64 {
        self.clock.counter()
    }

    pub fn rung(&self) -> i64 {
        match &self.resolved {
            Some(Resolved {
                counter: Some(_), ..
            }) => events::RUNG_COUNTER,
            Some(_) => events::RUNG_STACK,
            None => 0,
        }
    }

    /// The announcement that follows a successful resolution.
    pub fn attached(&self, at_ns: u64) -> Event {
        let counter = self.resolved.as_ref().and_then(|now| now.counter.as_ref());
        let number = counter.map_or(self.clock.counter(), |counter| counter.number);
        let mut event = Event::new(events::STATE, number, at_ns);
        event.code = events::STATE_ATTACHED;
        let choice = counter.map_or(-1, |counter| counter.choice as i64);
        event.payload = vec![choice, self.rung()];
        event
    }

    // ---- resolution

    /// Finds the thread that runs a root function, and what it has as `self`.
    fn find_root(&mut self) -> Result<(u64, Walk, u64), Trouble> {
        let now_ns = monotonic_ns();
        let mut trouble = Trouble::Absent;
        for thread in Frames::threads(&self.objects, self.interpreter)? {
            let walk = match self.frames.walk(&self.objects, thread, now_ns) {
                Ok(walk) => walk,
                Err(other) => {
                    trouble = other;
                    continue;
                }
            };
            let Some(root) = walk.root else { continue };
            match self.own(root.found, now_ns) {
                Ok(object) => return Ok((thread, walk, object)),
                // Calls are counted without it, too.
                Err(Trouble::Absent) if self.spec.call.is_some() => return Ok((thread, walk, 0)),
                Err(Trouble::Absent) => {}
                Err(other) => return Err(other),
            }
        }
        Err(trouble)
    }

    /// The `self` of the root function.
    fn own(&mut self, root: Found, now_ns: u64) -> Result<u64, Trouble> {
        let code = self.frames.code(&self.objects, root.code, now_ns)?;
        let own = code.own.ok_or(Trouble::Absent)?;
        let memory = &self.objects.memory;
        let at = root.frame + self.layout.frame_locals as u64 + 8 * own.index;
        let mut object = self.layout.referent(memory.word(at)?);
        if own.cell {
            object = memory.word(object.wrapping_add(self.layout.cell_value))?;
        }
        match object {
            0 => Err(Trouble::Torn),
            object => Ok(object),
        }
    }

    /// From the root frame to the counter slot, or to the calls.
    fn resolve(&mut self) -> Result<(), Trouble> {
        self.stats.resolves.fetch_add(1, Relaxed);
        self.objects.forget();
        let (thread, walk, own) = self.find_root()?;
        let root = walk.root.ok_or(Trouble::Torn)?.found;
        let counter = self.find_counter(own)?;
        let choices = self.spec.counter.len();
        self.hold_to_choice(counter.as_ref().map_or(choices, |counter| counter.choice))?;
        if counter.is_none() && self.spec.call.is_none() {
            return Err(Trouble::Absent);
        }
        self.resolved = Some(Resolved {
            thread,
            root,
            own,
            counter,
        });
        self.stats.rung.store(self.rung() as u64, Relaxed);
        self.rootless = 0;
        self.follow()?;
        self.learn(&walk);
        self.learn_call(&walk);
        Ok(())
    }

    /// `Torn` while another choice than the last one may be a mistake.
    fn hold_to_choice(&mut self, choice: usize) -> Result<(), Trouble> {
        self.astray = if choice == self.choice {
            0
        } else {
            self.astray + 1
        };
        if self.astray > 0 && self.astray < ASTRAY {
            return Err(Trouble::Torn);
        }
        self.choice = choice;
        self.astray = 0;
        Ok(())
    }

    fn find_counter(&mut self, own: u64) -> Result<Option<Counter>, Trouble> {
        if own == 0 {
            return Ok(None);
        }
        for (choice, counter) in self.spec.counter.clone().iter().enumerate() {
            match self.resolve_counter(own, &counter.path, counter.kind) {
                Ok((slot, pointer, number)) => {
                    return Ok(Some(Counter {
                        choice,
                        slot,
                        kind: counter.kind,
                        pointer,
                        number,
                    }))
                }
                Err(Trouble::Absent) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(None)
    }

    fn resolve_counter(
        &mut self,
        own: u64,
        path: &Path,
        kind: CounterKind,
    ) -> Result<(Slot, u64, i64), Trouble> {
        let slot = self.objects.resolve(own, &path.steps)?;
        let pointer = self.objects.memory.word(slot.address)?;
        if pointer == 0 {
            return Err(Trouble::Absent);
        }
        let number_bytes = match kind {
            CounterKind::Int => INT_BYTES,
            CounterKind::Pointer => 0,
        };
        let mut words = vec![0; number_bytes + 16 + 8 * slot.guards.len()];
        let mut pieces = vec![(pointer, number_bytes), (slot.address, 8)];
        pieces.extend(slot.guards.iter().map(|guard| (guard.address, 8)));
        pieces.push((slot.address, 8));
        self.objects.memory.gather_all(&pieces, &mut words)?;
        let (number, owner) = words.split_at(number_bytes);
        let mut guards = slot.guards.iter().enumerate();
        let kept = guards.all(|(index, guard)| guard.holds(owner.u64_at(8 + 8 * index)));
        if !kept || [owner.u64_at(0), owner.u64_at(owner.len() - 8)] != [pointer; 2] {
            return Err(Trouble::Torn);
        }
        let number = match kind {
            CounterKind::Int => self.objects.decode_int(pointer, number)?,
            CounterKind::Pointer => 0,
        };
        Ok((slot, pointer, number))
    }

    /// Finds the attributes that ticks look at besides the counter.
    fn follow(&mut self) -> Result<(), Trouble> {
        self.follow_again_ns = monotonic_ns() + RESOLVE_AGAIN_NS;
        let own = self.resolved.as_ref().map_or(0, |resolved| resolved.own);
        let overlap = self.spec.step.iter().any(|step| step.overlap);
        let queued = self.spec.queued().filter(|_| overlap).cloned();
        self.queue = self.follow_path(own, queued)?;
        if let Some(queue) = &self.queue {
            if !self.objects.is_deque(queue.object).unwrap_or(false) {
                self.queue = None;
            }
        }
        let end = self.spec.end.as_ref().map(|end| end.none.clone());
        self.end = self.follow_path(own, end)?;
        Ok(())
    }

    fn follow_path(&mut self, own: u64, path: Option<Path>) -> Result<Option<Followed>, Trouble> {
        let Some(path) = path.filter(|_| own != 0) else {
            return Ok(None);
        };
        let slot = match self.objects.resolve(own, &path.steps) {
            Ok(slot) => slot,
            Err(Trouble::Torn | Trouble::Absent) => return Ok(None),
            Err(other) => return Err(other),
        };
        let object = self.objects.memory.word(slot.address)?;
        Ok(Some(Followed { slot, object }))
    }

    fn place(&mut self, walk: &Walk, seen: Seen, ask: Ask, known: Option<Place>) -> Option<Place> {
        let now_ns = monotonic_ns();
        let code = self.frames.code(&self.objects, seen.found.code, now_ns);
        Some(Place::learn(walk, seen, code.ok()?, ask, known))
    }

    /// Remembers where the step frame lies, if this walk saw it, and the root's.
    fn learn(&mut self, walk: &Walk) {
        if self.check.failed() {
            return;
        }
        if let Some(seen) = walk.step {
            let known = self.step.take();
            self.step = self.place(walk, seen, Ask::Batch, known);
        }
        let holder = self.spec.batch.as_ref().map(|batch| batch.frame);
        if let (Some(seen), Some(Holder::Root)) = (walk.root, holder) {
            let known = self.holder.take();
            self.holder = self.place(walk, seen, Ask::Batch, known);
        }
    }

    /// Remembers where the call's frame lies, if this walk saw one.
    fn learn_call(&mut self, walk: &Walk) -> bool {
        let Some(seen) = walk.call.filter(|_| !self.check.failed()) else {
            return false;
        };
        let known = self.call.clone();
        let Some(place) = self.place(walk, seen, Ask::Identity, known) else {
            return false;
        };
        self.call = Some(place);
        let holder = self.spec.batch.as_ref().map(|batch| batch.frame);
        if holder == Some(Holder::Call) {
            let known = self.holder.take();
            self.holder = self.place(walk, seen, Ask::Batch, known);
        }
        true
    }

    // ---- ticks

    /// One poll, and one stack if it is due. Events go to `out`.
    pub fn tick(&mut self, stack_due: bool, out: &mut Vec<Event>) -> Result<(), Stop> {
        let now_ns = monotonic_ns();
        if now_ns >= self.health_ns {
            self.health_ns = now_ns + HEALTH_NS;
            if self.identity.ended() {
                return Err(Stop::Gone);
            }
        }
        if now_ns >= self.forget_ns {
            self.forget_ns = now_ns + FORGET_NS;
            self.objects.forget();
        }
        if self.resolved.is_none() {
            if now_ns < self.resolve_again_ns {
                return Ok(());
            }
            self.resolve_again_ns = now_ns + RESOLVE_AGAIN_NS;
            match self.resolve() {
                Ok(()) => out.push(self.attached(now_ns)),
                Err(trouble) => {
                    self.stop_on(trouble)?;
                    let same = process::image(self.identity.pid) == self.image;
                    return if same { Ok(()) } else { Err(Stop::Replaced) };
                }
            }
        }
        match self.poll(out) {
            Ok(()) => {}
            Err(Trouble::Torn) => {
                self.stats.torn.fetch_add(1, Relaxed);
            }
            // The slot moved: usually a dictionary grew, and it is found again at once.
            Err(Trouble::Absent) => self.find_again(out)?,
            Err(other) => return self.stop_on(other),
        }
        if self.resolved.is_none() {
            return Ok(());
        }
        if stack_due {
            self.stack(out)?;
        } else if self.check.is_due(now_ns) {
            self.compare(out)?;
        }
        Ok(())
    }

    fn stop_on(&self, trouble: Trouble) -> Result<(), Stop> {
        match trouble {
            Trouble::Gone => Err(Stop::Gone),
            Trouble::Refused if self.identity.ended() => Err(Stop::Gone),
            Trouble::Refused => Err(Stop::Refused),
            Trouble::Torn | Trouble::Absent => Ok(()),
        }
    }

    fn find_again(&mut self, out: &mut Vec<Event>) -> Result<(), Stop> {
        let before = (self.rung(), self.choice);
        for _ in 0..RETRIES {
            match self.resolve() {
                Ok(()) if (self.rung(), self.choice) == before => return Ok(()),
                Ok(()) => {
                    // Another way of counting has nothing to do with the numbers so far.
                    self.clock.forget();
                    self.batches.forget();
                    out.push(self.attached(monotonic_ns()));
                    return Ok(());
                }
                Err(trouble) => self.stop_on(trouble)?,
            }
        }
        self.lose(out);
        Ok(())
    }

    fn lose(&mut self, out: &mut Vec<Event>) {
        let now_ns = monotonic_ns();
        let mut event = Event::new(events::STATE, self.clock.counter(), now_ns);
        event.code = events::STATE_SLOT_LOST;
        out.push(event);
        self.forget_places();
        self.clock.forget();
        self.batches.forget();
        self.resolve_again_ns = now_ns + RESOLVE_AGAIN_NS;
    }

    fn forget_places(&mut self) {
        self.resolved = None;
        self.stats.rung.store(0, Relaxed);
        self.step = None;
        self.call = None;
        self.holder = None;
        self.queue = None;
        self.end = None;
        self.fruitless = (0, 0);
    }

    // ---- stacks

    /// A walk that saw the root function of the watched thread.
    fn whole_walk(&mut self) -> Result<Option<Walk>, Stop> {
        let Some(resolved) = &self.resolved else {
            return Ok(None);
        };
        let (thread, root) = (resolved.thread, resolved.root);
        let now_ns = monotonic_ns();
        for _ in 0..=RETRIES {
            match self.frames.walk(&self.objects, thread, now_ns) {
                Ok(walk) if walk.root.is_some_and(|seen| seen.found == root) => {
                    return Ok(Some(walk))
                }
                Ok(_) => {}
                Err(trouble) => self.stop_on(trouble)?,
            }
        }
        Ok(None)
    }

    fn stack(&mut self, out: &mut Vec<Event>) -> Result<(), Stop> {
        if self.check.failed() {
            return self.slow_stack(out);
        }
        let at_ns = monotonic_ns();
        let seen = self.whole_walk()?;
        self.stats.stacks.fetch_add(1, Relaxed);
        let mut event = Event::new(events::STACK, self.clock.counter(), at_ns);
        match seen {
            Some(walk) => {
                self.rootless = 0;
                if walk.step.or(walk.call).is_some() {
                    event.flags = events::FLAG_INSIDE_STEP;
                }
                self.learn(&walk);
                event.payload = vec![walk.phase.unwrap_or(events::PHASE_NONE)];
            }
            None => {
                self.stats.stack_failures.fetch_add(1, Relaxed);
                event.payload = vec![events::PHASE_TORN];
                self.rootless += 1;
            }
        }
        out.push(event);
        if self.rootless >= ROOTLESS_STACKS {
            self.rootless = 0;
            self.frames.forget();
            self.find_again(out)?;
        }
        Ok(())
    }

    /// After a panic in a tick: nothing remembered can be trusted.
    pub fn start_over(&mut self) {
        self.objects.memory.stop();
        self.objects.forget();
        self.frames.forget();
        self.forget_places();
        self.clock.forget();
        self.batches.forget();
        self.resolve_again_ns = 0;
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    names.join(", ")
}
