-- The attempted_at of runs that go on, as of now: whoever rescues by age leaves them alone. A row that somebody has
-- locked is being ended, or is left for the next time.
WITH due AS (
    SELECT j.id, s.renewed_at
    FROM ROWS FROM (
        pg_catalog.unnest(%(ids)s::pg_catalog.int8[]),
        pg_catalog.unnest(%(attempts)s::pg_catalog.int4[]),
        pg_catalog.unnest(%(attempted_ats)s::pg_catalog.timestamptz[]),
        pg_catalog.unnest(%(renewed_ats)s::pg_catalog.timestamptz[])
    ) AS s (id, attempt, attempted_at, renewed_at)
    INNER JOIN @schema@river_job AS j ON j.id = s.id
    WHERE j.id = ANY (%(ids)s::pg_catalog.int8[])
        AND (j.state = 'running') IS TRUE
        AND j.attempt = s.attempt
        AND j.attempted_at = s.attempted_at
    ORDER BY j.id
    FOR UPDATE OF j SKIP LOCKED
)
UPDATE @schema@river_job AS j
SET attempted_at = due.renewed_at
FROM due
WHERE j.id = due.id
RETURNING j.id
