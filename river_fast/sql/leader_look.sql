-- Whether somebody leads: then an election would be for nothing.
SELECT TRUE FROM @schema@river_leader WHERE expires_at >= now()
