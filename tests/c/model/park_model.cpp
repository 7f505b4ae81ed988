/* rf_park under exhaustive search: sleepers that announce, look and sleep; wakers that publish and unpark.
 *
 * The branch without futex is compiled, whose mutex and condition relacy knows; announcing, epoch and count are the same
 * lines on Linux. A lost wake-up is a sleeper nobody wakes: relacy reports the deadlock.
 */
#include <stdatomic.h>

#include <relacy/pthread.h>

#undef __linux__
#define __APPLE__ 1 /* waits without a deadline need no clock */
#define pthread_cond_timedwait_relative_np(condition, mutex, time) abort()
#include "wakeup.h"

#include "search.h"

/* Each waker publishes one piece of work and wakes one sleeper; each sleeper takes one. */
template <int sleepers, int wakers> struct park_model : rl::test_suite<park_model<sleepers, wakers>, sleepers + wakers> {
    rf_park park;
    rl::atomic<int> work;

    void before() {
        rf_park_init(&park);
        work.store(0, memory_order_relaxed);
    }

    bool take() {
        int there = work.load(memory_order_acquire);
        while (there > 0)
            if (work.compare_exchange_weak(there, there - 1, memory_order_acq_rel, memory_order_acquire)) return true;
        return false;
    }

    void thread(unsigned me) {
        if (me >= sleepers) {
            work.fetch_add(1, memory_order_release);
            rf_unpark(&park, 1);
            return;
        }
        while (!take()) {
            uint32_t ticket = rf_park_prepare(&park);
            if (take()) {
                rf_park_cancel(&park);
                return;
            }
            rf_park_wait(&park, ticket, -1);
        }
    }

    void after() {
        RL_ASSERT(work.load(memory_order_relaxed) == 0);
        RL_ASSERT(rf_park_count(&park) == 0);
        rf_park_destroy(&park);
    }
};

int main() {
    setbuf(stdout, NULL);
    int failed = search<park_model<1, 1> >("sleep | unpark");
    failed |= search<park_model<2, 2> >("sleep | sleep | unpark | unpark");
    return failed;
}
