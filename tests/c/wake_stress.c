/* rf_wake under load: one sleeper in poll(), several signallers. No wake-up is lost, none spins, few are written.
 *
 * The sleeper also wakes by itself, as a fetcher does for its socket, and so looks between a signaller's two steps.
 */
#include "harness.h"
#include "ring.h"
#include "wakeup.h"

RF_RING_DEFINE(ring, uint64_t)

enum { SIGNALLERS = 3 };

static ring shared;
static rf_wake wake;
static uint64_t size, taken, polls, readable;

static bool is_readable(int timeout) {
    struct pollfd one = {wake.read_fd, POLLIN, 0};
    int result = poll(&one, 1, timeout);
    CHECK(result >= 0 || errno == EINTR);
    polls++;
    return result == 1;
}

static void sleeper(void) {
    while (taken < SIGNALLERS * size) {
        /* a third of the looks come without a wake-up, the others sleep until there is one */
        if (is_readable(rng() % 3 == 0 ? 0 : -1)) readable++;
        rf_wake_clear(&wake);
        uint64_t value;
        while (ring_pop(&shared, &value) == RF_POPPED) taken++;
    }
}

static void *body(void *argument) {
    intptr_t me = (intptr_t)argument;
    rng_seed(env("RF_SEED", 1) * 16 + (uint64_t)me);
    start_together(SIGNALLERS + 1);
    if (me == SIGNALLERS) sleeper();
    else {
        for (uint64_t i = 0; i < size; i++) {
            while (ring_try_push(&shared, &i) != RF_PUSHED) sched_yield();
            rf_wake_signal(&wake);
        }
    }
    return NULL;
}

/* Each signals once, while the sleeper looks; when all have returned, one more look must leave nothing to wake for:
 * a descriptor that stays readable makes poll spin. */
static pthread_barrier_t barrier;

static void *once_each(void *argument) {
    intptr_t me = (intptr_t)argument;
    rng_seed(env("RF_SEED", 1) * 32 + (uint64_t)me);
    for (uint64_t round = 0; round < size / 4; round++) {
        pthread_barrier_wait(&barrier);
        if (me == SIGNALLERS) rf_wake_clear(&wake);
        else rf_wake_signal(&wake);
        RF_PAUSE();
        if (me == SIGNALLERS) rf_wake_clear(&wake);
        pthread_barrier_wait(&barrier);
        if (me < SIGNALLERS) continue;
        rf_wake_clear(&wake);
        CHECK(!is_readable(0), "readable with nothing pending");
        CHECK(atomic_load(&wake.pending) == 0);
    }
    return NULL;
}

int main(void) {
    size = env("RF_SIZE", 2000) * 5;
    move_off_odds = 16;
    give_up_after((unsigned)env("RF_PATIENCE", 60));
    CHECK(rf_wake_open(&wake) == 0 && ring_init(&shared, 16) == 0);
    CHECK(fcntl(wake.read_fd, F_GETFD) & FD_CLOEXEC && fcntl(wake.write_fd, F_GETFL) & O_NONBLOCK);

    rf_wake_clear(&wake); /* nothing to clear: does not block */
    CHECK(!is_readable(0));
    for (int i = 0; i < 1000; i++) rf_wake_signal(&wake);
    CHECK(is_readable(0));
    rf_wake_clear(&wake);
    CHECK(!is_readable(0), "a thousand signals were more than one write");

    run_threads(SIGNALLERS + 1, body);
    rf_wake_clear(&wake);
    CHECK(!is_readable(0), "readable with nothing pending");
    CHECK(readable <= SIGNALLERS * size, "%llu wake-ups by %llu signals", (unsigned long long)readable,
          (unsigned long long)(SIGNALLERS * size));
    pthread_barrier_init(&barrier, NULL, SIGNALLERS + 1);
    run_threads(SIGNALLERS + 1, once_each);
    rf_wake_signal(&wake);
    CHECK(is_readable(0));

    rf_wake_close(&wake);
    rf_wake_close(&wake);
    CHECK(wake.read_fd == -1 && wake.write_fd == -1);
    ring_free(&shared);
    printf("ok n=%llu\n", (unsigned long long)(SIGNALLERS * size));
}
