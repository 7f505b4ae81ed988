-- One bit for each state, the leftmost (bit 0) being scheduled's.
CREATE FUNCTION @schema@river_job_state_in_bitmask(bitmask bit(8), state @schema@river_job_state)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $river$
    SELECT CASE state
        WHEN 'scheduled' THEN get_bit(bitmask, 0) = 1
        WHEN 'running' THEN get_bit(bitmask, 1) = 1
        WHEN 'retryable' THEN get_bit(bitmask, 2) = 1
        WHEN 'pending' THEN get_bit(bitmask, 3) = 1
        WHEN 'discarded' THEN get_bit(bitmask, 4) = 1
        WHEN 'completed' THEN get_bit(bitmask, 5) = 1
        WHEN 'cancelled' THEN get_bit(bitmask, 6) = 1
        WHEN 'available' THEN get_bit(bitmask, 7) = 1
        ELSE false
    END
$river$;

-- Both may have been made beforehand, the index CONCURRENTLY, to keep this migration short.
ALTER TABLE @schema@river_job ADD COLUMN IF NOT EXISTS unique_states bit(8);
CREATE UNIQUE INDEX IF NOT EXISTS river_job_unique_idx ON @schema@river_job (unique_key)
    WHERE unique_key IS NOT NULL
        AND unique_states IS NOT NULL
        AND @schema@river_job_state_in_bitmask(unique_states, state);
DROP INDEX @schema@river_job_kind_unique_key_idx;
