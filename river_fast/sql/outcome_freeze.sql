-- Autovacuum cannot touch temp tables: unfrozen, a session of weeks would hold back the database's oldest transaction
-- id.
VACUUM (FREEZE) pg_temp.river_fast_outcome
