-- What River's rescuer writes, but at once available again: these may have been at work when their client ended.
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
    SET state = CASE
            WHEN j.metadata ? 'cancel_attempted_at' THEN 'cancelled'
            WHEN j.attempt >= j.max_attempts THEN 'discarded'
            ELSE 'available'
        END::@schema@river_job_state,
        finalized_at = CASE
            WHEN j.metadata ? 'cancel_attempted_at' OR j.attempt >= j.max_attempts THEN pg_catalog.now()
        END,
        errors = pg_catalog.array_append(j.errors, pg_catalog.jsonb_build_object(
            'at', pg_catalog.to_char(pg_catalog.now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'attempt', j.attempt,
            'error', 'Stuck job rescued by JobRescuer',
            'trace', ''
        )),
        metadata = CASE pg_catalog.jsonb_typeof(j.metadata) WHEN 'object' THEN j.metadata ELSE '{}' END
            || pg_catalog.jsonb_build_object('river:rescue_count', 1 + CASE
                WHEN pg_catalog.jsonb_typeof(j.metadata -> 'river:rescue_count') = 'number'
                    THEN (j.metadata ->> 'river:rescue_count')::pg_catalog.numeric
                ELSE 0
            END)
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
