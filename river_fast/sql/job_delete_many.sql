-- Lines that begin with `--word` as in job_list. A row that somebody has locked is left out: an empty answer is no proof
-- that nothing is left.
WITH meant AS MATERIALIZED (
    SELECT id
    FROM @schema@river_job
    WHERE state <> 'running'
--ids        AND id = ANY (%(ids)s::pg_catalog.int8[])
--kinds        AND kind = ANY (%(kinds)s::pg_catalog.text[])
--priorities        AND priority = ANY (%(priorities)s::pg_catalog.int2[])
--queues        AND queue = ANY (%(queues)s::pg_catalog.text[])
--state        AND state = %(states)s::@schema@river_job_state
--states        AND state = ANY (%(states)s::@schema@river_job_state[])
--final        AND finalized_at IS NOT NULL
    ORDER BY id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM @schema@river_job AS j
    USING meant
    WHERE j.id = meant.id
    RETURNING j.id, j.state, j.attempt, j.max_attempts, j.attempted_at, j.created_at, j.finalized_at, j.scheduled_at, j.priority, j.args, j.attempted_by, j.errors, j.kind, j.metadata, j.queue, j.tags
)
SELECT * FROM deleted ORDER BY id
