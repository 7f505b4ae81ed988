/* The same where some of the jobs are unique. Ids are drawn first: a returned row that bears none of them is an older job,
   whatever the server's version says in xmax. The no-op update waits for a rival's commit and returns its row unchanged;
   rows go in by key, so two callers with the same keys cannot deadlock. A lock timeout is set before the first row goes in. */
WITH input AS MATERIALIZED (
    SELECT nextval(%(sequence)s::regclass) AS id, i.*
    FROM unnest(
        %(args)s, %(kinds)s, %(max_attempts)s, %(metadata)s, %(priorities)s, %(queues)s, %(scheduled_at)s, %(states)s,
        %(tags)s, %(unique_keys)s, %(unique_states)s
    ) AS i (
        args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key, unique_states
    )
    WHERE (SELECT count(pg_notify(%(channel)s, n.payload)::text) FROM unnest(%(payloads)s) AS n (payload)) >= 0
        AND (
            SELECT CASE
                WHEN %(lock_timeout)s::text IS NULL THEN true
                ELSE set_config('lock_timeout', %(lock_timeout)s::text, true) IS NOT NULL
            END
        )
), inserted AS (
    INSERT INTO @schema@river_job AS job
        (id, args, kind, max_attempts, metadata, priority, queue, scheduled_at, state, tags, unique_key, unique_states)
    SELECT
        i.id, i.args, i.kind, i.max_attempts, i.metadata, i.priority, i.queue, coalesce(i.scheduled_at, now()),
        i.state::@schema@river_job_state, i.tags::varchar(255)[], i.unique_key, i.unique_states::bit(8)
    FROM input AS i
    ORDER BY i.unique_key, i.id
    ON CONFLICT (unique_key)
        WHERE unique_key IS NOT NULL
            AND unique_states IS NOT NULL
            AND @schema@river_job_state_in_bitmask(unique_states, state)
        DO UPDATE SET kind = job.kind
    RETURNING
        id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at,
        priority, args, attempted_by, errors, kind, metadata, queue, tags, unique_key
)
SELECT
    id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at,
    priority, args, attempted_by, errors, kind, metadata, queue, tags, unique_key,
    id NOT IN (SELECT input.id FROM input) AS duplicate
FROM inserted
