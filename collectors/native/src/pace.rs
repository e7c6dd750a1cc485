//! When to look next: often where an edge may be, seldom where none can.
//!
//! A look costs a wake-up of the thread, which is most of what the reader costs. Right after a
//! begin, once the batch is read, nothing can happen until about as much time has passed as the
//! shortest of the recent iterations took; and on an engine that has long been idle the exact
//! moment of the next begin is worth less than the engine's peace.

use crate::events::{Event, BATCH, BEGIN, END};

/// Iterations that the shortest is taken of.
const RECENT: usize = 32;
/// Share of the shortest recent iteration that is slept through.
const QUIET: f64 = 0.8;
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
        batch_read: bool,
    },
    Between {
        end_ns: u64,
    },
}

#[derive(Debug)]
pub struct Pace {
    state: State,
    recent: [u64; RECENT],
    seen: usize,
}

impl Pace {
    pub fn new(now_ns: u64) -> Self {
        Pace {
            state: State::Unseen { since_ns: now_ns },
            recent: [0; RECENT],
            seen: 0,
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
                        batch_read: false,
                    };
                }
                BATCH => {
                    if let State::Running { begin_ns, .. } = self.state {
                        self.state = State::Running {
                            begin_ns,
                            batch_read: true,
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
            State::Running {
                begin_ns,
                batch_read,
            } => {
                if !batch_read && now_ns.saturating_sub(begin_ns) < BATCH_WAIT_NS {
                    return period_ns;
                }
                let quiet = if calls { QUIET_OF_CALLS } else { QUIET };
                let quiet_until_ns = begin_ns + (self.shortest_ns() as f64 * quiet) as u64;
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
        if let State::Running { begin_ns, .. } = self.state {
            self.recent[self.seen % RECENT] = end_ns.saturating_sub(begin_ns) / iterations;
            self.seen += 1;
        }
    }

    /// 0 until enough iterations were seen to trust it.
    fn shortest_ns(&self) -> u64 {
        if self.seen < RECENT {
            return 0;
        }
        self.recent.iter().copied().min().unwrap_or(0)
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
        assert_eq!(pace.next_ns(begin_ns + 2 * MS, MS, false), 14 * MS);
        assert_eq!(pace.next_ns(begin_ns + 17 * MS, MS, false), MS);
    }

    #[test]
    fn calls_are_looked_at_earlier() {
        let (pace, begin_ns) = steady(20 * MS);
        assert_eq!(pace.next_ns(begin_ns + 2 * MS, MS, true), 8 * MS);
    }

    #[test]
    fn the_shortest_recent_iteration_decides() {
        let (mut pace, begin_ns) = steady(20 * MS);
        pace.observe(&[
            event(BEGIN, begin_ns + 5 * MS),
            event(BATCH, begin_ns + 6 * MS),
        ]);
        assert_eq!(pace.next_ns(begin_ns + 6 * MS, MS, false), 3 * MS);
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
        assert_eq!(pace.next_ns(begin_ns + 21 * MS, MS, false), 3 * MS);
    }
}
