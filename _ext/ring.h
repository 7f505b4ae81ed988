/* One bounded lock-free ring with a sequence number in each slot (D. Vyukov's), for any number of producers and
 * consumers; used one-to-many for jobs and many-to-one for outcomes.
 *
 * RF_RING_DEFINE(name, type) makes struct name, name_init, name_free, name_try_push, name_pop, name_close, name_size.
 *
 * tail      position of the next push << 1 | closed
 * head      position of the next pop
 * sequence  of a slot: 2n = free for the push of position n, 2n + 1 = holds the value of position n. (Vyukov's steps of
 *           one cannot tell the two apart in a ring of one slot: its second push would overwrite the first.)
 * All of them are compared by difference, modulo 2^64.
 *
 * Closing is a state, not a trap: the closed bit stands in the tail word itself, so a push is either before the close
 * and will be popped, or after it and is refused. try_push and pop make no call of any kind; the no-inline copies that
 * a test disassembles are made by ring_copies.h.
 *
 * EMPTY and FULL speak of the next slot: a push (or pop) that is in flight there hides what finished behind it. Nobody
 * may sleep on them but by wakeup.h's protocol, where whoever is in flight signals after it has published.
 */
#ifndef RF_RING_H
#define RF_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum rf_ring_result {
    RF_PUSHED = 0,
    RF_POPPED = 0,
    RF_FULL = 1,    /* push: no free slot now */
    RF_EMPTY = 1,   /* pop: nothing published now */
    RF_CLOSED = 2   /* push: refused for ever; pop: closed and drained */
};

#define RF_CACHE_LINE 64
#define RF_CLOSED_BIT UINT64_C(1)

/* Tests start the positions near a wrap with this; production starts at 0. */
#ifndef RF_RING_START
#define RF_RING_START UINT64_C(0)
#endif

/* Tests move threads off between two steps with this; production does nothing. */
#ifndef RF_PAUSE
#define RF_PAUSE() ((void)0)
#endif

#define RF_RING_DEFINE(name, type)                                                                                 \
    typedef struct name##_cell {                                                                                   \
        _Atomic(uint64_t) sequence;                                                                                \
        type value;                                                                                                \
    } name##_cell;                                                                                                 \
                                                                                                                   \
    typedef struct name {                                                                                          \
        name##_cell *cells;                                                                                        \
        uint64_t mask;                                                                                             \
        char pad0[RF_CACHE_LINE];                                                                                  \
        _Atomic(uint64_t) tail;                                                                                    \
        char pad1[RF_CACHE_LINE];                                                                                  \
        _Atomic(uint64_t) head;                                                                                    \
        char pad2[RF_CACHE_LINE];                                                                                  \
    } name;                                                                                                        \
                                                                                                                   \
    /* capacity: a power of two, 1 included. 0, or -1 for another number or where memory is short. */              \
    static inline int name##_init(name *ring, uint64_t capacity) {                                                 \
        ring->cells = NULL;                                                                                        \
        if (capacity == 0 || (capacity & (capacity - 1)) != 0) return -1;                                          \
        if (capacity > SIZE_MAX / 2 / sizeof(name##_cell)) return -1;                                              \
        size_t bytes = capacity * sizeof(name##_cell);                                                             \
        bytes = (bytes + RF_CACHE_LINE - 1) / RF_CACHE_LINE * RF_CACHE_LINE;                                       \
        ring->cells = (name##_cell *)aligned_alloc(RF_CACHE_LINE, bytes);                                          \
        if (ring->cells == NULL) return -1;                                                                        \
        ring->mask = capacity - 1;                                                                                 \
        for (uint64_t i = 0; i < capacity; i++)                                                                    \
            atomic_init(&ring->cells[(RF_RING_START + i) & ring->mask].sequence, (RF_RING_START + i) << 1);        \
        atomic_init(&ring->tail, RF_RING_START << 1);                                                              \
        atomic_init(&ring->head, RF_RING_START);                                                                   \
        return 0;                                                                                                  \
    }                                                                                                              \
                                                                                                                   \
    static inline void name##_free(name *ring) {                                                                   \
        free(ring->cells);                                                                                         \
        ring->cells = NULL;                                                                                        \
    }                                                                                                              \
                                                                                                                   \
    static inline int name##_try_push(name *ring, const type *value) {                                             \
        uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);                                   \
        for (;;) {                                                                                                 \
            if (tail & RF_CLOSED_BIT) return RF_CLOSED;                                                            \
            name##_cell *cell = &ring->cells[(tail >> 1) & ring->mask];                                            \
            /* pairs with pop's release: the slot's last value has been read */                                    \
            uint64_t sequence = atomic_load_explicit(&cell->sequence, memory_order_acquire);                       \
            int64_t ahead = (int64_t)(sequence - tail);                                                            \
            RF_PAUSE();                                                                                            \
            if (ahead == 0) {                                                                                      \
                if (atomic_compare_exchange_weak_explicit(&ring->tail, &tail, tail + 2, memory_order_relaxed,      \
                                                          memory_order_relaxed)) {                                 \
                    RF_PAUSE();                                                                                    \
                    cell->value = *value;                                                                          \
                    atomic_store_explicit(&cell->sequence, tail + 1, memory_order_release);                        \
                    return RF_PUSHED;                                                                              \
                }                                                                                                  \
            } else {                                                                                               \
                uint64_t now = atomic_load_explicit(&ring->tail, memory_order_relaxed);                            \
                if (ahead < 0 && now == tail) return RF_FULL;                                                      \
                tail = now;                                                                                        \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
                                                                                                                   \
    static inline int name##_pop(name *ring, type *value) {                                                        \
        uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);                                   \
        for (;;) {                                                                                                 \
            name##_cell *cell = &ring->cells[head & ring->mask];                                                   \
            /* pairs with try_push's release: the value has been written */                                        \
            uint64_t sequence = atomic_load_explicit(&cell->sequence, memory_order_acquire);                       \
            int64_t ahead = (int64_t)(sequence - (head << 1 | 1));                                                 \
            RF_PAUSE();                                                                                            \
            if (ahead == 0) {                                                                                      \
                if (atomic_compare_exchange_weak_explicit(&ring->head, &head, head + 1, memory_order_relaxed,      \
                                                          memory_order_relaxed)) {                                 \
                    RF_PAUSE();                                                                                    \
                    *value = cell->value;                                                                          \
                    atomic_store_explicit(&cell->sequence, (head + ring->mask + 1) << 1, memory_order_release);    \
                    return RF_POPPED;                                                                              \
                }                                                                                                  \
            } else {                                                                                               \
                /* drained only if every accepted push was popped: one in flight keeps the tail ahead of us;       \
                 * pairs with close's release: who sees CLOSED sees what the closer did before */                  \
                uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);                           \
                if (tail == (head << 1 | RF_CLOSED_BIT)) return RF_CLOSED;                                         \
                uint64_t now = atomic_load_explicit(&ring->head, memory_order_relaxed);                            \
                if (ahead < 0 && now == head) return RF_EMPTY;                                                     \
                head = now;                                                                                        \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
                                                                                                                   \
    /* Idempotent; any thread; what was pushed before stays poppable. */                                           \
    static inline void name##_close(name *ring) {                                                                  \
        atomic_fetch_or_explicit(&ring->tail, RF_CLOSED_BIT, memory_order_acq_rel);                                \
    }                                                                                                              \
                                                                                                                   \
    static inline bool name##_is_closed(name *ring) {                                                              \
        return (atomic_load_explicit(&ring->tail, memory_order_acquire) & RF_CLOSED_BIT) != 0;                     \
    }                                                                                                              \
                                                                                                                   \
    /* A moment's value, never above the capacity: pushes and pops go on meanwhile. */                             \
    static inline uint64_t name##_size(name *ring) {                                                               \
        uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);                                   \
        uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire) & ~RF_CLOSED_BIT;                  \
        int64_t size = (int64_t)(tail - (head << 1)) >> 1;                                                         \
        if (size <= 0) return 0;                                                                                   \
        return (uint64_t)size <= ring->mask ? (uint64_t)size : ring->mask + 1;                                     \
    }

#endif
