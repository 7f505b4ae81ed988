-- $1 queue names; in the form for known kinds, $2 kinds. The positions (from 1) of those that have a job due; LATERAL with LIMIT keeps it one index probe each.
SELECT polled.position
FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS polled (queue, position)
CROSS JOIN LATERAL (
    SELECT 1 AS one
    FROM @schema@river_job AS job
    WHERE job.state = 'available'
        AND job.queue = polled.queue
        AND job.scheduled_at <= pg_catalog.now()
        AND job.attempt < 32767
--known        AND CASE WHEN job.kind = ANY ($2::pg_catalog.text[]) THEN 1 END IS NOT NULL
    ORDER BY job.priority, job.scheduled_at, job.id
    LIMIT 1
) AS due
