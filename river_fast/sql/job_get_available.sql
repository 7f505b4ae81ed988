-- $1 queue, $2 limit, $3 client id; in the form for known kinds, $4 kinds: of no others. The ctid form keeps its plan in
-- every table state; rows whose attempt is at the type's end, or whose attempted_by is not a list, must not be able to
-- fail the statement for all the others. An attempted_by that names this client alone is not sent back: most do, and an
-- array is the dearest column to send. The condition on kinds is one that no index serves and no statistics are kept of:
-- for kinds believed rare, all jobs there are would be read and sorted at each fetch.
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
WHERE ctid = ANY (ARRAY(
    SELECT ctid
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
