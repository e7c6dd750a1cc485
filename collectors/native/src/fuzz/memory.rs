//! A stretch of made-up memory that counts its reads and may change between any two of them.

use std::cell::{Cell, RefCell};

use super::engine::{Engine, BASE};
use super::look::Seen;
use crate::memory::{Memory, Piece, Trouble};

/// Steps of the engine within one read: a whole iteration, which takes three.
const STEPS_PER_READ: u64 = 3;
/// Readable behind the engine, so that the largest tables can be read.
const REST_WORDS: usize = 1 << 16;

/// Splitmix64.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// Inside, at the edges, unaligned, and nowhere.
    pub fn address(&mut self, base: u64, bytes: u64) -> u64 {
        match self.below(12) {
            0 => self.next(),
            1 => self.below(64),
            2 => u64::MAX - self.below(512),
            3 => base + bytes - self.below(512),
            4 => base + self.below(bytes),
            _ => base + self.below(bytes / 8) * 8,
        }
    }

    /// A word as a torn read has it: pointers, lengths at the limits, flags, anything.
    pub fn word(&mut self, base: u64, words: u64) -> u64 {
        const LENGTHS: [u64; 20] = [
            0,
            1,
            2,
            3,
            16,
            17,
            32,
            33,
            64,
            256,
            257,
            4096,
            8192,
            8193,
            16384,
            16385,
            1 << 20,
            1 << 31,
            1 << 62,
            1 << 63,
        ];
        match self.below(8) {
            0 => self.next(),
            1 => self.below(64).wrapping_neg(),
            2 | 3 => *self.pick(&LENGTHS),
            4 => 1 << self.below(64),
            5 => self.address(base, words * 8),
            _ => base + 8 * self.below(words),
        }
    }
}

struct Running {
    engine: Engine,
    random: Random,
    /// One of so many pieces of a read comes after a step of the engine; 0 for none.
    one_in: u64,
    /// Steps that may still come within this read.
    left: u64,
}

pub struct Arena {
    words: RefCell<Vec<u64>>,
    running: RefCell<Option<Running>>,
    reads: Cell<u64>,
    bytes: Cell<u64>,
}

impl Arena {
    pub fn new(words: Vec<u64>) -> Arena {
        Arena {
            words: RefCell::new(words),
            running: RefCell::new(None),
            reads: Cell::new(0),
            bytes: Cell::new(0),
        }
    }

    /// The memory of an engine that goes on while it is read.
    pub fn running(engine: Engine, random: Random) -> Arena {
        let arena = Arena::new(engine.words());
        *arena.running.borrow_mut() = Some(Running {
            engine,
            random,
            one_in: 0,
            left: 0,
        });
        arena
    }

    pub fn set_pace(&self, one_in: u64) {
        if let Some(running) = self.running.borrow_mut().as_mut() {
            running.one_in = one_in;
        }
    }

    /// The engine goes on between two reads, too.
    pub fn between_reads(&self) {
        let mut running = self.running.borrow_mut();
        let Some(Running { engine, random, .. }) = running.as_mut() else {
            return;
        };
        for _ in 0..random.below(7) {
            engine.step(random);
        }
        self.words.borrow_mut().clone_from(&engine.heap);
    }

    /// Whether the engine ever had these values, for this count.
    pub fn had(&self, seen: &Seen) -> bool {
        let running = self.running.borrow();
        let engine = running.as_ref().map(|running| &running.engine);
        engine.is_some_and(|engine| engine.had(seen))
    }

    pub fn truth(&self, number: i64) -> Option<Vec<i64>> {
        let running = self.running.borrow();
        running.as_ref()?.engine.history.get(&number).cloned()
    }

    /// Reads and bytes so far.
    pub fn traffic(&self) -> (u64, u64) {
        (self.reads.get(), self.bytes.get())
    }

    /// Garbage in one of `one_in` words; the types stay, or nothing would be read at all.
    pub fn scramble(&self, random: &mut Random, engine: &Engine, one_in: u64) {
        self.fill_rest(random, engine);
        let mut words = self.words.borrow_mut();
        let total = words.len() as u64;
        for index in engine.types_until..engine.heap.len() {
            if random.below(one_in) == 0 {
                words[index] = self.damaged_word(random, engine, total);
            }
        }
    }

    /// Something readable behind the engine: heads of objects, pointers, garbage.
    pub fn fill_rest(&self, random: &mut Random, engine: &Engine) {
        let mut words = self.words.borrow_mut();
        let total = (words.len() + REST_WORDS) as u64;
        for _ in 0..REST_WORDS {
            words.push(self.damaged_word(random, engine, total));
        }
    }

    fn damaged_word(&self, random: &mut Random, engine: &Engine, total: u64) -> u64 {
        match random.below(4) {
            0 => *random.pick(&engine.types),
            1 => *random.pick(&engine.objects),
            _ => random.word(BASE, total),
        }
    }

    /// Changes a few words, types among them, and gives what was there.
    pub fn damage(&self, random: &mut Random, engine: &Engine) -> Vec<(usize, u64)> {
        let mut kept = Vec::new();
        let total = self.words.borrow().len() as u64;
        for _ in 0..=random.below(4) {
            let anywhere = random.below(engine.heap.len() as u64) as usize;
            let head = (*random.pick(&engine.objects) - BASE) / 8 + random.below(9);
            let index = match random.below(2) {
                0 => anywhere,
                _ => (head as usize).min(engine.heap.len() - 1),
            };
            let mut words = self.words.borrow_mut();
            kept.push((index, words[index]));
            words[index] = match random.below(6) {
                0 => BASE + 8 * index as u64,
                1 => words[index].wrapping_add(random.below(5)).wrapping_sub(2),
                2 => words[index] ^ 1 << random.below(64),
                _ => self.damaged_word(random, engine, total),
            };
        }
        kept
    }

    pub fn restore(&self, kept: Vec<(usize, u64)>) {
        let mut words = self.words.borrow_mut();
        for (index, word) in kept.into_iter().rev() {
            words[index] = word;
        }
    }

    fn begin_read(&self) {
        if let Some(running) = self.running.borrow_mut().as_mut() {
            running.left = STEPS_PER_READ;
        }
    }

    fn run_on(&self) {
        let mut running = self.running.borrow_mut();
        let Some(Running {
            engine,
            random,
            one_in: one_in @ 1..,
            left,
        }) = running.as_mut()
        else {
            return;
        };
        if *left > 0 && random.below(*one_in) == 0 {
            let steps = 1 + random.below(*left);
            *left -= steps;
            for _ in 0..steps {
                engine.step(random);
            }
            self.words.borrow_mut().clone_from(&engine.heap);
        }
    }

    /// What is mapped of a piece, from its start.
    fn copy(&self, (address, length): Piece, out: &mut [u8]) -> usize {
        let words = self.words.borrow();
        let end = BASE + 8 * words.len() as u64;
        if address < BASE || address >= end {
            return 0;
        }
        let length = length.min((end - address) as usize);
        for (at, byte) in out[..length].iter_mut().enumerate() {
            let from = (address - BASE) as usize + at;
            *byte = words[from / 8].to_le_bytes()[from % 8];
        }
        length
    }
}

impl Memory for &Arena {
    fn gather(&self, pieces: &[Piece], out: &mut [u8]) -> Result<usize, Trouble> {
        self.reads.set(self.reads.get() + 1);
        self.begin_read();
        let mut total = 0;
        for piece in pieces {
            self.run_on();
            let arrived = self.copy(*piece, &mut out[total..total + piece.1]);
            total += arrived;
            self.bytes.set(self.bytes.get() + arrived as u64);
            if arrived < piece.1 {
                break;
            }
        }
        match (total, pieces.iter().any(|piece| piece.1 > 0)) {
            (0, true) => Err(Trouble::Torn),
            _ => Ok(total),
        }
    }
}
