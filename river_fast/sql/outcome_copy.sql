-- One message, one implicit transaction: stage, then complete what was staged (the prepared job_complete_many).
COPY pg_temp.river_fast_outcome (id, attempt, attempted_at, age) FROM STDIN (FORMAT binary);
EXECUTE job_complete_many
