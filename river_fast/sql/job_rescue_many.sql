-- Only what is still the very run that was judged. A cancel that was requested since is granted. A row that somebody has
-- locked is left out: it may be just being completed.
WITH judged AS (
    SELECT j.id, s.state, s.delay
    FROM ROWS FROM (
        pg_catalog.unnest(%(ids)s::pg_catalog.int8[]),
        pg_catalog.unnest(%(attempts)s::pg_catalog.int4[]),
        pg_catalog.unnest(%(attempted_ats)s::pg_catalog.timestamptz[]),
        pg_catalog.unnest(%(states)s::pg_catalog.text[]),
        pg_catalog.unnest(%(delays)s::pg_catalog.float8[])
    ) AS s (id, attempt, attempted_at, state, delay)
    INNER JOIN @schema@river_job AS j ON j.id = s.id
    WHERE j.id = ANY (%(ids)s::pg_catalog.int8[])
        AND (j.state = 'running') IS TRUE
        AND j.attempt = s.attempt
        AND j.attempted_at = s.attempted_at
    ORDER BY j.id
    FOR UPDATE OF j SKIP LOCKED
)
UPDATE @schema@river_job AS j
SET state = CASE
        WHEN j.metadata ? 'cancel_attempted_at' THEN 'cancelled'
        ELSE judged.state
    END::@schema@river_job_state,
    finalized_at = CASE
        WHEN j.metadata ? 'cancel_attempted_at' OR judged.state <> 'retryable' THEN pg_catalog.now()
    END,
    scheduled_at = CASE
        WHEN j.metadata ? 'cancel_attempted_at' OR judged.state <> 'retryable' THEN j.scheduled_at
        ELSE pg_catalog.now() + pg_catalog.make_interval(secs => judged.delay)
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
FROM judged
WHERE j.id = judged.id
RETURNING j.id, j.state
