-- The lock is taken first, so that of two who race the loser sees, and returns, what the winner committed.
WITH locked AS (
    SELECT id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
    FROM @schema@river_job
    WHERE id = %(id)s
    FOR UPDATE
), notified AS (
    SELECT id,
        CASE WHEN %(notify)s THEN pg_catalog.pg_notify(
            %(channel)s,
            -- json, not jsonb: River's bytes
            pg_catalog.json_build_object('action', 'cancel', 'job_id', id, 'queue', queue)::text
        ) END
    FROM locked
    WHERE state NOT IN ('cancelled', 'completed', 'discarded')
), updated AS (
    UPDATE @schema@river_job AS j
    SET state = CASE WHEN j.state = 'running' THEN j.state ELSE 'cancelled' END,
        finalized_at = CASE WHEN j.state = 'running' THEN j.finalized_at ELSE pg_catalog.now() END,
        -- RFC 3339: River's rescuer fails as a whole on any other form
        metadata = CASE pg_catalog.jsonb_typeof(j.metadata) WHEN 'object' THEN j.metadata ELSE '{}' END
            || pg_catalog.jsonb_build_object(
                'cancel_attempted_at',
                pg_catalog.to_char(pg_catalog.now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
            )
    FROM notified
    WHERE j.id = notified.id
    RETURNING j.id, j.state, j.attempt, j.max_attempts, j.attempted_at, j.created_at, j.finalized_at, j.scheduled_at, j.priority, j.args, j.attempted_by, j.errors, j.kind, j.metadata, j.queue, j.tags
)
SELECT * FROM updated
UNION ALL
SELECT * FROM locked WHERE NOT EXISTS (SELECT FROM updated)
