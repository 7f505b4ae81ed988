SELECT name, created_at, metadata, paused_at, updated_at
FROM @schema@river_queue
WHERE name = %(name)s
