//! What the reading thread counts of itself.

use std::sync::atomic::AtomicU64;

/// Counters of the reading thread.
#[derive(Default)]
pub struct Stats {
    pub polls: AtomicU64,
    pub missed_ticks: AtomicU64,
    pub iterations: AtomicU64,
    pub missed_iterations: AtomicU64,
    pub batch_reads: AtomicU64,
    pub batch_failures: AtomicU64,
    pub torn: AtomicU64,
    pub stacks: AtomicU64,
    pub stack_failures: AtomicU64,
    pub resolves: AtomicU64,
    pub thread_cpu_ns: AtomicU64,
    pub syscalls: AtomicU64,
    /// 1 while the thread has real-time priority.
    pub realtime: AtomicU64,
    /// 1 counter, 2 stack; 0 while nothing is found.
    pub rung: AtomicU64,
    /// 0 not done, 1 agreed with py-spy, 2 disagreed.
    pub self_check: AtomicU64,
}
