DELETE FROM @schema@river_fast_periodic_job
WHERE id = %(id)s
RETURNING
    id, schedule, zone, kind, args, metadata, opts, catch_up, next_run_at, last_run_at, last_error, paused_at, resumed_at,
    created_at, updated_at
