COPY @schema@river_job (args, kind, max_attempts, metadata, priority, queue, state, tags, scheduled_at)
FROM STDIN (FORMAT binary)
