-- It was run by hand; its schedule is as before.
UPDATE @schema@river_fast_periodic_job
SET last_run_at = greatest(last_run_at, %(at)s::timestamptz)
WHERE id = %(id)s
