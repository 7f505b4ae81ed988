-- A schema of our own, for a command that works on rows nobody else may see.
CREATE SCHEMA @schema_name@
