-- What became of the rows of outcomes that changed nothing ($1 ids): the first of job.COLUMNS, or with the lines that begin
-- with `--rows` all of them.
SELECT
    job.id, job.state, job.attempt, job.max_attempts, job.attempted_at
--rows    , job.created_at, job.finalized_at, job.scheduled_at, job.priority, job.args, job.attempted_by, job.errors, job.kind
--rows    , job.metadata, job.queue, job.tags
FROM @schema@river_job AS job
WHERE job.id = ANY ($1::bigint[])
