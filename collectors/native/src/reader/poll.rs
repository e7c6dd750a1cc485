//! One look at everything that can change, and what follows from it.

use std::sync::atomic::Ordering::Relaxed;

use crate::calls::{goes_on, Identity, Sighting};
use crate::clock::{Edge, Observation, Reading};
use crate::events::{self, Event};
use crate::layout::Layout;
use crate::lookahead::Lookahead;
use crate::memory::{Fields, Memory, ProcessMemory, Trouble};
use crate::objects::{Content, Objects, Slot, INT_BYTES};
use crate::places::{Look, Place, Presence, AGAIN, LOOK};
use crate::spec::{CounterKind, Holder};
use crate::stats::Stats;
use crate::time::monotonic_ns;

use super::sheet::Sheet;
use super::{Followed, Reader, RETRIES};

const RELEARN_NS: u64 = 20_000_000;
/// A thread that waits where no call was found is looked at again so much later.
const LOOK_AROUND_NS: u64 = 10_000_000;
/// An int of up to three digits, as nanoseconds of an epoch have.
const IDENTITY_BYTES: usize = 40;

/// What one look saw.
#[derive(Debug, Clone, Copy)]
pub struct Sight {
    pub at_ns: u64,
    /// Of the counter, where there is one.
    value: Option<Reading>,
    pub step: Option<Look>,
    call: Option<Look>,
    pub holder: Option<Look>,
    /// Batches in the queue.
    queued: Option<u64>,
    /// The object whose being None is the end.
    end: Option<u64>,
    /// Chunk and top of the data stack.
    top: (u64, u64),
    /// What the identity of the last look pointed to.
    identity: [u8; IDENTITY_BYTES],
}

/// A slot with its guards on the sheet.
fn want_slot(sheet: &mut Sheet, slot: &Slot) -> usize {
    let at = sheet.want(slot.address, 8);
    for guard in &slot.guards {
        sheet.want(guard.address, 8);
    }
    at
}

/// What a slot holds, if it is still the slot.
fn slot_content(sheet: &Sheet, slot: &Slot, at: usize) -> Option<u64> {
    let end = at + 8 + 8 * slot.guards.len();
    let mut guards = slot.guards.iter().enumerate();
    let kept = guards.all(|(index, guard)| guard.holds(sheet.at(at).u64_at(8 + 8 * index)));
    (kept && sheet.is_whole(at, end)).then(|| sheet.at(at).u64_at(0))
}

fn want_place(sheet: &mut Sheet, layout: &Layout, place: Option<&Place>) -> usize {
    let at = sheet.end();
    for (address, length) in place.iter().flat_map(|place| place.pieces(layout)) {
        sheet.want(address, length);
    }
    at
}

impl Reader {
    /// `Absent` means that the slot is no longer where it was.
    pub(super) fn poll(&mut self, out: &mut Vec<Event>) -> Result<(), Trouble> {
        let mut sight = self.observe()?;
        self.stats.polls.fetch_add(1, Relaxed);
        let value = match sight.value {
            Some(value) => value,
            None => Reading::Number(self.count_calls(&mut sight)?),
        };
        if self.clock.begins_with(value) {
            self.ended.begin();
        }
        let inside = self.inside(&sight)?;
        let edge = self.clock.observe(Observation {
            at_ns: sight.at_ns,
            value,
            inside,
        });
        match edge {
            Some(Edge::Begin {
                counter,
                skipped,
                at_ns,
                gap_ns,
            }) => {
                self.batches.flush(out);
                let mut event = Event::new(events::BEGIN, counter, at_ns);
                event.code = skipped;
                event.gap_ns = gap_ns;
                out.push(event);
                self.stats.iterations.fetch_add(1, Relaxed);
                let missed = u64::from(skipped);
                self.stats.missed_iterations.fetch_add(missed, Relaxed);
                self.batches.begin(sight.at_ns);
                self.relearn(&sight)?;
            }
            Some(Edge::End {
                counter,
                at_ns,
                gap_ns,
            }) => {
                self.batches.flush(out);
                let mut event = Event::new(events::END, counter, at_ns);
                event.gap_ns = gap_ns;
                out.push(event);
                self.batches.forget();
            }
            None => {}
        }
        if edge.is_some() {
            self.still.moved(sight.at_ns);
        }
        if self.batches.is_due() && self.clock.begun() {
            self.read_batch(sight, out)?;
        }
        if self.still.is_due(sight.at_ns) {
            self.read_gauges(sight.at_ns, out)?;
        }
        Ok(())
    }

    /// At a begin the step runs, so this is the moment to see where its frame lies.
    fn relearn(&mut self, sight: &Sight) -> Result<(), Trouble> {
        let running = |look: Look| look.presence != Presence::Gone;
        let needless = self.spec.step.is_empty() || sight.step.is_some_and(running);
        if needless || sight.at_ns < self.relearn_ns {
            return Ok(());
        }
        self.relearn_ns = sight.at_ns + RELEARN_NS;
        let Some(resolved) = &self.resolved else {
            return Ok(());
        };
        match (self.frames).walk(&self.objects, resolved.thread, sight.at_ns) {
            Ok(walk) => self.learn(&walk),
            Err(Trouble::Torn | Trouble::Absent) => {}
            Err(other) => return Err(other),
        }
        Ok(())
    }

    // ---- inside or not

    fn call_goes_on(&self, look: Look) -> bool {
        let resumed = self.spec.call.as_ref().is_some_and(|call| call.resumed);
        match look.presence {
            Presence::Running => true,
            Presence::Suspended => resumed,
            Presence::Gone => false,
        }
    }

    /// Whether an iteration goes on, as far as that can be told.
    fn inside(&mut self, sight: &Sight) -> Result<Option<bool>, Trouble> {
        let inside = if !self.spec.step.is_empty() {
            sight.step.map(|look| look.presence != Presence::Gone)
        } else if sight.value.is_none() {
            Some(sight.call.is_some_and(|look| self.call_goes_on(look)))
        } else {
            None
        };
        if let Some(look) = sight.step.filter(|look| look.presence != Presence::Gone) {
            self.overlap = look.overlap;
        }
        let overlap = self.overlap && self.queue.is_some();
        let inside = inside.map(|inside| goes_on(inside, overlap, sight.queued));
        let Some(object) = sight.end else {
            return Ok(inside);
        };
        let is_none = self.is_none(object)?;
        let batch = sight.holder.or(sight.step).and_then(|look| look.object);
        let no_batch = self.none != 0 && batch == Some(self.none);
        let ended = self.ended.observe(is_none, no_batch);
        Ok(Some(inside.unwrap_or(true) && !ended))
    }

    pub(super) fn is_none(&mut self, object: u64) -> Result<bool, Trouble> {
        if object == 0 || self.none != 0 {
            return Ok(object != 0 && object == self.none);
        }
        let is_none = self.objects.is_none(object)?;
        if is_none {
            self.none = object;
        }
        Ok(is_none)
    }

    // ---- calls

    /// The number of calls so far; looks around for one when none is where the last one was.
    fn count_calls(&mut self, sight: &mut Sight) -> Result<i64, Trouble> {
        let goes_on = |reader: &Reader, sight: &Sight| {
            sight.call.is_some_and(|look| reader.call_goes_on(look))
        };
        if !goes_on(self, sight) && self.calls.is_any_running() {
            // An end must be seen twice: words of two moments may have come together.
            *sight = self.observe()?;
        }
        if goes_on(self, sight) {
            let seen = self.sighting(sight)?;
            return Ok(self.calls.observe(seen));
        }
        let count = match self.call {
            Some(_) => self.calls.observe(None),
            None => 0,
        };
        let waits_as_before = sight.top == self.fruitless && sight.at_ns < self.look_around_ns;
        if waits_as_before || !self.look_around(sight)? {
            return Ok(count.max(self.calls.observe(None)));
        }
        *sight = self.observe()?;
        let seen = self.sighting(sight)?;
        Ok(self.calls.observe(seen))
    }

    fn look_around(&mut self, sight: &Sight) -> Result<bool, Trouble> {
        let Some(resolved) = &self.resolved else {
            return Ok(false);
        };
        let (thread, root) = (resolved.thread, resolved.root);
        let walk = match self.frames.walk(&self.objects, thread, sight.at_ns) {
            Ok(walk) => walk,
            Err(Trouble::Torn | Trouble::Absent) => return Ok(false),
            Err(other) => return Err(other),
        };
        if walk.root.is_none_or(|seen| seen.found != root) {
            return Ok(false);
        }
        self.learn(&walk);
        if self.learn_call(&walk) {
            self.fruitless = (0, 0);
            return Ok(true);
        }
        self.fruitless = sight.top;
        self.look_around_ns = sight.at_ns + LOOK_AROUND_NS;
        Ok(false)
    }

    /// The call that a look saw, with what tells it from others.
    fn sighting(&mut self, sight: &Sight) -> Result<Option<Sighting>, Trouble> {
        let Some(look) = sight.call.filter(|look| self.call_goes_on(*look)) else {
            return Ok(None);
        };
        let frame = self.call.as_ref().map_or(0, |place| place.frame);
        let identity = match look.object {
            _ if look.leaving => Identity::Unknown,
            Some(0) => Identity::Unset,
            Some(object) if !look.later => Identity::Is(self.content(object, sight)?),
            _ => Identity::Unknown,
        };
        Ok(Some(Sighting {
            frame,
            code: look.code,
            offset: look.offset,
            identity,
            leaving: look.leaving,
        }))
    }

    /// What tells the object in the identity's slot from others.
    fn content(&mut self, object: u64, sight: &Sight) -> Result<Content, Trouble> {
        let Some((place, local)) = self.call.as_ref().and_then(|p| Some((p, p.asked()?))) else {
            return Err(Trouble::Torn);
        };
        let thread = self.resolved.as_ref().map_or(0, |now| now.thread);
        let stack_at = thread + self.layout.thread_datastack_chunk;
        let [local_again, alive_again, code_again] = place.pieces_again(self.layout, stack_at);
        let memory = &self.objects.memory;
        if local.cell {
            let object = memory.word(object.wrapping_add(self.layout.cell_value))?;
            let mut bytes = [0; IDENTITY_BYTES];
            memory.read(object, &mut bytes)?;
            return self.objects.content(object, &bytes);
        }
        if object == self.known_identity && sight.identity.as_slice().u64_at(8) != 0 {
            return self.objects.content(object, &sight.identity);
        }
        let mut object = object;
        for _ in 0..=RETRIES {
            let mut bytes = [0; IDENTITY_BYTES + AGAIN];
            let pieces = [
                (object, IDENTITY_BYTES),
                local_again,
                alive_again,
                code_again,
            ];
            self.objects.memory.gather_all(&pieces, &mut bytes)?;
            let again = place.again(self.layout, &bytes[IDENTITY_BYTES..]);
            let again = again.ok_or(Trouble::Torn)?;
            if again == object {
                self.known_identity = object;
                return self.objects.content(object, &bytes[..IDENTITY_BYTES]);
            }
            object = again;
        }
        Err(Trouble::Torn)
    }

    /// Whether this look saw the iteration that is counted now.
    pub(super) fn is_current(&mut self, sight: &Sight, value: i64) -> Result<bool, Trouble> {
        match sight.value {
            Some(Reading::Number(number)) => Ok(number == value),
            Some(Reading::Pointer(pointer)) => Ok(pointer as i64 == value),
            None => {
                let seen = self.sighting(sight)?;
                Ok(seen.is_none_or(|seen| self.calls.is_running(&seen)))
            }
        }
    }

    /// What [`is_current`](Self::is_current) compares with.
    pub(super) fn current(&self) -> i64 {
        let counter = self.resolved.as_ref().and_then(|now| now.counter.as_ref());
        match counter {
            Some(counter) if counter.kind == CounterKind::Pointer => counter.pointer as i64,
            Some(counter) => counter.number,
            None => 0,
        }
    }

    // ---- the look itself

    /// Everything that can change, as it was in one iteration.
    pub(super) fn observe(&mut self) -> Result<Sight, Trouble> {
        for _ in 0..RETRIES {
            if let Some(sight) = self.observe_once()? {
                return Ok(sight);
            }
            self.stats.torn.fetch_add(1, Relaxed);
        }
        Err(Trouble::Torn)
    }

    /// One gather; `None` where the counter moved while it lasted.
    fn observe_once(&mut self) -> Result<Option<Sight>, Trouble> {
        let layout = self.layout;
        let resolved = self.resolved.as_ref().ok_or(Trouble::Absent)?;
        let sheet = &mut self.sheet;
        sheet.clear();
        // The number before the slot that owns it, and the guards after it: if the slot still
        // points to the number and the guards hold, all three belonged together.
        let mut counter_at = (0, 0);
        if let Some(counter) = &resolved.counter {
            let number_bytes = match counter.kind {
                CounterKind::Int => INT_BYTES,
                CounterKind::Pointer => 0,
            };
            if number_bytes > 0 {
                sheet.want(counter.pointer, number_bytes);
            }
            counter_at = (0, want_slot(sheet, &counter.slot));
        }
        let thread_at = sheet.want(resolved.thread + layout.thread_datastack_chunk, 16);
        let begun = self.clock.begun();
        let queue = self.queue.as_ref().filter(|_| begun && self.overlap);
        let queue_at = queue.map(|queue| {
            let length_at = queue.object.wrapping_add(layout.object_size as u64);
            (sheet.want(length_at, 8), want_slot(sheet, &queue.slot))
        });
        let end = self.end.as_ref().filter(|_| begun);
        let end_at = end.map(|end| want_slot(sheet, &end.slot));
        let step_at = want_place(sheet, layout, self.step.as_ref());
        let call_at = want_place(sheet, layout, self.call.as_ref());
        let identity_at = match (&self.call, self.known_identity) {
            (None, _) | (_, 0) => None,
            (Some(_), known) => Some(sheet.want(known, IDENTITY_BYTES)),
        };
        let again_at = sheet.end();
        let stack_at = resolved.thread + layout.thread_datastack_chunk;
        if let Some(place) = &self.call {
            for (address, length) in place.pieces_again(layout, stack_at) {
                sheet.want(address, length);
            }
        }
        let wants_holder = self.batches.is_due() || end.is_some();
        let mut holder = self.holder.as_mut().filter(|_| wants_holder);
        let holder_at = want_place(sheet, layout, holder.as_deref());
        // The slot once more behind the batch: both are of one iteration.
        let counter = resolved.counter.as_ref();
        let counter = counter.filter(|_| self.batches.is_due());
        let slot_again_at = counter.map(|counter| want_slot(sheet, &counter.slot));

        let before_ns = monotonic_ns();
        sheet.read(&self.objects.memory)?;
        let at_ns = before_ns + (monotonic_ns() - before_ns) / 2;

        if !sheet.is_whole(thread_at, thread_at + 16) {
            return Err(Trouble::Absent);
        }
        if let (Some(counter), Some(at)) = (counter, slot_again_at) {
            let content = |at| slot_content(sheet, &counter.slot, at);
            if content(counter_at.1) != content(at) {
                return Ok(None);
            }
        }
        let (chunk, top) = (sheet.at(thread_at).u64_at(0), sheet.at(thread_at).u64_at(8));
        let look = |place: Option<&mut Place>, at: usize| {
            place.map(|place| place.look(layout, sheet.slice(at, LOOK), chunk, top))
        };
        let step = look(self.step.as_mut(), step_at);
        let again = self.call.as_ref();
        let again = again.and_then(|place| place.again(layout, sheet.slice(again_at, AGAIN)));
        let call = look(self.call.as_mut(), call_at).map(|look| look.confirmed(again));
        let holder = look(holder.take(), holder_at);
        let mut identity = [0; IDENTITY_BYTES];
        if let Some(at) = identity_at {
            identity.copy_from_slice(sheet.slice(at, IDENTITY_BYTES));
        }
        let queued = queue_at.and_then(|(length_at, slot_at)| {
            let length = sheet.at(length_at).u64_at(0);
            follow_on(&mut self.queue, sheet, slot_at).then_some(length)
        });
        let end = end_at.and_then(|at| {
            follow_on(&mut self.end, sheet, at);
            self.end.as_ref().map(|end| end.object)
        });
        let value = self.counter_value(counter_at.1)?;
        let lost = (queue_at.is_some() && self.queue.is_none())
            || (end_at.is_some() && self.end.is_none());
        if lost && at_ns >= self.follow_again_ns {
            self.follow()?;
        }
        Ok(Some(Sight {
            at_ns,
            value,
            step,
            call,
            holder,
            queued,
            end,
            top: (chunk, top),
            identity,
        }))
    }

    fn counter_value(&mut self, slot_at: usize) -> Result<Option<Reading>, Trouble> {
        let sheet = &self.sheet;
        let resolved = self.resolved.as_mut().ok_or(Trouble::Absent)?;
        let Some(counter) = &mut resolved.counter else {
            return Ok(None);
        };
        let pointer = match slot_content(sheet, &counter.slot, slot_at) {
            None | Some(0) => return Err(Trouble::Absent),
            Some(pointer) => pointer,
        };
        if counter.kind == CounterKind::Pointer {
            counter.pointer = pointer;
            return Ok(Some(Reading::Pointer(pointer)));
        }
        let bytes = sheet.slice(0, INT_BYTES);
        let same = pointer == counter.pointer && bytes.u64_at(8) != 0;
        let number = if same {
            self.objects.decode_int(pointer, bytes)
        } else {
            Err(Trouble::Torn)
        };
        if number != Ok(counter.number) {
            let found = number_behind(&mut self.objects, &self.stats, &counter.slot, pointer)?;
            (counter.pointer, counter.number) = found;
        }
        Ok(Some(Reading::Number(counter.number)))
    }

    /// The look at the frame that has the batch.
    pub(super) fn batch_look(&self, sight: &Sight) -> Option<Look> {
        match self.spec.batch.as_ref()?.frame {
            Holder::Step => sight.step,
            Holder::Root | Holder::Call => sight.holder,
        }
    }
}

/// Takes in what a followed slot holds; `false` when it is another object now, or another slot.
fn follow_on(followed: &mut Option<Followed>, sheet: &Sheet, at: usize) -> bool {
    let Some(known) = followed else { return false };
    match slot_content(sheet, &known.slot, at) {
        None | Some(0) => {
            *followed = None;
            false
        }
        Some(object) => std::mem::replace(&mut known.object, object) == object,
    }
}

/// The number behind a slot that has changed; the slot, and what keeps it, is read again after the
/// number.
fn number_behind(
    objects: &mut Objects<Lookahead<ProcessMemory>>,
    stats: &Stats,
    slot: &Slot,
    first: u64,
) -> Result<(u64, i64), Trouble> {
    let mut pointer = first;
    let mut pieces = vec![(first, INT_BYTES), (slot.address, 8)];
    pieces.extend(slot.guards.iter().map(|guard| (guard.address, 8)));
    pieces.push((slot.address, 8));
    let mut bytes = vec![0; INT_BYTES + 8 * (pieces.len() - 1)];
    for _ in 0..=RETRIES {
        pieces[0].0 = pointer;
        match objects.memory.gather_all(&pieces, &mut bytes) {
            Ok(()) => {
                let words = &bytes[INT_BYTES..];
                let mut guards = slot.guards.iter().enumerate();
                if !guards.all(|(index, guard)| guard.holds(words.u64_at(8 + 8 * index))) {
                    return Err(Trouble::Absent);
                }
                let again = words.u64_at(words.len() - 8);
                if [words.u64_at(0), again] == [pointer; 2] {
                    match objects.decode_int(pointer, &bytes[..INT_BYTES]) {
                        // Still the slot's content, and not a number: not our slot any more.
                        Err(Trouble::Torn | Trouble::Absent) => return Err(Trouble::Absent),
                        Err(other) => return Err(other),
                        Ok(number) => return Ok((pointer, number)),
                    }
                }
                pointer = again;
            }
            Err(Trouble::Torn) => pointer = objects.memory.word(slot.address)?,
            Err(other) => return Err(other),
        }
        stats.torn.fetch_add(1, Relaxed);
        if pointer == 0 {
            return Err(Trouble::Absent);
        }
    }
    Err(Trouble::Torn)
}
