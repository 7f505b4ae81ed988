/* Small histories of the ring, each checked by brute force: is there an order of its operations, one after another,
 * that explains every result and contradicts no clock?
 *
 * The bounded queue it is checked against knows ring.h's two admissions: EMPTY is right as well while the push that
 * owns the next slot is in flight, and FULL while the pop that owns it is.
 */
#include "harness.h"
#include "ring.h"

RF_RING_DEFINE(ring, int)

enum { THREADS = 3, EACH = 4, OPS = THREADS * EACH };
enum kind { PUSH, POP, CLOSE };
typedef struct op {
    enum kind kind;
    int value, result;
    uint64_t begun, ended;
} op;

static ring shared;
static op history[OPS];
static _Atomic uint64_t clock_ticks;
static uint64_t histories, seed;
static int capacity;
static pthread_barrier_t barrier;

/* ---- the search ---- */

static struct {
    bool done[OPS], closed;
    int pushed_by[OPS], popped_by[OPS], tail, head;
} model;

static bool explains(const op *op) {
    bool in_flight;
    switch (op->kind) {
    case CLOSE: return true;
    case PUSH:
        if (op->result == RF_CLOSED || model.closed) return op->result == RF_CLOSED && model.closed;
        if (op->result == RF_PUSHED) return model.tail - model.head < capacity;
        if (model.tail < capacity) return false;
        in_flight = model.head > model.tail - capacity
            && history[model.popped_by[model.tail - capacity]].ended > op->begun;
        return model.tail - model.head == capacity || in_flight;
    default:
        if (op->result == RF_POPPED)
            return model.head < model.tail && history[model.pushed_by[model.head]].value == op->value;
        if (model.head == model.tail) return model.closed == (op->result == RF_CLOSED);
        in_flight = history[model.pushed_by[model.head]].ended > op->begun;
        return op->result == RF_EMPTY && in_flight;
    }
}

static bool search(int left) {
    if (left == 0) return true;
    uint64_t first_end = UINT64_MAX;
    for (int i = 0; i < OPS; i++)
        if (!model.done[i] && history[i].ended < first_end) first_end = history[i].ended;
    for (int i = 0; i < OPS; i++) {
        if (model.done[i] || history[i].begun > first_end || !explains(&history[i])) continue;
        int tail = model.tail, head = model.head;
        bool closed = model.closed;
        model.done[i] = true;
        if (history[i].kind == CLOSE) model.closed = true;
        else if (history[i].kind == PUSH && history[i].result == RF_PUSHED) model.pushed_by[model.tail++] = i;
        else if (history[i].kind == POP && history[i].result == RF_POPPED) model.popped_by[model.head++] = i;
        if (search(left - 1)) return true;
        model.done[i] = false, model.tail = tail, model.head = head, model.closed = closed;
    }
    return false;
}

static void check_history(void) {
    memset(&model, 0, sizeof model);
    if (search(OPS)) return;
    static const char *const kinds[] = {"push", "pop", "close"}, *const results[] = {"ok", "full/empty", "closed"};
    for (int i = 0; i < OPS; i++) {
        op *op = &history[i];
        fprintf(stderr, "thread %d  %3llu..%3llu  %s(%d) %s\n", i / EACH, (unsigned long long)op->begun,
                (unsigned long long)op->ended, kinds[op->kind], op->value, results[op->result]);
    }
    CHECK(false, "no order explains this history, capacity %d", capacity);
}

/* ---- the runs ---- */

static void *body(void *argument) {
    int me = (int)(intptr_t)argument;
    rng_seed(seed * 16 + (uint64_t)me + 1);
    for (uint64_t round = 0; round < histories; round++) {
        if (me == 0) {
            capacity = 1 << (round & 1);
            CHECK(ring_init(&shared, (uint64_t)capacity) == 0);
            atomic_store(&clock_ticks, 0);
        }
        pthread_barrier_wait(&barrier);
        for (int i = 0; i < EACH; i++) {
            op *op = &history[me * EACH + i];
            uint64_t dice = rng() % 16;
            op->kind = dice < 7 ? PUSH : dice < 15 ? POP : CLOSE;
            op->value = me * EACH + i;
            op->result = 0;
            op->begun = atomic_fetch_add(&clock_ticks, 1);
            if (op->kind == PUSH) op->result = ring_try_push(&shared, &op->value);
            else if (op->kind == POP) op->result = ring_pop(&shared, &op->value);
            else ring_close(&shared);
            op->ended = atomic_fetch_add(&clock_ticks, 1);
        }
        pthread_barrier_wait(&barrier);
        if (me == 0) {
            check_history();
            ring_free(&shared);
        }
    }
    return NULL;
}

int main(void) {
    histories = env("RF_SIZE", 2000) * 5;
    seed = env("RF_SEED", 1);
    move_off_odds = 6;
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    pthread_barrier_init(&barrier, NULL, THREADS);
    run_threads(THREADS, body);
    printf("ok n=%llu\n", (unsigned long long)(histories * OPS));
}
