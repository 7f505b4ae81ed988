COPY @schema@river_job (args, kind, max_attempts, metadata, priority, queue, state, tags, unique_key, unique_states)
FROM STDIN (FORMAT binary)
