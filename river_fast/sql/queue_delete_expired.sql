-- A row that is just being touched is locked, and stays.
DELETE FROM @schema@river_queue
WHERE name = ANY (ARRAY(
    SELECT name
    FROM @schema@river_queue
    WHERE updated_at < pg_catalog.now() - pg_catalog.make_interval(secs => %(age)s)
    ORDER BY name
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
RETURNING name
