-- Incidents as people are told of them, and what they say to that.

ALTER TABLE alerts
    ADD COLUMN IF NOT EXISTS device_ids Array(LowCardinality(String));

ALTER TABLE captures
    ADD COLUMN IF NOT EXISTS compare_with Nullable(String);

CREATE TABLE IF NOT EXISTS notifications
(
    incident_id String,
    revision UInt32,
    state LowCardinality(String),
    severity LowCardinality(String),
    cause LowCardinality(String),
    confidence Float64,
    summary String,
    next_step String,
    begin_ns Int64,
    at_ns Int64,
    end_ns Nullable(Int64),
    alert_incident_id String,
    alert_revision UInt32,
    member_engine_ids Array(String),
    member_incident_ids Array(String),
    member_ratios Array(Nullable(Float64)),
    shared Nullable(String),
    acknowledged_by Nullable(String),
    just_acknowledged Bool,
    silenced_by Nullable(String),
    flapping Bool,
    capture_ids Array(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (incident_id, revision);

CREATE TABLE IF NOT EXISTS silences
(
    silence_id String,
    at_ns Int64,
    begin_ns Int64,
    end_ns Int64,
    matchers Map(LowCardinality(String), String),
    reason LowCardinality(String),
    by Nullable(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (silence_id, at_ns);

CREATE TABLE IF NOT EXISTS acknowledgements
(
    incident_id String,
    at_ns Int64,
    by String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(fromUnixTimestamp64Nano(at_ns, 'UTC'))
ORDER BY (incident_id, at_ns);
