-- Everything in the schema goes with it.
DROP SCHEMA IF EXISTS @schema_name@ CASCADE
