-- The older book has no lines: whatever other lines have built must go first.
DO $river$
DECLARE
    others text;
BEGIN
    IF to_regclass(@schema_text@ || '.river_migration') IS NULL THEN
        RETURN;
    END IF;
    SELECT string_agg(DISTINCT line, ', ') INTO others FROM @schema@river_migration WHERE line <> 'main';
    IF others IS NOT NULL THEN
        RAISE EXCEPTION 'line main cannot go below version 5 while other lines are applied: %', others
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    ALTER TABLE @schema@river_migration RENAME TO river_migration_old;
    CREATE TABLE @schema@river_migration (
        id bigserial PRIMARY KEY,
        created_at timestamptz NOT NULL DEFAULT now(),
        version bigint NOT NULL,
        CONSTRAINT version CHECK (version >= 1)
    );
    CREATE UNIQUE INDEX river_migration_version_idx ON @schema@river_migration (version);
    INSERT INTO @schema@river_migration (created_at, version)
    SELECT created_at, version FROM @schema@river_migration_old ORDER BY version;
    DROP TABLE @schema@river_migration_old;
END
$river$;

DROP TABLE @schema@river_client_queue;
DROP TABLE @schema@river_client;
DROP INDEX @schema@river_job_kind_unique_key_idx;
ALTER TABLE @schema@river_job DROP COLUMN unique_key;
