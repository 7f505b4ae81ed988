-- The metadata is replaced as a whole, or left as it is where there is none to put; told to the clients where it is new.
WITH updated AS (
    UPDATE @schema@river_queue
    SET metadata = coalesce(%(metadata)s::pg_catalog.jsonb, metadata), updated_at = pg_catalog.now()
    WHERE name = %(name)s
    RETURNING name, created_at, metadata, paused_at, updated_at
)
SELECT
    name, created_at, metadata, paused_at, updated_at,
    CASE WHEN %(message)s::pg_catalog.text IS NOT NULL THEN pg_catalog.pg_notify(%(channel)s, %(message)s::pg_catalog.text) END
FROM updated
