-- Fenced: only the run that (attempt, attempted_at) names. Stores how far it came, and leaves it running.
UPDATE @schema@river_job
SET metadata = CASE
        WHEN pg_catalog.jsonb_typeof(metadata) = 'object' THEN metadata || %(metadata)s::jsonb
        ELSE %(metadata)s::jsonb
    END
WHERE id = %(id)s
    AND attempt = %(attempt)s
    AND attempted_at IS NOT DISTINCT FROM %(attempted_at)s::timestamptz
    AND (state = 'running') IS TRUE
RETURNING id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
