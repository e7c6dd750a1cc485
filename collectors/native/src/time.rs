//! CLOCK_MONOTONIC, and a timer that skips what it missed.

/// Nanoseconds of a clock.
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid timespec to write to.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The clock of all events, shared by every process of the host.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// CPU time of the calling thread.
pub fn thread_cpu_ns() -> u64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn sleep_until(at_ns: u64) {
    let time = libc::timespec {
        tv_sec: (at_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (at_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: a valid timespec; an early return only makes a tick early.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &time,
            std::ptr::null_mut(),
        )
    };
}

/// Longest sleep in one go, so that a stop is noticed.
const NAP_NS: u64 = 50_000_000;

/// A periodic timer with a jitter of a tenth of the period, so that it does not beat with the
/// engine's own timers.
pub struct Timer {
    due_ns: u64,
    random: u64,
}

impl Timer {
    pub fn new(now_ns: u64) -> Self {
        Timer {
            due_ns: now_ns,
            random: now_ns | 1,
        }
    }

    /// Sleeps to the next tick and returns how many ticks were missed before it; `None` when
    /// `stop` said so.
    pub fn wait(&mut self, period_ns: u64, stop: impl Fn() -> bool) -> Option<u64> {
        let missed = self.advance(period_ns, monotonic_ns());
        let target = self.jittered(period_ns);
        loop {
            if stop() {
                return None;
            }
            let now_ns = monotonic_ns();
            if now_ns >= target {
                return Some(missed);
            }
            sleep_until(target.min(now_ns + NAP_NS));
        }
    }

    /// Moves to the next tick after `now_ns`; ticks in between are skipped, never caught up.
    fn advance(&mut self, period_ns: u64, now_ns: u64) -> u64 {
        self.due_ns += period_ns;
        // A tick that is late by less than a period is run late, not missed.
        let missed = now_ns.saturating_sub(self.due_ns) / period_ns;
        self.due_ns += missed * period_ns;
        missed
    }

    fn jittered(&mut self, period_ns: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let range = (period_ns / 5).max(1);
        self.due_ns - period_ns / 10 + self.random % range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_ticks_are_skipped_and_counted() {
        let mut timer = Timer::new(1000);
        assert_eq!(timer.advance(100, 1050), 0);
        assert_eq!(timer.due_ns, 1100);
        assert_eq!(timer.advance(100, 1250), 0);
        assert_eq!(timer.advance(100, 1750), 4);
        assert_eq!(timer.due_ns, 1700);
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let mut timer = Timer::new(1_000_000);
        for _ in 0..1000 {
            let at = timer.jittered(1000);
            assert!((999_900..1_000_100).contains(&at));
        }
    }

    #[test]
    fn a_stop_is_noticed_before_the_tick() {
        let mut timer = Timer::new(monotonic_ns());
        assert_eq!(timer.wait(3_600_000_000_000, || true), None);
    }

    #[test]
    fn thread_time_moves() {
        let start = thread_cpu_ns();
        let mut sum = 0u64;
        for i in 0..1_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        assert!(thread_cpu_ns() > start);
    }
}
