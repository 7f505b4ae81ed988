-- Running rows and those already due are left alone; the lock makes the row returned the committed one.
WITH locked AS (
    SELECT id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
    FROM @schema@river_job
    WHERE id = %(id)s
    FOR UPDATE
), notified AS (
    SELECT id,
        CASE WHEN %(notify)s THEN pg_catalog.pg_notify(%(channel)s, pg_catalog.jsonb_build_object('queue', queue)::text) END
    FROM locked
    WHERE state <> 'running' AND NOT (state = 'available' AND scheduled_at < pg_catalog.now())
), updated AS (
    UPDATE @schema@river_job AS j
    SET state = 'available',
        scheduled_at = pg_catalog.now(),
        finalized_at = NULL,
        max_attempts = CASE WHEN j.attempt = j.max_attempts AND j.max_attempts < 32767 THEN j.max_attempts + 1
                            ELSE j.max_attempts END,
        metadata = CASE pg_catalog.jsonb_typeof(j.metadata) WHEN 'object' THEN j.metadata - 'cancel_attempted_at'
                                                 ELSE j.metadata END
    FROM notified
    WHERE j.id = notified.id
    RETURNING j.id, j.state, j.attempt, j.max_attempts, j.attempted_at, j.created_at, j.finalized_at, j.scheduled_at, j.priority, j.args, j.attempted_by, j.errors, j.kind, j.metadata, j.queue, j.tags
)
SELECT * FROM updated
UNION ALL
SELECT * FROM locked WHERE NOT EXISTS (SELECT FROM updated)
