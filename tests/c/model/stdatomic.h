/* C11's atomics mapped to relacy's, so that ring.h and wakeup.h are searched letter for letter. */
#ifndef MODEL_STDATOMIC_H
#define MODEL_STDATOMIC_H

#include <relacy/relacy.hpp>

using namespace rl; /* its memory_order_* are macros that name the orders without it */

#define _Atomic(type) rl::atomic<type>
#define atomic_init(object, value) (object)->store(value, memory_order_relaxed)
#define atomic_load(object) (object)->load(memory_order_seq_cst)
#define atomic_load_explicit(object, order) (object)->load(order)
#define atomic_store(object, value) (object)->store(value, memory_order_seq_cst)
#define atomic_store_explicit(object, value, order) (object)->store(value, order)
#define atomic_exchange_explicit(object, value, order) (object)->exchange(value, order)
#define atomic_fetch_add_explicit(object, value, order) (object)->fetch_add(value, order)
#define atomic_fetch_sub_explicit(object, value, order) (object)->fetch_sub(value, order)
#define atomic_fetch_or_explicit(object, value, order) (object)->fetch_or(value, order)
#define atomic_compare_exchange_weak_explicit(object, expected, value, success, failure)                           \
    (object)->compare_exchange_weak(*(expected), value, success, failure)

#endif
