/* What the micro benchmarks of the C headers run, as a library for ctypes: whole loops, so that ctypes is no part of it. */
#include <pthread.h>
#include <string.h>

#include "../_ext/pgcopy.h"
#include "../_ext/ring.h"

typedef struct bare { int64_t id, attempted_at, ended, run; void *slots, *rich; int64_t rest; } bare; /* an outcome's size */
RF_RING_DEFINE(bare_ring, bare)

/* `items` pushes and pops in one thread; the sum of what was popped. */
int64_t ring_alone(int64_t items, int64_t capacity) {
    bare_ring ring;
    if (bare_ring_init(&ring, (uint64_t)capacity) != 0) return -1;
    bare value = {0}, popped = {0};
    int64_t sum = 0;
    for (int64_t i = 0; i < items; i++) {
        value.id = i;
        bare_ring_try_push(&ring, &value);
        if (bare_ring_pop(&ring, &popped) == RF_POPPED) sum += popped.id;
    }
    bare_ring_free(&ring);
    return sum;
}

struct half { bare_ring *ring; int64_t items; };

static void *push_all(void *argument) {
    struct half *half = argument;
    bare value = {0};
    for (int64_t i = 0; i < half->items; i++) {
        value.id = i;
        while (bare_ring_try_push(half->ring, &value) != RF_PUSHED) continue;
    }
    return NULL;
}

/* The same from one thread to another. */
int64_t ring_between(int64_t items, int64_t capacity) {
    bare_ring ring;
    if (bare_ring_init(&ring, (uint64_t)capacity) != 0) return -1;
    struct half half = {&ring, items};
    pthread_t thread;
    if (pthread_create(&thread, NULL, push_all, &half) != 0) return -1;
    bare popped = {0};
    int64_t sum = 0;
    for (int64_t i = 0; i < items;)
        if (bare_ring_pop(&ring, &popped) == RF_POPPED) sum += popped.id, i++;
    pthread_join(thread, NULL);
    bare_ring_free(&ring);
    return sum;
}

/* `rows` rows of four fixed-width columns, as the completer stages outcomes; the bytes written. */
int64_t copy_rows(int64_t rows) {
    static rf_buffer buffer;
    rf_buffer_clear(&buffer);
    rf_copy_begin(&buffer);
    for (int64_t i = 0; i < rows; i++) {
        rf_put_i16(&buffer, 4);
        rf_array_i64(&buffer, i);
        rf_array_i16(&buffer, 1);
        rf_array_i64(&buffer, i);
        rf_array_i64(&buffer, i);
    }
    rf_copy_end(&buffer);
    return buffer.failed ? -1 : (int64_t)buffer.length;
}

/* `items` jsonb values of `length` bytes as an array, as the completer sends errors. */
int64_t jsonb_array(int64_t items, int64_t length, const char *text) {
    static rf_buffer buffer;
    rf_buffer_clear(&buffer);
    rf_array_begin(&buffer, RF_OID_JSONB, (int32_t)items, true);
    for (int64_t i = 0; i < items; i++) rf_array_jsonb(&buffer, text, (size_t)length);
    return buffer.failed ? -1 : (int64_t)buffer.length;
}
