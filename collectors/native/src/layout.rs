//! Where CPython keeps things, per minor version: byte offsets for 64-bit little-endian builds.
//!
//! The headers named are those of CPython itself (`Include/`). Inside one minor release these
//! structures do not change.

/// All offsets of one minor version.
#[derive(Debug)]
pub struct Layout {
    // internal/pycore_interp.h, struct _is
    pub interpreter_threads_head: u64,
    // cpython/pystate.h, struct _ts; datastack_chunk, _top are neighbours
    pub thread_next: u64,
    pub thread_cframe: u64,
    pub thread_datastack_chunk: u64,
    // cpython/pystate.h, struct _PyCFrame
    pub cframe_current_frame: u64,
    // internal/pycore_frame.h, struct _PyInterpreterFrame
    pub frame_code: usize,
    pub frame_previous: usize,
    pub frame_prev_instr: usize,
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
    pub type_flags: usize,
    pub type_base: usize,
    pub type_dictoffset: usize,
    pub type_cached_keys: usize,
    // internal/pycore_object.h: words in front of an object with a managed dictionary
    pub managed_values_before: u64,
    pub managed_dict_before: u64,
    // cpython/dictobject.h, PyDictObject; ma_keys, ma_values are neighbours
    pub dict_used: usize,
    pub dict_keys: usize,
    pub dict_values: usize,
    // internal/pycore_dict.h, struct _dictkeysobject
    pub keys_log2_index_bytes: usize,
    pub keys_kind: usize,
    pub keys_nentries: usize,
    pub keys_indices: u64,
    // cpython/listobject.h, tupleobject.h, setobject.h, longintrepr.h, bytesobject.h, cellobject.h
    pub list_items: usize,
    pub tuple_items: u64,
    pub set_used: usize,
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
    pub bytecode: &'static Bytecode,
}

/// The few instructions that matter: those that store a local.
#[derive(Debug)]
pub struct Bytecode {
    /// STORE_FAST and its specialised forms.
    pub store_fast: &'static [u8],
    pub store_deref: u8,
    pub extended_arg: u8,
    /// (inline cache code units, instructions that have so many), specialised forms included.
    pub caches: &'static [(u8, &'static [u8])],
}

// opcode.h and internal/pycore_opcode.h of 3.11
static BYTECODE_311: Bytecode = Bytecode {
    store_fast: &[125, 161, 167],
    store_deref: 138,
    extended_arg: 144,
    caches: &[
        (
            1,
            &[
                3, 4, 5, 6, 7, 8, 13, 14, 16, 60, 64, 65, 66, 67, 72, 73, 76, 77, 78, 79, 80, 81,
                92, 113, 121, 122, 127, 141, 143, 166, 168, 169, 170, 177, 178, 179, 180,
            ],
        ),
        (2, &[26, 27, 28, 29, 107]),
        (
            4,
            &[
                17, 18, 19, 20, 21, 22, 23, 24, 25, 39, 40, 41, 42, 43, 95, 106, 153, 154, 158,
                159, 171,
            ],
        ),
        (5, &[47, 48, 55, 116]),
        (10, &[56, 57, 58, 59, 62, 63, 160]),
    ],
};

static CPYTHON_311: Layout = Layout {
    interpreter_threads_head: 16,
    thread_next: 8,
    thread_cframe: 56,
    thread_datastack_chunk: 296,
    cframe_current_frame: 8,
    frame_code: 32,
    frame_previous: 48,
    frame_prev_instr: 56,
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
    type_flags: 168,
    type_base: 256,
    type_dictoffset: 288,
    type_cached_keys: 872,
    managed_values_before: 32,
    managed_dict_before: 24,
    dict_used: 16,
    dict_keys: 32,
    dict_values: 40,
    keys_log2_index_bytes: 9,
    keys_kind: 10,
    keys_nentries: 24,
    keys_indices: 32,
    list_items: 24,
    tuple_items: 24,
    set_used: 24,
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
    bytecode: &BYTECODE_311,
};

/// What the sampler can read, for error texts.
pub const SUPPORTED: &str = "CPython 3.11";

/// The layout of a version, if it is known here.
pub fn layout_of(major: u64, minor: u64) -> Option<&'static Layout> {
    match (major, minor) {
        (3, 11) => Some(&CPYTHON_311),
        _ => None,
    }
}

// object.h, tp_flags
pub const MANAGED_DICT: u64 = 1 << 4;
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
