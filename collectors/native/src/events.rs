//! Events, their packed form, and the bounded queue between the reading thread and `poll`.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const BEGIN: u8 = 1;
pub const BATCH: u8 = 2;
pub const END: u8 = 3;
pub const STACK: u8 = 4;
pub const STATE: u8 = 5;
pub const GAUGES: u8 = 6;

pub const STATE_ATTACHED: u32 = 1;
pub const STATE_PROCESS_GONE: u32 = 2;
pub const STATE_PERMISSION_LOST: u32 = 3;
pub const STATE_SLOT_LOST: u32 = 4;
pub const STATE_LAGGING: u32 = 5;
pub const STATE_SELF_CHECK_FAILED: u32 = 6;

/// Rungs, in the payload of STATE_ATTACHED and in the statistics.
pub const RUNG_COUNTER: i64 = 1;
pub const RUNG_STACK: i64 = 2;

pub const FLAG_INSIDE_STEP: u8 = 1;

pub const PHASE_NONE: i64 = -1;
pub const PHASE_TORN: i64 = -2;

/// "Not read", in payloads.
pub const UNKNOWN: i64 = i64::MIN;

/// `struct` format of what precedes the payload.
pub const HEADER_FORMAT: &str = "<BBHIQQQ";
pub const HEADER_BYTES: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: u8,
    pub flags: u8,
    pub code: u32,
    pub counter: u64,
    pub at_ns: u64,
    pub gap_ns: u64,
    pub payload: Vec<i64>,
}

impl Event {
    pub fn new(kind: u8, counter: i64, at_ns: u64) -> Self {
        Event {
            kind,
            flags: 0,
            code: 0,
            counter: counter as u64,
            at_ns,
            gap_ns: 0,
            payload: Vec::new(),
        }
    }

    pub fn packed_bytes(&self) -> usize {
        HEADER_BYTES + 8 * self.payload.len()
    }

    pub fn pack(&self, out: &mut Vec<u8>) {
        out.push(self.kind);
        out.push(self.flags);
        out.extend_from_slice(&(self.payload.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.code.to_le_bytes());
        out.extend_from_slice(&self.counter.to_le_bytes());
        out.extend_from_slice(&self.at_ns.to_le_bytes());
        out.extend_from_slice(&self.gap_ns.to_le_bytes());
        for word in &self.payload {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Whether a waiting `poll` should wake up for it. Stacks and batches ride along.
    fn wakes(&self) -> bool {
        matches!(self.kind, BEGIN | END | STATE | GAUGES)
    }
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Event>,
    waking: usize,
    // The last taker stopped at its byte limit: the rest is due at once.
    remainder: bool,
    dropped: u64,
    closed: bool,
}

/// A bounded queue that drops the oldest and counts what it dropped.
pub struct Queue {
    capacity: usize,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Queue {
    pub fn new(capacity: usize) -> Self {
        Queue {
            capacity: capacity.max(1),
            waiting: Mutex::new(Waiting::default()),
            arrived: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves `events` into the queue.
    pub fn extend(&self, events: &mut Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let mut waiting = self.lock();
        for event in events.drain(..) {
            if waiting.events.len() >= self.capacity {
                if let Some(oldest) = waiting.events.pop_front() {
                    waiting.waking -= usize::from(oldest.wakes());
                    waiting.dropped += 1;
                }
            }
            waiting.waking += usize::from(event.wakes());
            waiting.events.push_back(event);
        }
        if waiting.waking > 0 {
            self.arrived.notify_all();
        }
    }

    /// No more events will come; waiters return.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_all();
    }

    pub fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Waits for something worth waking up, at most `patience`; `None` when it was not there.
    ///
    /// At least one event is returned even if it is larger than `max_bytes`.
    pub fn take(&self, patience: Duration, max_bytes: usize) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        let mut waiting = self.lock();
        while waiting.waking == 0 && !waiting.remainder && !waiting.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            waiting = self
                .arrived
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let mut out = Vec::new();
        while let Some(event) = waiting.events.front() {
            if !out.is_empty() && out.len() + event.packed_bytes() > max_bytes {
                break;
            }
            event.pack(&mut out);
            let wakes = event.wakes();
            waiting.waking -= usize::from(wakes);
            waiting.events.pop_front();
        }
        waiting.remainder = !waiting.events.is_empty();
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn event(kind: u8, counter: i64) -> Event {
        Event::new(kind, counter, 5)
    }

    #[test]
    fn the_header_is_packed_as_announced() {
        let mut out = Vec::new();
        Event {
            kind: 2,
            flags: 1,
            code: 3,
            counter: 4,
            at_ns: 5,
            gap_ns: 6,
            payload: vec![-1, UNKNOWN],
        }
        .pack(&mut out);
        assert_eq!(out.len(), HEADER_BYTES + 16);
        assert_eq!(out[..8], [2, 1, 2, 0, 3, 0, 0, 0]);
        assert_eq!(out[8..16], 4u64.to_le_bytes());
        assert_eq!(out[32..40], (-1i64).to_le_bytes());
    }

    #[test]
    fn stacks_and_batches_do_not_wake_a_waiter_but_ride_along() {
        let queue = Queue::new(10);
        queue.extend(&mut vec![event(STACK, 1), event(BATCH, 1)]);
        assert_eq!(queue.take(NOW, 1 << 20), None);
        queue.extend(&mut vec![event(BEGIN, 2)]);
        assert_eq!(queue.take(NOW, 1 << 20).unwrap().len(), 3 * HEADER_BYTES);
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_counts() {
        let queue = Queue::new(2);
        queue.extend(&mut vec![event(BEGIN, 1), event(BEGIN, 2), event(BEGIN, 3)]);
        assert_eq!(queue.dropped(), 1);
        let bytes = queue.take(NOW, 1 << 20).unwrap();
        assert_eq!(bytes[8], 2);
        assert_eq!(bytes.len(), 2 * HEADER_BYTES);
    }

    #[test]
    fn a_byte_limit_leaves_the_rest_for_the_next_call() {
        let queue = Queue::new(10);
        queue.extend(&mut vec![event(BEGIN, 1), event(STACK, 1)]);
        assert_eq!(queue.take(NOW, 1).unwrap().len(), HEADER_BYTES);
        assert_eq!(queue.take(NOW, 1).unwrap().len(), HEADER_BYTES);
        assert_eq!(queue.take(NOW, 1), None);
    }

    #[test]
    fn a_closed_queue_hands_out_the_rest_and_then_nothing_at_once() {
        let queue = Queue::new(10);
        queue.extend(&mut vec![event(STACK, 1)]);
        queue.close();
        let long = Duration::from_secs(60);
        assert_eq!(queue.take(long, 1 << 20).unwrap().len(), HEADER_BYTES);
        assert_eq!(queue.take(long, 1 << 20), Some(Vec::new()));
    }
}
