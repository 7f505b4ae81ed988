SELECT kind, attempt, state, count(*) FROM @schema@river_job GROUP BY 1, 2, 3
