-- Paused twice, the first time counts.
UPDATE @schema@river_fast_periodic_job
SET paused_at = coalesce(paused_at, pg_catalog.now()), updated_at = pg_catalog.clock_timestamp()
WHERE id = %(id)s
RETURNING
    id, schedule, zone, kind, args, metadata, opts, catch_up, next_run_at, last_run_at, last_error, paused_at, resumed_at,
    created_at, updated_at
