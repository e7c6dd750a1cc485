-- When a fault was begun to be made.

ALTER TABLE faults
    ADD COLUMN IF NOT EXISTS onset_ns Nullable(Int64);
