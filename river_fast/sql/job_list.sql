-- A line that begins with `--word` is part of those forms that ask for it: a filter that is not set stands in no index's
-- way. NULLs sort last ascending and first descending, as PostgreSQL has it.
SELECT id, state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, attempted_by, errors, kind, metadata, queue, tags
FROM @schema@river_job
WHERE true
--ids    AND id = ANY (%(ids)s::pg_catalog.int8[])
--kinds    AND kind = ANY (%(kinds)s::pg_catalog.text[])
--priorities    AND priority = ANY (%(priorities)s::pg_catalog.int2[])
--queues    AND queue = ANY (%(queues)s::pg_catalog.text[])
--state    AND state = %(states)s::@schema@river_job_state
--states    AND state = ANY (%(states)s::@schema@river_job_state[])
--final    AND finalized_at IS NOT NULL
--tags_all    AND tags @> %(tags_all)s::pg_catalog.varchar[]
--tags_any    AND tags && %(tags_any)s::pg_catalog.varchar[]
--metadata    AND metadata @> %(metadata)s::pg_catalog.jsonb
--after_id_ascending    AND id > %(after_id)s::pg_catalog.int8
--after_id_descending    AND id < %(after_id)s::pg_catalog.int8
--after_scheduled_at_ascending    AND (scheduled_at, id) > (%(after_time)s, %(after_id)s::pg_catalog.int8)
--after_scheduled_at_descending    AND (scheduled_at, id) < (%(after_time)s, %(after_id)s::pg_catalog.int8)
--after_finalized_at_ascending    AND (finalized_at, id) > (%(after_time)s, %(after_id)s::pg_catalog.int8)
--after_finalized_at_descending    AND (finalized_at, id) < (%(after_time)s, %(after_id)s::pg_catalog.int8)
--after_finalized_at_or_null_ascending    AND ((finalized_at, id) > (%(after_time)s, %(after_id)s::pg_catalog.int8) OR finalized_at IS NULL)
--after_finalized_at_or_null_descending    AND (finalized_at, id) < (%(after_time)s, %(after_id)s::pg_catalog.int8)
--after_finalized_at_null_ascending    AND finalized_at IS NULL AND id > %(after_id)s::pg_catalog.int8
--after_finalized_at_null_descending    AND (finalized_at IS NOT NULL OR id < %(after_id)s::pg_catalog.int8)
--after_attempted_at_or_null_ascending    AND ((attempted_at, id) > (%(after_time)s, %(after_id)s::pg_catalog.int8) OR attempted_at IS NULL)
--after_attempted_at_or_null_descending    AND (attempted_at, id) < (%(after_time)s, %(after_id)s::pg_catalog.int8)
--after_attempted_at_null_ascending    AND attempted_at IS NULL AND id > %(after_id)s::pg_catalog.int8
--after_attempted_at_null_descending    AND (attempted_at IS NOT NULL OR id < %(after_id)s::pg_catalog.int8)
--by_id_ascending ORDER BY id
--by_id_descending ORDER BY id DESC
--by_scheduled_at_ascending ORDER BY scheduled_at, id
--by_scheduled_at_descending ORDER BY scheduled_at DESC, id DESC
--by_attempted_at_ascending ORDER BY attempted_at, id
--by_attempted_at_descending ORDER BY attempted_at DESC, id DESC
--by_finalized_at_ascending ORDER BY finalized_at, id
--by_finalized_at_descending ORDER BY finalized_at DESC, id DESC
LIMIT %(limit)s
