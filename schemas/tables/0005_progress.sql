-- What an engine has to do and when it last got something done, and what tells its setting.

ALTER TABLE engines
    ADD COLUMN IF NOT EXISTS command_digest Nullable(String),
    ADD COLUMN IF NOT EXISTS device_models Array(LowCardinality(String)),
    ADD COLUMN IF NOT EXISTS cuda_graphs Nullable(Bool),
    ADD COLUMN IF NOT EXISTS running_requests Nullable(UInt32),
    ADD COLUMN IF NOT EXISTS waiting_requests Nullable(UInt32),
    ADD COLUMN IF NOT EXISTS last_iteration_end_ns Nullable(Int64),
    ADD COLUMN IF NOT EXISTS still_since_ns Nullable(Int64);

CREATE OR REPLACE VIEW engines_view AS
SELECT
    e.engine_id AS engine_id,
    argMax(e.state, e.at_ns) AS state,
    argMax(e.framework, e.at_ns) AS framework,
    argMax(e.model, e.at_ns) AS model,
    argMax(e.source, e.at_ns) AS source,
    argMax(e.iterations_seen, e.at_ns) AS iterations_seen,
    argMax(e.iterations_missed, e.at_ns) AS iterations_missed,
    argMax(e.engine_iterations, e.at_ns) AS engine_iterations,
    argMax(e.agent_cpu_ratio, e.at_ns) AS agent_cpu_ratio,
    argMax(e.note, e.at_ns) AS note,
    fromUnixTimestamp64Nano(max(e.at_ns), 'UTC') AS seen_time,
    -- The tuple keeps what is unknown in the newest record from being passed over.
    argMax(tuple(e.command_digest), e.at_ns).1 AS command_digest,
    argMax(tuple(e.running_requests), e.at_ns).1 AS running_requests,
    argMax(tuple(e.waiting_requests), e.at_ns).1 AS waiting_requests,
    fromUnixTimestamp64Nano(max(e.last_iteration_end_ns), 'UTC') AS last_iteration_time,
    fromUnixTimestamp64Nano(argMax(tuple(e.still_since_ns), e.at_ns).1, 'UTC') AS still_since_time
FROM engines AS e FINAL
GROUP BY e.engine_id;
