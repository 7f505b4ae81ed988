ALTER TABLE @schema@river_leader
    ALTER COLUMN name DROP DEFAULT,
    DROP CONSTRAINT name_length,
    ADD CONSTRAINT name_length CHECK (char_length(name) > 0 AND char_length(name) < 128);

DROP TABLE @schema@river_queue;

CREATE FUNCTION @schema@river_job_notify() RETURNS trigger LANGUAGE plpgsql AS $river$
BEGIN
    IF new.state = 'available' THEN
        PERFORM pg_notify('river_insert', json_build_object('queue', new.queue)::text);
    END IF;
    RETURN NULL;
END
$river$;

CREATE TRIGGER river_notify AFTER INSERT ON @schema@river_job
    FOR EACH ROW EXECUTE FUNCTION @schema@river_job_notify();

-- The label 'pending' stays: PostgreSQL cannot take an enum's label away.
ALTER TABLE @schema@river_job
    ALTER COLUMN args DROP NOT NULL,
    ALTER COLUMN metadata DROP NOT NULL,
    ALTER COLUMN metadata DROP DEFAULT,
    DROP CONSTRAINT finalized_or_finalized_at_null,
    ADD CONSTRAINT finalized_or_finalized_at_null CHECK (
        (state IN ('cancelled', 'completed', 'discarded') AND finalized_at IS NOT NULL) OR finalized_at IS NULL
    );
