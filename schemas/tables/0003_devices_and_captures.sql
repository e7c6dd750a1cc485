-- Accelerators, captures, and what the agent learnt to read of hosts and processes.

CREATE TABLE IF NOT EXISTS xpus
(
    engine_id LowCardinality(String),
    host LowCardinality(String),
    begin_ns Int64 CODEC(DoubleDelta, ZSTD),
    end_ns Int64 CODEC(DoubleDelta, ZSTD),
    ranks Array(UInt16),
    engine_memory_used_bytes Nullable(UInt64) CODEC(T64, ZSTD),
    others_memory_used_bytes Nullable(UInt64) CODEC(T64, ZSTD),
    others Nullable(UInt32),
    device_id LowCardinality(String),
    vendor LowCardinality(String),
    device_index Nullable(UInt32),
    model LowCardinality(Nullable(String)),
    pci_address LowCardinality(Nullable(String)),
    parent LowCardinality(Nullable(String)),
    partition LowCardinality(Nullable(String)),
    driver_version LowCardinality(Nullable(String)),
    tool LowCardinality(String),
    age_ns Nullable(Int64),
    utilization_ratio Nullable(Float32),
    utilization_meaning LowCardinality(Nullable(String)),
    memory_total_bytes Nullable(UInt64) CODEC(T64, ZSTD),
    memory_used_bytes Nullable(UInt64) CODEC(T64, ZSTD),
    memory_reserved_bytes Nullable(UInt64) CODEC(T64, ZSTD),
    memory_bandwidth_ratio Nullable(Float32),
    memory_bandwidth_meaning LowCardinality(Nullable(String)),
    memory_io_bytes_per_second Nullable(Float64),
    core_clock_hz Nullable(Float64),
    core_clock_max_hz Nullable(Float64),
    memory_clock_hz Nullable(Float64),
    memory_clock_max_hz Nullable(Float64),
    power_watts Nullable(Float32),
    power_window LowCardinality(Nullable(String)),
    power_limit_watts Nullable(Float32),
    energy_joules Nullable(Float64),
    temperature_celsius Nullable(Float32),
    memory_temperature_celsius Nullable(Float32),
    pcie_received_bytes_per_second Nullable(Float64),
    pcie_sent_bytes_per_second Nullable(Float64),
    pcie_generation Nullable(UInt8),
    pcie_width Nullable(UInt8),
    pcie_capacity_bytes_per_second Nullable(Float64),
    fabric LowCardinality(Nullable(String)),
    fabric_links Nullable(UInt16),
    fabric_received_bytes_per_second Nullable(Float64),
    fabric_sent_bytes_per_second Nullable(Float64),
    fabric_capacity_bytes_per_second Nullable(Float64),
    throttle_reasons Array(LowCardinality(String)),
    throttled_seconds Map(LowCardinality(String), Float64),
    errors_corrected Nullable(UInt64),
    errors_uncorrected Nullable(UInt64),
    process_pids Array(UInt32),
    process_memory_used_bytes Array(Nullable(UInt64)),
    process_utilization_ratios Array(Nullable(Float32)),
    missing Map(LowCardinality(String), LowCardinality(String))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(fromUnixTimestamp64Nano(end_ns, 'UTC'))
ORDER BY (engine_id, device_id, end_ns);

CREATE TABLE IF NOT EXISTS captures
(
    capture_id String,
    engine_id LowCardinality(String),
    at_ns Int64,
    state LowCardinality(String),
    seconds Float64,
    reason String,
    incident_id Nullable(String),
    begin_ns Nullable(Int64),
    end_ns Nullable(Int64),
    host Nullable(String),
    pids Array(UInt32),
    folder Nullable(String),
    files Map(String, UInt64),
    error Nullable(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (engine_id, capture_id, state, at_ns);

ALTER TABLE processes
    ADD COLUMN IF NOT EXISTS rank Nullable(UInt16),
    ADD COLUMN IF NOT EXISTS cgroup_throttled_seconds Nullable(Float64),
    ADD COLUMN IF NOT EXISTS cgroup_cpu_limit_cores Nullable(Float64),
    ADD COLUMN IF NOT EXISTS swap_bytes Nullable(UInt64),
    ADD COLUMN IF NOT EXISTS numa_local_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS device_ids Array(LowCardinality(String));

ALTER TABLE hosts
    ADD COLUMN IF NOT EXISTS cpu_user_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS cpu_system_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS cpu_iowait_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS cpu_irq_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS cpu_frequency_max_hz Nullable(Float64),
    ADD COLUMN IF NOT EXISTS context_switches_per_second Nullable(Float64),
    ADD COLUMN IF NOT EXISTS runnable_tasks Nullable(UInt32),
    ADD COLUMN IF NOT EXISTS memory_full_pressure_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS io_full_pressure_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS swap_total_bytes Nullable(UInt64),
    ADD COLUMN IF NOT EXISTS swap_free_bytes Nullable(UInt64),
    ADD COLUMN IF NOT EXISTS disk_busy_ratio Nullable(Float64),
    ADD COLUMN IF NOT EXISTS network_link_bytes_per_second Nullable(Float64),
    ADD COLUMN IF NOT EXISTS numa_foreign_per_second Nullable(Float64),
    ADD COLUMN IF NOT EXISTS run_queue_latency_p50_seconds Nullable(Float64),
    ADD COLUMN IF NOT EXISTS run_queue_latency_p99_seconds Nullable(Float64),
    ADD COLUMN IF NOT EXISTS traced_calls Map(LowCardinality(String), Float64);

ALTER TABLE engines
    ADD COLUMN IF NOT EXISTS watched_ranks Array(UInt16),
    ADD COLUMN IF NOT EXISTS sources Array(LowCardinality(String)),
    ADD COLUMN IF NOT EXISTS device_ids Array(LowCardinality(String)),
    ADD COLUMN IF NOT EXISTS agent_memory_bytes Nullable(UInt64),
    ADD COLUMN IF NOT EXISTS poll_hz Nullable(UInt32),
    ADD COLUMN IF NOT EXISTS stack_hz Nullable(UInt32);
