REINDEX INDEX CONCURRENTLY @schema@@identifier@
