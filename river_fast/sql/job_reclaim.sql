-- Back as if never fetched, where nothing of theirs was started; a requested cancel is granted on the spot. A row that
-- somebody has locked is left for the next look.
WITH lost AS (
    SELECT j.id
    FROM ROWS FROM (
        pg_catalog.unnest(%(ids)s::pg_catalog.int8[]),
        pg_catalog.unnest(%(attempts)s::pg_catalog.int4[]),
        pg_catalog.unnest(%(attempted_ats)s::pg_catalog.timestamptz[])
    ) AS s (id, attempt, attempted_at)
    INNER JOIN @schema@river_job AS j ON j.id = s.id
    WHERE j.id = ANY (%(ids)s::pg_catalog.int8[])
        AND (j.state = 'running') IS TRUE
        AND j.attempt = s.attempt
        AND j.attempted_at = s.attempted_at
    ORDER BY j.id
    FOR UPDATE OF j SKIP LOCKED
), freed AS (
    UPDATE @schema@river_job AS j
    SET state = CASE WHEN j.metadata ? 'cancel_attempted_at' THEN 'cancelled' ELSE 'available' END::@schema@river_job_state,
        finalized_at = CASE WHEN j.metadata ? 'cancel_attempted_at' THEN pg_catalog.now() END,
        attempt = CASE WHEN j.metadata ? 'cancel_attempted_at' THEN j.attempt ELSE greatest(j.attempt - 1, 0) END,
        attempted_by = CASE
            WHEN j.metadata ? 'cancel_attempted_at' THEN j.attempted_by
            ELSE j.attempted_by[: pg_catalog.array_upper(j.attempted_by, 1) - 1]
        END
    FROM lost
    WHERE j.id = lost.id
    RETURNING j.id, j.queue, j.state
), told AS (
    SELECT queue, pg_catalog.pg_notify(%(channel)s, pg_catalog.jsonb_build_object('queue', queue)::text)
    FROM (SELECT DISTINCT queue FROM freed WHERE state = 'available' AND %(notify)s) AS woken
)
SELECT freed.id, freed.queue, freed.state
FROM freed
LEFT JOIN told ON told.queue = freed.queue
