SELECT name, created_at, metadata, paused_at, updated_at
FROM @schema@river_queue
ORDER BY name
LIMIT %(limit)s
