DROP TABLE @schema@river_fast_client;
