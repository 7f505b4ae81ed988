COPY @schema@river_job (args, kind, max_attempts, metadata, priority, queue, state, tags)
FROM STDIN (FORMAT binary)
