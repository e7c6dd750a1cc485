//! Stacks: threads, frames, and what each code object means to the spec.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::layout::{self, Bytecode, Layout, FRAME_HEAD_MOST};
use crate::memory::{Fields, Memory, Trouble};
use crate::objects::Objects;
use crate::spec::{Holder, Spec};

const MAX_FRAMES: usize = 512;
const MAX_THREADS: usize = 4096;
const MAX_TEXT: usize = 4096;
const MAX_LOCALS: usize = 4096;
const MAX_CODE_UNITS: usize = 1 << 16;
const MAX_CODES: usize = 1 << 16;
const MAX_CHUNK: u64 = 1 << 20;
const CODE_HEAD: usize = 144;
/// A code object may be freed and another one put at its address.
const RECHECK_NS: u64 = 2_000_000_000;

/// Where a local lives in a frame, and between which instructions it is the current batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    pub index: u64,
    /// Captured by an inner function: one more pointer to follow.
    pub cell: bool,
    /// Instruction offsets in bytes: after the first assignment, before the second. Overlapped
    /// engines assign an older batch to the same local later in the function.
    pub from: u64,
    pub until: u64,
}

/// What a code object means to the spec.
#[derive(Debug, Clone)]
pub struct Code {
    pub address: u64,
    pub root: bool,
    pub step: bool,
    pub phase: Option<i64>,
    /// A step function that returns right after launching.
    pub overlap: bool,
    /// One call of it is one iteration.
    pub call: bool,
    /// `self` of a root function.
    pub own: Option<Local>,
    /// The batch, where it is a local of this function.
    pub batch: Option<Local>,
    /// The locals that fields take besides the batch, in the order of the spec.
    pub others: Vec<Option<Local>>,
    /// What tells the calls of a call function apart.
    pub identity: Option<Local>,
    /// Where a call function returns: offsets in bytes, in order.
    pub returns: Vec<u64>,
    /// Of the qualified name, to compare stacks by.
    pub name_hash: u64,
    first_line: u32,
    qualname_at: u64,
    checked_ns: u64,
}

#[cfg(test)]
impl Code {
    /// A step function with a batch.
    pub fn for_tests(address: u64, batch: Local) -> Self {
        Code {
            address,
            root: false,
            step: true,
            overlap: false,
            call: false,
            phase: None,
            own: None,
            batch: Some(batch),
            others: Vec::new(),
            identity: None,
            returns: Vec::new(),
            name_hash: 0,
            first_line: 1,
            qualname_at: 1,
            checked_ns: 0,
        }
    }
}

/// A frame that matters, by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub frame: u64,
    pub code: u64,
}

/// A frame with what is needed to find it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub found: Found,
    pub caller: Option<Found>,
    pub in_chunk: bool,
    /// It lies in a coroutine or generator, not on the data stack.
    pub coroutine: bool,
}

/// One look at a stack, from the leaf down to the root function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Walk {
    pub root: Option<Seen>,
    /// The outermost one, should a step function call another; calls likewise.
    pub step: Option<Seen>,
    pub call: Option<Seen>,
    /// The data-stack chunk that was on top.
    pub chunk: u64,
    /// Index of the phase function nearest to the leaf.
    pub phase: Option<i64>,
}

impl Walk {
    /// The caller of what was found last is known only one frame later.
    fn set_caller(&mut self, of: u64, caller: Found) {
        for seen in [&mut self.step, &mut self.call].into_iter().flatten() {
            if seen.found.frame == of {
                seen.caller = Some(caller);
            }
        }
    }
}

pub struct Frames {
    spec: Spec,
    codes: HashMap<u64, Code>,
    code_type: u64,
    chunk: Vec<u8>,
    /// Hashes of the function names of the last walk, leaf first.
    pub trail: Vec<u64>,
}

impl Frames {
    pub fn new(spec: Spec) -> Self {
        Frames {
            spec,
            codes: HashMap::new(),
            code_type: 0,
            chunk: Vec::new(),
            trail: Vec::new(),
        }
    }

    pub fn forget(&mut self) {
        self.codes.clear();
    }

    /// All thread states of an interpreter.
    pub fn threads<M: Memory>(objects: &Objects<M>, interpreter: u64) -> Result<Vec<u64>, Trouble> {
        let layout = objects.layout;
        let mut threads = Vec::new();
        let mut at = interpreter.wrapping_add(layout.interpreter_threads_head);
        while threads.len() < MAX_THREADS {
            let next = objects.memory.word(at)?;
            if next == 0 {
                break;
            }
            // A thread that ended meanwhile may lead back.
            if threads.contains(&next) {
                return Err(Trouble::Torn);
            }
            threads.push(next);
            at = next.wrapping_add(layout.thread_next);
        }
        Ok(threads)
    }

    /// Walks one thread's stack; frames are copied in one read where they lie in one chunk.
    pub fn walk<M: Memory>(
        &mut self,
        objects: &Objects<M>,
        thread: u64,
        now_ns: u64,
    ) -> Result<Walk, Trouble> {
        let layout = objects.layout;
        let memory = &objects.memory;
        let mut words = [0; 24];
        memory.gather_all(
            &[
                (thread.wrapping_add(layout.thread_frame), 8),
                (thread.wrapping_add(layout.thread_datastack_chunk), 16),
            ],
            &mut words,
        )?;
        let (holder, chunk, top) = (words.u64_at(0), words.u64_at(8), words.u64_at(16));
        let used = match top.checked_sub(chunk) {
            Some(used) if chunk != 0 && used <= MAX_CHUNK => used as usize,
            _ => 0,
        };
        let mut copy = std::mem::take(&mut self.chunk);
        copy.resize(8 + used, 0);
        let at = match layout.cframe_current_frame {
            Some(offset) => holder.wrapping_add(offset),
            None => thread.wrapping_add(layout.thread_frame),
        };
        let walk = memory
            .gather_all(
                &[(at, 8), (chunk, used)][..1 + usize::from(used > 0)],
                &mut copy,
            )
            .and_then(|()| {
                let current = copy.u64_at(0);
                self.walk_copy(objects, current, chunk, &copy[8..], now_ns)
            });
        self.chunk = copy;
        walk
    }

    fn walk_copy<M: Memory>(
        &mut self,
        objects: &Objects<M>,
        current: u64,
        chunk: u64,
        copy: &[u8],
        now_ns: u64,
    ) -> Result<Walk, Trouble> {
        let layout = objects.layout;
        let mut walk = Walk {
            chunk,
            ..Walk::default()
        };
        let mut frame = current;
        let mut callee = 0;
        self.trail.clear();
        for _ in 0..MAX_FRAMES {
            if frame == 0 {
                return Ok(walk);
            }
            let mut single = [0; FRAME_HEAD_MOST];
            let inside = frame.checked_sub(chunk).and_then(|from| {
                copy.get(from as usize..(from as usize).checked_add(layout.frame_locals)?)
            });
            let head = match inside {
                Some(head) => head,
                // A generator's frame, one in an older chunk, or one on the C stack.
                None => {
                    let single = &mut single[..layout.frame_locals];
                    objects.memory.read(frame, single)?;
                    &*single
                }
            };
            let found = Found {
                frame,
                code: layout.referent(head.u64_at(layout.frame_code)),
            };
            walk.set_caller(callee, found);
            callee = frame;
            if head[layout.frame_owner] >= layout::FRAME_OF_INTERPRETER {
                frame = head.u64_at(layout.frame_previous);
                continue;
            }
            let code = self.code(objects, found.code, now_ns)?;
            if walk.phase.is_none() {
                walk.phase = code.phase;
            }
            let seen = Some(Seen {
                found,
                caller: None,
                in_chunk: inside.is_some(),
                coroutine: head[layout.frame_owner] == layout::FRAME_OF_GENERATOR,
            });
            if code.step {
                walk.step = seen;
            }
            if code.call {
                walk.call = seen;
            }
            if code.root {
                walk.root = seen;
            }
            let name_hash = code.name_hash;
            self.trail.push(name_hash);
            if walk.root.is_some() {
                return Ok(walk);
            }
            frame = head.u64_at(layout.frame_previous);
        }
        Err(Trouble::Torn)
    }

    /// What the code object at `address` means; read once, and checked again now and then.
    pub fn code<M: Memory>(
        &mut self,
        objects: &Objects<M>,
        address: u64,
        now_ns: u64,
    ) -> Result<&Code, Trouble> {
        let fresh = match self.codes.get(&address) {
            Some(code) if now_ns.saturating_sub(code.checked_ns) < RECHECK_NS => true,
            Some(_) => self.still_the_same(objects, address, now_ns),
            None => false,
        };
        if !fresh {
            let code = self.load(objects, address, now_ns)?;
            if self.codes.len() >= MAX_CODES {
                self.codes.clear();
            }
            self.codes.insert(address, code);
        }
        self.codes.get(&address).ok_or(Trouble::Torn)
    }

    fn still_the_same<M: Memory>(
        &mut self,
        objects: &Objects<M>,
        address: u64,
        now_ns: u64,
    ) -> bool {
        let layout = objects.layout;
        let mut head = [0; CODE_HEAD];
        if objects.memory.read(address, &mut head).is_err() {
            return false;
        }
        match self.codes.get_mut(&address) {
            Some(code) => {
                code.checked_ns = now_ns;
                head.u64_at(layout.object_type) == self.code_type
                    && head.u32_at(layout.code_first_line) == code.first_line
                    && head.u64_at(layout.code_qualname) == code.qualname_at
            }
            None => false,
        }
    }

    fn load<M: Memory>(
        &mut self,
        objects: &Objects<M>,
        address: u64,
        now_ns: u64,
    ) -> Result<Code, Trouble> {
        let layout = objects.layout;
        let memory = &objects.memory;
        let mut head = [0; CODE_HEAD];
        memory.read(address, &mut head)?;
        self.check_type(objects, head.u64_at(layout.object_type))?;
        let qualname_at = head.u64_at(layout.code_qualname);
        let qualname = text(memory, layout, qualname_at)?;
        let filename = text(memory, layout, head.u64_at(layout.code_filename))?;
        let is_any = |functions: &[crate::spec::Function]| {
            functions.iter().any(|f| f.matches(&filename, &qualname))
        };
        let root = is_any(&self.spec.root);
        let is_step = |step: &&crate::spec::Step| step.matches(&filename, &qualname);
        let step = self.spec.step.iter().find(is_step);
        let call = (self.spec.call.iter()).any(|call| is_any(&call.functions));
        let is_phase = |phase: &crate::spec::Phase| phase.matches(&filename, &qualname);
        let phase = self.spec.phases.iter().position(is_phase);
        let find = |name: &str| local(memory, layout, address, &head, name);
        let own = if root { find("self")? } else { None };
        let batch = self.spec.batch.as_ref().filter(|batch| match batch.frame {
            Holder::Step => step.is_some(),
            Holder::Root => root,
            Holder::Call => call,
        });
        let mut identity = None;
        for name in (self.spec.call.iter()).flat_map(|call| &call.identity) {
            if call && identity.is_none() {
                identity = find(name)?;
            }
        }
        let returns = match call {
            true => returns(layout.bytecode, &bytecode(memory, layout, address)?),
            false => Vec::new(),
        };
        let others = match batch {
            Some(_) => (self.spec.other_locals().iter())
                .map(|name| Ok(find(name)?.map(anywhere)))
                .collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        Ok(Code {
            address,
            root,
            step: step.is_some(),
            overlap: step.is_some_and(|step| step.overlap),
            call,
            phase: phase.map(|index| index as i64),
            own,
            // A loop goes through its assignments again and again: their order says nothing.
            batch: match batch {
                Some(batch) if root => find(&batch.local)?.map(anywhere),
                Some(batch) => find(&batch.local)?,
                None => None,
            },
            others,
            identity,
            returns,
            name_hash: hash_of(&qualname),
            first_line: head.u32_at(layout.code_first_line),
            qualname_at,
            checked_ns: now_ns,
        })
    }

    /// The type of all code objects, known by its name the first time.
    fn check_type<M: Memory>(&mut self, objects: &Objects<M>, class: u64) -> Result<(), Trouble> {
        if self.code_type == 0 {
            let at = class.wrapping_add(objects.layout.type_name as u64);
            let mut name = [0; 5];
            let name_at = objects.memory.word(at)?;
            objects.memory.read(name_at, &mut name)?;
            if &name == b"code\0" {
                self.code_type = class;
            }
        }
        if self.code_type == class && class != 0 {
            Ok(())
        } else {
            Err(Trouble::Torn)
        }
    }
}

/// A text object: names of code objects and of their variables only.
fn text<M: Memory>(memory: &M, layout: &Layout, address: u64) -> Result<String, Trouble> {
    let mut head = [0; 48];
    memory.read(address, &mut head)?;
    let length = head.u64_at(layout.text_length) as usize;
    let state = head.u32_at(layout.text_state);
    let (kind, compact, ascii) = (state >> 2 & 7, state >> 5 & 1, state >> 6 & 1);
    if length > MAX_TEXT || compact == 0 {
        return Err(Trouble::Torn);
    }
    let width = match kind {
        1 | 2 | 4 => kind as usize,
        _ => return Err(Trouble::Torn),
    };
    let start = if ascii == 1 {
        layout.text_ascii_data
    } else {
        layout.text_other_data
    };
    let mut bytes = vec![0; length * width];
    memory.read(address.wrapping_add(start), &mut bytes)?;
    bytes
        .chunks_exact(width)
        .map(|unit| {
            let mut wide = [0; 4];
            wide[..width].copy_from_slice(unit);
            char::from_u32(u32::from_le_bytes(wide)).ok_or(Trouble::Torn)
        })
        .collect()
}

/// The local wherever the function is.
fn anywhere(local: Local) -> Local {
    Local {
        from: 0,
        until: u64::MAX,
        ..local
    }
}

/// Names are compared by their hashes, so that none has to be kept.
pub fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Finds a local variable of a code object by name.
fn local<M: Memory>(
    memory: &M,
    layout: &Layout,
    code: u64,
    head: &[u8],
    name: &str,
) -> Result<Option<Local>, Trouble> {
    let count = head.u32_at(layout.code_nlocalsplus) as usize;
    if count > MAX_LOCALS {
        return Err(Trouble::Torn);
    }
    let mut pointers = vec![0; count * 8];
    let names = head.u64_at(layout.code_localsplusnames);
    memory.read(names.wrapping_add(layout.tuple_items), &mut pointers)?;
    let mut kinds = vec![0; count];
    let kinds_at = head.u64_at(layout.code_localspluskinds);
    memory.read(kinds_at.wrapping_add(layout.bytes_data), &mut kinds)?;
    for (index, kind) in kinds.iter().enumerate() {
        if text(memory, layout, pointers.u64_at(index * 8))? != name {
            continue;
        }
        let cell = kind & layout::LOCAL_IS_CELL != 0;
        let bytecode = bytecode(memory, layout, code)?;
        let stores = stores(layout.bytecode, &bytecode, index, cell);
        let argument = index < head.u32_at(layout.code_argcount) as usize;
        let (from, until) = if argument {
            (0, stores.first().copied())
        } else {
            (stores.first().copied().unwrap_or(0), stores.get(1).copied())
        };
        return Ok(Some(Local {
            index: index as u64,
            cell,
            from,
            until: until.unwrap_or(u64::MAX),
        }));
    }
    Ok(None)
}

/// The instructions of a code object.
fn bytecode<M: Memory>(memory: &M, layout: &Layout, code: u64) -> Result<Vec<u8>, Trouble> {
    let units = memory.word(code.wrapping_add(layout.object_size as u64))? as usize;
    let mut bytecode = vec![0; units.min(MAX_CODE_UNITS) * 2];
    memory.read(
        code.wrapping_add(layout.code_bytecode as u64),
        &mut bytecode,
    )?;
    Ok(bytecode)
}

/// Byte offsets of the instructions that assign to a local, in order.
fn stores(table: &Bytecode, bytecode: &[u8], index: usize, cell: bool) -> Vec<u64> {
    offsets(table, bytecode, |opcode, argument| {
        table.assigns(opcode, argument, index, cell)
    })
}

/// Byte offsets of the instructions that leave the function with a value, in order.
fn returns(table: &Bytecode, bytecode: &[u8]) -> Vec<u64> {
    offsets(table, bytecode, |opcode, _| table.returns.contains(&opcode))
}

/// Byte offsets of the instructions, by opcode and argument, that are wanted.
fn offsets(table: &Bytecode, bytecode: &[u8], wanted: impl Fn(u8, usize) -> bool) -> Vec<u64> {
    let mut found = Vec::new();
    let mut extended = 0usize;
    let mut unit = 0usize;
    while let Some(&[opcode, argument]) = bytecode.get(unit * 2..unit * 2 + 2) {
        let value = extended << 8 | usize::from(argument);
        extended = if opcode == table.extended_arg {
            value & 0xff_ffff
        } else {
            0
        };
        if wanted(opcode, value) {
            found.push(unit as u64 * 2);
        }
        unit += 1 + table.caches_of(opcode);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::tests::layout_of;

    fn layout() -> &'static Layout {
        layout_of(3, 11)
    }

    #[test]
    fn stores_are_found_behind_caches_and_extended_arguments() {
        let table = layout().bytecode;
        // CALL (171) has four cache units; one of them looks like STORE_FAST 2.
        let code = [
            171, 0, 125, 2, 0, 0, 0, 0, 0, 0, 125, 2, 144, 1, 125, 2, 161, 2, 138, 2,
        ];
        assert_eq!(stores(table, &code, 2, false), [10, 16]);
        assert_eq!(stores(table, &code, 258, false), [14]);
        assert_eq!(stores(table, &code, 2, true), [18]);
        assert_eq!(stores(table, &[125], 0, false), Vec::<u64>::new());
    }

    #[test]
    fn returns_are_found_and_no_cache_is_taken_for_one() {
        // A call with its caches, then what each version returns with.
        for (minor, call, caches) in [(11, 171, 4), (12, 171, 3), (13, 53, 3), (14, 52, 3)] {
            let table = layout_of(3, minor).bytecode;
            assert_eq!(table.caches_of(call), caches, "CPython 3.{minor}");
            let mut code = vec![call, 0];
            code.extend([table.returns[0], 0].repeat(caches));
            let first = code.len() as u64;
            code.extend(table.returns.iter().flat_map(|opcode| [*opcode, 0]));
            let wanted: Vec<u64> = (0..)
                .take(table.returns.len())
                .map(|n| first + 2 * n)
                .collect();
            assert_eq!(returns(table, &code), wanted, "CPython 3.{minor}");
        }
    }

    #[test]
    fn two_locals_of_one_instruction_are_both_stored() {
        for (minor, load, store, wide) in [(13, 111, 112, 71), (14, 113, 114, 69)] {
            let table = layout_of(3, minor).bytecode;
            let code = [store, 0x21, load, 0x32, wide, 0, table.store_fast[0], 1];
            assert_eq!(stores(table, &code, 1, false), [0, 6]);
            assert_eq!(stores(table, &code, 2, false), [0]);
            assert_eq!(stores(table, &code, 3, false), [2]);
        }
    }
}
