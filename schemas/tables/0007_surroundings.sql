-- What surrounds a batch: the gap before it, and which part takes too long.

ALTER TABLE batches
    ADD COLUMN IF NOT EXISTS gap_ns Nullable(Int64) CODEC(T64, ZSTD),
    ADD COLUMN IF NOT EXISTS expected_gap_ns Nullable(Int64) CODEC(T64, ZSTD),
    ADD COLUMN IF NOT EXISTS slow_parts Array(LowCardinality(String));

-- A view keeps the columns that its table had when it was made.
CREATE OR REPLACE VIEW batches_view AS
SELECT
    *,
    fromUnixTimestamp64Nano(begin_ns, 'UTC') AS begin_time,
    fromUnixTimestamp64Nano(end_ns, 'UTC') AS end_time,
    duration_ns / 1e6 AS duration_ms,
    expected_ns / 1e6 AS expected_ms,
    duration_ns / expected_ns AS slowdown,
    gap_ns / 1e6 AS gap_ms
FROM batches FINAL;
