-- Jobs that have been running for long, by id, without what only few decisions need. All that are running are looked at
-- (there are never many, and an index has them) rather than all rows by id until enough of them are found.
WITH running AS MATERIALIZED (
    SELECT id, attempt, max_attempts, attempted_at, kind,
        metadata ? 'cancel_attempted_at' AS cancel_requested,
        coalesce(pg_catalog.cardinality(errors), 0) AS errors
    FROM @schema@river_job
    WHERE state = 'running'
        AND attempted_at < pg_catalog.now() - pg_catalog.make_interval(secs => %(age)s)
        AND id > %(after)s
)
SELECT id, attempt, max_attempts, attempted_at, kind, cancel_requested, errors, pg_catalog.now()
FROM running
ORDER BY id
LIMIT %(limit)s
