-- Moves jobs on from the run they were read at. Counts those that were still at it, and as they were read: whoever counts
-- fewer than he inserted for has not inserted.
UPDATE @schema@river_fast_periodic_job AS p
SET next_run_at = u.next_run_at, last_run_at = coalesce(u.last_run_at, p.last_run_at), last_error = NULL
FROM unnest(
    %(ids)s::text[], %(seen_at)s::timestamptz[], %(due_at)s::timestamptz[], %(next_run_at)s::timestamptz[],
    %(last_run_at)s::timestamptz[]
) AS u (id, seen_at, due_at, next_run_at, last_run_at)
WHERE p.id = u.id
    AND p.updated_at = u.seen_at
    AND greatest(p.next_run_at, '0001-01-01T00:00:00Z') = u.due_at  -- as it was read: Python has no time before
    AND p.paused_at IS NULL
