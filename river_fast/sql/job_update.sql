-- Merged here, so that no digit of what is stored is lost; in any state, a running one too.
UPDATE @schema@river_job
SET metadata = CASE pg_catalog.jsonb_typeof(metadata) WHEN 'object' THEN metadata ELSE '{}' END
    || %(metadata)s::pg_catalog.jsonb
WHERE id = %(id)s
RETURNING id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
