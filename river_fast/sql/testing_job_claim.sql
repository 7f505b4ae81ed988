-- One job by id, running whatever it was: for a test that works it at once, by a clock of its own if it has one.
UPDATE @schema@river_job
SET state = 'running',
    attempt = attempt + 1,
    attempted_at = coalesce(%(now)s::timestamptz, pg_catalog.clock_timestamp()),
    attempted_by = pg_catalog.array_append(attempted_by, %(client_id)s::text),
    finalized_at = NULL
WHERE id = %(id)s
RETURNING id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
