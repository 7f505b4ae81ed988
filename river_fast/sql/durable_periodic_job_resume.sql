-- What was due while it was paused is not made up for: resumed_at says from when runs count.
UPDATE @schema@river_fast_periodic_job
SET resumed_at = CASE WHEN paused_at IS NULL THEN resumed_at ELSE pg_catalog.clock_timestamp() END,
    paused_at = NULL,
    updated_at = pg_catalog.clock_timestamp()
WHERE id = %(id)s
RETURNING
    id, schedule, zone, kind, args, metadata, opts, catch_up, next_run_at, last_run_at, last_error, paused_at, resumed_at,
    created_at, updated_at
