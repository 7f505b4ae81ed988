-- Runs of this client whose cancel may not have been heard; the caller compares attempted_at, for its own run alone.
SELECT id, attempted_at
FROM @schema@river_job
WHERE id = ANY (%(ids)s::bigint[])
    AND (state = 'running') IS TRUE
    AND metadata ? 'cancel_attempted_at'
