"""Declarations of pq.h: libpq through its function table, and one connection with a deadline on every wait.

`rf_pq` itself (the table) is for C alone; what a .pyx needs goes through the rf_conn functions.
"""

from libc.stdint cimport int64_t

from wakeup cimport rf_wake


cdef extern from "pq.h" nogil:
    ctypedef struct PGconn:
        pass

    ctypedef struct PGresult:
        pass

    enum:
        RF_OK
        RF_REFUSED
        RF_LOST
        RF_WOKEN

    ctypedef struct rf_conn:
        PGconn *pg
        int pid
        rf_wake *wake
        char *sqlstate
        char *error

    const char *rf_pq_load(const char *path)
    void rf_conn_close(rf_conn *conn)
    int rf_conn_lost(rf_conn *conn, const char *what)
    int rf_conn_open(rf_conn *conn, const char *conninfo, int64_t deadline)
    int rf_conn_flush(rf_conn *conn, int64_t deadline)
    int rf_conn_next(rf_conn *conn, PGresult **result, int64_t deadline)
    int rf_conn_note_error(rf_conn *conn, PGresult *result)
    int rf_conn_finish(rf_conn *conn, PGresult **last, int64_t deadline)
    int rf_conn_query(rf_conn *conn, const char *sql, PGresult **last, int64_t deadline)
    int rf_conn_idle(rf_conn *conn, int64_t deadline)
    void rf_conn_cancel(rf_conn *conn)
