-- Makes due retryable and scheduled jobs available, or discards those whose unique key another job holds.
--
-- SKIP LOCKED: a row that somebody else has locked comes with a later pass, and holds up nobody. That cannot break
-- uniqueness, which river_job_unique_idx guards, whatever this statement believes: it can only meet a rival that it did
-- not see, committed since its snapshot or not yet, and then fails as a whole (23505) and is repeated in a new snapshot.
WITH due AS (
    SELECT
        id, unique_key, priority, scheduled_at,
        unique_key IS NOT NULL AND unique_states IS NOT NULL AS is_unique,
        unique_key IS NOT NULL AND unique_states IS NOT NULL
            AND @schema@river_job_state_in_bitmask(unique_states, state) AS holds_key
    FROM @schema@river_job
    WHERE state IN ('retryable', 'scheduled')
        AND scheduled_at <= now() + make_interval(secs => %(look_ahead)s)
    ORDER BY priority, scheduled_at, id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), judged AS (
    -- The holder of a key (the index allows one) is never in its own way: it is the others that go.
    SELECT
        id,
        NOT is_unique OR holds_key OR (
            row_number() OVER (PARTITION BY is_unique, unique_key ORDER BY priority, scheduled_at, id) = 1
            AND NOT EXISTS (
                SELECT
                FROM @schema@river_job AS other
                WHERE other.unique_key = due.unique_key
                    AND other.unique_key IS NOT NULL
                    AND other.unique_states IS NOT NULL
                    AND @schema@river_job_state_in_bitmask(other.unique_states, other.state)
                    AND other.id <> due.id
            )
        ) AS may_run
    FROM due
), moved AS (
    UPDATE @schema@river_job AS j
    SET state = CASE WHEN judged.may_run THEN 'available' ELSE 'discarded' END::@schema@river_job_state,
        finalized_at = CASE WHEN judged.may_run THEN NULL ELSE now() END,
        metadata = CASE
            WHEN judged.may_run THEN j.metadata
            WHEN jsonb_typeof(j.metadata) = 'object' THEN j.metadata || '{"unique_key_conflict": "scheduler_discarded"}'
            ELSE '{"unique_key_conflict": "scheduler_discarded"}'
        END,
        -- Whoever counts discarded jobs too would now hold the key twice: this one never held it.
        unique_states = CASE
            WHEN judged.may_run OR j.unique_states IS NULL THEN j.unique_states
            ELSE set_bit(j.unique_states, 4, 0)
        END
    FROM judged
    WHERE j.id = judged.id
        AND j.id = ANY (ARRAY(SELECT id FROM judged))
    RETURNING j.state, j.queue, j.scheduled_at
), told AS (
    SELECT queue, CASE WHEN %(notify)s THEN pg_notify(%(channel)s, '{"queue": ' || to_json(queue)::text || '}') END
    FROM moved
    WHERE state = 'available' AND scheduled_at <= now() + make_interval(secs => %(due_within)s)
    GROUP BY queue
)
SELECT
    (SELECT count(*) FROM moved),
    (SELECT count(*) FROM moved WHERE state = 'discarded'),
    (SELECT count(told) FROM told)
