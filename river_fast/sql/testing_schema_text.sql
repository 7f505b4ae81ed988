-- The statements, in order, that make a schema of the same tables as %(schema)s has: what its migrations came to, without
-- the way there. Names are qualified because the schema is on no search_path.
SELECT ddl FROM (
    SELECT 1 AS step, t.oid, format('CREATE TYPE %%s AS ENUM (%%s)', t.oid::regtype, (
        SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid
    )) AS ddl
    FROM pg_type AS t
    WHERE t.typtype = 'e' AND t.typnamespace = %(schema)s::regnamespace
    UNION ALL
    SELECT 2, p.oid, pg_get_functiondef(p.oid)
    FROM pg_proc AS p
    WHERE p.pronamespace = %(schema)s::regnamespace
    UNION ALL
    SELECT 3, c.oid, format('CREATE SEQUENCE %%s', c.oid::regclass)
    FROM pg_class AS c
    WHERE c.relkind = 'S' AND c.relnamespace = %(schema)s::regnamespace
    UNION ALL
    SELECT 4, c.oid, format(
        'CREATE %%sTABLE %%s (%%s)', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' END, c.oid::regclass,
        concat_ws(', ', (
            SELECT string_agg(concat_ws(
                ' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attnotnull THEN 'NOT NULL' END, 'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)
            ), ', ' ORDER BY a.attnum)
            FROM pg_attribute AS a
            LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ), (
            SELECT string_agg(format('CONSTRAINT %%I %%s', conname, pg_get_constraintdef(oid)), ', ' ORDER BY oid)
            FROM pg_constraint
            WHERE conrelid = c.oid AND contype <> 'n'
        ))
    )
    FROM pg_class AS c
    WHERE c.relkind = 'r' AND c.relnamespace = %(schema)s::regnamespace
    UNION ALL
    SELECT 5, i.indexrelid, pg_get_indexdef(i.indexrelid)
    FROM pg_index AS i
    JOIN pg_class AS c ON c.oid = i.indrelid
    WHERE c.relnamespace = %(schema)s::regnamespace
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND contype IN ('p', 'u', 'x'))
    UNION ALL
    SELECT 6, s.oid, format('ALTER SEQUENCE %%s OWNED BY %%s.%%I', s.oid::regclass, t.oid::regclass, a.attname)
    FROM pg_class AS s
    JOIN pg_depend AS d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
    JOIN pg_class AS t ON t.oid = d.refobjid
    JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
    WHERE s.relkind = 'S' AND s.relnamespace = %(schema)s::regnamespace
) AS made
ORDER BY step, oid
