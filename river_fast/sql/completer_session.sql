-- Settings of the completer's connection alone. Without nested loops its joins on tables that have no statistics stay
-- hash joins over a primary-key scan; a row that somebody else has locked must not hold up the others for long.
SET enable_nestloop = off;
SET lock_timeout = '500ms'
