//! When to look next: often where an edge may be, seldom where none can.
//!
//! A look costs a wake-up of the thread, which is most of what the reader costs. Right after a
//! begin, once the batch is read, nothing can happen until about as much time has passed as the
//! shortest of the recent iterations took, or better: the shortest of those with a batch of about
//! the same size. And on an engine that has long been idle the exact moment of the next begin is
//! worth less than the engine's peace.

use crate::events::{Event, BATCH, BEGIN, END};

/// Iterations that the shortest is taken of.
const RECENT: usize = 32;
/// Share of the shortest recent iteration that is slept through.
const QUIET: f64 = 0.8;
/// The same where those were of the same size; and how many of a size are kept, and needed.
const QUIET_OF_SIZE: f64 = 0.85;
const RECENT_OF_SIZE: usize = 16;
const ENOUGH_OF_SIZE: usize = 8;
/// Sizes kept apart; two that fall together make each other's sleep shorter, never longer.
const SIZES: usize = 64;
/// The same where iterations are calls: one that passes unseen is not counted.
const QUIET_OF_CALLS: f64 = 0.5;
/// A batch that cannot be read by then will not be; it does not keep the pace high.
const BATCH_WAIT_NS: u64 = 5_000_000;
const IDLE_AFTER_NS: u64 = 200_000_000;
/// Periods between two looks at an idle engine.
const IDLE_PERIODS: u64 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No iteration was seen to begin yet.
    Unseen {
        since_ns: u64,
    },
    Running {
        begin_ns: u64,
        /// Once the batch is read, the size of it.
        size: Option<usize>,
    },
    Between {
        end_ns: u64,
    },
}

/// The last durations of something, the newest in place of the oldest.
#[derive(Debug, Clone, Copy)]
struct Durations<const N: usize> {
    recent: [u64; N],
    seen: usize,
}

impl<const N: usize> Durations<N> {
    fn new() -> Self {
        Durations {
            recent: [0; N],
            seen: 0,
        }
    }

    fn add(&mut self, duration_ns: u64) {
        self.recent[self.seen % N] = duration_ns;
        self.seen += 1;
    }

    /// The shortest, if there were enough to trust it.
    fn shortest(&self, enough: usize) -> Option<u64> {
        let kept = &self.recent[..self.seen.min(N)];
        kept.iter().copied().min().filter(|_| self.seen >= enough)
    }
}

/// Tells batches of about the same size: each number within the same power of two.
fn size_of(payload: &[i64]) -> usize {
    let mixed = payload.iter().fold(0u64, |mixed, number| {
        let magnitude = u64::from(u64::BITS - number.unsigned_abs().leading_zeros());
        (mixed.rotate_left(7) ^ magnitude).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    (mixed >> 32) as usize % SIZES
}

#[derive(Debug)]
pub struct Pace {
    state: State,
    recent: Durations<RECENT>,
    of_size: Box<[Durations<RECENT_OF_SIZE>; SIZES]>,
}

impl Pace {
    pub fn new(now_ns: u64) -> Self {
        Pace {
            state: State::Unseen { since_ns: now_ns },
            recent: Durations::new(),
            of_size: Box::new([Durations::new(); SIZES]),
        }
    }

    /// Takes in what a tick has seen.
    pub fn observe(&mut self, events: &[Event]) {
        for event in events {
            match event.kind {
                BEGIN => {
                    // With skipped iterations the distance is of several.
                    self.close(event.at_ns, u64::from(event.code) + 1);
                    self.state = State::Running {
                        begin_ns: event.at_ns,
                        size: None,
                    };
                }
                BATCH => {
                    if let State::Running { begin_ns, .. } = self.state {
                        self.state = State::Running {
                            begin_ns,
                            size: Some(size_of(&event.payload)),
                        };
                    }
                }
                END => {
                    self.close(event.at_ns, 1);
                    self.state = State::Between {
                        end_ns: event.at_ns,
                    };
                }
                _ => {}
            }
        }
    }

    /// Gives the time to the next look.
    ///
    /// `period_ns` is the time between two looks where an edge may be; `calls` says that
    /// iterations are calls, not numbers.
    pub fn next_ns(&self, now_ns: u64, period_ns: u64, calls: bool) -> u64 {
        match self.state {
            State::Running { begin_ns, size } => {
                if size.is_none() && now_ns.saturating_sub(begin_ns) < BATCH_WAIT_NS {
                    return period_ns;
                }
                let quiet_until_ns = begin_ns + self.quiet_ns(size, calls);
                quiet_until_ns.saturating_sub(now_ns).max(period_ns)
            }
            State::Unseen { since_ns: quiet_ns } | State::Between { end_ns: quiet_ns } => {
                if now_ns.saturating_sub(quiet_ns) > IDLE_AFTER_NS {
                    period_ns * IDLE_PERIODS
                } else {
                    period_ns
                }
            }
        }
    }

    fn close(&mut self, end_ns: u64, iterations: u64) {
        if let State::Running { begin_ns, size } = self.state {
            let duration_ns = end_ns.saturating_sub(begin_ns) / iterations;
            self.recent.add(duration_ns);
            if let Some(size) = size {
                self.of_size[size].add(duration_ns);
            }
        }
    }

    /// How long after its begin an iteration of this size has never ended of late.
    fn quiet_ns(&self, size: Option<usize>, calls: bool) -> u64 {
        let shortest_ns = self.recent.shortest(RECENT).unwrap_or(0);
        if calls {
            return (shortest_ns as f64 * QUIET_OF_CALLS) as u64;
        }
        let of_size = size.and_then(|size| self.of_size[size].shortest(ENOUGH_OF_SIZE));
        match of_size {
            Some(shortest_ns) => (shortest_ns as f64 * QUIET_OF_SIZE) as u64,
            None => (shortest_ns as f64 * QUIET) as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn event(kind: u8, at_ns: u64) -> Event {
        Event::new(kind, 0, at_ns)
    }

    fn steady(length_ns: u64) -> (Pace, u64) {
        let mut pace = Pace::new(0);
        let mut now_ns = 0;
        for _ in 0..=RECENT {
            pace.observe(&[event(BEGIN, now_ns), event(BATCH, now_ns + MS)]);
            now_ns += length_ns;
        }
        (pace, now_ns - length_ns)
    }

    #[test]
    fn an_engine_never_seen_at_work_is_looked_at_closely_and_then_left_in_peace() {
        assert_eq!(Pace::new(0).next_ns(10 * MS, MS, false), MS);
        assert_eq!(Pace::new(0).next_ns(300 * MS, MS, false), 4 * MS);
    }

    #[test]
    fn most_of_an_iteration_is_slept_through_once_its_batch_is_read() {
        let (pace, begin_ns) = steady(20 * MS);
        assert_eq!(pace.next_ns(begin_ns + 2 * MS, MS, false), 15 * MS);
        assert_eq!(pace.next_ns(begin_ns + 17 * MS, MS, false), MS);
    }

    #[test]
    fn calls_are_looked_at_earlier() {
        let (pace, begin_ns) = steady(20 * MS);
        assert_eq!(pace.next_ns(begin_ns + 2 * MS, MS, true), 8 * MS);
    }

    #[test]
    fn a_batch_is_compared_with_those_of_its_size() {
        let mut pace = Pace::new(0);
        let mut now_ns = 0;
        let of = |tokens: i64, at_ns: u64| {
            let mut batch = event(BATCH, at_ns);
            batch.payload = vec![tokens];
            batch
        };
        for turn in 0..RECENT as i64 {
            let (tokens, length_ns) = if turn % 2 == 0 {
                (8, 10 * MS)
            } else {
                (500, 40 * MS)
            };
            pace.observe(&[event(BEGIN, now_ns), of(tokens, now_ns + MS)]);
            now_ns += length_ns;
        }
        pace.observe(&[event(BEGIN, now_ns), of(500, now_ns + MS)]);
        assert_eq!(pace.next_ns(now_ns + MS, MS, false), 33 * MS);
        pace.observe(&[event(BEGIN, now_ns), of(9, now_ns + MS)]);
        assert_eq!(pace.next_ns(now_ns + 2 * MS, MS, false), 6_500_000);
        // Of a size never seen, the shortest of all counts.
        pace.observe(&[event(BEGIN, now_ns), of(100_000, now_ns + MS)]);
        assert!(pace.next_ns(now_ns + MS, MS, false) <= 7 * MS);
    }

    #[test]
    fn the_shortest_recent_iteration_decides() {
        let (mut pace, begin_ns) = steady(20 * MS);
        pace.observe(&[
            event(BEGIN, begin_ns + 5 * MS),
            event(BATCH, begin_ns + 6 * MS),
        ]);
        assert_eq!(pace.next_ns(begin_ns + 6 * MS, MS, false), 3_250_000);
    }

    #[test]
    fn the_pace_stays_high_until_the_batch_is_read_but_not_for_ever() {
        let (mut pace, begin_ns) = steady(20 * MS);
        let begin_ns = begin_ns + 20 * MS;
        pace.observe(&[event(BEGIN, begin_ns)]);
        assert_eq!(pace.next_ns(begin_ns + MS, MS, false), MS);
        assert_eq!(pace.next_ns(begin_ns + 6 * MS, MS, false), 10 * MS);
    }

    #[test]
    fn an_idle_engine_is_left_in_peace() {
        let (mut pace, begin_ns) = steady(20 * MS);
        pace.observe(&[event(END, begin_ns + 20 * MS)]);
        assert_eq!(pace.next_ns(begin_ns + 30 * MS, MS, false), MS);
        assert_eq!(pace.next_ns(begin_ns + 300 * MS, MS, false), 4 * MS);
    }

    #[test]
    fn skipped_iterations_count_as_short_ones() {
        let (mut pace, begin_ns) = steady(20 * MS);
        let mut jump = event(BEGIN, begin_ns + 20 * MS);
        jump.code = 3;
        pace.observe(&[jump, event(BATCH, begin_ns + 21 * MS)]);
        assert_eq!(pace.next_ns(begin_ns + 21 * MS, MS, false), 3_250_000);
    }
}
