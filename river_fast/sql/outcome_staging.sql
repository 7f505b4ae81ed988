-- The completer's staging table: fixed-width columns only (one text column would give it a TOAST table, truncated at
-- each commit), of this session alone.
CREATE TEMPORARY TABLE river_fast_outcome (
    id bigint NOT NULL,
    attempt smallint NOT NULL,
    attempted_at timestamptz,
    age interval NOT NULL
) ON COMMIT DELETE ROWS
