//! Made-up memory that is wrong in every way: what is read of it is right, or refused.
//!
//! Three kinds: noise (words that are mostly garbage), damage (a whole engine with a few words
//! changed), and churn (an engine that runs on, frees, reuses and resizes between any two pieces of
//! a read). All of it by seed. `LATENCYPRISM_FUZZ_CASES` says how many of each, `make bench-fuzz`
//! runs a million; each test prints a line of JSON for it.

mod engine;
mod look;
mod memory;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::{Duration, Instant};

use crate::frames::Frames;
use crate::layout::{self, tests::layout_of, Layout};
use crate::lookahead::Lookahead;
use crate::memory::{Memory, Trouble};
use crate::objects::Objects;
use crate::spec::{Path, Reduce, Spec};
use engine::{Engine, BASE};
use look::{is_consistent, look, Seen, SPEC};
use memory::{Arena, Random};

/// What one operation may read at most: a few of the largest tables that are read at all.
const MOST_READS: u64 = 40_000;
const MOST_BYTES: u64 = 64 << 20;
const VERSIONS: [u64; 4] = [11, 12, 13, 14];
const OPERATIONS_PER_NOISE: u64 = 500;

fn cases() -> u64 {
    let asked = std::env::var("LATENCYPRISM_FUZZ_CASES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

fn seed() -> u64 {
    let asked = std::env::var("LATENCYPRISM_FUZZ_SEED").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// What a run of cases came to.
#[derive(Default)]
struct Tally {
    cases: u64,
    reads: u64,
    errors: u64,
    right: u64,
    refused: u64,
    wrong: u64,
    panics: u64,
    longest: Duration,
    most_reads: u64,
    most_bytes: u64,
    /// Seed, version and number of the first case that went wrong.
    first: Option<String>,
}

enum Outcome {
    Right,
    /// A [`Trouble`].
    Error,
    /// Values that contradict each other, or are unknown.
    Refused,
    Wrong(String),
}

impl Tally {
    /// Runs one case and judges it; a panic is one of the outcomes.
    fn run(&mut self, arena: &Arena, name: &str, case: impl FnOnce() -> Outcome) {
        let (reads, bytes) = arena.traffic();
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(case));
        let took = begin.elapsed();
        let (reads, bytes) = (arena.traffic().0 - reads, arena.traffic().1 - bytes);
        self.cases += 1;
        self.reads += reads;
        self.longest = self.longest.max(took);
        self.most_reads = self.most_reads.max(reads);
        self.most_bytes = self.most_bytes.max(bytes);
        let told = match outcome {
            Ok(Outcome::Right) => return self.right += 1,
            Ok(Outcome::Error) => return self.errors += 1,
            Ok(Outcome::Refused) => return self.refused += 1,
            Ok(Outcome::Wrong(what)) => {
                self.wrong += 1;
                what
            }
            Err(_) => {
                self.panics += 1;
                "panic".to_owned()
            }
        };
        self.first.get_or_insert(format!("{name}: {told}"));
    }

    fn report(&self, kind: &str) {
        println!(
            "fuzz {{\"kind\": \"{kind}\", \"cases\": {}, \"reads\": {}, \"errors\": {}, \
             \"right\": {}, \"refused\": {}, \"wrong\": {}, \"panics\": {}, \
             \"longest_us\": {}, \"most_reads\": {}, \"most_bytes\": {}}}",
            self.cases,
            self.reads,
            self.errors,
            self.right,
            self.refused,
            self.wrong,
            self.panics,
            self.longest.as_micros(),
            self.most_reads,
            self.most_bytes,
        );
        assert_eq!((self.panics, self.wrong, &self.first), (0, 0, &None));
        assert!(self.most_reads <= MOST_READS, "{} reads", self.most_reads);
        assert!(self.most_bytes <= MOST_BYTES, "{} bytes", self.most_bytes);
    }
}

fn spec() -> Spec {
    Spec::parse(SPEC).unwrap()
}

fn path(text: &str) -> Path {
    Path::try_from(text.to_owned()).unwrap()
}

// ---- noise

const REDUCTIONS: [Reduce; 8] = [
    Reduce::Int,
    Reduce::Len,
    Reduce::Sum,
    Reduce::SumLen,
    Reduce::Max,
    Reduce::CountOne,
    Reduce::SumAboveOne,
    Reduce::Bool,
];

/// One operation on any address; what it gives is as good as the noise.
fn operate(
    objects: &mut Objects<Lookahead<&Arena>>,
    frames: &mut Frames,
    random: &mut Random,
    at: u64,
) -> Result<(), Trouble> {
    let steps = ["scheduler", "current_step", "num_scheduled_tokens"].map(str::to_owned);
    match random.below(11) {
        0 => {
            objects.int(at)?;
        }
        1 => {
            let slot = objects.resolve(at, &steps[..1 + random.below(3) as usize])?;
            let word = objects.memory.word(slot.address)?;
            objects.int(word)?;
        }
        2 => drop(objects.reduce(at, &path("num_scheduled_tokens"), &REDUCTIONS)?),
        3 => {
            let each = path("scheduled_new_reqs[].num_computed_tokens");
            objects.reduce(at, &each, &REDUCTIONS)?;
        }
        4 => drop(objects.reduce(at, &Path::default(), &REDUCTIONS)?),
        5 => {
            let like = random.address(BASE, 1 << 19);
            objects.newest(at, &[], like)?;
        }
        6 => {
            let names = ["PREFILL".to_owned(), "DECODE".to_owned()];
            objects.member_index(at, &Path::default(), &names)?;
        }
        7 => {
            let mut bytes = [0; 40];
            objects.memory.read(at, &mut bytes)?;
            objects.content(at, &bytes)?;
            objects.is_none(at)?;
            objects.is_deque(at)?;
        }
        8 => {
            for thread in Frames::threads(objects, at)?.into_iter().take(2) {
                let _ = frames.walk(objects, thread, random.next() >> 20);
            }
        }
        9 => drop(frames.walk(objects, at, random.next() >> 20)?),
        _ => drop(frames.code(objects, at, random.next() >> 20)?),
    }
    Ok(())
}

/// The same with reads that are fetched together.
fn operate_ahead(
    objects: &mut Objects<Lookahead<&Arena>>,
    frames: &mut Frames,
    random: &mut Random,
    at: u64,
) -> Result<(), Trouble> {
    objects.memory.start();
    let mut outcome = Err(Trouble::Torn);
    let again = random.clone();
    for _ in 0..32 {
        *random = again.clone();
        outcome = operate(objects, frames, random, at);
        if !objects.memory.fetch()? {
            break;
        }
    }
    objects.memory.stop();
    outcome
}

#[test]
fn noise_is_never_a_panic_and_never_reads_without_end() {
    let mut tally = Tally::default();
    let mut random = Random::new(seed());
    let rounds = (cases() / OPERATIONS_PER_NOISE / 4).max(1);
    for minor in VERSIONS {
        let engine = Engine::new(layout_of(3, minor), seed());
        for round in 0..rounds {
            let arena = Arena::new(engine.words());
            arena.scramble(&mut random, &engine, 3 + round % 60);
            let mut objects = Objects::new(Lookahead::new(&arena), engine.layout);
            let mut frames = Frames::new(spec());
            for number in 0..OPERATIONS_PER_NOISE {
                let at = match random.below(5) {
                    0..=2 => *random.pick(&engine.objects),
                    3 => *random.pick(&engine.objects) + random.below(64),
                    _ => random.address(BASE, 1 << 19),
                };
                let ahead = random.below(4) == 0;
                let name = format!("seed {} 3.{minor} round {round} case {number}", seed());
                tally.run(&arena, &name, || {
                    let done = if ahead {
                        operate_ahead(&mut objects, &mut frames, &mut random, at)
                    } else {
                        operate(&mut objects, &mut frames, &mut random, at)
                    };
                    match done {
                        Ok(()) => Outcome::Refused,
                        Err(_) => Outcome::Error,
                    }
                });
            }
        }
    }
    tally.report("random slots, paths, frames");
}

// ---- damage

#[test]
fn a_damaged_engine_is_read_right_or_refused() {
    let mut tally = Tally::default();
    let mut random = Random::new(seed() + 1);
    for minor in VERSIONS {
        let engine = Engine::new(layout_of(3, minor), seed());
        let arena = Arena::new(engine.words());
        arena.fill_rest(&mut random, &engine);
        let truth = engine.truth();
        let mut objects = Objects::new(Lookahead::new(&arena), engine.layout);
        let mut frames = Frames::new(spec());
        let whole = look(&mut objects, &mut frames, engine.interpreter, 0);
        assert_eq!(whole, Ok(truth.clone()), "3.{minor}");
        for number in 0..cases() / 4 {
            // Half of the time with what is remembered from a whole engine.
            if random.below(2) == 0 {
                objects.forget();
                frames.forget();
            }
            let kept = arena.damage(&mut random, &engine);
            let now_ns = number * 700_000_000;
            let name = format!("seed {} 3.{minor} case {number}", seed());
            tally.run(&arena, &name, || {
                judge_damaged(
                    look(&mut objects, &mut frames, engine.interpreter, now_ns),
                    &truth,
                )
            });
            arena.restore(kept);
            objects.memory.stop();
            objects.forget();
            frames.forget();
        }
    }
    tally.report("damaged engines");
}

/// Damage stays: a number that nothing else contradicts cannot be known to be wrong. What the
/// invariants cover must be right.
fn judge_damaged(seen: Result<Seen, Trouble>, truth: &Seen) -> Outcome {
    let Ok(seen) = seen else {
        return Outcome::Error;
    };
    if !is_consistent(&seen.payload) {
        return Outcome::Refused;
    }
    match seen.covered() == truth.covered() {
        true => Outcome::Right,
        false => Outcome::Wrong(format!("{:?} for {:?}", seen.payload, truth.payload)),
    }
}

// ---- churn

#[test]
fn an_engine_that_runs_on_is_read_right_or_refused() {
    let mut tally = Tally::default();
    for minor in VERSIONS {
        let engine = Engine::new(layout_of(3, minor), seed());
        let interpreter = engine.interpreter;
        let layout: &'static Layout = engine.layout;
        let arena = Arena::running(engine, Random::new(seed() + 2));
        let mut objects = Objects::new(Lookahead::new(&arena), layout);
        let mut frames = Frames::new(spec());
        for number in 0..cases() / 4 {
            if number % 64 == 0 {
                // From an engine that stands still to one that is another one at every piece.
                arena.set_pace([0, 300, 60, 15][(number / 64 % 4) as usize]);
                objects.forget();
            }
            let name = format!("seed {} 3.{minor} case {number}", seed());
            tally.run(&arena, &name, || {
                let seen = look(&mut objects, &mut frames, interpreter, number * 10_000_000);
                arena.between_reads();
                match seen {
                    Err(_) => Outcome::Error,
                    Ok(seen) if !is_consistent(&seen.payload) => Outcome::Refused,
                    Ok(seen) if arena.had(&seen) => Outcome::Right,
                    Ok(seen) => {
                        Outcome::Wrong(format!("{seen:?}, not {:?}", arena.truth(seen.number)))
                    }
                }
            });
            objects.memory.stop();
        }
    }
    tally.report("running engines");
    assert!(tally.right > tally.cases / 10, "only {} read", tally.right);
}

// ---- the target's own description

#[test]
fn debug_offsets_of_garbage_are_refused() {
    let mut random = Random::new(seed() + 3);
    for number in 0..cases() / 40 {
        let mut words: Vec<u64> = (0..8192).map(|_| random.word(BASE, 8192)).collect();
        let cookie = random.below(8192) as usize;
        words[cookie] = u64::from_le_bytes(*b"xdebugpy");
        words[2040] = BASE + 8 * cookie as u64;
        let arena = Arena::new(words);
        for minor in [13, 14] {
            let found = layout::layout_of(&&arena, (3, minor), BASE);
            if let Ok(layout) = found {
                assert!(
                    layout.frame_locals <= layout::FRAME_HEAD_MOST,
                    "case {number}"
                );
            }
        }
    }
}
