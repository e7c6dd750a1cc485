//! One whole look at an engine, as the reader takes it: stack, counter, batch, and both again.

use super::memory::Arena;
use super::path;
use crate::events::UNKNOWN;
use crate::frames::{Found, Frames};
use crate::lookahead::Lookahead;
use crate::memory::{Fields, Memory, Trouble};
use crate::objects::{Objects, Slot, INT_BYTES};
use crate::spec::Reduce;

pub const SPEC: &str = r#"{
    "root": [{"file": "engine/core.py", "function": "EngineCoreProc.run_busy_loop"}],
    "step": [{"file": "engine/core.py", "function": "EngineCore.step"}],
    "counter": [{"path": "scheduler.current_step", "kind": "int"}],
    "batch": {"local": "scheduler_output", "fields": [
        {"name": "scheduled_tokens", "path": "total_num_scheduled_tokens", "reduce": "int"}]},
    "phases": [{"phase": "forward", "file": "engine/core.py", "function": "Executor.execute"}]
}"#;

/// Fields of a batch that share a path.
const FIELDS: [(&str, &[Reduce]); 7] = [
    ("total_num_scheduled_tokens", &[Reduce::Int]),
    (
        "num_scheduled_tokens",
        &[
            Reduce::Len,
            Reduce::Sum,
            Reduce::SumAboveOne,
            Reduce::CountOne,
        ],
    ),
    (
        "scheduled_new_reqs[].num_computed_tokens",
        &[Reduce::Len, Reduce::Sum],
    ),
    (
        "scheduled_cached_reqs.num_computed_tokens",
        &[Reduce::Sum, Reduce::Max],
    ),
    ("entries[].tokens", &[Reduce::Sum]),
    ("positions", &[Reduce::Len, Reduce::Max]),
    ("queue", &[Reduce::Len]),
];
/// Those that vLLM's map has checks for.
const COVERED: usize = 5;

/// A count, and the numbers of its batch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    pub number: i64,
    pub payload: Vec<i64>,
}

impl Seen {
    pub fn covered(&self) -> &[i64] {
        &self.payload[..COVERED]
    }
}

/// The checks of `collectors/engines/vllm.toml`; what is unknown is no value.
pub fn is_consistent(payload: &[i64]) -> bool {
    let [total, requests, sum, prefill, decode] = payload[..COVERED] else {
        return false;
    };
    !payload[..COVERED].contains(&UNKNOWN)
        && total == sum
        && prefill.checked_add(decode) == Some(total)
        && requests >= 0
        && requests <= total
}

type World<'a> = Objects<Lookahead<&'a Arena>>;

/// The frames of the root and of the step, and the thread's root object.
struct Stack {
    own: u64,
    local_at: u64,
}

pub fn look(
    objects: &mut World,
    frames: &mut Frames,
    interpreter: u64,
    now_ns: u64,
) -> Result<Seen, Trouble> {
    let stack = stack(objects, frames, interpreter, now_ns)?;
    let steps = path("scheduler.current_step").steps;
    let slot = objects.resolve(stack.own, &steps)?;
    let (number, batch) = observe(objects, &slot, stack.local_at)?;
    let payload = payload(objects, batch)?;
    // The same iteration and the same object before and after.
    match observe(objects, &slot, stack.local_at)? {
        same if same == (number, batch) => Ok(Seen { number, payload }),
        _ => Err(Trouble::Torn),
    }
}

fn stack(
    objects: &mut World,
    frames: &mut Frames,
    interpreter: u64,
    now_ns: u64,
) -> Result<Stack, Trouble> {
    for thread in Frames::threads(objects, interpreter)? {
        let Ok(walk) = frames.walk(objects, thread, now_ns) else {
            continue;
        };
        let (Some(root), Some(step)) = (walk.root, walk.step) else {
            continue;
        };
        let code = frames.code(objects, root.found.code, now_ns)?;
        let own_at = slot_of(objects, root.found, code.own.ok_or(Trouble::Absent)?.index);
        let code = frames.code(objects, step.found.code, now_ns)?;
        let index = code.batch.ok_or(Trouble::Absent)?.index;
        return Ok(Stack {
            own: local(objects, own_at)?,
            local_at: slot_of(objects, step.found, index),
        });
    }
    Err(Trouble::Absent)
}

fn slot_of(objects: &World, found: Found, index: u64) -> u64 {
    found.frame + objects.layout.frame_locals as u64 + 8 * index
}

fn local(objects: &World, at: u64) -> Result<u64, Trouble> {
    match objects.layout.referent(objects.memory.word(at)?) {
        0 => Err(Trouble::Absent),
        object => Ok(object),
    }
}

/// The number first, then the slot that owns it with what keeps it, the batch, the slot again.
fn observe(objects: &mut World, slot: &Slot, local_at: u64) -> Result<(i64, u64), Trouble> {
    let pointer = objects.memory.word(slot.address)?;
    let mut owner = vec![(slot.address, 8)];
    owner.extend(slot.guards.iter().map(|guard| (guard.address, 8)));
    let mut pieces = vec![(pointer, INT_BYTES)];
    pieces.extend(&owner);
    pieces.push((local_at, 8));
    pieces.extend(&owner);
    let mut bytes = vec![0; INT_BYTES + 8 * (pieces.len() - 1)];
    objects.memory.gather_all(&pieces, &mut bytes)?;
    let local = INT_BYTES + 8 * owner.len();
    let kept = |from: usize| {
        let mut guards = slot.guards.iter().enumerate();
        bytes.u64_at(from) == pointer
            && guards.all(|(index, guard)| guard.holds(bytes.u64_at(from + 8 + 8 * index)))
    };
    if !kept(INT_BYTES) || !kept(local + 8) {
        return Err(Trouble::Torn);
    }
    let number = objects.decode_int(pointer, &bytes[..INT_BYTES])?;
    match objects.layout.referent(bytes.u64_at(local)) {
        0 => Err(Trouble::Absent),
        batch => Ok((number, batch)),
    }
}

fn payload(objects: &mut World, batch: u64) -> Result<Vec<i64>, Trouble> {
    objects.memory.start();
    let mut outcome = Err(Trouble::Torn);
    for _ in 0..32 {
        let mut values = Ok(Vec::new());
        for (text, reductions) in FIELDS {
            let read = objects.reduce(batch, &path(text), reductions);
            values = match (values, read) {
                (Ok(mut all), Ok(read)) => {
                    all.extend(read);
                    Ok(all)
                }
                (Err(trouble), _) | (_, Err(trouble)) => Err(trouble),
            };
        }
        outcome = values;
        match objects.memory.fetch() {
            Ok(true) => {}
            Ok(false) => break,
            Err(trouble) => {
                outcome = Err(trouble);
                break;
            }
        }
    }
    objects.memory.stop();
    outcome
}
