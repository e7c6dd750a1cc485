-- What people query: times as times, durations in ms, duplicates gone. These names are stable.

CREATE VIEW IF NOT EXISTS batches_view AS
SELECT
    *,
    fromUnixTimestamp64Nano(begin_ns, 'UTC') AS begin_time,
    fromUnixTimestamp64Nano(end_ns, 'UTC') AS end_time,
    duration_ns / 1e6 AS duration_ms,
    expected_ns / 1e6 AS expected_ms,
    duration_ns / expected_ns AS slowdown
FROM batches FINAL;

CREATE VIEW IF NOT EXISTS incidents_view AS
SELECT
    a.incident_id AS incident_id,
    argMax(a.engine_id, a.revision) AS engine_id,
    argMax(a.state, a.revision) AS state,
    argMax(a.severity, a.revision) AS severity,
    argMax(a.cause, a.revision) AS cause,
    argMax(a.confidence, a.revision) AS confidence,
    argMaxIf(a.summary, a.revision, a.state != 'resolved') AS summary,
    fromUnixTimestamp64Nano(min(a.begin_ns), 'UTC') AS begin_time,
    fromUnixTimestamp64Nano(max(a.end_ns), 'UTC') AS end_time,
    max(a.revision) + 1 AS messages
FROM alerts AS a FINAL
GROUP BY a.incident_id;

CREATE VIEW IF NOT EXISTS engines_view AS
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
    fromUnixTimestamp64Nano(max(e.at_ns), 'UTC') AS seen_time
FROM engines AS e FINAL
GROUP BY e.engine_id;
