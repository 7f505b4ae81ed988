/* Copies of a ring's two operations that no compiler inlines: a test reads their disassembly in the built library, and
 * finds no call of any kind in it. Nobody calls them.
 *
 * The header that defines a ring writes, after RF_RING_DEFINE:
 *     RF_RING_COPIES(rf_job_ring, rf_job_cell)
 * which exports rf_job_ring_try_push_copy and rf_job_ring_pop_copy from the module that includes it, whatever
 * -fvisibility says. (Modules are loaded with RTLD_LOCAL: the same name in two of them is no clash.)
 */
#ifndef RF_RING_COPIES_H
#define RF_RING_COPIES_H

#include "ring.h"

#define RF_COPY __attribute__((noinline, used, visibility("default")))

#define RF_RING_COPIES(name, type)                                                                                 \
    RF_COPY int name##_try_push_copy(name *ring, const type *value) { return name##_try_push(ring, value); }        \
    RF_COPY int name##_pop_copy(name *ring, type *value) { return name##_pop(ring, value); }

#endif
