//! Remembered frames: "is it still running" without walking the stack.
//!
//! Frames of the same depth lie at the same address of the data stack. A coroutine's frame lies in
//! the coroutine itself, with its state in front of it.

use crate::frames::{Code, Found, Local, Seen, Walk};
use crate::layout::{Layout, STATE_BEFORE_FRAME};
use crate::memory::{Fields, Piece};

/// The word with a coroutine's state, and those with code, caller and instruction.
const BEFORE: usize = 8;
const FRAME_LOOK: usize = 64;
/// Bytes of one look at a [`Place`].
pub const LOOK: usize = BEFORE + FRAME_LOOK + 8 + 8;

/// Bytes of the last look, by [`Place::pieces_again`].
pub const AGAIN: usize = 8 + 8 + 16;

/// Which local a look brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Batch,
    Identity,
}

impl Ask {
    fn local(self, code: &Code) -> Option<Local> {
        match self {
            Ask::Batch => code.batch,
            Ask::Identity => code.identity,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Gone,
    /// A coroutine at an await.
    Suspended,
    Running,
}

/// What a tick saw at a remembered place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    pub presence: Presence,
    pub code: u64,
    /// Of the instruction, in bytes.
    pub offset: u64,
    /// The local, 0 before it is assigned; `None` when this look did not bring it.
    pub object: Option<u64>,
    /// The local was assigned a second time: it holds another object by now.
    pub later: bool,
    pub overlap: bool,
    /// It returns: its locals are freed, or have been, in the order in which they lie.
    pub leaving: bool,
}

impl Look {
    pub const GONE: Look = Look {
        presence: Presence::Gone,
        code: 0,
        offset: 0,
        object: None,
        later: false,
        overlap: false,
        leaving: false,
    };

    /// This look, as far as a later one says that it was of a function that still ran.
    pub fn confirmed(self, again: Option<u64>) -> Look {
        match again {
            None => Look::GONE,
            Some(now)
                if self
                    .object
                    .is_some_and(|object| object != 0 && object != now) =>
            {
                Look {
                    object: None,
                    ..self
                }
            }
            Some(_) => self,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Place {
    pub frame: u64,
    caller: Option<Found>,
    /// 0 when the frame lies below the top chunk; then only the frame's words count.
    chunk: u64,
    coroutine: bool,
    codes: Vec<Code>,
    ask: Ask,
    /// The local that the next look asks for.
    asked: Option<Local>,
}

impl Place {
    /// From a walk that saw the function running.
    pub fn learn(walk: &Walk, seen: Seen, code: &Code, ask: Ask, known: Option<Place>) -> Place {
        let same = |known: &Place| known.frame == seen.found.frame && known.caller == seen.caller;
        let mut codes = known.filter(same).map_or(Vec::new(), |known| known.codes);
        codes.retain(|known| known.address != code.address);
        codes.push(code.clone());
        Place {
            frame: seen.found.frame,
            caller: seen.caller,
            chunk: if seen.in_chunk { walk.chunk } else { 0 },
            coroutine: seen.coroutine,
            codes,
            ask,
            asked: ask.local(code),
        }
    }

    pub fn code(&self, address: u64) -> Option<&Code> {
        self.codes.iter().find(|known| known.address == address)
    }

    /// Where a local of this frame is.
    pub fn local_at(&self, layout: &Layout, local: Local) -> u64 {
        self.frame + layout.frame_locals as u64 + 8 * local.index
    }

    /// The local that the last look asked for.
    pub fn asked(&self) -> Option<Local> {
        self.asked
    }

    /// What a tick has to read, in this order.
    pub fn pieces(&self, layout: &Layout) -> [Piece; 3] {
        let caller = self.caller.map_or(self.frame, |caller| caller.frame);
        let local = match self.asked {
            Some(local) => self.local_at(layout, local),
            None => self.frame,
        };
        [
            (self.frame - BEFORE as u64, BEFORE + FRAME_LOOK),
            (caller + layout.frame_code as u64, 8),
            (local, 8),
        ]
    }

    /// Judges [`LOOK`] bytes read by [`pieces`](Self::pieces), with the top of the data stack.
    pub fn look(&mut self, layout: &Layout, bytes: &[u8], chunk: u64, top: u64) -> Look {
        let frame = bytes.get(BEFORE..).unwrap_or_default();
        let presence = self.presence(layout, bytes, chunk, top);
        let code = layout.referent(frame.u64_at(layout.frame_code));
        if presence == Presence::Gone {
            return Look::GONE;
        }
        let Some(running) = self.codes.iter().find(|known| known.address == code) else {
            return Look::GONE;
        };
        let local = self.ask.local(running);
        let asked = std::mem::replace(&mut self.asked, local);
        let offset = frame
            .u64_at(layout.frame_prev_instr)
            .wrapping_sub(code + layout.code_bytecode as u64);
        let object = match local {
            Some(local) if asked == Some(local) => {
                let word = layout.referent(frame.u64_at(FRAME_LOOK + 8));
                Some(if offset >= local.from { word } else { 0 })
            }
            _ => None,
        };
        Look {
            presence,
            code,
            offset,
            object,
            later: local.is_some_and(|local| offset >= local.until),
            overlap: running.overlap,
            leaving: running.returns.contains(&offset),
        }
    }

    /// What to read after all else, in this order, to know that what was read before was alive:
    /// a frame that was left keeps its words, and its objects are freed.
    pub fn pieces_again(&self, layout: &Layout, stack_at: u64) -> [Piece; 3] {
        let [_, _, local] = self.pieces(layout);
        let code = (self.frame + layout.frame_code as u64, 8);
        let alive = if self.coroutine {
            (self.frame - BEFORE as u64, 16)
        } else {
            (stack_at, 16)
        };
        // The code last: a function called next raises the top before it writes its code.
        [local, alive, code]
    }

    /// Judges [`AGAIN`] bytes read by [`pieces_again`](Self::pieces_again): what the local holds
    /// now, or `None` when the function was left meanwhile.
    pub fn again(&self, layout: &Layout, bytes: &[u8]) -> Option<u64> {
        let object = layout.referent(bytes.u64_at(0));
        let code = layout.referent(bytes.u64_at(24));
        let alive = bytes.get(8..).unwrap_or_default();
        // The next function that is called has its frame at the same address.
        let same = self.codes.iter().any(|known| known.address == code);
        let alive = if self.coroutine {
            self.state(alive) != Presence::Gone
        } else {
            self.covered(alive.u64_at(0), alive.u64_at(8))
        };
        (same && alive).then_some(object)
    }

    fn state(&self, bytes: &[u8]) -> Presence {
        let state = bytes.get(BEFORE - STATE_BEFORE_FRAME);
        match state.map(|byte| *byte as i8) {
            Some(..0) => Presence::Suspended,
            Some(0) => Presence::Running,
            _ => Presence::Gone,
        }
    }

    /// In another chunk the stack is deeper than the frame.
    fn covered(&self, chunk: u64, top: u64) -> bool {
        chunk != self.chunk || top > self.frame
    }

    fn presence(&self, layout: &Layout, bytes: &[u8], chunk: u64, top: u64) -> Presence {
        if self.coroutine {
            return self.state(bytes);
        }
        let frame = bytes.get(BEFORE..).unwrap_or_default();
        let called = self.caller.is_none_or(|caller| {
            frame.u64_at(layout.frame_previous) == caller.frame
                && layout.referent(frame.u64_at(FRAME_LOOK)) == caller.code
        });
        if self.covered(chunk, top) && called {
            Presence::Running
        } else {
            Presence::Gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::tests::layout_of;

    fn layout() -> &'static Layout {
        layout_of(3, 11)
    }

    fn code() -> Code {
        Code::for_tests(
            0x9000,
            Local {
                index: 1,
                cell: false,
                from: 20,
                until: 40,
            },
        )
    }

    fn place(coroutine: bool) -> Place {
        let walk = Walk {
            chunk: 0x4000,
            ..Walk::default()
        };
        let found = |frame, code| Found { frame, code };
        let seen = Seen {
            found: found(0x5000, 0x9000),
            caller: Some(found(0x4f00, 0x8000)),
            in_chunk: true,
            coroutine,
        };
        Place::learn(&walk, seen, &code(), Ask::Batch, None)
    }

    fn bytes(code: u64, caller: u64, offset: u64, caller_code: u64, local: u64) -> Vec<u8> {
        let mut words = [0; 11];
        words[5] = code;
        words[7] = caller;
        words[8] = 0x9000 + 184 + offset;
        words[9] = caller_code;
        words[10] = local;
        words
            .iter()
            .flat_map(|word: &u64| word.to_le_bytes())
            .collect()
    }

    fn presence(bytes: &[u8], chunk: u64, top: u64) -> Presence {
        place(false).look(layout(), bytes, chunk, top).presence
    }

    #[test]
    fn running_needs_the_frame_its_caller_and_a_stack_that_covers_both() {
        let good = bytes(0x9000, 0x4f00, 30, 0x8000, 0x77);
        assert_eq!(presence(&good, 0x4000, 0x5100), Presence::Running);
        assert_eq!(presence(&good, 0xa000, 0xa100), Presence::Running);
        for (bytes, top) in [
            (good, 0x5000),
            (bytes(0x9900, 0x4f00, 30, 0x8000, 0x77), 0x5100),
            (bytes(0x9000, 0x4e00, 30, 0x8000, 0x77), 0x5100),
            (bytes(0x9000, 0x4f00, 30, 0x8800, 0x77), 0x5100),
            (Vec::new(), 0x5100),
        ] {
            assert_eq!(presence(&bytes, 0x4000, top), Presence::Gone);
        }
    }

    #[test]
    fn a_local_counts_from_its_first_assignment_on_and_the_second_is_told() {
        let look = |offset| {
            let bytes = bytes(0x9000, 0x4f00, offset, 0x8000, 0x77);
            let look = place(false).look(layout(), &bytes, 0x4000, 0x5100);
            (look.object, look.later)
        };
        assert_eq!(look(10), (Some(0), false));
        assert_eq!(look(30), (Some(0x77), false));
        assert_eq!(look(40), (Some(0x77), true));
    }

    #[test]
    fn a_look_at_a_return_says_so() {
        let leaving = |offset| {
            let mut place = place(false);
            place.codes[0].returns = vec![36, 60];
            let bytes = bytes(0x9000, 0x4f00, offset, 0x8000, 0x77);
            place.look(layout(), &bytes, 0x4000, 0x5100).leaving
        };
        assert!(leaving(36) && leaving(60));
        assert!(!leaving(34) && !leaving(38));
    }

    #[test]
    fn a_coroutine_is_judged_by_its_state_and_not_by_the_stack() {
        let look = |state: i8| {
            let mut bytes = bytes(0x9000, 0, 30, 0, 0x77);
            bytes[3] = state as u8;
            place(true).look(layout(), &bytes, 0x4000, 0).presence
        };
        assert_eq!(look(-1), Presence::Suspended);
        assert_eq!(look(0), Presence::Running);
        assert_eq!(look(1), Presence::Gone);
    }

    #[test]
    fn a_frame_that_was_left_meanwhile_is_told() {
        let words = |code: u64, top: u64| {
            let words = [0x77, 0x4000, top, code];
            let bytes = words.iter().flat_map(|word: &u64| word.to_le_bytes());
            bytes.collect::<Vec<u8>>()
        };
        assert_eq!(
            place(false).again(layout(), &words(0x9000, 0x5100)),
            Some(0x77)
        );
        assert_eq!(place(false).again(layout(), &words(0x9000, 0x5000)), None);
        assert_eq!(place(false).again(layout(), &words(0x9900, 0x5100)), None);
        assert_eq!(AGAIN, words(0, 0).len());
    }
}
