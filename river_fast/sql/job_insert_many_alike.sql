/* The same for jobs that differ in their args alone: the server takes apart one array instead of nine. */
INSERT INTO @schema@river_job
    (args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags)
SELECT
    i.args, %(kind)s, %(max_attempts)s, %(metadata)s, %(priority)s, %(queue)s, coalesce(%(scheduled_at)s, now()),
    %(state)s::@schema@river_job_state, %(tags)s::varchar(255)[]
FROM unnest(%(args)s) AS i (args)
WHERE (SELECT count(pg_notify(%(channel)s, n.payload)::text) FROM unnest(%(payloads)s) AS n (payload)) >= 0
RETURNING
    id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at,
    priority, args, attempted_by, errors, kind, metadata, queue, tags
