-- The truth about injected faults, and two more terms of a workload.

CREATE TABLE IF NOT EXISTS faults
(
    fault_id String,
    name LowCardinality(String),
    kind LowCardinality(String),
    state LowCardinality(String),
    intensity Float64,
    host LowCardinality(String),
    begin_ns Int64,
    end_ns Nullable(Int64),
    severity LowCardinality(Nullable(String)),
    causes Array(LowCardinality(String)),
    engine_ids Array(LowCardinality(String)),
    pids Array(UInt32),
    intermittent Bool,
    simulated Bool,
    true_ratio Nullable(Float64),
    error Nullable(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(begin_ns, 'UTC'))
ORDER BY (fault_id, state);

ALTER TABLE batches
    ADD COLUMN IF NOT EXISTS speculative_tokens Nullable(UInt32) CODEC(T64, ZSTD),
    ADD COLUMN IF NOT EXISTS lora_adapters Nullable(UInt16) CODEC(T64, ZSTD);

-- A view keeps the columns that its table had when it was made.
CREATE OR REPLACE VIEW batches_view AS
SELECT
    *,
    fromUnixTimestamp64Nano(begin_ns, 'UTC') AS begin_time,
    fromUnixTimestamp64Nano(end_ns, 'UTC') AS end_time,
    duration_ns / 1e6 AS duration_ms,
    expected_ns / 1e6 AS expected_ms,
    duration_ns / expected_ns AS slowdown
FROM batches FINAL;

CREATE VIEW IF NOT EXISTS faults_view AS
SELECT
    f.fault_id AS fault_id,
    any(f.name) AS name,
    any(f.kind) AS kind,
    max(f.state = 'ended') AS ended,
    any(f.severity) AS severity,
    any(f.intensity) AS intensity,
    any(f.host) AS host,
    any(f.engine_ids) AS engine_ids,
    any(f.causes) AS causes,
    any(f.intermittent) AS intermittent,
    max(f.true_ratio) AS true_ratio,
    max(f.error) AS error,
    fromUnixTimestamp64Nano(min(f.begin_ns), 'UTC') AS begin_time,
    fromUnixTimestamp64Nano(max(f.end_ns), 'UTC') AS end_time
FROM faults AS f FINAL
GROUP BY f.fault_id;
