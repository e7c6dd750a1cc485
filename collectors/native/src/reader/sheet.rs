//! One gather with the pieces of everything that a tick looks at.

use crate::memory::{Memory, Piece, Trouble};

/// Pieces that may be unmapped before the rest is given up.
const MAX_MISSING: usize = 6;

#[derive(Default)]
pub struct Sheet {
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
    length: usize,
    /// Where pieces are that could not be read; they are zero.
    missing: Vec<usize>,
}

impl Sheet {
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.missing.clear();
        self.length = 0;
    }

    /// Asks for a stretch and gives the place where it will be.
    pub fn want(&mut self, address: u64, length: usize) -> usize {
        self.pieces.push((address, length));
        self.length += length;
        self.length - length
    }

    /// Where the next piece will be.
    pub fn end(&self) -> usize {
        self.length
    }

    pub fn at(&self, from: usize) -> &[u8] {
        self.bytes.get(from..).unwrap_or_default()
    }

    pub fn slice(&self, from: usize, length: usize) -> &[u8] {
        self.bytes.get(from..from + length).unwrap_or_default()
    }

    pub fn is_whole(&self, from: usize, until: usize) -> bool {
        !self.missing.iter().any(|at| (from..until).contains(at))
    }

    /// Reads all pieces in order; one that is not mapped is left out.
    pub fn read<M: Memory>(&mut self, memory: &M) -> Result<(), Trouble> {
        self.bytes.clear();
        self.bytes.resize(self.length, 0);
        let (mut first, mut at) = (0, 0);
        while first < self.pieces.len() {
            let arrived = match memory.gather(&self.pieces[first..], &mut self.bytes[at..]) {
                Ok(arrived) => arrived,
                Err(Trouble::Torn) => 0,
                Err(other) => return Err(other),
            };
            let end = at + arrived;
            while first < self.pieces.len() && at + self.pieces[first].1 <= end {
                at += self.pieces[first].1;
                first += 1;
            }
            if first < self.pieces.len() {
                let length = self.pieces[first].1;
                self.bytes[at..at + length].fill(0);
                self.missing.push(at);
                at += length;
                first += 1;
                if self.missing.len() > MAX_MISSING {
                    return Err(Trouble::Torn);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Fields, ProcessMemory};

    #[test]
    fn an_unmapped_piece_is_zero_and_told_and_the_others_are_there() {
        let here = [7u64, 8];
        let start = here.as_ptr() as u64;
        let mut sheet = Sheet::default();
        let first = sheet.want(start, 8);
        let missing = sheet.want(16, 8);
        let last = sheet.want(start + 8, 8);
        let memory = ProcessMemory::new(std::process::id() as i32);
        sheet.read(&memory).unwrap();
        assert_eq!(
            (sheet.at(first).u64_at(0), sheet.at(last).u64_at(0)),
            (7, 8)
        );
        assert_eq!(sheet.at(missing).u64_at(0), 0);
        assert!(!sheet.is_whole(first, last) && sheet.is_whole(last, sheet.end()));
        assert_eq!(memory.calls(), 2);
    }
}
