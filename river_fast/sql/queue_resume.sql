-- Every queue for '*'. Counts the queues meant; told to the clients even where nothing changed, for those that missed it.
WITH meant AS (
    SELECT name
    FROM @schema@river_queue
    WHERE %(name)s::text = '*' OR name = %(name)s
    ORDER BY name
    FOR UPDATE
), updated AS (
    UPDATE @schema@river_queue AS q
    SET paused_at = NULL, updated_at = pg_catalog.now()
    FROM meant
    WHERE q.name = meant.name AND q.paused_at IS NOT NULL
)
SELECT pg_catalog.count(*), CASE WHEN %(notify)s AND (pg_catalog.count(*) > 0 OR %(name)s = '*') THEN pg_catalog.pg_notify(
    %(channel)s,
    '{"action":"resume","queue":' || pg_catalog.to_json(%(name)s::text)::text || '}'
) END
FROM meant
