-- Rows by state, counted from the table itself.
SELECT state::text, count(*)::text FROM @schema@river_job GROUP BY state
