DELETE FROM @schema@river_migration WHERE line = %(line)s AND version = %(version)s
