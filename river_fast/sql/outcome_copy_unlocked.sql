-- As outcome_copy.sql, passing over rows that somebody else has locked.
COPY pg_temp.river_fast_outcome (id, attempt, attempted_at, age) FROM STDIN (FORMAT binary);
EXECUTE job_complete_many_unlocked
