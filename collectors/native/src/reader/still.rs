//! An engine that stands still: what waits for it is read, so that idle is told from stuck.
//!
//! Reading the memory of a process asks nothing of it, so this works while its loop hangs, and while
//! the process is stopped.

use crate::events::{self, Event};
use crate::memory::Trouble;

use super::Reader;

/// No iteration has begun or ended for so long.
const STILL_NS: u64 = 250_000_000;
/// Then the gauges are read again each time after so long.
const PERIOD_NS: u64 = 1_000_000_000;
/// What could not be read is tried again so much later.
const AGAIN_NS: u64 = 100_000_000;

/// When the gauges are due.
pub struct Still {
    due_ns: u64,
}

impl Still {
    pub fn new(now_ns: u64) -> Self {
        Still {
            due_ns: now_ns + STILL_NS,
        }
    }

    /// An iteration began or ended.
    pub fn moved(&mut self, at_ns: u64) {
        self.due_ns = at_ns + STILL_NS;
    }

    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.due_ns
    }
}

impl Reader {
    pub(super) fn read_gauges(&mut self, at_ns: u64, out: &mut Vec<Event>) -> Result<(), Trouble> {
        self.still.due_ns = at_ns + PERIOD_NS;
        if self.batches.gauge_words() == 0 {
            return Ok(());
        }
        match self.gauges() {
            Ok(words) => {
                let mut event = Event::new(events::GAUGES, self.clock.counter(), at_ns);
                event.payload = words;
                out.push(event);
                Ok(())
            }
            Err(Trouble::Torn | Trouble::Absent) => {
                self.still.due_ns = at_ns + AGAIN_NS;
                Ok(())
            }
            Err(other) => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_due_a_while_after_the_last_edge() {
        let mut still = Still::new(5);
        assert!(!still.is_due(STILL_NS + 4));
        assert!(still.is_due(STILL_NS + 5));
        still.moved(STILL_NS + 5);
        assert!(!still.is_due(2 * STILL_NS + 4));
        assert!(still.is_due(2 * STILL_NS + 5));
    }
}
