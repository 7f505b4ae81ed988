-- The row of a client that is dead, and has left nothing.
DELETE FROM @schema@river_fast_client
WHERE id = %(id)s AND key = %(key)s
