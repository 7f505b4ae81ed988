-- Completes the jobs staged in this session (outcome_copy.sql), fenced. The shape keeps a primary-key scan on any
-- table: a temp table has no statistics, hence the second condition on id; `IS TRUE` keeps the planner from driving the
-- join by state. Lines that begin with `--unlocked` belong to the form that leaves alone the rows somebody else has locked.
UPDATE @schema@river_job AS job
SET
    state = 'completed',
    finalized_at = now() - outcome.age
FROM pg_temp.river_fast_outcome AS outcome
WHERE job.id = outcome.id
    AND job.id = ANY (ARRAY(SELECT staged.id FROM pg_temp.river_fast_outcome AS staged))
--unlocked    AND job.id = ANY (ARRAY(
--unlocked        SELECT free.id FROM @schema@river_job AS free
--unlocked        WHERE free.id = ANY (ARRAY(SELECT staged.id FROM pg_temp.river_fast_outcome AS staged))
--unlocked        FOR UPDATE SKIP LOCKED
--unlocked    ))
    AND job.attempt = outcome.attempt
    AND job.attempted_at IS NOT DISTINCT FROM outcome.attempted_at
    AND (job.state = 'running') IS TRUE
