-- Through jsonb, because before version 5 of main the column `line` is missing, and every row is main's.
SELECT coalesce(to_jsonb(m) ->> 'line', 'main'), m.version
FROM @schema@river_migration AS m
ORDER BY 1, 2
