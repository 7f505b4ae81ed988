COPY @schema@river_job (args, kind, max_attempts, metadata, priority, queue, state, tags, unique_key, unique_states, scheduled_at)
FROM STDIN (FORMAT binary)
