//! A whole engine as CPython lays it out: threads, frames, code, a scheduler and its batch.

use std::collections::HashMap;

use super::look::Seen;
use super::memory::Random;
use crate::layout::{self, Layout, Managed};

pub const BASE: u64 = 0x7f00_0000_0000;
/// In front of an object that has words there.
const BEFORE_WORDS: usize = 4;
const TYPE_WORDS: usize = 112;
const CHUNK_WORDS: usize = 128;
const FRAME_WORDS: usize = 20;
/// What the scheduler holds besides its counter.
const SETTINGS: [&str; 12] = [
    "vllm_config",
    "max_num_seqs",
    "parallel_cfg",
    "log_stats",
    "connector",
    "cache_config",
    "lora_config",
    "policy",
    "requests",
    "running",
    "structured",
    "current_load",
];
/// Flags, capacity and the like of values in an object: they are valid.
const VALID_VALUES: u64 = 0x0101_021e;
/// Iterations whose numbers are kept.
const HISTORY: i64 = 20_000;
const FIRST_COUNT: i64 = (1 << 30) - 300;

/// Addresses of the types.
#[derive(Default, Clone, Copy)]
struct Kinds {
    int: u64,
    list: u64,
    tuple: u64,
    dict: u64,
    deque: u64,
    code: u64,
    member: u64,
    text: u64,
    batch: u64,
    cached: u64,
    entry: u64,
    request: u64,
    scheduler: u64,
    engine: u64,
    queue: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Between two steps.
    Idle,
    /// The counter has gone up.
    Scheduled,
    /// The batch is a local of the step.
    Assigned,
}

pub struct Engine {
    pub layout: &'static Layout,
    pub heap: Vec<u64>,
    /// Freed blocks by size; the one freed last is mostly taken first, as CPython does.
    free: HashMap<usize, Vec<u64>>,
    /// Blocks of the current batch.
    owned: Vec<(u64, usize)>,
    kinds: Kinds,
    names: HashMap<String, u64>,
    pub types: Vec<u64>,
    pub objects: Vec<u64>,
    /// Words up to here hold types and names.
    pub types_until: usize,
    pub interpreter: u64,
    scheduler: u64,
    number: i64,
    number_at: u64,
    local_at: u64,
    tokens_dict: u64,
    state: State,
    /// The numbers of the batches that there were, by count.
    pub history: HashMap<i64, Vec<i64>>,
    random: Random,
}

impl Engine {
    /// An engine in the middle of a step.
    pub fn new(layout: &'static Layout, seed: u64) -> Engine {
        let mut engine = Engine {
            layout,
            heap: Vec::new(),
            free: HashMap::new(),
            owned: Vec::new(),
            kinds: Kinds::default(),
            names: HashMap::new(),
            types: Vec::new(),
            objects: Vec::new(),
            types_until: 0,
            interpreter: 0,
            scheduler: 0,
            number: FIRST_COUNT,
            number_at: 0,
            local_at: 0,
            tokens_dict: 0,
            state: State::Idle,
            history: HashMap::new(),
            random: Random::new(seed),
        };
        engine.put_types();
        engine.types_until = engine.heap.len();
        let own = engine.put_scheduler();
        engine.put_stack(own);
        let mut random = Random::new(seed);
        while engine.state != State::Assigned {
            engine.step(&mut random);
        }
        // Heads of blocks, and of objects with words in front of them.
        let heads = |block: &(u64, usize)| [block.0, block.0 + 8 * BEFORE_WORDS as u64];
        let heads: Vec<u64> = engine.owned.iter().flat_map(heads).collect();
        engine.objects.extend(heads);
        engine
    }

    pub fn words(&self) -> Vec<u64> {
        self.heap.clone()
    }

    /// What there is to be seen now.
    pub fn truth(&self) -> Seen {
        Seen {
            number: self.number,
            payload: self.history[&self.number].clone(),
        }
    }

    pub fn had(&self, seen: &Seen) -> bool {
        self.history.get(&seen.number) == Some(&seen.payload)
    }

    // ---- memory

    fn alloc(&mut self, words: usize) -> u64 {
        let words = words.next_multiple_of(2).max(8);
        let free = self.free.entry(words).or_default();
        if !free.is_empty() {
            let last = free.len() - 1;
            let index = match self.random.below(4) {
                0 => self.random.below(free.len() as u64) as usize,
                _ => last,
            };
            let at = free.swap_remove(index);
            self.own(at, words);
            return at;
        }
        let at = BASE + 8 * self.heap.len() as u64;
        self.heap.resize(self.heap.len() + words, 0);
        self.own(at, words);
        at
    }

    fn own(&mut self, at: u64, words: usize) {
        self.owned.push((at, words));
    }

    /// A freed block keeps its words but for the list of free ones in it.
    fn release(&mut self, (at, words): (u64, usize)) {
        let free = self.free.entry(words).or_default();
        let next = free.last().copied().unwrap_or(0);
        free.push(at);
        self.set(at, 0, next);
    }

    /// Frees one of the current blocks.
    fn drop_block(&mut self, at: u64) {
        if let Some(index) = self.owned.iter().position(|block| block.0 == at) {
            let block = self.owned.swap_remove(index);
            self.release(block);
        }
    }

    fn set(&mut self, at: u64, offset: usize, word: u64) {
        self.heap[(at - BASE) as usize / 8 + offset / 8] = word;
    }

    fn get(&self, at: u64, offset: usize) -> u64 {
        self.heap[(at - BASE) as usize / 8 + offset / 8]
    }

    fn set_bytes(&mut self, at: u64, offset: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            let from = (at - BASE) as usize + offset + index;
            let mut word = self.heap[from / 8].to_le_bytes();
            word[from % 8] = *byte;
            self.heap[from / 8] = u64::from_le_bytes(word);
        }
    }

    fn put(&mut self, words: &[u64]) -> u64 {
        let at = self.alloc(words.len());
        for (index, word) in words.iter().enumerate() {
            self.set(at, 8 * index, *word);
        }
        at
    }

    // ---- objects

    fn text(&mut self, text: &str) -> u64 {
        if let Some(known) = self.names.get(text) {
            return *known;
        }
        let start = self.layout.text_ascii_data as usize;
        let at = self.alloc((start + text.len()).max(48).div_ceil(8) + 1);
        // Interned: it stays.
        self.owned.pop();
        self.set(at, 0, 1);
        self.set(at, 8, self.kinds.text);
        self.set(at, 16, text.len() as u64);
        self.set_bytes(at, 32, &[0b1110_0100, 0, 0, 0]);
        self.set_bytes(at, start, text.as_bytes());
        self.names.insert(text.to_owned(), at);
        at
    }

    fn int(&mut self, value: i64) -> u64 {
        let magnitude = value.unsigned_abs();
        let mask = (1 << 30) - 1;
        let digits = [magnitude & mask, magnitude >> 30 & mask, magnitude >> 60];
        let count = digits.iter().rposition(|d| *d != 0).map_or(0, |i| i + 1) as u64;
        let size = match (self.layout.int_tagged, value.signum()) {
            (false, -1) => count.wrapping_neg(),
            (false, _) => count,
            (true, sign) => count << 3 | (1 - sign) as u64,
        };
        self.put(&[
            1,
            self.kinds.int,
            size,
            digits[0] | digits[1] << 32,
            digits[2],
            0,
        ])
    }

    fn ints(&mut self, values: &[i64]) -> Vec<u64> {
        values.iter().map(|value| self.int(*value)).collect()
    }

    fn list(&mut self, items: &[u64]) -> u64 {
        let table = self.put(items);
        self.put(&[
            1,
            self.kinds.list,
            items.len() as u64,
            table,
            items.len() as u64,
            0,
        ])
    }

    fn tuple(&mut self, items: &[u64]) -> u64 {
        let mut words = vec![1, self.kinds.tuple, items.len() as u64, 0];
        words.truncate(self.layout.tuple_items as usize / 8);
        words.extend(items);
        self.put(&words)
    }

    /// A table of keys: with values, or shared without.
    fn keys(&mut self, names: &[String], values: &[u64]) -> u64 {
        let kind = if values.is_empty() { 2 } else { 1 };
        let mut words = vec![1, 3 << 8 | kind << 16, 0, names.len() as u64, 0];
        for (index, name) in names.iter().enumerate() {
            let value = values.get(index).copied().unwrap_or(0);
            words.extend([self.text(name), value]);
        }
        self.put(&words)
    }

    fn dict(&mut self, names: &[String], values: &[u64]) -> u64 {
        let keys = if names.is_empty() {
            self.put(&[1, 3 << 8 | 1 << 16, 0, 0, 0])
        } else {
            self.keys(names, values)
        };
        let used = values.len() as u64;
        self.put(&[1, self.kinds.dict, used, 0, keys, 0])
    }

    /// An object of a class that has its attributes without a dictionary.
    fn instance(&mut self, kind: u64, values: &[u64]) -> u64 {
        let mut words = vec![0; BEFORE_WORDS];
        match self.layout.managed {
            Managed::Apart { .. } => {
                words[0] = self.put(values);
                words.extend([1, kind]);
            }
            Managed::Either { .. } => {
                words[1] = self.put(values) - 1;
                words.extend([1, kind]);
            }
            Managed::Behind { .. } => {
                words.extend([1, kind, VALID_VALUES]);
                words.extend(values);
            }
        }
        words.push(0);
        self.put(&words) + 8 * BEFORE_WORDS as u64
    }

    fn deque(&mut self, items: &[u64]) -> u64 {
        let mut block = vec![0; 66];
        block[1..=items.len()].copy_from_slice(items);
        let block = self.put(&block);
        let right = items.len() as u64;
        self.put(&[1, self.kinds.deque, right, block, block, 0, right, 0])
    }

    fn bytes(&mut self, bytes: &[u8]) -> u64 {
        let at = self.alloc(5 + bytes.len().div_ceil(8));
        self.set_bytes(at, self.layout.bytes_data as usize, bytes);
        at
    }

    // ---- what stands still

    fn class(&mut self, name: &str, flags: u64, dictoffset: u64, keys: u64, dict: u64) -> u64 {
        let layout = self.layout;
        let mut text = name.as_bytes().to_vec();
        text.resize(32, 0);
        let name_at = self.alloc(4);
        self.set_bytes(name_at, 0, &text);
        let mut words = vec![0; TYPE_WORDS];
        words[1] = BASE + 64;
        words[layout.type_name / 8] = name_at;
        words[layout.type_basicsize / 8] = 16;
        words[layout.type_flags / 8] = flags | layout::READY;
        words[layout.type_dictoffset / 8] = dictoffset;
        words[layout.type_cached_keys / 8] = keys;
        words[layout.type_dict / 8] = dict;
        let at = self.put(&words);
        self.types.push(at);
        at
    }

    fn plain(&mut self, name: &str, names: &[&str]) -> u64 {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let keys = self.keys(&names, &[]);
        let dict = self.dict(&[], &[]);
        let flags = layout::HEAP_TYPE | layout::MANAGED_DICT | layout::INLINE_VALUES;
        self.class(name, flags, u64::MAX, keys, dict)
    }

    fn put_types(&mut self) {
        self.alloc(32);
        self.kinds.text = self.class("str", 0, 0, 0, 0);
        self.kinds.int = self.class("int", layout::INT_SUBCLASS, 0, 0, 0);
        self.kinds.list = self.class("list", layout::LIST_SUBCLASS, 0, 0, 0);
        self.kinds.tuple = self.class("tuple", layout::TUPLE_SUBCLASS, 0, 0, 0);
        self.kinds.dict = self.class("dict", layout::DICT_SUBCLASS, 0, 0, 0);
        self.class("set", 0, 0, 0, 0);
        self.class("NoneType", 0, 0, 0, 0);
        self.class("float", 0, 0, 0, 0);
        self.kinds.code = self.class("code", 0, 0, 0, 0);
        self.kinds.member = self.class("member_descriptor", 0, 0, 0, 0);
        let immutable = layout::HEAP_TYPE | layout::IMMUTABLE_TYPE;
        self.kinds.deque = self.class("collections.deque", immutable, 0, 0, 0);
        self.kinds.batch = self.plain(
            "SchedulerOutput",
            &[
                "total_num_scheduled_tokens",
                "num_scheduled_tokens",
                "scheduled_new_reqs",
                "scheduled_cached_reqs",
                "entries",
                "positions",
                "queue",
            ],
        );
        self.kinds.cached = self.plain("CachedRequests", &["num_computed_tokens"]);
        self.kinds.entry = self.plain("Entry", &["name", "tokens"]);
        self.kinds.engine = self.plain("EngineCoreProc", &["scheduler"]);
        let member = self.put(&[0, u64::from(layout::MEMBER_OBJECT_OR_ERROR), 16]);
        let descriptor = self.put(&[1, self.kinds.member, 0, 0, 0, member]);
        let slots = self.dict(&["num_computed_tokens".to_owned()], &[descriptor]);
        self.kinds.request = self.class("Request", layout::HEAP_TYPE, 0, 0, slots);
        let none = self.dict(&[], &[]);
        self.kinds.scheduler = self.class("Scheduler", layout::HEAP_TYPE, 16, 0, none);
        self.kinds.queue = self.class("Queue", layout::HEAP_TYPE, 16, 0, none);
        let table = self.put(&[0x1234]);
        self.set(self.kinds.queue, self.layout.type_as_sequence, table);
        self.owned.clear();
    }

    /// The engine object, with a scheduler.
    fn put_scheduler(&mut self) -> u64 {
        let mut names: Vec<String> = SETTINGS.iter().map(|name| (*name).to_owned()).collect();
        let setting = self.int(7);
        let mut values = vec![setting; names.len()];
        self.number_at = self.int(self.number);
        names.push("current_step".to_owned());
        values.push(self.number_at);
        let dict = self.dict(&names, &values);
        self.scheduler = self.put(&[1, self.kinds.scheduler, dict]);
        let own = self.instance(self.kinds.engine, &[self.scheduler]);
        self.objects.extend([own, self.scheduler, dict]);
        own
    }

    fn code(&mut self, file: &str, name: &str, locals: &[&str]) -> u64 {
        let layout = self.layout;
        let names: Vec<u64> = locals.iter().map(|name| self.text(name)).collect();
        let names = self.tuple(&names);
        let kinds = self.bytes(&vec![0x20; locals.len()]);
        let (filename, qualname) = (self.text(file), self.text(name));
        let at = self.alloc(layout.code_bytecode / 8 + 4);
        self.set(at, 0, 1);
        self.set(at, 8, self.kinds.code);
        self.set(at, 16, 4);
        self.set_bytes(at, layout.code_argcount, &1u32.to_le_bytes());
        self.set_bytes(at, layout.code_first_line, &9u32.to_le_bytes());
        self.set_bytes(
            at,
            layout.code_nlocalsplus,
            &(locals.len() as u32).to_le_bytes(),
        );
        self.set(at, layout.code_localsplusnames, names);
        self.set(at, layout.code_localspluskinds, kinds);
        self.set(at, layout.code_filename, filename);
        self.set(at, layout.code_qualname, qualname);
        let store = [layout.bytecode.store_fast[0], 1];
        self.set_bytes(at, layout.code_bytecode, &store);
        self.objects.push(at);
        at
    }

    fn frame(&mut self, at: u64, code: u64, previous: u64, locals: &[u64]) {
        self.set(at, self.layout.frame_code, code);
        self.set(at, self.layout.frame_previous, previous);
        self.set(
            at,
            self.layout.frame_prev_instr,
            code + self.layout.code_bytecode as u64,
        );
        for (index, local) in locals.iter().enumerate() {
            self.set(at, self.layout.frame_locals + 8 * index, *local);
        }
        self.objects.push(at);
    }

    fn put_stack(&mut self, own: u64) {
        let layout = self.layout;
        let file = "/usr/lib/engine/core.py";
        let locals: &[&str] = &["self", "scheduler_output", "deferred"];
        let codes = [
            self.code(file, "EngineCoreProc.run_busy_loop", &["self"]),
            self.code(file, "EngineCore.step", locals),
            self.code(file, "Executor.execute", &["self"]),
        ];
        let chunk = self.alloc(CHUNK_WORDS);
        let at = |index: usize| chunk + 8 * (4 + FRAME_WORDS * index) as u64;
        self.frame(at(0), codes[0], 0, &[own]);
        // The step is called from C.
        self.frame(at(1), 0, at(0), &[]);
        self.set_bytes(at(1), layout.frame_owner, &[layout::FRAME_OF_INTERPRETER]);
        self.frame(at(2), codes[1], at(1), &[own, 0, 0]);
        self.frame(at(3), codes[2], at(2), &[own]);
        self.local_at = at(2) + layout.frame_locals as u64 + 8;
        // Of another thread, in another chunk.
        let other = self.code(file, "wait", &["self"]);
        let alone = self.alloc(FRAME_WORDS);
        self.frame(alone, other, 0, &[own]);
        let last = self.thread(at(3), chunk, at(4), 0);
        let first = self.thread(alone, 0, 0, last);
        self.interpreter = self.alloc(1000);
        self.set(
            self.interpreter,
            layout.interpreter_threads_head as usize,
            first,
        );
        self.objects.extend([chunk, first, last, self.interpreter]);
        self.owned.clear();
    }

    fn thread(&mut self, frame: u64, chunk: u64, top: u64, next: u64) -> u64 {
        let layout = self.layout;
        let at = self.alloc(40);
        let holder = match layout.cframe_current_frame {
            Some(offset) => {
                let holder = self.alloc(4);
                self.set(holder, offset as usize, frame);
                holder
            }
            None => frame,
        };
        self.set(at, layout.thread_next as usize, next);
        self.set(at, layout.thread_frame as usize, holder);
        self.set(at, layout.thread_datastack_chunk as usize, chunk);
        self.set(at, layout.thread_datastack_chunk as usize + 8, top);
        at
    }

    // ---- what it does

    /// One step of what an engine does between two reads.
    pub fn step(&mut self, random: &mut Random) {
        match random.below(8) {
            0 => return self.grow_scheduler(),
            1 => return self.renew_dictionary(),
            2 if self.state == State::Assigned => return self.grow_tokens(),
            _ => {}
        }
        self.state = match self.state {
            State::Idle => {
                self.count();
                State::Scheduled
            }
            State::Scheduled => {
                let batch = self.batch(random);
                self.set(self.local_at, 0, batch);
                State::Assigned
            }
            State::Assigned => {
                self.set(self.local_at, 0, 0);
                for block in std::mem::take(&mut self.owned) {
                    self.release(block);
                }
                State::Idle
            }
        };
    }

    /// The scheduler's dictionary, its keys, and where the count is in them.
    fn scheduler_slot(&self) -> (u64, u64, u64) {
        let dict = self.get(self.scheduler, 16);
        let keys = self.get(dict, self.layout.dict_keys);
        (dict, keys, keys + 40 + 16 * SETTINGS.len() as u64 + 8)
    }

    fn count(&mut self) {
        self.number += 1;
        self.history.remove(&(self.number - HISTORY));
        let owned = std::mem::take(&mut self.owned);
        let new = self.int(self.number);
        self.owned = owned;
        let (_, _, slot) = self.scheduler_slot();
        self.set(slot, 0, new);
        let old = std::mem::replace(&mut self.number_at, new);
        self.release((old, 8));
    }

    fn copy_table(&mut self, keys: u64) -> (u64, usize) {
        let words = 5 + 2 * self.get(keys, self.layout.keys_nentries) as usize;
        let copy: Vec<u64> = (0..words).map(|index| self.get(keys, 8 * index)).collect();
        (self.put(&copy), words.next_multiple_of(2).max(8))
    }

    /// A dictionary that grows gets another table; the old one is freed.
    fn grow_scheduler(&mut self) {
        let owned = std::mem::take(&mut self.owned);
        let (dict, keys, _) = self.scheduler_slot();
        let (new, words) = self.copy_table(keys);
        self.set(dict, self.layout.dict_keys, new);
        self.owned = owned;
        self.release((keys, words));
    }

    /// As `vars(scheduler)` replaced by a copy.
    fn renew_dictionary(&mut self) {
        let owned = std::mem::take(&mut self.owned);
        let (dict, keys, _) = self.scheduler_slot();
        let (new, words) = self.copy_table(keys);
        let used = self.get(dict, self.layout.dict_used);
        let copy = self.put(&[1, self.kinds.dict, used, 0, new, 0]);
        self.set(self.scheduler, 16, copy);
        self.owned = owned;
        self.release((keys, words));
        self.release((dict, 8));
    }

    fn grow_tokens(&mut self) {
        let keys = self.get(self.tokens_dict, self.layout.dict_keys);
        let (new, _) = self.copy_table(keys);
        self.set(self.tokens_dict, self.layout.dict_keys, new);
        self.drop_block(keys);
    }

    fn batch(&mut self, random: &mut Random) -> u64 {
        let token = |random: &mut Random| match random.below(3) {
            0 => random.below(2000) as i64 + 1,
            _ => 1,
        };
        let tokens: Vec<i64> = (0..=random.below(12)).map(|_| token(random)).collect();
        let computed: Vec<i64> = (0..random.below(5))
            .map(|_| random.below(9000) as i64)
            .collect();
        let cached: Vec<i64> = (0..=random.below(9))
            .map(|_| random.below(1 << 40) as i64)
            .collect();
        let positions: Vec<i64> = (0..=random.below(20))
            .map(|_| random.below(500) as i64)
            .collect();
        let entries: Vec<i64> = tokens.iter().map(|n| n + self.number % 1000).collect();
        let waiting = random.below(9);
        let sum = |all: &[i64]| all.iter().sum::<i64>();
        let count = |all: &[i64]| all.len() as i64;
        let prefill = sum(&tokens
            .iter()
            .copied()
            .filter(|n| *n > 1)
            .collect::<Vec<_>>());
        let ones = tokens.iter().filter(|n| **n == 1).count() as i64;
        let largest = |all: &[i64]| all.iter().copied().max().unwrap_or(0);
        let payload = vec![
            sum(&tokens),
            count(&tokens),
            sum(&tokens),
            prefill,
            ones,
            count(&computed),
            sum(&computed),
            sum(&cached),
            largest(&cached),
            sum(&entries),
            count(&positions),
            largest(&positions),
            waiting as i64,
        ];
        let batch = self.put_batch(&tokens, &computed, &cached, &entries, &positions, waiting);
        self.history.insert(self.number, payload);
        batch
    }

    fn put_batch(
        &mut self,
        tokens: &[i64],
        computed: &[i64],
        cached: &[i64],
        entries: &[i64],
        positions: &[i64],
        waiting: u64,
    ) -> u64 {
        let kinds = self.kinds;
        let total = self.int(tokens.iter().sum());
        let names: Vec<String> = (0..tokens.len()).map(|n| format!("request {n}")).collect();
        let values = self.ints(tokens);
        self.tokens_dict = self.dict(&names, &values);
        let computed = self.ints(computed);
        let put_request = |at: u64, engine: &mut Engine| engine.put(&[1, kinds.request, at]);
        let requests: Vec<u64> = computed.iter().map(|at| put_request(*at, self)).collect();
        let requests = self.list(&requests);
        let cached = self.ints(cached);
        let cached = self.list(&cached);
        let cached = self.instance(kinds.cached, &[cached]);
        let entries = self.ints(entries);
        let put_entry = |at: u64, engine: &mut Engine| engine.instance(kinds.entry, &[at, at]);
        let entries: Vec<u64> = entries.iter().map(|at| put_entry(*at, self)).collect();
        let entries = self.list(&entries);
        let positions = self.ints(positions);
        let positions = self.tuple(&positions);
        let queued = vec![total; waiting as usize];
        let queue = match waiting % 2 {
            0 => self.deque(&queued),
            _ => {
                let list = self.list(&queued);
                let names = ["limit".to_owned(), "heap".to_owned()];
                let dict = self.dict(&names, &[total, list]);
                self.put(&[1, kinds.queue, dict])
            }
        };
        let values = [
            total,
            self.tokens_dict,
            requests,
            cached,
            entries,
            positions,
            queue,
        ];
        self.instance(kinds.batch, &values)
    }
}
