INSERT INTO @schema@river_migration (version) VALUES (%(version)s)
