//! From looks at a call to a count of calls, and when an iteration has ended: pure decisions.

use crate::objects::Content;

/// What a look tells of the local that tells calls apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The function has no such local, or this look did not bring it.
    Unknown,
    /// Not assigned yet: the call is at its beginning.
    Unset,
    Is(Content),
}

/// A call that a look saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    pub frame: u64,
    pub code: u64,
    /// Of the instruction, in bytes.
    pub offset: u64,
    pub identity: Identity,
    /// It returns: what its locals pointed to may be freed, and be something else by now.
    pub leaving: bool,
}

/// Counts calls, from 1; the one running at the first look is not counted.
#[derive(Debug, Default)]
pub struct Calls {
    resumed: bool,
    looked: bool,
    last: Option<Sighting>,
    count: i64,
}

impl Calls {
    pub fn new(resumed: bool) -> Self {
        Calls {
            resumed,
            ..Calls::default()
        }
    }

    /// Takes in a look, with `None` when no call runs, and gives the count.
    pub fn observe(&mut self, seen: Option<Sighting>) -> i64 {
        let first = !std::mem::replace(&mut self.looked, true);
        let Some(mut now) = seen else {
            self.last = None;
            return self.count;
        };
        if now.leaving {
            // It proves no new call: the frame may be that of the call before, and the next one's
            // soon, whatever number now lies where the identity was.
            return self.count;
        }
        let new = match self.last {
            None => true,
            Some(last) => is_another(&last, &now, self.resumed),
        };
        if new && !first {
            self.count += 1;
        }
        if let (false, Some(last), Identity::Unknown) = (new, self.last, now.identity) {
            now.identity = last.identity;
        }
        self.last = Some(now);
        self.count
    }

    /// Whether the last look saw a call.
    pub fn is_any_running(&self) -> bool {
        self.last.is_some()
    }

    /// Whether a sighting is of the call that was counted last.
    pub fn is_running(&self, now: &Sighting) -> bool {
        !now.leaving
            && self
                .last
                .is_some_and(|last| !is_another(&last, now, self.resumed))
    }
}

/// Whether a sighting is of another call than the last.
///
/// The allocator gives an address again, so an address that stayed proves nothing by itself; a
/// number does. Instructions of one call go forward, but a coroutine that is resumed may loop.
fn is_another(last: &Sighting, now: &Sighting, resumed: bool) -> bool {
    if last.frame != now.frame || last.code != now.code {
        return true;
    }
    let backwards = now.offset < last.offset && !resumed;
    match (last.identity, now.identity) {
        (Identity::Is(_), Identity::Unset) => true,
        (Identity::Is(Content::Address(last)), Identity::Is(Content::Address(now))) => {
            last != now || backwards
        }
        (Identity::Is(last), Identity::Is(now)) => last != now,
        (Identity::Unset, Identity::Is(_)) => false,
        _ => backwards,
    }
}

/// Whether a running iteration ended because an attribute became None.
///
/// The attribute is None before the first iteration after an idle time, and stays so until late in
/// it: only a None that follows something else counts, or one with no batch in sight.
#[derive(Debug, Default)]
pub struct Ended {
    armed: bool,
}

impl Ended {
    pub fn begin(&mut self) {
        self.armed = false;
    }

    pub fn observe(&mut self, is_none: bool, no_batch: bool) -> bool {
        self.armed |= !is_none;
        is_none && (self.armed || no_batch)
    }
}

/// Whether an iteration goes on.
///
/// An overlapped step function returns right after launching: the iteration goes on while the
/// queue holds a batch.
pub fn goes_on(inside: bool, overlap: bool, queued: Option<u64>) -> bool {
    inside || (overlap && queued != Some(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(offset: u64, identity: Identity) -> Option<Sighting> {
        Some(Sighting {
            frame: 0x5000,
            code: 0x9000,
            offset,
            identity,
            leaving: false,
        })
    }

    fn leaving(offset: u64, identity: Identity) -> Option<Sighting> {
        sighting(offset, identity).map(|seen| Sighting {
            leaving: true,
            ..seen
        })
    }

    fn int(offset: u64, number: i64) -> Option<Sighting> {
        sighting(offset, Identity::Is(Content::Int(number)))
    }

    fn address(offset: u64, address: u64) -> Option<Sighting> {
        sighting(offset, Identity::Is(Content::Address(address)))
    }

    fn count(resumed: bool, looks: &[Option<Sighting>]) -> i64 {
        let mut calls = Calls::new(resumed);
        calls.observe(None);
        looks
            .iter()
            .map(|look| calls.observe(*look))
            .last()
            .unwrap()
    }

    #[test]
    fn the_call_running_at_the_first_look_is_not_counted() {
        let mut calls = Calls::new(false);
        assert_eq!(calls.observe(int(30, 1)), 0);
        assert_eq!(calls.observe(int(40, 1)), 0);
        assert_eq!(calls.observe(int(30, 2)), 1);
    }

    #[test]
    fn a_number_tells_calls_apart_by_its_value_alone() {
        assert_eq!(count(false, &[int(30, 1), int(90, 1), int(20, 1)]), 1);
        assert_eq!(count(false, &[int(30, 1), int(30, 2)]), 2);
        let float = |bits| sighting(30, Identity::Is(Content::Float(bits)));
        assert_eq!(count(false, &[float(1), float(2), float(2)]), 2);
    }

    #[test]
    fn an_address_that_stayed_is_another_call_when_the_instruction_went_back() {
        assert_eq!(count(false, &[address(30, 7), address(90, 7)]), 1);
        assert_eq!(count(false, &[address(90, 7), address(30, 7)]), 2);
        assert_eq!(count(false, &[address(30, 7), address(30, 8)]), 2);
    }

    #[test]
    fn a_resumed_coroutine_goes_on_even_backwards() {
        assert_eq!(count(true, &[address(90, 7), address(30, 7)]), 1);
        assert_eq!(count(true, &[address(90, 7), address(30, 8)]), 2);
    }

    #[test]
    fn leaving_or_another_frame_is_another_call() {
        assert_eq!(count(false, &[int(30, 1), None, int(30, 1)]), 2);
        let mut moved = int(30, 1);
        moved.as_mut().unwrap().frame = 0x6000;
        assert_eq!(count(true, &[int(30, 1), moved]), 2);
    }

    #[test]
    fn a_local_that_is_unset_again_is_another_call_and_its_assignment_is_not() {
        let unset = sighting(4, Identity::Unset);
        assert_eq!(count(false, &[int(30, 1), unset, int(40, 2)]), 2);
        assert_eq!(count(false, &[unset, int(40, 2)]), 1);
    }

    #[test]
    fn a_call_that_returns_is_no_other_whatever_its_freed_identity_has_become() {
        let float = |bits| Identity::Is(Content::Float(bits));
        let running = |bits| sighting(30, float(bits));
        for freed in [
            float(8),
            Identity::Is(Content::Address(64)),
            Identity::Unset,
        ] {
            let looks = [running(1), leaving(90, freed)];
            assert_eq!(count(false, &looks), 1);
            let looks = [running(1), leaving(90, freed), running(2)];
            assert_eq!(count(false, &looks), 2);
            let looks = [running(1), None, leaving(90, freed), running(2)];
            assert_eq!(count(false, &looks), 2);
        }
    }

    #[test]
    fn what_is_read_while_a_call_returns_is_not_of_it() {
        let mut calls = Calls::new(false);
        calls.observe(None);
        calls.observe(int(30, 1));
        assert!(calls.is_running(&int(90, 1).unwrap()));
        let left = leaving(90, Identity::Is(Content::Int(1)));
        assert!(!calls.is_running(&left.unwrap()));
    }

    #[test]
    fn without_an_identity_only_going_back_counts() {
        let at = |offset| sighting(offset, Identity::Unknown);
        assert_eq!(count(false, &[at(10), at(50), at(50), at(20)]), 2);
    }

    #[test]
    fn a_look_without_the_local_keeps_what_was_known() {
        let looks = [int(30, 1), sighting(50, Identity::Unknown), int(60, 2)];
        assert_eq!(count(false, &looks), 2);
    }

    #[test]
    fn a_none_ends_the_iteration_once_it_was_something_else() {
        let mut ended = Ended::default();
        ended.begin();
        assert!(!ended.observe(true, false));
        assert!(!ended.observe(false, false));
        assert!(ended.observe(true, false));
        ended.begin();
        assert!(!ended.observe(true, false));
        assert!(ended.observe(true, true));
    }

    #[test]
    fn an_overlapped_step_goes_on_while_its_queue_may_hold_a_batch() {
        assert!(goes_on(true, true, Some(0)));
        assert!(goes_on(false, true, Some(1)));
        assert!(goes_on(false, true, None));
        assert!(!goes_on(false, true, Some(0)));
        assert!(!goes_on(false, false, Some(3)));
    }
}
