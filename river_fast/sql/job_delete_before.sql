-- Along river_job_state_and_finalized_at_index, oldest first: by id, the lowest ones might be millions that are kept.
-- A row that somebody has locked (it is being retried, perhaps) is left for the next pass.
DELETE FROM @schema@river_job
WHERE id = ANY (ARRAY(
    SELECT id
    FROM @schema@river_job
    WHERE state = %(state)s::@schema@river_job_state
        AND finalized_at < pg_catalog.now() - pg_catalog.make_interval(secs => %(age)s)
    ORDER BY finalized_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
