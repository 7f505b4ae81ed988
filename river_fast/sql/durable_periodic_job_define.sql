-- Makes a durable periodic job, or makes an old one like this. What it is paused for stays; when it runs next stays too,
-- unless its schedule is another one.
INSERT INTO @schema@river_fast_periodic_job AS p
    (id, schedule, zone, kind, args, metadata, opts, catch_up, next_run_at)
VALUES (
    %(id)s, %(schedule)s, %(zone)s, %(kind)s, %(args)s::json, %(metadata)s::jsonb, %(opts)s::jsonb, %(catch_up)s,
    %(next_run_at)s::timestamptz
)
ON CONFLICT (id) DO UPDATE
SET schedule = excluded.schedule,
    zone = excluded.zone,
    kind = excluded.kind,
    args = excluded.args,
    metadata = excluded.metadata,
    opts = excluded.opts,
    catch_up = excluded.catch_up,
    next_run_at = CASE
        WHEN p.schedule = excluded.schedule AND p.zone IS NOT DISTINCT FROM excluded.zone THEN p.next_run_at
        ELSE excluded.next_run_at
    END,
    last_error = NULL,
    updated_at = pg_catalog.clock_timestamp()
RETURNING
    id, schedule, zone, kind, args, metadata, opts, catch_up, next_run_at, last_run_at, last_error, paused_at, resumed_at,
    created_at, updated_at
