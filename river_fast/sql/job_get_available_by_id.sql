-- job_get_available where ctid cannot be used (YugabyteDB): $1 queue, $2 limit, $3 client id, $4 kinds in that form.
UPDATE @schema@river_job
SET state = 'running',
    attempt = attempt + 1,
    attempted_at = pg_catalog.now(),
    attempted_by = CASE
        WHEN pg_catalog.array_ndims(attempted_by) > 1 THEN ARRAY[$3::pg_catalog.text]
        WHEN pg_catalog.cardinality(attempted_by) >= 100 THEN pg_catalog.array_append(
            attempted_by[pg_catalog.array_upper(attempted_by, 1) - 98 :], $3::pg_catalog.text)
        ELSE pg_catalog.array_append(attempted_by, $3::pg_catalog.text)
    END
WHERE id = ANY (ARRAY(
    SELECT id
    FROM @schema@river_job
    WHERE state = 'available'
        AND queue = $1::pg_catalog.text
        AND scheduled_at <= pg_catalog.now()
        AND attempt < 32767
--known        AND CASE WHEN kind = ANY ($4::pg_catalog.text[]) THEN 1 END IS NOT NULL
    ORDER BY priority, scheduled_at, id
    LIMIT $2::pg_catalog.int8
    FOR UPDATE SKIP LOCKED
))
RETURNING
    id, attempt, max_attempts, attempted_at, created_at, scheduled_at, priority, args,
    CASE WHEN pg_catalog.cardinality(attempted_by) > 1 THEN attempted_by END, errors, kind,
    metadata, tags
