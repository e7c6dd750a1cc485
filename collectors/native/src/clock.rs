//! From observations to iteration edges: a pure state machine.
//!
//! An edge lies between two polls, so it is given as their midpoint and their distance.

/// What one poll saw.
#[derive(Debug, Clone, Copy)]
pub struct Observation {
    pub at_ns: u64,
    pub value: Reading,
    /// Whether the step function is running; `None` while its frame has not been found.
    pub inside: Option<bool>,
}

/// The counter slot: a number, or an object that is replaced once per iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Number(i64),
    Pointer(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    Begin {
        counter: i64,
        /// Iterations that passed unseen since the last one.
        skipped: u32,
        at_ns: u64,
        gap_ns: u64,
    },
    End {
        counter: i64,
        at_ns: u64,
        gap_ns: u64,
    },
}

#[derive(Debug, Default)]
pub struct Clock {
    last: Option<(u64, Reading)>,
    counter: i64,
    // The current iteration was seen to begin; the one running at attach was not.
    begun: bool,
    // The step function was seen running in it, and not yet left.
    running: bool,
}

impl Clock {
    /// The current iteration: the number in the slot, or a count from 0 for a pointer slot.
    pub fn counter(&self) -> i64 {
        self.counter
    }

    /// Whether the current iteration was seen to begin.
    pub fn begun(&self) -> bool {
        self.begun
    }

    /// Whether an observation of this would begin an iteration.
    pub fn begins_with(&self, value: Reading) -> bool {
        self.last.is_some_and(|(_, last)| last != value)
    }

    /// After a lost slot: the next observation is a new start, not a jump.
    pub fn forget(&mut self) {
        self.last = None;
        self.begun = false;
        self.running = false;
    }

    pub fn observe(&mut self, seen: Observation) -> Option<Edge> {
        let Some((last_at, last)) = self.last.replace((seen.at_ns, seen.value)) else {
            if let Reading::Number(number) = seen.value {
                self.counter = number;
            }
            return None;
        };
        let gap_ns = seen.at_ns.saturating_sub(last_at);
        let at_ns = last_at + gap_ns / 2;
        if seen.value != last {
            let before = self.counter;
            self.counter = match seen.value {
                Reading::Number(number) => number,
                Reading::Pointer(_) => before.saturating_add(1),
            };
            self.begun = true;
            self.running = seen.inside == Some(true);
            let jump = self.counter.saturating_sub(before).saturating_sub(1);
            return Some(Edge::Begin {
                counter: self.counter,
                // A counter that went back was reset: nothing is known to be skipped.
                skipped: u32::try_from(jump).unwrap_or(if jump < 0 { 0 } else { u32::MAX }),
                at_ns,
                gap_ns,
            });
        }
        match seen.inside {
            Some(true) if self.begun => self.running = true,
            Some(false) if self.running => {
                self.running = false;
                // One END per iteration: the step entered next still shows the old number until
                // it schedules, and must not end it a second time.
                self.begun = false;
                return Some(Edge::End {
                    counter: self.counter,
                    at_ns,
                    gap_ns,
                });
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(clock: &mut Clock, at_ns: u64, number: i64, inside: Option<bool>) -> Option<Edge> {
        clock.observe(Observation {
            at_ns,
            value: Reading::Number(number),
            inside,
        })
    }

    #[test]
    fn a_changed_number_begins_an_iteration_between_the_two_polls() {
        let mut clock = Clock::default();
        assert_eq!(see(&mut clock, 100, 7, None), None);
        assert_eq!(
            see(&mut clock, 200, 8, Some(true)),
            Some(Edge::Begin {
                counter: 8,
                skipped: 0,
                at_ns: 150,
                gap_ns: 100
            })
        );
    }

    #[test]
    fn a_jump_counts_what_was_missed_and_a_reset_counts_nothing() {
        let mut clock = Clock::default();
        see(&mut clock, 0, 7, None);
        let skipped = |edge| match edge {
            Some(Edge::Begin { skipped, .. }) => skipped,
            other => panic!("{other:?}"),
        };
        assert_eq!(skipped(see(&mut clock, 1, 10, None)), 2);
        assert_eq!(skipped(see(&mut clock, 2, 1, None)), 0);
        assert_eq!(skipped(see(&mut clock, 3, i64::MAX, None)), u32::MAX);
    }

    #[test]
    fn leaving_the_step_ends_the_iteration_once() {
        let mut clock = Clock::default();
        see(&mut clock, 0, 7, Some(false));
        see(&mut clock, 10, 8, Some(true));
        assert_eq!(see(&mut clock, 20, 8, Some(true)), None);
        assert_eq!(
            see(&mut clock, 30, 8, Some(false)),
            Some(Edge::End {
                counter: 8,
                at_ns: 25,
                gap_ns: 10
            })
        );
        assert_eq!(see(&mut clock, 40, 8, Some(true)), None);
        assert_eq!(see(&mut clock, 50, 8, Some(false)), None);
    }

    #[test]
    fn the_iteration_running_at_attach_has_no_end() {
        let mut clock = Clock::default();
        see(&mut clock, 0, 7, Some(true));
        see(&mut clock, 10, 7, Some(true));
        assert_eq!(see(&mut clock, 20, 7, Some(false)), None);
    }

    #[test]
    fn no_end_is_made_up_when_the_step_was_never_seen() {
        let mut clock = Clock::default();
        see(&mut clock, 0, 7, None);
        see(&mut clock, 10, 8, Some(false));
        assert_eq!(see(&mut clock, 20, 8, Some(false)), None);
        assert_eq!(see(&mut clock, 30, 8, None), None);
    }

    #[test]
    fn pointers_are_counted_from_zero() {
        let mut clock = Clock::default();
        let mut point = |at_ns, address| {
            clock.observe(Observation {
                at_ns,
                value: Reading::Pointer(address),
                inside: None,
            })
        };
        assert_eq!(point(0, 0xa0), None);
        assert!(matches!(
            point(2, 0xb0),
            Some(Edge::Begin { counter: 1, .. })
        ));
        assert!(matches!(
            point(4, 0xa0),
            Some(Edge::Begin { counter: 2, .. })
        ));
    }

    #[test]
    fn after_forgetting_the_next_observation_only_sets_the_number() {
        let mut clock = Clock::default();
        see(&mut clock, 0, 7, Some(true));
        see(&mut clock, 1, 8, Some(true));
        clock.forget();
        assert_eq!(see(&mut clock, 2, 50, Some(false)), None);
        assert_eq!(clock.counter(), 50);
    }
}
