CREATE TABLE IF NOT EXISTS person (
    name text PRIMARY KEY
);

CREATE TABLE IF NOT EXISTS heartbeat (
    person text NOT NULL REFERENCES person (name),
    at timestamptz NOT NULL,
    project text NOT NULL,
    PRIMARY KEY (person, at)
);

CREATE TABLE IF NOT EXISTS summary (
    person text NOT NULL REFERENCES person (name),
    day date NOT NULL,
    project text NOT NULL,
    seconds double precision NOT NULL,
    PRIMARY KEY (person, day, project)
);
