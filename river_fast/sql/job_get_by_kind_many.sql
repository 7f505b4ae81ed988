SELECT id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
FROM @schema@river_job
WHERE kind = ANY (%(kinds)s::text[])
ORDER BY id
