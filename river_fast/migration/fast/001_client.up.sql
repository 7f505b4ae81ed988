-- Clients whose id does not say how to tell whether they live. One row for each start that may have left jobs running.
-- locks: it lives as long as a session holds the advisory lock of its key; else as long as heartbeat_at moves on.
CREATE TABLE @schema@river_fast_client (
    id text NOT NULL,
    key bigint NOT NULL,
    locks boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, key),
    CONSTRAINT id_length CHECK (char_length(id) BETWEEN 1 AND 100)
);
