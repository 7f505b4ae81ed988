SELECT name, created_at, metadata, paused_at, updated_at
FROM @schema@river_queue
WHERE name = ANY (%(names)s::text[])
