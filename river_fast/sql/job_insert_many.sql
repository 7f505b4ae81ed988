/* Inserts jobs in the order given and notifies their queues, in one statement: one round trip, one commit.
   The condition is evaluated once, for its notifications; it holds always. No pg_notify is called without payloads. */
INSERT INTO @schema@river_job
    (args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags)
SELECT
    i.args, i.kind, i.max_attempts, i.metadata, i.priority, i.queue, coalesce(i.scheduled_at, now()),
    i.state::@schema@river_job_state, i.tags::varchar(255)[]
FROM unnest(
    %(args)s, %(kinds)s, %(max_attempts)s, %(metadata)s, %(priorities)s, %(queues)s, %(scheduled_at)s, %(states)s, %(tags)s
) AS i (args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags)
WHERE (SELECT count(pg_notify(%(channel)s, n.payload)::text) FROM unnest(%(payloads)s) AS n (payload)) >= 0
RETURNING
    id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at,
    priority, args, attempted_by, errors, kind, metadata, queue, tags
