//! One engine under observation: what is resolved in it, and what one tick does.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use crate::clock::{Clock, Edge, Observation, Reading};
use crate::errors::Failure;
use crate::events::{self, Event};
use crate::frames::{Found, Frames, StepLook, StepPlace, Walk, STEP_LOOK};
use crate::layout::Layout;
use crate::memory::{Fields, Memory, Piece, ProcessMemory, Trouble};
use crate::objects::{Guard, Objects, Slot, INT_BYTES};
use crate::process::{self, Identity};
use crate::spec::{CounterKind, Path, Reduce, Spec};
use crate::stats::Stats;
use crate::time::monotonic_ns;

const RETRIES: usize = 3;
const ATTACH_ATTEMPTS: usize = 40;
const RESOLVE_AGAIN_NS: u64 = 250_000_000;
const HEALTH_NS: u64 = 100_000_000;
const FORGET_NS: u64 = 10_000_000_000;
const RELEARN_NS: u64 = 20_000_000;
/// Stacks in a row without the root function before the thread is looked for again.
const ROOTLESS_STACKS: u32 = 20;
/// Attempts at one batch before fields that stay unreadable are given up.
const BATCH_ATTEMPTS: u32 = 5;

/// Why the reader stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Gone,
    Refused,
}

/// The counter, found.
struct Resolved {
    choice: usize,
    thread: u64,
    root_code: Found,
    own: u64,
    slot: Slot,
    kind: CounterKind,
    /// The slot's last content, and the number in it.
    pointer: u64,
    number: i64,
}

/// Fields that share a path, and where their results go in the payload.
struct Group {
    path: Path,
    reductions: Vec<Reduce>,
    positions: Vec<usize>,
}

pub struct Reader {
    identity: Identity,
    pub version: String,
    interpreter: u64,
    layout: &'static Layout,
    objects: Objects<ProcessMemory>,
    frames: Frames,
    spec: Spec,
    batch_groups: Vec<Group>,
    gauge_groups: Vec<Group>,
    payload_words: usize,
    stats: Arc<Stats>,
    resolved: Option<Resolved>,
    step: Option<StepPlace>,
    clock: Clock,
    batch_due: bool,
    batch_attempts: u32,
    /// The last batch sent: its iteration and its address.
    last_batch: (i64, u64),
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
    resolve_again_ns: u64,
    health_ns: u64,
    forget_ns: u64,
    relearn_ns: u64,
    rootless: u32,
}

fn group<'f>(fields: impl Iterator<Item = &'f crate::spec::Field>, first: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, field) in fields.enumerate() {
        let position = first + index;
        match groups.iter_mut().find(|group| group.path == field.path) {
            Some(group) => {
                group.reductions.push(field.reduce);
                group.positions.push(position);
            }
            None => groups.push(Group {
                path: field.path.clone(),
                reductions: vec![field.reduce],
                positions: vec![position],
            }),
        }
    }
    groups
}

impl Reader {
    /// Attaches to a running engine and finds its counter.
    pub fn attach(pid: i32, spec: Spec, stats: Arc<Stats>) -> Result<Reader, Failure> {
        let identity = Identity::of(pid)?;
        let started = process::start_time(pid);
        let spy = process::spy_on(pid, false)?;
        let version = spy.version.to_string();
        let interpreter = spy.addresses.interpreter_address as u64;
        let memory = ProcessMemory::new(pid);
        let layout = process::layout_of(&memory, pid, &spy)?;
        let fields = spec.batch.iter().flat_map(|batch| &batch.fields);
        let field_count = fields.clone().count();
        let mut reader = Reader {
            version,
            interpreter,
            layout,
            objects: Objects::new(memory, layout),
            frames: Frames::new(spec.clone()),
            batch_groups: group(fields, 0),
            gauge_groups: group(spec.gauges.iter(), field_count),
            payload_words: field_count + spec.gauges.len(),
            spec,
            stats,
            resolved: None,
            step: None,
            clock: Clock::default(),
            batch_due: false,
            batch_attempts: 0,
            last_batch: (i64::MIN, 0),
            pieces: Vec::new(),
            bytes: Vec::new(),
            resolve_again_ns: 0,
            health_ns: 0,
            forget_ns: 0,
            relearn_ns: 0,
            rootless: 0,
            identity,
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
        self.objects.memory.calls()
    }

    pub fn counter(&self) -> i64 {
        self.clock.counter()
    }

    /// The announcement that follows a successful resolution.
    pub fn attached(&self, at_ns: u64) -> Event {
        let choice = self.resolved.as_ref().map_or(0, |resolved| resolved.choice);
        let mut event = Event::new(events::STATE, self.clock.counter(), at_ns);
        event.code = events::STATE_ATTACHED;
        event.payload = vec![choice as i64];
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
            let code = self.frames.code(&self.objects, root.code, now_ns)?;
            let Some(own) = code.own else { continue };
            let at = root.frame + self.layout.frame_locals as u64 + 8 * own.index;
            let mut object = self.layout.referent(self.objects.memory.word(at)?);
            if own.cell {
                object = self
                    .objects
                    .memory
                    .word(object.wrapping_add(self.layout.cell_value))?;
            }
            if object == 0 {
                return Err(Trouble::Torn);
            }
            return Ok((thread, walk, object));
        }
        Err(trouble)
    }

    /// From the root frame to the counter slot.
    fn resolve(&mut self) -> Result<(), Trouble> {
        self.stats.resolves.fetch_add(1, Relaxed);
        self.objects.forget();
        let (thread, walk, own) = self.find_root()?;
        let root_code = walk.root.ok_or(Trouble::Torn)?;
        let counters = self.spec.counter.clone();
        for (choice, counter) in counters.iter().enumerate() {
            match self.resolve_counter(own, &counter.path, counter.kind) {
                Ok((slot, pointer, number)) => {
                    self.resolved = Some(Resolved {
                        choice,
                        thread,
                        root_code,
                        own,
                        slot,
                        kind: counter.kind,
                        pointer,
                        number,
                    });
                    self.rootless = 0;
                    self.learn(&walk);
                    return Ok(());
                }
                Err(Trouble::Absent) => {}
                Err(other) => return Err(other),
            }
        }
        Err(Trouble::Absent)
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
        let number = match kind {
            CounterKind::Int => self.objects.int(pointer)?,
            CounterKind::Pointer => 0,
        };
        let mut words = vec![0; 8 + 8 * slot.guards.len()];
        let mut pieces = vec![(slot.address, 8)];
        pieces.extend(slot.guards.iter().map(|guard| (guard.address, 8)));
        self.objects.memory.gather_all(&pieces, &mut words)?;
        let kept = slot
            .guards
            .iter()
            .enumerate()
            .all(|(index, guard)| guard.holds(words.u64_at(8 + 8 * index)));
        if kept && words.u64_at(0) == pointer {
            Ok((slot, pointer, number))
        } else {
            Err(Trouble::Torn)
        }
    }

    /// Remembers where the step frame lies, if this walk saw it.
    fn learn(&mut self, walk: &Walk) {
        let Some(step) = walk.step else { return };
        let now_ns = monotonic_ns();
        if let Ok(code) = self.frames.code(&self.objects, step.code, now_ns) {
            let code = code.clone();
            if let Some(place) = StepPlace::learn(walk, &code, self.step.clone()) {
                self.step = Some(place);
            }
        }
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
                Ok(()) => {
                    let first = self.resolved.as_ref().map_or(0, |resolved| resolved.number);
                    let mut event = self.attached(now_ns);
                    event.counter = first as u64;
                    out.push(event);
                }
                Err(trouble) => return self.stop_on(trouble),
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
        if stack_due && self.resolved.is_some() {
            self.stack(out)?;
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
        for _ in 0..RETRIES {
            match self.resolve() {
                Ok(()) => return Ok(()),
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
        self.resolved = None;
        self.step = None;
        self.clock.forget();
        self.batch_due = false;
        self.resolve_again_ns = now_ns + RESOLVE_AGAIN_NS;
    }

    /// One read of everything that can change, then what follows from it.
    ///
    /// `Absent` means that the slot is no longer where it was.
    fn poll(&mut self, out: &mut Vec<Event>) -> Result<(), Trouble> {
        let (at_ns, value, look) = self.observe()?;
        self.stats.polls.fetch_add(1, Relaxed);
        let inside = look.map(|look| look.inside);
        match self.clock.observe(Observation {
            at_ns,
            value,
            inside,
        }) {
            Some(Edge::Begin {
                counter,
                skipped,
                at_ns: edge_ns,
                gap_ns,
            }) => {
                let mut event = Event::new(events::BEGIN, counter, edge_ns);
                event.code = skipped;
                event.gap_ns = gap_ns;
                out.push(event);
                self.stats.iterations.fetch_add(1, Relaxed);
                self.stats
                    .missed_iterations
                    .fetch_add(u64::from(skipped), Relaxed);
                self.batch_due = self.spec.batch.is_some();
                self.batch_attempts = 0;
                // The step runs now, so this is the moment to see where its frame lies.
                if inside != Some(true) && at_ns >= self.relearn_ns {
                    self.relearn_ns = at_ns + RELEARN_NS;
                    self.relearn()?;
                }
            }
            Some(Edge::End {
                counter,
                at_ns,
                gap_ns,
            }) => {
                let mut event = Event::new(events::END, counter, at_ns);
                event.gap_ns = gap_ns;
                out.push(event);
                self.batch_due = false;
            }
            None => {}
        }
        if let Some(look) = look {
            if self.batch_due && self.clock.begun() {
                self.read_batch(at_ns, look, out)?;
            }
        }
        Ok(())
    }

    fn relearn(&mut self) -> Result<(), Trouble> {
        let Some(resolved) = &self.resolved else {
            return Ok(());
        };
        match self
            .frames
            .walk(&self.objects, resolved.thread, monotonic_ns())
        {
            Ok(walk) => self.learn(&walk),
            Err(Trouble::Torn | Trouble::Absent) => {}
            Err(other) => return Err(other),
        }
        Ok(())
    }

    fn observe(&mut self) -> Result<(u64, Reading, Option<StepLook>), Trouble> {
        let layout = self.layout;
        let resolved = self.resolved.as_mut().ok_or(Trouble::Absent)?;
        let number_bytes = match resolved.kind {
            CounterKind::Int => INT_BYTES,
            CounterKind::Pointer => 0,
        };
        let guards = resolved.slot.guards.len();
        // The number before the slot that owns it, and the guards after it: if the slot still
        // points to the number and the guards hold, all three belonged together.
        self.pieces.clear();
        if number_bytes > 0 {
            self.pieces.push((resolved.pointer, number_bytes));
        }
        self.pieces.push((resolved.slot.address, 8));
        self.pieces
            .extend(resolved.slot.guards.iter().map(|guard| (guard.address, 8)));
        let thread_at = number_bytes + 8 + 8 * guards;
        self.pieces
            .push((resolved.thread + layout.thread_datastack_chunk, 16));
        let step_at = thread_at + 16;
        if let Some(step) = &self.step {
            self.pieces.extend(step.pieces(layout));
        }
        let total = step_at + if self.step.is_some() { STEP_LOOK } else { 0 };
        self.bytes.clear();
        self.bytes.resize(total, 0);
        let before_ns = monotonic_ns();
        let mut arrived = self.objects.memory.gather(&self.pieces, &mut self.bytes);
        if number_bytes > 0 && arrived.unwrap_or(0) < step_at {
            // The old number's page may be gone: do without it.
            self.bytes[..number_bytes].fill(0);
            arrived = self
                .objects
                .memory
                .gather(&self.pieces[1..], &mut self.bytes[number_bytes..])
                .map(|count| count + number_bytes);
        }
        let at_ns = before_ns + (monotonic_ns() - before_ns) / 2;
        let arrived = arrived?;
        if arrived < step_at {
            // Not even the guards are mapped any more.
            return Err(Trouble::Absent);
        }
        let kept = |(index, guard): (usize, &Guard)| {
            guard.holds(self.bytes.u64_at(number_bytes + 8 + 8 * index))
        };
        let pointer = self.bytes.u64_at(number_bytes);
        if pointer == 0 || !resolved.slot.guards.iter().enumerate().all(kept) {
            return Err(Trouble::Absent);
        }
        let value = match resolved.kind {
            CounterKind::Pointer => {
                resolved.pointer = pointer;
                Reading::Pointer(pointer)
            }
            CounterKind::Int => {
                let same = pointer == resolved.pointer && self.bytes.u64_at(8) != 0;
                let number = if same {
                    self.objects.decode_int(pointer, &self.bytes[..INT_BYTES])
                } else {
                    Err(Trouble::Torn)
                };
                match number {
                    Ok(number) if number == resolved.number => {}
                    _ => {
                        let slot_at = resolved.slot.address;
                        let (pointer, number) =
                            number_behind(&mut self.objects, &self.stats, slot_at, pointer)?;
                        resolved.pointer = pointer;
                        resolved.number = number;
                    }
                }
                Reading::Number(resolved.number)
            }
        };
        let look = match &mut self.step {
            Some(step) if arrived == total => {
                let chunk = self.bytes.u64_at(thread_at);
                let top = self.bytes.u64_at(thread_at + 8);
                Some(step.look(layout, &self.bytes[step_at..], chunk, top))
            }
            Some(_) => Some(StepLook {
                inside: false,
                batch: 0,
                older: 0,
            }),
            None => None,
        };
        Ok((at_ns, value, look))
    }

    // ---- batches

    /// The current iteration's batch object, as far as this look shows it.
    fn batch_object(&mut self, look: StepLook) -> Result<u64, Trouble> {
        let (Some(resolved), Some(step)) = (&self.resolved, &self.step) else {
            return Err(Trouble::Absent);
        };
        let own = resolved.own;
        let cell = step.batch.is_some_and(|local| local.cell);
        let content = |address: u64| {
            if cell && address != 0 {
                let at = address.wrapping_add(self.layout.cell_value);
                self.objects.memory.word(at)
            } else {
                Ok(address)
            }
        };
        let (current, older) = (content(look.batch)?, content(look.older)?);
        if current != 0 {
            return Ok(current);
        }
        let queued = self.spec.batch.as_ref().and_then(|b| b.queued.as_ref());
        let (Some(path), true) = (queued, older != 0) else {
            return Err(Trouble::Absent);
        };
        let newest = self.objects.newest(own, &path.steps, older)?;
        // Still the batch before, so this iteration's has not been added yet.
        let before = (self.clock.counter().wrapping_sub(1), newest);
        if newest == older || before == self.last_batch {
            return Err(Trouble::Absent);
        }
        Ok(newest)
    }

    /// All fields and gauges; `Torn` when the attempt should be repeated.
    fn read_fields(&mut self, batch: u64) -> Result<Vec<i64>, Trouble> {
        let own = self.resolved.as_ref().map_or(0, |resolved| resolved.own);
        let last_attempt = self.batch_attempts >= BATCH_ATTEMPTS;
        let mut payload = vec![events::UNKNOWN; self.payload_words];
        let groups = self.batch_groups.iter().map(|group| (batch, group));
        for (start, group) in groups.chain(self.gauge_groups.iter().map(|g| (own, g))) {
            match self.objects.reduce(start, &group.path, &group.reductions) {
                Ok(values) => {
                    for (position, value) in group.positions.iter().zip(values) {
                        payload[*position] = value;
                    }
                }
                Err(Trouble::Torn) if last_attempt => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(payload)
    }

    fn read_batch(
        &mut self,
        at_ns: u64,
        look: StepLook,
        out: &mut Vec<Event>,
    ) -> Result<(), Trouble> {
        let lasting = |trouble: Trouble| matches!(trouble, Trouble::Gone | Trouble::Refused);
        if look.batch == 0 && look.older == 0 {
            return Ok(());
        }
        let batch = match self.batch_object(look) {
            Ok(batch) => batch,
            Err(trouble) if lasting(trouble) => return Err(trouble),
            Err(_) => return Ok(()),
        };
        let counter = self.clock.counter();
        let before = self.resolved.as_ref().map(|now| (now.pointer, now.number));
        self.stats.batch_reads.fetch_add(1, Relaxed);
        self.batch_attempts += 1;
        // The same iteration and the same object before and after: it lived all the time.
        let outcome = self.read_fields(batch).and_then(|payload| {
            let (_, _, again) = self.observe()?;
            let after = self.resolved.as_ref().map(|now| (now.pointer, now.number));
            match again {
                Some(again) if before == after && self.batch_object(again)? == batch => Ok(payload),
                _ => Err(Trouble::Torn),
            }
        });
        match outcome {
            Ok(payload) => {
                let mut event = Event::new(events::BATCH, counter, at_ns);
                event.payload = payload;
                out.push(event);
                self.batch_due = false;
                self.last_batch = (counter, batch);
                Ok(())
            }
            Err(trouble) if lasting(trouble) => Err(trouble),
            Err(_) => {
                self.stats.batch_failures.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }

    // ---- stacks

    fn stack(&mut self, out: &mut Vec<Event>) -> Result<(), Stop> {
        let Some(resolved) = &self.resolved else {
            return Ok(());
        };
        let thread = resolved.thread;
        let root_code = resolved.root_code;
        let at_ns = monotonic_ns();
        let mut seen = None;
        for _ in 0..=RETRIES {
            match self.frames.walk(&self.objects, thread, at_ns) {
                Ok(walk) if walk.root == Some(root_code) => {
                    seen = Some(walk);
                    break;
                }
                Ok(_) => {}
                Err(trouble) => self.stop_on(trouble)?,
            }
        }
        self.stats.stacks.fetch_add(1, Relaxed);
        let mut event = Event::new(events::STACK, self.clock.counter(), at_ns);
        match seen {
            Some(walk) => {
                self.rootless = 0;
                if walk.step.is_some() {
                    event.flags = events::FLAG_INSIDE_STEP;
                    self.learn(&walk);
                }
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
        self.objects.forget();
        self.frames.forget();
        self.step = None;
        self.resolved = None;
        self.clock.forget();
        self.batch_due = false;
        self.resolve_again_ns = 0;
    }
}

/// The number behind a slot that has changed; the slot is read again after the number.
fn number_behind(
    objects: &mut Objects<ProcessMemory>,
    stats: &Stats,
    slot_at: u64,
    first: u64,
) -> Result<(u64, i64), Trouble> {
    let mut pointer = first;
    for _ in 0..=RETRIES {
        let mut bytes = [0; INT_BYTES + 8];
        match objects
            .memory
            .gather_all(&[(pointer, INT_BYTES), (slot_at, 8)], &mut bytes)
        {
            Ok(()) => {
                let again = bytes.u64_at(INT_BYTES);
                if again == pointer {
                    match objects.decode_int(pointer, &bytes[..INT_BYTES]) {
                        // Still the slot's content, and not a number: not our slot any more.
                        Err(Trouble::Torn | Trouble::Absent) => return Err(Trouble::Absent),
                        Err(other) => return Err(other),
                        Ok(number) => return Ok((pointer, number)),
                    }
                }
                pointer = again;
            }
            Err(Trouble::Torn) => pointer = objects.memory.word(slot_at)?,
            Err(other) => return Err(other),
        }
        stats.torn.fetch_add(1, Relaxed);
        if pointer == 0 {
            return Err(Trouble::Absent);
        }
    }
    Err(Trouble::Torn)
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    names.join(", ")
}
