//! The fields of a batch and the gauges, read once per iteration.

use std::sync::atomic::Ordering::Relaxed;

use crate::events::{self, Event};
use crate::frames::Local;
use crate::memory::{Memory, Trouble};
use crate::places::{Look, Place};
use crate::spec::{Field, Holder, Path, Reduce, Spec};

use super::poll::Sight;
use super::Reader;

/// Attempts at one batch before fields that stay unreadable are given up.
const BATCH_ATTEMPTS: u32 = 5;
/// Locals that are assigned after the batch are waited for so long.
const LOCALS_WAIT_NS: u64 = 5_000_000;
/// More steps than any path takes.
const MAX_ROUNDS: usize = 64;

/// Fields that share a path, and where their results go in the payload.
struct Group {
    path: Path,
    /// Another local than the batch, by its position in [`Spec::other_locals`].
    other: Option<usize>,
    reductions: Vec<Reduce>,
    positions: Vec<usize>,
    /// Names of an enum's members.
    values: Vec<String>,
}

/// What is due, and what is known of the current iteration's batch.
pub struct Batches {
    fields: Vec<Group>,
    gauges: Vec<Group>,
    payload_words: usize,
    wanted: bool,
    due: bool,
    attempts: u32,
    begin_ns: u64,
    /// Read while a local was not assigned yet: sent if the iteration ends like this.
    partial: Option<Event>,
    /// The last batch sent: its iteration and its address.
    last: (i64, u64),
}

impl Batches {
    pub fn new(spec: &Spec) -> Self {
        let fields = spec.batch.iter().flat_map(|batch| &batch.fields);
        let field_count = fields.clone().count();
        let others = spec.other_locals();
        Batches {
            fields: group(fields, &others, 0),
            gauges: group(spec.gauges.iter(), &others, field_count),
            payload_words: field_count + spec.gauges.len(),
            wanted: spec.batch.is_some(),
            due: false,
            attempts: 0,
            begin_ns: 0,
            partial: None,
            last: (i64::MIN, 0),
        }
    }

    pub fn begin(&mut self, at_ns: u64) {
        self.due = self.wanted;
        self.attempts = 0;
        self.begin_ns = at_ns;
    }

    pub fn is_due(&self) -> bool {
        self.due
    }

    /// How many gauges there are.
    pub fn gauge_words(&self) -> usize {
        self.gauges.iter().map(|group| group.positions.len()).sum()
    }

    /// The iteration is over: what there is must do.
    pub fn flush(&mut self, out: &mut Vec<Event>) {
        out.extend(self.partial.take());
    }

    pub fn forget(&mut self) {
        self.due = false;
        self.partial = None;
    }
}

fn group<'f>(
    fields: impl Iterator<Item = &'f Field>,
    others: &[String],
    first: usize,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (index, field) in fields.enumerate() {
        let position = first + index;
        let named = |name: &String| others.iter().position(|other| other == name);
        let other = field.local.as_ref().and_then(named);
        let alike = |group: &&mut Group| {
            let enums = !group.values.is_empty() || !field.values.is_empty();
            group.path == field.path && group.other == other && !enums
        };
        match groups.iter_mut().find(alike) {
            Some(group) => {
                group.reductions.push(field.reduce);
                group.positions.push(position);
            }
            None => groups.push(Group {
                path: field.path.clone(),
                other,
                reductions: vec![field.reduce],
                positions: vec![position],
                values: field.values.clone(),
            }),
        }
    }
    groups
}

/// Where the locals of a batch's frame are.
struct Frame {
    place: Place,
    others: Vec<Option<Local>>,
}

/// A payload, and whether all locals that the frame has were assigned.
struct Payload {
    batch: u64,
    words: Vec<i64>,
    complete: bool,
}

impl Reader {
    /// The current iteration's batch object, as far as this look shows it.
    fn batch_object(&mut self, look: Look) -> Result<u64, Trouble> {
        let place = match self.spec.batch.as_ref().map(|batch| batch.frame) {
            Some(Holder::Step) => self.step.as_ref(),
            _ => self.holder.as_ref(),
        };
        let local = place.and_then(|place| place.asked());
        let mut object = look.object.filter(|at| *at != 0).ok_or(Trouble::Absent)?;
        if local.is_some_and(|local| local.cell) {
            let at = object.wrapping_add(self.layout.cell_value);
            object = self.objects.memory.word(at)?;
        }
        if !look.later {
            return if object == 0 {
                Err(Trouble::Absent)
            } else {
                Ok(object)
            };
        }
        let own = self.resolved.as_ref().map_or(0, |resolved| resolved.own);
        let path = self.spec.queued().cloned().ok_or(Trouble::Absent)?;
        let newest = match &self.queue {
            Some(queue) => self.objects.newest(queue.object, &[], object)?,
            None => self.objects.newest(own, &path.steps, object)?,
        };
        // Still the batch before, so this iteration's has not been added yet.
        let before = (self.clock.counter().wrapping_sub(1), newest);
        if newest == object || before == self.batches.last {
            return Err(Trouble::Absent);
        }
        Ok(newest)
    }

    fn batch_frame(&self, look: Look) -> Option<Frame> {
        let place = match self.spec.batch.as_ref()?.frame {
            Holder::Step => self.step.as_ref()?,
            Holder::Root | Holder::Call => self.holder.as_ref()?,
        };
        Some(Frame {
            others: place.code(look.code)?.others.clone(),
            place: place.clone(),
        })
    }

    /// The batch with all fields and gauges; `Torn` when the attempt should be repeated.
    ///
    /// `Absent` when there is no batch yet, or only None.
    fn read_fields(&mut self, look: Look, frame: &Frame) -> Result<Payload, Trouble> {
        self.ahead(|reader| reader.try_fields(look, frame))
    }

    /// Repeats what reads until all that it lacks was fetched; `Torn` if any of it has changed.
    fn ahead<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        self.objects.memory.start();
        let mut outcome = Err(Trouble::Torn);
        for _ in 0..MAX_ROUNDS {
            outcome = read(self);
            match self.objects.memory.fetch() {
                Ok(true) => {}
                Ok(false) => break,
                Err(trouble) => {
                    outcome = Err(trouble);
                    break;
                }
            }
        }
        // Not all of it was read at once, and the engine may have put something else there.
        if outcome.is_ok() && !self.objects.memory.is_unchanged()? {
            outcome = Err(Trouble::Torn);
        }
        self.objects.memory.stop();
        outcome
    }

    /// One round: every group is tried, so that what they all lack is fetched together.
    fn try_fields(&mut self, look: Look, frame: &Frame) -> Result<Payload, Trouble> {
        let own = self.resolved.as_ref().map_or(0, |resolved| resolved.own);
        let last_attempt = self.batches.attempts >= BATCH_ATTEMPTS;
        let batch = self.batch_object(look).and_then(|batch| {
            if self.is_none(batch)? {
                Err(Trouble::Absent)
            } else {
                Ok(batch)
            }
        });
        let mut payload = Payload {
            batch: batch.unwrap_or(0),
            words: vec![events::UNKNOWN; self.batches.payload_words],
            complete: true,
        };
        let mut outcome = batch.map(|_| ());
        let groups = self.batches.fields.iter().chain(&self.batches.gauges);
        let gauges_from = self.batches.fields.len();
        for (index, group) in groups.enumerate() {
            let start = match group.other {
                _ if index >= gauges_from => Ok(own),
                None => batch,
                Some(other) => match frame.others.get(other) {
                    Some(Some(local)) => local_object(&self.objects, &frame.place, *local),
                    _ => Err(Trouble::Absent),
                },
            };
            if start == Ok(0) && index < gauges_from {
                payload.complete = false;
                continue;
            }
            let values = start.and_then(|start| group.read(&mut self.objects, start));
            match values {
                Ok(values) => {
                    for (position, value) in group.positions.iter().zip(values) {
                        payload.words[*position] = value;
                    }
                }
                Err(Trouble::Absent) => {}
                Err(Trouble::Torn) if last_attempt => {}
                Err(trouble) => outcome = outcome.and(Err(trouble)),
            }
        }
        outcome.map(|()| payload)
    }

    /// The gauges by themselves, while no iteration begins or ends.
    pub(super) fn gauges(&mut self) -> Result<Vec<i64>, Trouble> {
        self.ahead(Self::try_gauges)
    }

    fn try_gauges(&mut self) -> Result<Vec<i64>, Trouble> {
        let own = self.resolved.as_ref().map_or(0, |resolved| resolved.own);
        let words = self.batches.gauge_words();
        let first = self.batches.payload_words - words;
        let mut found = vec![events::UNKNOWN; words];
        let mut outcome = Ok(());
        for group in &self.batches.gauges {
            match group.read(&mut self.objects, own) {
                Ok(values) => {
                    for (position, value) in group.positions.iter().zip(values) {
                        found[*position - first] = value;
                    }
                }
                Err(Trouble::Absent) => {}
                Err(trouble) => outcome = outcome.and(Err(trouble)),
            }
        }
        outcome.map(|()| found)
    }

    pub(super) fn read_batch(&mut self, sight: Sight, out: &mut Vec<Event>) -> Result<(), Trouble> {
        let lasting = |trouble: Trouble| matches!(trouble, Trouble::Gone | Trouble::Refused);
        let (current, at_ns) = (self.current(), sight.at_ns);
        let look = match self.batch_look(&sight) {
            Some(look) => Some(look),
            // Not asked for before the begin was seen.
            None if self.holder.is_some() => {
                let again = self.observe()?;
                let same = self.is_current(&again, current)?;
                self.batch_look(&again).filter(|_| same)
            }
            None => None,
        };
        let Some(look) = look.filter(|look| look.object.unwrap_or(0) != 0) else {
            return Ok(());
        };
        let Some(frame) = self.batch_frame(look) else {
            return Ok(());
        };
        self.stats.batch_reads.fetch_add(1, Relaxed);
        self.batches.attempts += 1;
        match self.read_and_confirm(look, &frame, current) {
            Ok(payload) => {
                self.keep(at_ns, payload, out);
                Ok(())
            }
            Err(trouble) if lasting(trouble) => Err(trouble),
            Err(Trouble::Absent) => {
                // Not there yet, which is no attempt.
                self.stats.batch_reads.fetch_sub(1, Relaxed);
                self.batches.attempts -= 1;
                Ok(())
            }
            Err(_) => {
                self.stats.batch_failures.fetch_add(1, Relaxed);
                Ok(())
            }
        }
    }

    /// The same iteration and the same object before and after: it lived all the time.
    fn read_and_confirm(
        &mut self,
        look: Look,
        frame: &Frame,
        current: i64,
    ) -> Result<Payload, Trouble> {
        let payload = self.read_fields(look, frame)?;
        let again = self.observe()?;
        let now = self.batch_look(&again).ok_or(Trouble::Torn)?;
        let same = now.object == look.object && now.later == look.later;
        if !same || !self.is_current(&again, current)? {
            return Err(Trouble::Torn);
        }
        // A cell stays while what it holds is replaced.
        if frame.place.asked().is_some_and(|local| local.cell)
            && self.batch_object(now)? != payload.batch
        {
            return Err(Trouble::Torn);
        }
        Ok(payload)
    }

    /// Sends the batch, or keeps it while a local may still be assigned.
    fn keep(&mut self, at_ns: u64, payload: Payload, out: &mut Vec<Event>) {
        let counter = self.clock.counter();
        let mut event = Event::new(events::BATCH, counter, at_ns);
        event.payload = payload.words;
        let batches = &mut self.batches;
        batches.last = (counter, payload.batch);
        if payload.complete || at_ns.saturating_sub(batches.begin_ns) > LOCALS_WAIT_NS {
            batches.partial = None;
            batches.due = false;
            out.push(event);
        } else {
            batches.attempts = 0;
            batches.partial = Some(event);
        }
    }
}

/// The object that a local is, 0 before it is assigned.
fn local_object<M: Memory>(
    objects: &crate::objects::Objects<M>,
    place: &Place,
    local: Local,
) -> Result<u64, Trouble> {
    let layout = objects.layout;
    let word = objects.memory.word(place.local_at(layout, local))?;
    match layout.referent(word) {
        0 => Ok(0),
        cell if local.cell => objects.memory.word(cell.wrapping_add(layout.cell_value)),
        object => Ok(object),
    }
}

impl Group {
    fn read<M: Memory>(
        &self,
        objects: &mut crate::objects::Objects<M>,
        start: u64,
    ) -> Result<Vec<i64>, Trouble> {
        if self.values.is_empty() {
            return objects.reduce(start, &self.path, &self.reductions);
        }
        let index = objects.member_index(start, &self.path, &self.values)?;
        Ok(vec![index])
    }
}
