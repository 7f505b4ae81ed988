-- $1 ids, $2 attempts, $3 attempted_ats of unstarted jobs, $4 their queue (NULL: this server has no NOTIFY). A row that
-- somebody asked to cancel stays running and is told apart (cancelled): its job ends through the executor.
-- A row that somebody has locked is left for reclaim. Returns the ids that are settled.
WITH given AS (
    UPDATE @schema@river_job AS job
    SET state = CASE WHEN job.metadata ? 'cancel_attempted_at' THEN job.state ELSE 'available' END,
        attempt = CASE WHEN job.metadata ? 'cancel_attempted_at' THEN job.attempt ELSE job.attempt - 1 END,
        attempted_by = CASE
            WHEN job.metadata ? 'cancel_attempted_at' THEN job.attempted_by
            ELSE job.attempted_by[: pg_catalog.array_upper(job.attempted_by, 1) - 1]
        END
    FROM ROWS FROM (  -- unnest of several arrays at once is grammar, not a function of pg_catalog
        pg_catalog.unnest($1::pg_catalog.int8[]),
        pg_catalog.unnest($2::pg_catalog.int4[]),
        pg_catalog.unnest($3::pg_catalog.timestamptz[])
    ) AS held (id, attempt, attempted_at)
    WHERE job.id = held.id
        AND job.id = ANY (ARRAY(
            SELECT id
            FROM @schema@river_job
            WHERE id = ANY ($1::pg_catalog.int8[])
            ORDER BY id
            FOR UPDATE SKIP LOCKED
        ))
        AND (job.state = 'running') IS TRUE
        AND job.attempt = held.attempt
        AND job.attempted_at = held.attempted_at
    RETURNING job.id, job.tableoid AS relation, job.metadata ? 'cancel_attempted_at' AS cancelled
),

told AS (
    SELECT pg_catalog.pg_notify(
        namespace.nspname || '.river_insert',
        '{"queue": ' || pg_catalog.to_json($4::pg_catalog.text)::pg_catalog.text || '}'
    ) AS nothing
    FROM (SELECT DISTINCT relation FROM given WHERE NOT cancelled AND $4::pg_catalog.text IS NOT NULL) AS freed
    INNER JOIN pg_catalog.pg_class AS class ON class.oid = freed.relation
    INNER JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
)

SELECT given.id, given.cancelled
FROM given
LEFT JOIN told ON TRUE
