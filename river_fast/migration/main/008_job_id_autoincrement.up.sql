-- SQLite alone needs this one; on PostgreSQL its row in the book is all there is to it.
SELECT 1;
