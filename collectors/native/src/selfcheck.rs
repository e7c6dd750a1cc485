//! Whether the fast stacks can be trusted: a comparison with py-spy's own, as long as it is fresh.
//!
//! The two never look at the same moment, and the engine runs on, so only what stayed the same
//! around py-spy's look is compared, and a frame that py-spy saw at another time is no error.

use std::collections::HashSet;

/// Samples to compare.
pub const SAMPLES: usize = 20;
/// Fewer say nothing.
const ENOUGH: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    NotDone,
    Agreed,
    Disagreed,
}

/// The stacks of one moment as hashes of function names, root first.
struct Sample {
    /// What the fast reader saw before and after py-spy; `None` when it saw no whole stack.
    fast: Option<Vec<u64>>,
    slow: Vec<u64>,
}

#[derive(Default)]
pub struct SelfCheck {
    samples: Vec<Sample>,
}

impl SelfCheck {
    /// Takes in one comparison: fast, py-spy (`slow`), fast again; each from the root on.
    pub fn add(&mut self, before: Option<Vec<u64>>, slow: Vec<u64>, after: Option<Vec<u64>>) {
        let fast = match (before, after) {
            (Some(before), Some(after)) => {
                let same = before.iter().zip(&after).take_while(|(a, b)| a == b);
                Some(same.map(|(name, _)| *name).collect())
            }
            (one, other) => one.or(other),
        };
        self.samples.push(Sample { fast, slow });
    }

    pub fn is_complete(&self) -> bool {
        self.samples.len() >= SAMPLES
    }

    pub fn verdict(&self) -> Verdict {
        if self.samples.len() < ENOUGH {
            return Verdict::NotDone;
        }
        let seen_by_slow: HashSet<u64> = self.samples.iter().flat_map(|s| s.slow.clone()).collect();
        let wrong = self
            .samples
            .iter()
            .filter(|sample| sample.is_wrong(&seen_by_slow));
        if 2 * wrong.count() > self.samples.len() {
            Verdict::Disagreed
        } else {
            Verdict::Agreed
        }
    }
}

impl Sample {
    /// Whether the fast stack names a function where py-spy has another, and never had this one.
    fn is_wrong(&self, seen_by_slow: &HashSet<u64>) -> bool {
        let Some(fast) = &self.fast else { return true };
        let differs = fast
            .iter()
            .zip(&self.slow)
            .find(|(fast, slow)| fast != slow);
        match differs {
            Some((fast, _)) => !seen_by_slow.contains(fast),
            None => fast.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(samples: &[(&[u64], &[u64])]) -> Verdict {
        let mut check = SelfCheck::default();
        for (fast, slow) in samples {
            check.add(Some(fast.to_vec()), slow.to_vec(), Some(fast.to_vec()));
        }
        check.verdict()
    }

    #[test]
    fn the_same_stacks_agree() {
        let same: (&[u64], &[u64]) = (&[1, 2, 3], &[1, 2, 3]);
        assert_eq!(check(&[same; 20]), Verdict::Agreed);
    }

    #[test]
    fn another_moment_is_no_disagreement() {
        let moments: [(&[u64], &[u64]); 4] = [
            (&[1, 2], &[1, 3, 4]),
            (&[1, 3, 4], &[1, 2]),
            (&[1, 2, 5], &[1, 2]),
            (&[1], &[1, 2, 5]),
        ];
        assert_eq!(check(&moments.repeat(5)), Verdict::Agreed);
    }

    #[test]
    fn functions_that_py_spy_never_sees_are_a_disagreement_when_most_have_them() {
        let wrong: (&[u64], &[u64]) = (&[1, 9], &[1, 2]);
        let right: (&[u64], &[u64]) = (&[1, 2], &[1, 2]);
        assert_eq!(check(&[wrong; 20]), Verdict::Disagreed);
        let few = [vec![wrong; 9], vec![right; 11]].concat();
        assert_eq!(check(&few), Verdict::Agreed);
    }

    #[test]
    fn a_reader_that_finds_no_stack_disagrees() {
        let mut check = SelfCheck::default();
        for _ in 0..SAMPLES {
            check.add(None, vec![1, 2], None);
        }
        assert_eq!(check.verdict(), Verdict::Disagreed);
    }

    #[test]
    fn only_what_stayed_around_py_spys_look_is_compared() {
        let mut check = SelfCheck::default();
        for _ in 0..SAMPLES {
            check.add(Some(vec![1, 7]), vec![1, 2], Some(vec![1, 8]));
        }
        assert_eq!(check.verdict(), Verdict::Agreed);
    }

    #[test]
    fn a_handful_says_nothing() {
        let wrong: (&[u64], &[u64]) = (&[9], &[1]);
        assert_eq!(check(&[wrong; 4]), Verdict::NotDone);
    }
}
