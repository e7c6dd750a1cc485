//! Reading another process: one trait, so that everything above it is tested on a made-up memory.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a value could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The target changed while it was read, or a pointer led nowhere: try again.
    Torn,
    /// There is no such attribute, or the object is of a kind that is not read.
    Absent,
    /// The process has ended.
    Gone,
    /// The kernel refuses.
    Refused,
}

/// One stretch of the target: address and length in bytes.
pub type Piece = (u64, usize);

pub trait Memory {
    /// Copies `pieces` one after the other into `out`, in order, and returns how many bytes arrived:
    /// less than asked when a later piece is not mapped.
    fn gather(&self, pieces: &[Piece], out: &mut [u8]) -> Result<usize, Trouble>;

    /// Like [`gather`](Self::gather), but all or nothing.
    fn gather_all(&self, pieces: &[Piece], out: &mut [u8]) -> Result<(), Trouble> {
        if self.gather(pieces, out)? == out.len() {
            Ok(())
        } else {
            Err(Trouble::Torn)
        }
    }

    fn read(&self, address: u64, out: &mut [u8]) -> Result<(), Trouble> {
        self.gather_all(&[(address, out.len())], out)
    }

    fn word(&self, address: u64) -> Result<u64, Trouble> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Little-endian fields of a copied stretch; outside of it everything reads as zero.
pub trait Fields {
    fn u64_at(&self, offset: usize) -> u64;
    fn u32_at(&self, offset: usize) -> u32;
    fn i64_at(&self, offset: usize) -> i64 {
        self.u64_at(offset) as i64
    }
}

impl Fields for [u8] {
    fn u64_at(&self, offset: usize) -> u64 {
        match self.get(offset..offset.saturating_add(8)) {
            Some(bytes) => u64::from_le_bytes(bytes.try_into().unwrap_or_default()),
            None => 0,
        }
    }

    fn u32_at(&self, offset: usize) -> u32 {
        match self.get(offset..offset.saturating_add(4)) {
            Some(bytes) => u32::from_le_bytes(bytes.try_into().unwrap_or_default()),
            None => 0,
        }
    }
}

/// The kernel takes at most IOV_MAX pieces in one call.
const PIECES_PER_CALL: usize = 1024;

/// The memory of a live process, by `process_vm_readv`.
pub struct ProcessMemory {
    pid: i32,
    calls: AtomicU64,
}

impl ProcessMemory {
    pub fn new(pid: i32) -> Self {
        ProcessMemory {
            pid,
            calls: AtomicU64::new(0),
        }
    }

    /// System calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn call(&self, remote: &[libc::iovec], out: &mut [u8]) -> Result<usize, Trouble> {
        let local = libc::iovec {
            iov_base: out.as_mut_ptr().cast(),
            iov_len: out.len(),
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `local` covers exactly `out`, which we hold mutably; the remote addresses are
        // checked by the kernel.
        let got = unsafe {
            libc::process_vm_readv(
                self.pid,
                &local,
                1,
                remote.as_ptr(),
                remote.len() as libc::c_ulong,
                0,
            )
        };
        if got >= 0 {
            return Ok(got as usize);
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ESRCH) => Err(Trouble::Gone),
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => Err(Trouble::Refused),
            _ => Err(Trouble::Torn),
        }
    }
}

impl Memory for ProcessMemory {
    fn gather(&self, pieces: &[Piece], out: &mut [u8]) -> Result<usize, Trouble> {
        const NOTHING: libc::iovec = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        let remote_of = |&(address, length): &Piece| libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: length,
        };
        let mut total = 0;
        for group in pieces.chunks(PIECES_PER_CALL) {
            let wanted = group
                .iter()
                .try_fold(0usize, |sum, piece| sum.checked_add(piece.1))
                .ok_or(Trouble::Torn)?;
            let end = total + wanted;
            let Some(target) = out.get_mut(total..end) else {
                return Err(Trouble::Torn);
            };
            // Most calls are a poll tick with a dozen pieces: no allocation for those.
            let got = if group.len() <= 32 {
                let mut remote = [NOTHING; 32];
                for (entry, piece) in remote.iter_mut().zip(group) {
                    *entry = remote_of(piece);
                }
                self.call(&remote[..group.len()], target)
            } else {
                let remote: Vec<libc::iovec> = group.iter().map(remote_of).collect();
                self.call(&remote, target)
            };
            match got {
                Ok(got) => total += got,
                Err(Trouble::Torn) if total > 0 => return Ok(total),
                Err(trouble) => return Err(trouble),
            }
            if total < end {
                break;
            }
        }
        Ok(total)
    }
}

#[cfg(test)]
pub mod fake {
    //! A memory made of stretches, for unit tests.

    use super::{Memory, Piece, Trouble};
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    #[derive(Default)]
    pub struct FakeMemory {
        stretches: RefCell<BTreeMap<u64, Vec<u8>>>,
    }

    impl FakeMemory {
        pub fn put(&self, address: u64, bytes: &[u8]) {
            self.stretches.borrow_mut().insert(address, bytes.to_vec());
        }

        pub fn put_words(&self, address: u64, words: &[u64]) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.put(address, &bytes);
        }

        /// Changes one word of a stretch.
        pub fn patch(&self, address: u64, word: u64) {
            let mut stretches = self.stretches.borrow_mut();
            let (start, bytes) = stretches.range_mut(..=address).next_back().unwrap();
            let from = (address - start) as usize;
            bytes[from..from + 8].copy_from_slice(&word.to_le_bytes());
        }
    }

    impl Memory for FakeMemory {
        fn gather(&self, pieces: &[Piece], out: &mut [u8]) -> Result<usize, Trouble> {
            let stretches = self.stretches.borrow();
            let mut total = 0;
            for &(address, length) in pieces {
                let found = stretches.range(..=address).next_back();
                let bytes = found.and_then(|(start, bytes)| {
                    let from = (address - start) as usize;
                    bytes.get(from..from.checked_add(length)?)
                });
                match bytes {
                    Some(bytes) => {
                        out[total..total + length].copy_from_slice(bytes);
                        total += length;
                    }
                    None if total > 0 => return Ok(total),
                    None => return Err(Trouble::Torn),
                }
            }
            Ok(total)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_memory_reads_back() {
        let here: [u64; 3] = [1, 2, 3];
        let memory = ProcessMemory::new(std::process::id() as i32);
        let base = here.as_ptr() as u64;
        let mut out = [0; 16];
        memory
            .gather_all(&[(base + 16, 8), (base, 8)], &mut out)
            .unwrap();
        assert_eq!((out.u64_at(0), out.u64_at(8)), (3, 1));
        assert_eq!(memory.calls(), 1);
    }

    #[test]
    fn an_unmapped_piece_ends_the_prefix_and_is_never_a_panic() {
        let here = [7u64];
        let memory = ProcessMemory::new(std::process::id() as i32);
        let mut out = [0; 16];
        let pieces = [(here.as_ptr() as u64, 8), (16, 8)];
        assert_eq!(memory.gather(&pieces, &mut out), Ok(8));
        assert_eq!(memory.gather_all(&pieces, &mut out), Err(Trouble::Torn));
        assert_eq!(memory.word(u64::MAX - 3), Err(Trouble::Torn));
    }

    #[test]
    fn more_pieces_than_one_call_takes_are_split() {
        let here: Vec<u64> = (0..3000).collect();
        let memory = ProcessMemory::new(std::process::id() as i32);
        let pieces: Vec<Piece> = here
            .iter()
            .map(|word| (word as *const u64 as u64, 8))
            .collect();
        let mut out = vec![0; 3000 * 8];
        memory.gather_all(&pieces, &mut out).unwrap();
        assert_eq!(out.u64_at(2999 * 8), 2999);
        assert_eq!(memory.calls(), 3);
    }

    #[test]
    fn fields_outside_a_stretch_are_zero() {
        assert_eq!([1u8, 2, 3].as_slice().u64_at(0), 0);
        assert_eq!([1u8].as_slice().u32_at(usize::MAX), 0);
    }
}
