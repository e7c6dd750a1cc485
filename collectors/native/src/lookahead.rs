//! Many reads in few system calls.
//!
//! While looking ahead, a read that is not known yet fails and is noted; what was noted is fetched
//! in one call, and whoever reads starts again. So paths that are followed one after the other
//! take as many calls as the longest of them has steps.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::memory::{Memory, Piece, Trouble};

/// Pieces of one fetch that may turn out unreadable before the rest is given up.
const MAX_UNREADABLE: usize = 8;
const PAGE_BITS: u32 = 12;
/// Bytes between two pieces that are copied rather than left out.
const MAX_GAP: u64 = 256;
/// Pieces that begin with an object, as `objects` reads them.
const OBJECT_BYTES: usize = crate::objects::INT_BYTES;
const CONTAINER_BYTES: usize = crate::objects::CONTAINER;
/// One that begins before the object: its attributes, the collector's words, its references.
const HEAD_BYTES: usize = crate::objects::HEAD;

#[derive(Default)]
struct Ahead {
    /// What arrived of each piece, which may be less than its length.
    known: HashMap<Piece, Vec<u8>>,
    wanted: Vec<Piece>,
}

/// A memory that can be told to look ahead.
pub struct Lookahead<M> {
    pub inner: M,
    ahead: RefCell<Option<Ahead>>,
}

impl<M: Memory> Lookahead<M> {
    pub fn new(inner: M) -> Self {
        Lookahead {
            inner,
            ahead: RefCell::new(None),
        }
    }

    pub fn start(&self) {
        *self.ahead.borrow_mut() = Some(Ahead::default());
    }

    pub fn stop(&self) {
        *self.ahead.borrow_mut() = None;
    }

    /// Fetches what was noted; `false` when nothing was.
    pub fn fetch(&self) -> Result<bool, Trouble> {
        let mut ahead = self.ahead.borrow_mut();
        let Some(ahead) = ahead.as_mut() else {
            return Ok(false);
        };
        let mut wanted = std::mem::take(&mut ahead.wanted);
        wanted.sort_unstable();
        wanted.dedup();
        let fetched = !wanted.is_empty();
        let mut unreadable = 0;
        let mut rest = &wanted[..];
        while !rest.is_empty() && unreadable < MAX_UNREADABLE {
            let mut bytes = vec![0; rest.iter().map(|piece| piece.1).sum()];
            let mut arrived = match self.inner.gather(rest, &mut bytes) {
                Ok(arrived) => arrived,
                Err(Trouble::Torn) => 0,
                Err(other) => return Err(other),
            };
            let mut at = 0;
            let mut taken = 0;
            for piece in rest {
                let here = piece.1.min(arrived);
                ahead.known.insert(*piece, bytes[at..at + here].to_vec());
                at += piece.1;
                arrived -= here;
                taken += 1;
                if here < piece.1 {
                    unreadable += 1;
                    break;
                }
            }
            rest = &rest[taken..];
        }
        for piece in rest {
            ahead.known.insert(*piece, Vec::new());
        }
        Ok(fetched)
    }
}

impl<M: Memory> Lookahead<M> {
    /// Whether everything that was fetched is still the same, in one more call: then it was there
    /// all at once.
    pub fn is_unchanged(&self) -> Result<bool, Trouble> {
        let ahead = self.ahead.borrow();
        let Some(ahead) = ahead.as_ref() else {
            return Ok(true);
        };
        let whole = ahead.known.iter();
        let mut whole: Vec<(&Piece, &Vec<u8>)> = whole
            .filter(|(piece, known)| piece.1 > 0 && piece.1 == known.len())
            .collect();
        whole.sort_unstable_by_key(|(piece, _)| **piece);
        let mut ranges: Vec<Piece> = Vec::new();
        let mut at = Vec::with_capacity(whole.len());
        let mut total = 0;
        for (piece, _) in &whole {
            match ranges.last_mut() {
                Some(last) if is_near(*last, **piece) => {
                    let end = (piece.0 - last.0) as usize + piece.1;
                    total += end.saturating_sub(last.1);
                    last.1 = last.1.max(end);
                }
                _ => {
                    total += piece.1;
                    ranges.push(**piece);
                }
            }
            let last = ranges.last().map_or((0, 0), |last| *last);
            at.push(total - last.1 + (piece.0 - last.0) as usize);
        }
        let mut again = vec![0; total];
        match self.inner.gather_all(&ranges, &mut again) {
            Ok(()) => {}
            Err(Trouble::Torn) => return Ok(false),
            Err(other) => return Err(other),
        }
        let same = |((piece, known), at): (&(&Piece, &Vec<u8>), &usize)| {
            is_same(known, &again[*at..*at + piece.1])
        };
        Ok(whole.iter().zip(&at).all(same))
    }
}

/// Whether what lies between a stretch and the next is readable, and little: one read takes both.
fn is_near(last: Piece, next: Piece) -> bool {
    let end = last.0.wrapping_add(last.1 as u64);
    let same_page = end.wrapping_sub(1) >> PAGE_BITS == next.0 >> PAGE_BITS;
    next.0 < end || same_page && next.0 - end <= MAX_GAP
}

/// Whether two copies are alike but for the words by which Python counts references and collects
/// garbage, which are told by the length of the piece.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let counted = match one.len() {
        OBJECT_BYTES | CONTAINER_BYTES => 0..8,
        HEAD_BYTES => 16..40,
        _ => 0..0,
    };
    one[..counted.start] == other[..counted.start] && one[counted.end..] == other[counted.end..]
}

impl<M: Memory> Memory for Lookahead<M> {
    fn gather(&self, pieces: &[Piece], out: &mut [u8]) -> Result<usize, Trouble> {
        let mut ahead = self.ahead.borrow_mut();
        let Some(ahead) = ahead.as_mut() else {
            return self.inner.gather(pieces, out);
        };
        let unknown = pieces
            .iter()
            .filter(|piece| !ahead.known.contains_key(piece));
        let unknown: Vec<Piece> = unknown.copied().collect();
        if !unknown.is_empty() {
            ahead.wanted.extend(unknown);
            return Err(Trouble::Torn);
        }
        let mut total = 0;
        for piece in pieces {
            let bytes = &ahead.known[piece];
            out.get_mut(total..total + bytes.len())
                .ok_or(Trouble::Torn)?
                .copy_from_slice(bytes);
            total += bytes.len();
            if bytes.len() < piece.1 {
                break;
            }
        }
        match (total, pieces.iter().any(|piece| piece.1 > 0)) {
            (0, true) => Err(Trouble::Torn),
            _ => Ok(total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ProcessMemory;

    /// Follows two chains of pointers, one after the other.
    fn follow(memory: &Lookahead<ProcessMemory>, starts: &[u64]) -> Result<Vec<u64>, Trouble> {
        let walk = |start: &u64| memory.word(memory.word(memory.word(*start)?)?);
        let all: Vec<Result<u64, Trouble>> = starts.iter().map(walk).collect();
        all.into_iter().collect()
    }

    #[test]
    fn chains_take_as_many_calls_as_the_longest_has_steps() {
        let ends = [7u64, 8];
        let middle = [&ends[0] as *const u64 as u64, &ends[1] as *const u64 as u64];
        let first = [
            &middle[0] as *const u64 as u64,
            &middle[1] as *const u64 as u64,
        ];
        let starts = [
            &first[0] as *const u64 as u64,
            &first[1] as *const u64 as u64,
        ];
        let memory = Lookahead::new(ProcessMemory::new(std::process::id() as i32));
        assert_eq!(follow(&memory, &starts), Ok(vec![7, 8]));
        assert_eq!(memory.inner.calls(), 6);
        memory.start();
        let mut found = follow(&memory, &starts);
        while memory.fetch().unwrap() {
            found = follow(&memory, &starts);
        }
        assert_eq!(found, Ok(vec![7, 8]));
        assert_eq!(memory.inner.calls(), 6 + 3);
        memory.stop();
        assert_eq!(memory.word(starts[0]), Ok(middle.as_ptr() as u64));
    }

    #[test]
    fn what_cannot_be_read_fails_alone() {
        let here = [1u64, 2];
        let memory = Lookahead::new(ProcessMemory::new(std::process::id() as i32));
        memory.start();
        let (good, bad) = (here.as_ptr() as u64, 16);
        assert!(memory.word(bad).is_err() && memory.word(good).is_err());
        assert_eq!(memory.fetch(), Ok(true));
        assert_eq!(memory.word(good), Ok(1));
        assert_eq!(memory.word(bad), Err(Trouble::Torn));
        assert_eq!(memory.fetch(), Ok(false));
        let mut out = [0; 16];
        let pieces = [(good, 8), (bad, 8)];
        assert_eq!(memory.gather(&pieces, &mut out), Ok(8));
    }

    #[test]
    fn what_changed_since_it_was_fetched_is_noticed_but_for_references() {
        let object = Box::leak(Box::new([1u64, 2, 3, 4]));
        let at = object.as_ptr() as u64;
        let memory = Lookahead::new(ProcessMemory::new(std::process::id() as i32));
        memory.start();
        let mut out = [0; OBJECT_BYTES];
        assert!(memory.read(at, &mut out).is_err() && memory.word(at + 24).is_err());
        assert_eq!(memory.fetch(), Ok(true));
        assert_eq!(memory.is_unchanged(), Ok(true));
        let put = |index: usize, word: u64| {
            // SAFETY: our own, and nobody else has it.
            unsafe { std::ptr::write_volatile((at as *mut u64).add(index), word) }
        };
        put(0, 99);
        assert_eq!(memory.is_unchanged(), Ok(true));
        put(2, 99);
        assert_eq!(memory.is_unchanged(), Ok(false));
        memory.stop();
        assert_eq!(memory.is_unchanged(), Ok(true));
    }
}
