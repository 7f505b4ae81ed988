-- Records outcomes of any sort, fenced: $1 ids, $2 attempts, $3 attempted_at, $4 states, $5 ages and $6 delays in
-- microseconds (-1: scheduled_at stays), $7 whether the attempt is given back, $8 errors, $9 metadata. River's rules: a
-- row no longer running takes only the metadata; one whose cancel was asked for is cancelled instead of run again.
-- Lines that begin with `--unlocked` and `--rows` belong to the forms that pass over rows somebody else has locked, and
-- that return the jobs as stored.
UPDATE @schema@river_job AS job
SET
    state = CASE
        WHEN job.state <> 'running' THEN job.state
        WHEN outcome.state IN ('available', 'retryable', 'scheduled') AND job.metadata ? 'cancel_attempted_at'
            THEN 'cancelled'
        ELSE outcome.state::@schema@river_job_state
    END,
    finalized_at = CASE
        WHEN job.state = 'running'
            AND (outcome.state IN ('cancelled', 'completed', 'discarded') OR job.metadata ? 'cancel_attempted_at')
            THEN now() - outcome.age * interval '1 microsecond'
        ELSE job.finalized_at
    END,
    scheduled_at = CASE
        WHEN job.state = 'running' AND outcome.delay >= 0
            AND NOT (outcome.state IN ('available', 'retryable', 'scheduled') AND job.metadata ? 'cancel_attempted_at')
            THEN now() - outcome.age * interval '1 microsecond' + outcome.delay * interval '1 microsecond'
        ELSE job.scheduled_at
    END,
    attempt = CASE
        WHEN job.state = 'running' AND outcome.restore
            AND NOT (outcome.state IN ('available', 'retryable', 'scheduled') AND job.metadata ? 'cancel_attempted_at')
            THEN greatest(job.attempt - 1, 0)
        ELSE job.attempt
    END,
    errors = CASE
        WHEN job.state = 'running' AND outcome.error IS NOT NULL THEN array_append(job.errors, outcome.error)
        ELSE job.errors
    END,
    metadata = CASE
        WHEN outcome.metadata IS NULL THEN job.metadata
        WHEN jsonb_typeof(job.metadata) = 'object' THEN job.metadata || outcome.metadata
        ELSE outcome.metadata
    END
FROM unnest(
    $1::bigint[], $2::smallint[], $3::timestamptz[], $4::text[], $5::bigint[], $6::bigint[], $7::boolean[],
    $8::jsonb[], $9::jsonb[]
) WITH ORDINALITY AS outcome (id, attempt, attempted_at, state, age, delay, restore, error, metadata, position)
WHERE job.id = outcome.id
    AND job.id = ANY ($1::bigint[])
--unlocked    AND job.id = ANY (ARRAY(
--unlocked        SELECT free.id FROM @schema@river_job AS free WHERE free.id = ANY ($1::bigint[]) FOR UPDATE SKIP LOCKED
--unlocked    ))
    AND job.attempt = outcome.attempt
    AND job.attempted_at IS NOT DISTINCT FROM outcome.attempted_at
    AND (job.state = 'running' OR outcome.metadata IS NOT NULL) IS TRUE
RETURNING outcome.position
--rows    , job.id, job.state, job.attempt, job.max_attempts, job.attempted_at, job.created_at, job.finalized_at
--rows    , job.scheduled_at, job.priority, job.args, job.attempted_by, job.errors, job.kind, job.metadata, job.queue
--rows    , job.tags
