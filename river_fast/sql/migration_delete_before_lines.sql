DELETE FROM @schema@river_migration WHERE version = %(version)s
