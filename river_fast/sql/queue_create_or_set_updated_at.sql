-- In the order of names, so that two clients with the same queues cannot deadlock.
INSERT INTO @schema@river_queue AS q (name, updated_at)
SELECT name, pg_catalog.now() FROM pg_catalog.unnest(%(names)s::text[]) AS n (name) ORDER BY name
ON CONFLICT (name) DO UPDATE SET updated_at = EXCLUDED.updated_at
RETURNING q.name, q.created_at, q.metadata, q.paused_at, q.updated_at
