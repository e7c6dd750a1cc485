-- One table per record. ReplacingMergeTree: a row that is written twice, after a retry or a
-- replay, is one row again after a merge, and at once in the views below, which read FINAL.

CREATE TABLE IF NOT EXISTS batches
(
    engine_id LowCardinality(String),
    process_start_ns Int64 CODEC(DoubleDelta, ZSTD),
    sequence Int64 CODEC(DoubleDelta, ZSTD),
    revision UInt16,
    begin_ns Int64 CODEC(DoubleDelta, ZSTD),
    end_ns Int64 CODEC(DoubleDelta, ZSTD),
    duration_ns Int64 CODEC(T64, ZSTD),
    uncertainty_ns Int64 CODEC(T64, ZSTD),
    source LowCardinality(String),
    ranks UInt16,
    missed UInt32,
    iterations UInt32,
    requests Nullable(UInt32) CODEC(T64, ZSTD),
    scheduled_tokens Nullable(UInt32) CODEC(T64, ZSTD),
    prefill_tokens Nullable(UInt32) CODEC(T64, ZSTD),
    decode_requests Nullable(UInt32) CODEC(T64, ZSTD),
    kv_tokens Nullable(UInt64) CODEC(T64, ZSTD),
    waiting_requests Nullable(UInt32) CODEC(T64, ZSTD),
    running_requests Nullable(UInt32) CODEC(T64, ZSTD),
    phase_names Array(LowCardinality(String)),
    phase_durations_ns Array(Int64),
    phase_estimated Array(Bool),
    expected_ns Nullable(Int64) CODEC(T64, ZSTD),
    low_ns Nullable(Int64) CODEC(T64, ZSTD),
    high_ns Nullable(Int64) CODEC(T64, ZSTD),
    residual Nullable(Float32),
    score Nullable(Float32),
    verdict LowCardinality(String),
    reason String CODEC(ZSTD),
    terms_ns Map(LowCardinality(String), Int64),
    counters Map(LowCardinality(String), Float64),
    incident_id Nullable(String)
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toDate(fromUnixTimestamp64Nano(begin_ns, 'UTC'))
ORDER BY (engine_id, process_start_ns, sequence);

CREATE TABLE IF NOT EXISTS processes
(
    engine_id LowCardinality(String),
    host LowCardinality(String),
    pid UInt32,
    role LowCardinality(String),
    begin_ns Int64 CODEC(DoubleDelta, ZSTD),
    end_ns Int64 CODEC(DoubleDelta, ZSTD),
    cpu_seconds Nullable(Float64),
    run_queue_wait_seconds Nullable(Float64),
    voluntary_switches Nullable(UInt64),
    involuntary_switches Nullable(UInt64),
    minor_faults Nullable(UInt64),
    major_faults Nullable(UInt64),
    rss_bytes Nullable(UInt64),
    threads Nullable(UInt32)
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(fromUnixTimestamp64Nano(end_ns, 'UTC'))
ORDER BY (engine_id, pid, end_ns);

CREATE TABLE IF NOT EXISTS hosts
(
    engine_id LowCardinality(String),
    host LowCardinality(String),
    begin_ns Int64 CODEC(DoubleDelta, ZSTD),
    end_ns Int64 CODEC(DoubleDelta, ZSTD),
    cpu_count UInt32,
    cpu_busy_ratio Nullable(Float64),
    engine_cpu_ratio Nullable(Float64),
    others_cpu_ratio Nullable(Float64),
    cpu_steal_ratio Nullable(Float64),
    cpu_frequency_hz Nullable(Float64),
    engine_run_queue_wait_ratio Nullable(Float64),
    cpu_pressure_ratio Nullable(Float64),
    memory_pressure_ratio Nullable(Float64),
    io_pressure_ratio Nullable(Float64),
    memory_total_bytes Nullable(UInt64),
    memory_available_bytes Nullable(UInt64),
    swap_in_bytes_per_second Nullable(Float64),
    swap_out_bytes_per_second Nullable(Float64),
    major_faults_per_second Nullable(Float64),
    disk_read_bytes_per_second Nullable(Float64),
    disk_written_bytes_per_second Nullable(Float64),
    network_received_bytes_per_second Nullable(Float64),
    network_sent_bytes_per_second Nullable(Float64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(fromUnixTimestamp64Nano(end_ns, 'UTC'))
ORDER BY (engine_id, end_ns);

CREATE TABLE IF NOT EXISTS engines
(
    engine_id LowCardinality(String),
    host LowCardinality(String),
    at_ns Int64,
    state LowCardinality(String),
    framework LowCardinality(String),
    process_start_ns Int64,
    version Nullable(String),
    model Nullable(String),
    port Nullable(UInt16),
    source Nullable(String),
    pids Array(UInt32),
    ranks UInt16,
    agent_version Nullable(String),
    iterations_seen Nullable(UInt64),
    iterations_missed Nullable(UInt64),
    engine_iterations Nullable(UInt64),
    agent_cpu_ratio Nullable(Float64),
    records_dropped Nullable(UInt64),
    note Nullable(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (engine_id, at_ns);

CREATE TABLE IF NOT EXISTS alerts
(
    incident_id String,
    revision UInt32,
    engine_id LowCardinality(String),
    state LowCardinality(String),
    severity LowCardinality(String),
    cause LowCardinality(String),
    confidence Float64,
    summary String,
    next_step String,
    begin_ns Int64,
    at_ns Int64,
    end_ns Nullable(Int64),
    batch_sequence Int64,
    batch_end_ns Int64,
    evidence String CODEC(ZSTD),
    other_causes Array(LowCardinality(String)),
    framework Nullable(String),
    model Nullable(String),
    host Nullable(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (incident_id, revision);

CREATE TABLE IF NOT EXISTS deadletters
(
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    at_ns Int64,
    place LowCardinality(String),
    error String,
    key_base64 Nullable(String),
    value_base64 Nullable(String) CODEC(ZSTD)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (topic, partition, offset, place);
