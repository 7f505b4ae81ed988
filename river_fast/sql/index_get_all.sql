-- Of the schema, whatever their table.
SELECT c.relname, i.indisvalid
FROM pg_catalog.pg_index AS i
INNER JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
WHERE c.relnamespace = pg_catalog.to_regnamespace(@schema_text@)
