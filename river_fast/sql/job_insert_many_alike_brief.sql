/* As job_insert_many_alike, returning what the caller cannot know. A trigger could change the rest: where the table has
   any, or a rule, nothing is inserted and nothing returned, and the caller asks the long way. */
INSERT INTO @schema@river_job
    (args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags)
SELECT
    i.args, %(kind)s, %(max_attempts)s, %(metadata)s, %(priority)s, %(queue)s, coalesce(%(scheduled_at)s, now()),
    %(state)s::@schema@river_job_state, %(tags)s::varchar(255)[]
FROM unnest(%(args)s) AS i (args)
WHERE (
        SELECT NOT relhastriggers AND NOT relhasrules
        FROM pg_catalog.pg_class
        WHERE oid = pg_catalog.to_regclass(%(table)s)
    )
    AND (SELECT count(pg_notify(%(channel)s, n.payload)::text) FROM unnest(%(payloads)s) AS n (payload)) >= 0
RETURNING id, created_at, scheduled_at, args
