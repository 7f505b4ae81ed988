"""Declarations of ring.h: what its operations return.

A ring itself is made by a header with RF_RING_DEFINE(name, type), and declared beside that header's other names:
    ctypedef struct name: pass
    int name_init(name *ring, uint64_t capacity)          # 0, or -1
    void name_free(name *ring)
    int name_try_push(name *ring, const type *value)      # RF_PUSHED, RF_FULL, RF_CLOSED
    int name_pop(name *ring, type *value)                 # RF_POPPED, RF_EMPTY, RF_CLOSED
    void name_close(name *ring)
    bint name_is_closed(name *ring)
    uint64_t name_size(name *ring)
"""


cdef extern from "ring.h" nogil:
    enum:
        RF_PUSHED
        RF_POPPED
        RF_FULL
        RF_EMPTY
        RF_CLOSED
