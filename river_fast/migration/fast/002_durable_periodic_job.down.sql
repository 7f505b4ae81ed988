DROP TABLE @schema@river_fast_periodic_job;
