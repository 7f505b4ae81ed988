-- Changes what is given: its schedule, its job, how much it makes up for. Comes back as it is now; no row: there is none.
UPDATE @schema@river_fast_periodic_job
SET schedule = CASE WHEN %(has_schedule)s THEN %(schedule)s ELSE schedule END,
    zone = CASE WHEN %(has_schedule)s THEN %(zone)s ELSE zone END,
    next_run_at = CASE
        WHEN NOT %(has_schedule)s OR (schedule = %(schedule)s AND zone IS NOT DISTINCT FROM %(zone)s) THEN next_run_at
        ELSE %(next_run_at)s::timestamptz
    END,
    kind = CASE WHEN %(has_job)s THEN %(kind)s ELSE kind END,
    args = CASE WHEN %(has_job)s THEN %(args)s::json ELSE args END,
    metadata = CASE WHEN %(has_job)s THEN %(metadata)s::jsonb ELSE metadata END,
    opts = CASE WHEN %(has_job)s THEN %(opts)s::jsonb ELSE opts END,
    catch_up = coalesce(%(catch_up)s::integer, catch_up),
    last_error = NULL,
    updated_at = pg_catalog.clock_timestamp()
WHERE id = %(id)s
RETURNING
    id, schedule, zone, kind, args, metadata, opts, catch_up, next_run_at, last_run_at, last_error, paused_at, resumed_at,
    created_at, updated_at
