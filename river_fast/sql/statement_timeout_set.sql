-- For the rest of this transaction alone: for work that takes longer than a statement of ours may, 0 for any time.
SELECT set_config('statement_timeout', %(milliseconds)s, true)
