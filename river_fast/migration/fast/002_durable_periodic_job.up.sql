-- Periodic jobs that any client may define, and whichever river_fast client leads runs. args is json, not jsonb: unique keys
-- are hashed over its text. A run is inserted in the transaction that moves next_run_at on, so each time comes once.
CREATE TABLE @schema@river_fast_periodic_job (
    id text PRIMARY KEY,
    schedule text NOT NULL,
    zone text,
    kind text NOT NULL,
    args json NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    opts jsonb NOT NULL DEFAULT '{}',
    catch_up integer NOT NULL DEFAULT 1,
    next_run_at timestamptz,
    last_run_at timestamptz,
    last_error text,
    paused_at timestamptz,
    resumed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT id_length CHECK (char_length(id) BETWEEN 2 AND 127),
    CONSTRAINT kind_length CHECK (char_length(kind) BETWEEN 1 AND 127),
    CONSTRAINT catch_up_range CHECK (catch_up BETWEEN 1 AND 1000)
);

CREATE INDEX river_fast_periodic_job_next_run_at_idx
    ON @schema@river_fast_periodic_job (next_run_at, id)
    WHERE paused_at IS NULL;
