/* rf_wake under exhaustive search: signallers that publish and signal, one sleeper that polls, clears and looks.
 *
 * The descriptor is a counter under a mutex, with a condition for poll. A lost wake-up is a sleeper that polls for ever:
 * relacy reports the deadlock. A write that nobody will read is seen at the end: poll would spin on it.
 */
#include <stdatomic.h>

#include <unistd.h>

#include <relacy/pthread.h>

static struct descriptor {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    rl::var<int> *count;
} fd;

static ssize_t model_write() {
    pthread_mutex_lock(&fd.mutex);
    (*fd.count)($) = (int)(*fd.count)($) + 1;
    pthread_cond_signal(&fd.condition);
    pthread_mutex_unlock(&fd.mutex);
    return 8;
}

static ssize_t model_read() {
    pthread_mutex_lock(&fd.mutex);
    ssize_t got = (int)(*fd.count)($) > 0 ? 8 : -1;
    (*fd.count)($) = 0;
    pthread_mutex_unlock(&fd.mutex);
    return got; /* relacy's errno is never EINTR */
}

#undef __linux__
#define __APPLE__ 1
#define pthread_cond_timedwait_relative_np(condition, mutex, time) abort()
#define write(descriptor, bytes, size) model_write()
#define read(descriptor, bytes, size) model_read()
#include "wakeup.h"

#include "search.h"

/* `looks`: how often the sleeper looks without a wake-up first, as after a wait for its socket. */
template <int signallers, int looks> struct wake_model : rl::test_suite<wake_model<signallers, looks>, signallers + 1> {
    rf_wake wake;
    rl::atomic<int> work;
    rl::var<int> count;

    void before() {
        fd.count = &count;
        count($) = 0;
        pthread_mutex_init(&fd.mutex, NULL);
        pthread_cond_init(&fd.condition, NULL);
        atomic_init(&wake.pending, 0);
        work.store(0, memory_order_relaxed);
    }

    void thread(unsigned me) {
        if (me < signallers) {
            work.fetch_add(1, memory_order_release);
            rf_wake_signal(&wake);
            return;
        }
        for (int look = 0; work.load(memory_order_acquire) < signallers; look++) {
            if (look >= looks) {
                pthread_mutex_lock(&fd.mutex);
                while ((int)count($) == 0) pthread_cond_wait(&fd.condition, &fd.mutex);
                pthread_mutex_unlock(&fd.mutex);
            }
            rf_wake_clear(&wake);
        }
    }

    void after() {
        rf_wake_clear(&wake);
        RL_ASSERT((int)count($) == 0);
        RL_ASSERT(atomic_load(&wake.pending) == 0);
        pthread_mutex_destroy(&fd.mutex);
        pthread_cond_destroy(&fd.condition);
    }
};

int main() {
    setbuf(stdout, NULL);
    int failed = search<wake_model<1, 1> >("signal | look, sleep");
    failed |= search<wake_model<2, 0> >("signal | signal | sleep");
    failed |= search<wake_model<2, 2> >("signal | signal | look, look, sleep");
    return failed;
}
