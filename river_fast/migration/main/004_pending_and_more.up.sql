-- A down migration cannot take an enum's label away again, so it may be there already.
ALTER TYPE @schema@river_job_state ADD VALUE IF NOT EXISTS 'pending' AFTER 'discarded';

UPDATE @schema@river_job
SET args = coalesce(args, '{}'), metadata = coalesce(metadata, '{}')
WHERE args IS NULL OR metadata IS NULL;

ALTER TABLE @schema@river_job
    ALTER COLUMN args SET NOT NULL,
    ALTER COLUMN metadata SET DEFAULT '{}',
    ALTER COLUMN metadata SET NOT NULL,
    DROP CONSTRAINT finalized_or_finalized_at_null,
    ADD CONSTRAINT finalized_or_finalized_at_null CHECK (
        (finalized_at IS NULL AND state NOT IN ('cancelled', 'completed', 'discarded'))
        OR (finalized_at IS NOT NULL AND state IN ('cancelled', 'completed', 'discarded'))
    );

-- From here on the client that inserts tells the listeners.
DROP TRIGGER river_notify ON @schema@river_job;
DROP FUNCTION @schema@river_job_notify();

CREATE TABLE @schema@river_queue (
    name text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    metadata jsonb NOT NULL DEFAULT '{}',
    paused_at timestamptz,
    updated_at timestamptz NOT NULL
);

-- One leader, so one name; a lease taken under another is worth nothing.
DELETE FROM @schema@river_leader WHERE name <> 'default';
ALTER TABLE @schema@river_leader
    ALTER COLUMN name SET DEFAULT 'default',
    DROP CONSTRAINT name_length,
    ADD CONSTRAINT name_length CHECK (name = 'default');
