"""The names of causes: what alerts answer, and what the truth about a fault expects.

A name stays what it is once it was published. Not every one is told apart by the analysis yet;
the fault gym says which.
"""

CAUSES: dict[str, str] = {
    # The host.
    "host_cpu_contention": "other processes take the host's CPUs",
    "host_cpu_steal": "the hypervisor takes CPU time away",
    "host_cpu_frequency": "the CPUs run at a lower clock",
    "cpu_quota": "the control group's CPU quota is used up",
    "run_queue_delay": "the engine's threads wait for a CPU",
    "interrupt_load": "interrupts take CPU time",
    "memory_bandwidth": "others use the memory's bandwidth, or it is far away (NUMA)",
    "memory_pressure": "memory is short: reclaim and swap",
    "disk_pressure": "tasks wait for the disk",
    "network_delay": "the network is slow or loses packets",
    # The accelerator.
    "accelerator_clock": "the accelerator runs at a lower clock: power, heat or a lock",
    "accelerator_contention": "other processes compute on the accelerator",
    "accelerator_memory": "the accelerator's memory is short or fragmented",
    "pcie_contention": "others use the PCIe link",
    "fabric_contention": "others use NVLink, xGMI or the like",
    # The ranks.
    "slow_rank": "one rank is slower than its peers",
    "communication_slower": "ranks wait for each other or for the fabric",
    # The engine itself.
    "stall": "a batch does not end",
    "engine_pause": "the interpreter pauses: garbage collection, or a thread that holds the GIL",
    "kv_exhaustion": "the KV cache is full: requests are preempted and computed again",
    "compilation": "kernels or graphs are compiled",
    "frontend_slower": "tokenizer or API server hold requests back",
    "clients_slow": "clients do not take their answers",
    # A phase of the batch, where nothing behind it is known.
    "forward_slower": "the forward pass takes longer for its work",
    "scheduler_slower": "scheduling takes longer for its work",
    "dispatch_slower": "handing the batch to the workers takes longer",
    "postprocess_slower": "post-processing takes longer for its work",
    # No fault, and no answer.
    "load": "requests wait because there are more than the engine can take",
    "unknown": "nothing explains it",
}
"""What each cause means, by name."""
