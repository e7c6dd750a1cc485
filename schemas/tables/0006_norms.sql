-- What is normal for an engine, for its peers to compare themselves with.

CREATE TABLE IF NOT EXISTS norms
(
    engine_id LowCardinality(String),
    at_ns Int64 CODEC(DoubleDelta, ZSTD),
    kind LowCardinality(String),
    batches UInt64,
    suspect Bool,
    cell_requests Array(UInt32),
    cell_context_tokens Array(Nullable(UInt32)),
    cell_prefill_tokens Array(UInt32),
    cell_visits Array(UInt32),
    cell_duration_ns Array(UInt64)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (engine_id, at_ns);
