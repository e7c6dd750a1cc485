//! Where CPython keeps things, per minor version: byte offsets for 64-bit little-endian builds.
//!
//! The headers named are those of CPython itself (`Include/`); the numbers are what `offsetof`
//! gives with them. Inside one minor release these structures do not change, and from 3.13 on the
//! target says itself where most of what matters lies (`_Py_DebugOffsets`): its word counts.

use std::sync::Mutex;

use crate::memory::{Fields, Memory, Trouble};

/// All offsets of one minor version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    // internal/pycore_interp.h (3.14: pycore_interp_structs.h), struct _is
    pub interpreter_threads_head: u64,
    // cpython/pystate.h, struct _ts; datastack_chunk, _top are neighbours
    pub thread_next: u64,
    /// The current frame, or, where `cframe_current_frame` is set, what holds it.
    pub thread_frame: u64,
    pub thread_datastack_chunk: u64,
    // cpython/pystate.h, struct _PyCFrame (3.11, 3.12)
    pub cframe_current_frame: Option<u64>,
    // internal/pycore_frame.h (3.14: pycore_interpframe_structs.h), struct _PyInterpreterFrame
    pub frame_code: usize,
    pub frame_previous: usize,
    pub frame_prev_instr: usize,
    pub frame_owner: usize,
    pub frame_locals: usize,
    // cpython/code.h, struct PyCodeObject
    pub code_argcount: usize,
    pub code_first_line: usize,
    pub code_nlocalsplus: usize,
    pub code_localsplusnames: usize,
    pub code_localspluskinds: usize,
    pub code_filename: usize,
    pub code_qualname: usize,
    pub code_bytecode: usize,
    // object.h and cpython/object.h, PyVarObject, PyTypeObject, PyHeapTypeObject
    pub object_type: usize,
    pub object_size: usize,
    pub type_name: usize,
    pub type_basicsize: usize,
    pub type_as_sequence: usize,
    pub type_flags: usize,
    pub type_base: usize,
    pub type_dict: usize,
    pub type_dictoffset: usize,
    pub type_cached_keys: usize,
    pub managed: Managed,
    // descrobject.h, PyMemberDescrObject and PyMemberDef
    pub descriptor_member: u64,
    pub member_kind: usize,
    pub member_offset: usize,
    // cpython/dictobject.h, PyDictObject; ma_keys, ma_values are neighbours
    pub dict_used: usize,
    pub dict_keys: usize,
    pub dict_values: usize,
    // internal/pycore_dict.h, struct _dictkeysobject and _dictvalues
    pub keys_log2_index_bytes: usize,
    pub keys_kind: usize,
    pub keys_nentries: usize,
    pub keys_indices: u64,
    pub values_first: u64,
    // cpython/listobject.h, tupleobject.h, setobject.h, longintrepr.h, bytesobject.h, cellobject.h
    pub list_items: usize,
    pub tuple_items: u64,
    pub set_used: usize,
    /// Since 3.12 the size of an int shares its word with the sign.
    pub int_tagged: bool,
    pub int_digits: usize,
    pub bytes_data: u64,
    pub cell_value: u64,
    // Modules/_collectionsmodule.c, dequeobject and block
    pub deque_left_block: usize,
    pub deque_left_index: usize,
    pub block_items: u64,
    // cpython/unicodeobject.h
    pub text_length: usize,
    pub text_state: usize,
    pub text_ascii_data: u64,
    pub text_other_data: u64,
    /// internal/pycore_stackref.h: the low bits of the words of a frame say how they are counted.
    pub tagged_frames: bool,
    pub bytecode: &'static Bytecode,
}

/// internal/pycore_object.h: where an object with `MANAGED_DICT` has its attributes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Managed {
    /// Two words in front of the object: values and dictionary.
    Apart { values: u64, dict: u64 },
    /// One word in front of the object: a dictionary, or, one too low, values.
    Either { word: u64 },
    /// A dictionary in front of the object, or values behind it while their flag says so.
    Behind { dict: u64, valid: u64 },
}

/// The few instructions that matter: those that store a local.
#[derive(Debug, PartialEq)]
pub struct Bytecode {
    /// STORE_FAST and its specialised forms.
    pub store_fast: &'static [u8],
    /// Two instructions in one: those that store the local in the argument's upper four bits, and
    /// those that store the one in its lower four.
    pub store_high: &'static [u8],
    pub store_low: &'static [u8],
    pub store_deref: u8,
    /// RETURN_VALUE and its like, instrumented forms included.
    pub returns: &'static [u8],
    pub extended_arg: u8,
    /// A hexadecimal digit for each instruction, specialised and instrumented forms included: the
    /// code units of inline cache behind it.
    pub caches: &'static str,
}

impl Bytecode {
    /// Whether an instruction stores the local, or the cell, at this index.
    pub fn assigns(&self, opcode: u8, argument: usize, index: usize, cell: bool) -> bool {
        if cell {
            return opcode == self.store_deref && argument == index;
        }
        self.store_fast.contains(&opcode) && argument == index
            || self.store_high.contains(&opcode) && argument >> 4 == index
            || self.store_low.contains(&opcode) && argument & 15 == index
    }

    pub fn caches_of(&self, opcode: u8) -> usize {
        let digit = self.caches.as_bytes()[usize::from(opcode)];
        char::from(digit).to_digit(16).unwrap_or(0) as usize
    }
}

impl Layout {
    /// Whether what is read of a frame lies where it is looked for.
    fn frame_is_plausible(&self) -> bool {
        let words = [self.frame_code, self.frame_previous, self.frame_prev_instr];
        words.iter().all(|at| *at <= FRAME_WORDS - 8)
            && (FRAME_WORDS..=FRAME_HEAD_MOST).contains(&self.frame_locals)
            && self.frame_owner < self.frame_locals
    }

    /// The object that a word of a frame refers to; 0 for none, and for what is no object.
    pub fn referent(&self, word: u64) -> u64 {
        match (self.tagged_frames, word & STACKREF_TAG) {
            (false, _) => word,
            (true, STACKREF_INT) => 0,
            (true, _) => word & !STACKREF_TAG,
        }
    }
}

// opcode.h and internal/pycore_opcode.h of 3.11
static BYTECODE_311: Bytecode = Bytecode {
    store_fast: &[125, 161, 167],
    store_high: &[],
    store_low: &[],
    store_deref: 138,
    returns: &[83],
    extended_arg: 144,
    caches: concat!(
        "00011111100001101444444444222200000000044444000550000005aaaa10aa",
        "1111000011001111110000000000100400000000004200000100500001100001",
        "00000000000001010000000004400044a0000010111400000111100000000000",
        "0000000000000000000000000000000000000000000000000000000000000000",
    ),
};

// opcode.h and internal/pycore_opcode.h of 3.12
static BYTECODE_312: Bytecode = Bytecode {
    store_fast: &[125, 154, 158],
    store_high: &[],
    store_low: &[],
    store_deref: 138,
    returns: &[83, 121, 242, 247],
    extended_arg: 144,
    caches: concat!(
        "0000001110100110101111133100330000300033333333333000000031111011",
        "1111009099009999999000000000110400000000009100044400400000110000",
        "0000000000000100000040000400000111000011100300000000000000000000",
        "0000000000000000000000000000000000000000000001000300000010000000",
    ),
};

// opcode_ids.h and internal/pycore_opcode_metadata.h of 3.13
static BYTECODE_313: Bytecode = Bytecode {
    store_fast: &[110],
    store_high: &[111, 112],
    store_low: &[112],
    store_deref: 109,
    returns: &[36, 103, 239, 240],
    extended_arg: 71,
    caches: concat!(
        "0001010000000000000000000000000000000001300001000000030000110000",
        "0000000010000100009000000004010001111000100040000000010000000000",
        "0000000000000000000000111111111111333333333333333333331111111119",
        "9999999999944110144411333333111000000000000000000011300001111100",
    ),
};

// opcode_ids.h and internal/pycore_opcode_metadata.h of 3.14
static BYTECODE_314: Bytecode = Bytecode {
    store_fast: &[112],
    store_high: &[113, 114],
    store_low: &[114],
    store_deref: 111,
    returns: &[35, 246],
    extended_arg: 69,
    caches: concat!(
        "0005000000000000000000000000000000000013000050000000300311000000",
        "0000001000010000900000000000400010001111001000400000000100000000",
        "0555555555555553333333333333333333333311111111111999999999999900",
        "4411014441133333311100000000000000000000000001000111100001330100",
    ),
};

const CPYTHON_311: Layout = Layout {
    interpreter_threads_head: 16,
    thread_next: 8,
    thread_frame: 56,
    thread_datastack_chunk: 296,
    cframe_current_frame: Some(8),
    frame_code: 32,
    frame_previous: 48,
    frame_prev_instr: 56,
    frame_owner: 69,
    frame_locals: 72,
    code_argcount: 56,
    code_first_line: 72,
    code_nlocalsplus: 76,
    code_localsplusnames: 96,
    code_localspluskinds: 104,
    code_filename: 112,
    code_qualname: 128,
    code_bytecode: 184,
    object_type: 8,
    object_size: 16,
    type_name: 24,
    type_basicsize: 32,
    type_as_sequence: 104,
    type_flags: 168,
    type_base: 256,
    type_dict: 264,
    type_dictoffset: 288,
    type_cached_keys: 872,
    managed: Managed::Apart {
        values: 32,
        dict: 24,
    },
    descriptor_member: 40,
    member_kind: 8,
    member_offset: 16,
    dict_used: 16,
    dict_keys: 32,
    dict_values: 40,
    keys_log2_index_bytes: 9,
    keys_kind: 10,
    keys_nentries: 24,
    keys_indices: 32,
    values_first: 0,
    list_items: 24,
    tuple_items: 24,
    set_used: 24,
    int_tagged: false,
    int_digits: 24,
    bytes_data: 32,
    cell_value: 16,
    deque_left_block: 24,
    deque_left_index: 40,
    block_items: 8,
    text_length: 16,
    text_state: 32,
    text_ascii_data: 48,
    text_other_data: 72,
    tagged_frames: false,
    bytecode: &BYTECODE_311,
};

const CPYTHON_312: Layout = Layout {
    interpreter_threads_head: 72,
    thread_datastack_chunk: 232,
    cframe_current_frame: Some(0),
    frame_code: 0,
    frame_previous: 8,
    frame_owner: 70,
    code_argcount: 52,
    code_first_line: 68,
    code_nlocalsplus: 72,
    code_bytecode: 192,
    type_cached_keys: 880,
    managed: Managed::Either { word: 24 },
    int_tagged: true,
    text_ascii_data: 40,
    text_other_data: 56,
    bytecode: &BYTECODE_312,
    ..CPYTHON_311
};

const CPYTHON_313: Layout = Layout {
    interpreter_threads_head: 7344,
    thread_frame: 72,
    cframe_current_frame: None,
    code_bytecode: 200,
    managed: Managed::Behind { dict: 24, valid: 3 },
    values_first: 8,
    bytecode: &BYTECODE_313,
    ..CPYTHON_312
};

const CPYTHON_314: Layout = Layout {
    frame_owner: 74,
    frame_locals: 80,
    code_bytecode: 208,
    tuple_items: 32,
    tagged_frames: true,
    bytecode: &BYTECODE_314,
    ..CPYTHON_313
};

/// What the sampler can read, for error texts.
pub const SUPPORTED: &str = "CPython 3.11 to 3.14";

/// Bytes of a frame with its code, its caller and its instruction.
pub const FRAME_WORDS: usize = 64;
/// No frame has more bytes before its locals.
pub const FRAME_HEAD_MOST: usize = 128;

/// Why there is no layout for a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoLayout {
    UnknownVersion,
    FreeThreaded,
    Unreadable(Trouble),
}

/// The layout of a version, if it is known here.
pub fn table(major: u64, minor: u64) -> Option<Layout> {
    match (major, minor) {
        (3, 11) => Some(CPYTHON_311),
        (3, 12) => Some(CPYTHON_312),
        (3, 13) => Some(CPYTHON_313),
        (3, 14) => Some(CPYTHON_314),
        _ => None,
    }
}

/// The layout of a running interpreter: the version's table, corrected by what the target says.
pub fn layout_of<M: Memory>(
    memory: &M,
    (major, minor): (u64, u64),
    interpreter: u64,
) -> Result<&'static Layout, NoLayout> {
    let mut layout = table(major, minor).ok_or(NoLayout::UnknownVersion)?;
    let words: &DebugWords = match minor {
        13 => &DEBUG_WORDS_313,
        14 => &DEBUG_WORDS_314,
        _ => return Ok(kept(layout)),
    };
    let at = runtime_of(memory, interpreter).map_err(NoLayout::Unreadable)?;
    let mut bytes = [0; 8 * DEBUG_LENGTH];
    memory.read(at, &mut bytes).map_err(NoLayout::Unreadable)?;
    // PY_VERSION_HEX
    let said = (bytes.u64_at(8) >> 24, bytes.u64_at(8) >> 16 & 0xff);
    if said != (major, minor) {
        return Err(NoLayout::Unreadable(Trouble::Torn));
    }
    if bytes.u64_at(8 * DEBUG_FREE_THREADED) != 0 {
        return Err(NoLayout::FreeThreaded);
    }
    words.apply(&bytes, &mut layout);
    let same_objects = bytes.u64_at(8 * words.object_type) == layout.object_type as u64;
    if !same_objects || !layout.frame_is_plausible() {
        return Err(NoLayout::Unreadable(Trouble::Torn));
    }
    Ok(kept(layout))
}

/// Layouts live as long as the process: there are as many as kinds of targets.
fn kept(layout: Layout) -> &'static Layout {
    static KEPT: Mutex<Vec<&'static Layout>> = Mutex::new(Vec::new());
    let mut kept = KEPT.lock().unwrap_or_else(|error| error.into_inner());
    if let Some(known) = kept.iter().find(|known| ***known == layout) {
        return known;
    }
    let new: &'static Layout = Box::leak(Box::new(layout));
    kept.push(new);
    new
}

/// The start of the runtime, which is where its debug offsets are.
///
/// The interpreter points to it from a place that moved between patch releases.
fn runtime_of<M: Memory>(memory: &M, interpreter: u64) -> Result<u64, Trouble> {
    let mut bytes = vec![0; INTERPRETER_SEARCHED];
    memory.read(interpreter, &mut bytes)?;
    // It lies behind the state of the evaluation loop, which fills the first half.
    for at in (0..INTERPRETER_SEARCHED).step_by(8).rev() {
        let address = bytes.u64_at(at);
        if address == 0 || address % 8 != 0 {
            continue;
        }
        match memory.word(address) {
            Ok(word) if word.to_le_bytes() == *DEBUG_COOKIE => return Ok(address),
            Ok(_) | Err(Trouble::Torn | Trouble::Absent) => {}
            Err(other) => return Err(other),
        }
    }
    Err(Trouble::Torn)
}

// internal/pycore_runtime.h (3.14: pycore_debug_offsets.h), _Py_DebugOffsets
const DEBUG_COOKIE: &[u8; 8] = b"xdebugpy";
const DEBUG_FREE_THREADED: usize = 2;
const DEBUG_LENGTH: usize = 52;
const INTERPRETER_SEARCHED: usize = 16384;

/// Which word of the debug offsets says what.
struct DebugWords {
    threads_head: usize,
    thread_next: usize,
    current_frame: usize,
    datastack_chunk: usize,
    frame_previous: usize,
    frame_executable: usize,
    frame_instruction: usize,
    frame_locals: usize,
    frame_owner: usize,
    code_filename: usize,
    code_qualname: usize,
    code_first_line: usize,
    code_argcount: usize,
    code_localsplusnames: usize,
    code_localspluskinds: usize,
    code_bytecode: usize,
    object_type: usize,
}

static DEBUG_WORDS_313: DebugWords = DebugWords {
    threads_head: 9,
    thread_next: 21,
    current_frame: 23,
    datastack_chunk: 26,
    frame_previous: 29,
    frame_executable: 30,
    frame_instruction: 31,
    frame_locals: 32,
    frame_owner: 33,
    code_filename: 35,
    code_qualname: 37,
    code_first_line: 39,
    code_argcount: 40,
    code_localsplusnames: 41,
    code_localspluskinds: 42,
    code_bytecode: 43,
    object_type: 45,
};

static DEBUG_WORDS_314: DebugWords = DebugWords {
    threads_head: 9,
    thread_next: 24,
    current_frame: 26,
    datastack_chunk: 29,
    frame_previous: 32,
    frame_executable: 33,
    frame_instruction: 34,
    frame_locals: 35,
    frame_owner: 36,
    code_filename: 40,
    code_qualname: 42,
    code_first_line: 44,
    code_argcount: 45,
    code_localsplusnames: 46,
    code_localspluskinds: 47,
    code_bytecode: 48,
    object_type: 51,
};

impl DebugWords {
    fn apply(&self, bytes: &[u8], layout: &mut Layout) {
        let word = |index: usize| bytes.u64_at(8 * index);
        let offset = |index: usize| word(index) as usize;
        layout.interpreter_threads_head = word(self.threads_head);
        layout.thread_next = word(self.thread_next);
        layout.thread_frame = word(self.current_frame);
        layout.thread_datastack_chunk = word(self.datastack_chunk);
        layout.frame_previous = offset(self.frame_previous);
        layout.frame_code = offset(self.frame_executable);
        layout.frame_prev_instr = offset(self.frame_instruction);
        layout.frame_locals = offset(self.frame_locals);
        layout.frame_owner = offset(self.frame_owner);
        layout.code_filename = offset(self.code_filename);
        layout.code_qualname = offset(self.code_qualname);
        layout.code_first_line = offset(self.code_first_line);
        layout.code_argcount = offset(self.code_argcount);
        layout.code_localsplusnames = offset(self.code_localsplusnames);
        layout.code_localspluskinds = offset(self.code_localspluskinds);
        layout.code_bytecode = offset(self.code_bytecode);
    }
}

// object.h, tp_flags
pub const INLINE_VALUES: u64 = 1 << 2;
pub const MANAGED_DICT: u64 = 1 << 4;
pub const IMMUTABLE_TYPE: u64 = 1 << 8;
pub const HEAP_TYPE: u64 = 1 << 9;
pub const READY: u64 = 1 << 12;
pub const INT_SUBCLASS: u64 = 1 << 24;
pub const LIST_SUBCLASS: u64 = 1 << 25;
pub const TUPLE_SUBCLASS: u64 = 1 << 26;
pub const DICT_SUBCLASS: u64 = 1 << 29;

// internal/pycore_dict.h, DictKeysKind
pub const KEYS_GENERAL: u8 = 0;

// internal/pycore_code.h, kinds of locals
pub const LOCAL_IS_CELL: u8 = 0x40 | 0x80;

// internal/pycore_frame.h, owners: from here on the frame is the interpreter's own and runs no code
pub const FRAME_OF_INTERPRETER: u8 = 3;
pub const FRAME_OF_GENERATOR: u8 = 1;

// cpython/genobject.h (3.13: internal/pycore_interpframe_structs.h), _PyGenObject_HEAD: the state lies
// in front of the frame; below zero it is suspended, above it has ended
pub const STATE_BEFORE_FRAME: usize = 5;

// internal/pycore_stackref.h
const STACKREF_TAG: u64 = 3;
const STACKREF_INT: u64 = 3;

// descrobject.h and structmember.h: members that hold an object
pub const MEMBER_OBJECT: u32 = 6;
pub const MEMBER_OBJECT_OR_ERROR: u32 = 16;

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::memory::fake::FakeMemory;

    /// The table of a version, as if it had been read from a target.
    pub fn layout_of(major: u64, minor: u64) -> &'static Layout {
        kept(table(major, minor).unwrap())
    }

    const INTERPRETER: u64 = 0x10_000;
    const RUNTIME: u64 = 0x50_000;

    /// An interpreter of 3.13 that points to its runtime, with these words of debug offsets changed.
    fn target(changed: &[(usize, u64)]) -> FakeMemory {
        let memory = FakeMemory::default();
        let mut words = vec![0; INTERPRETER_SEARCHED / 8];
        words[100] = 0x99_000;
        words[922] = RUNTIME;
        memory.put_words(INTERPRETER, &words);
        let mut words = vec![0; DEBUG_LENGTH];
        words[0] = u64::from_le_bytes(*DEBUG_COOKIE);
        words[1] = 0x030d_05f0;
        words[DEBUG_WORDS_313.frame_locals] = 72;
        words[DEBUG_WORDS_313.object_type] = 8;
        for (index, word) in changed {
            words[*index] = *word;
        }
        memory.put_words(RUNTIME, &words);
        memory
    }

    #[test]
    fn what_the_target_says_of_itself_wins_over_the_table() {
        let memory = target(&[(DEBUG_WORDS_313.threads_head, 7352)]);
        let found = super::layout_of(&memory, (3, 13), INTERPRETER).unwrap();
        assert_eq!(found.interpreter_threads_head, 7352);
        assert_eq!(found.tuple_items, CPYTHON_313.tuple_items);
        let again = super::layout_of(&memory, (3, 13), INTERPRETER).unwrap();
        assert!(std::ptr::eq(found, again));
    }

    #[test]
    fn a_target_that_cannot_be_trusted_has_no_layout() {
        let of = |changed: &[(usize, u64)], version| {
            super::layout_of(&target(changed), version, INTERPRETER).unwrap_err()
        };
        let torn = NoLayout::Unreadable(Trouble::Torn);
        assert_eq!(
            of(&[(DEBUG_FREE_THREADED, 1)], (3, 13)),
            NoLayout::FreeThreaded
        );
        assert_eq!(of(&[(0, 1)], (3, 13)), torn);
        assert_eq!(of(&[(1, 0x030e_03f0)], (3, 13)), torn);
        assert_eq!(of(&[(DEBUG_WORDS_313.object_type, 16)], (3, 13)), torn);
        assert_eq!(
            of(&[(DEBUG_WORDS_313.frame_locals, 1 << 40)], (3, 13)),
            torn
        );
        assert_eq!(of(&[(DEBUG_WORDS_313.frame_owner, 72)], (3, 13)), torn);
        assert_eq!(of(&[(DEBUG_WORDS_313.frame_previous, 64)], (3, 13)), torn);
        assert_eq!(of(&[], (3, 10)), NoLayout::UnknownVersion);
        assert_eq!(of(&[], (3, 15)), NoLayout::UnknownVersion);
    }

    #[test]
    fn every_table_has_its_caches_for_each_instruction() {
        for minor in 11..=14 {
            let table = layout_of(3, minor).bytecode;
            assert_eq!(table.caches.len(), 256);
            assert!(table.caches.bytes().all(|digit| digit.is_ascii_hexdigit()));
            assert_eq!(table.caches_of(table.extended_arg), 0);
        }
    }

    #[test]
    fn tags_of_frame_words_are_taken_off_where_there_are_any() {
        assert_eq!(layout_of(3, 13).referent(0x1001), 0x1001);
        let tagged = layout_of(3, 14);
        let words = [0x1000, 0x1001, 1, 7, 0];
        assert_eq!(
            words.map(|word| tagged.referent(word)),
            [0x1000, 0x1000, 0, 0, 0]
        );
    }
}
