-- The last column tells whether the row was deleted: a running one is returned as it stands.
WITH locked AS (
    SELECT id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
    FROM @schema@river_job
    WHERE id = %(id)s
    FOR UPDATE
), deleted AS (
    DELETE FROM @schema@river_job AS j
    USING locked
    WHERE j.id = locked.id AND locked.state <> 'running'
    RETURNING j.id, j.state, j.attempt, j.max_attempts, j.attempted_at, j.created_at, j.finalized_at, j.scheduled_at, j.priority, j.args, j.attempted_by, j.errors, j.kind, j.metadata, j.queue, j.tags
)
SELECT *, true FROM deleted
UNION ALL
SELECT *, false FROM locked WHERE NOT EXISTS (SELECT FROM deleted)
