/* How threads wait: rf_wake, one sleeper in poll() beside a socket (fetcher, completer, a loop's reader), and rf_park,
 * many sleepers without a descriptor (worker threads, parked without the GIL).
 *
 * Both lose no wake-up: the sleeper announces itself, looks once more, then sleeps; the waker publishes its work, then
 * looks for sleepers (sequentially consistent on both sides). POSIX only: workers do not run on Windows (design, 15).
 */
#ifndef RF_WAKEUP_H
#define RF_WAKEUP_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
_Static_assert(sizeof(time_t) == sizeof(long), "SYS_futex takes its timeout in longs");
#else
#include <pthread.h>
#endif

/* Tests move threads off between two steps with this; production does nothing. */
#ifndef RF_PAUSE
#define RF_PAUSE() ((void)0)
#endif

static inline int64_t rf_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

/* Until rf_restore_signals, the calling thread's signals go to other threads: Python runs its handlers in the main thread alone, which a signal
 * taken here would not wake. Faults stay this thread's own, and profilers' signals too. */
static inline void rf_block_signals(sigset_t *before) {
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGPROF};
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) sigdelset(&set, own[i]);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

static inline void rf_restore_signals(const sigset_t *before) { pthread_sigmask(SIG_SETMASK, before, NULL); }

/* ---- rf_wake: a descriptor to poll, written at most once per sleep ---- */

typedef struct rf_wake {
    int read_fd;
    int write_fd; /* the same eventfd on Linux */
    _Atomic(int) pending; /* signallers raise it, the sleeper lowers it */
} rf_wake;

static inline int rf_wake_open(rf_wake *wake) {
    atomic_init(&wake->pending, 0);
#ifdef __linux__
    wake->read_fd = wake->write_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return wake->read_fd < 0 ? -1 : 0;
#else
    int fds[2];
    if (pipe(fds) != 0) return -1;
    for (int i = 0; i < 2; i++) {
        fcntl(fds[i], F_SETFL, O_NONBLOCK);
        fcntl(fds[i], F_SETFD, FD_CLOEXEC);
    }
    wake->read_fd = fds[0];
    wake->write_fd = fds[1];
    return 0;
#endif
}

static inline void rf_wake_close(rf_wake *wake) {
    if (wake->read_fd >= 0) close(wake->read_fd);
    if (wake->write_fd >= 0 && wake->write_fd != wake->read_fd) close(wake->write_fd);
    wake->read_fd = wake->write_fd = -1;
}

/* Any thread. Publish the work first. One write however often it is called before the sleeper looks. */
static inline void rf_wake_signal(rf_wake *wake) {
    if (atomic_exchange_explicit(&wake->pending, 1, memory_order_seq_cst) == 0) {
        RF_PAUSE();
        uint64_t one = 1;
        ssize_t written;
        do written = write(wake->write_fd, &one, sizeof one);
        while (written < 0 && errno == EINTR);
    }
}

/* The sleeper, after its poll and before it looks for work.
 *
 * `pending` is 1 exactly from a signaller's exchange until its write has been read: so at most one write is
 * outstanding, and a late one (the signaller was moved off between its two steps) ends the next poll. Were `pending`
 * lowered without its write read, the descriptor would stay readable with nobody to read it: poll would spin. */
static inline void rf_wake_clear(rf_wake *wake) {
    if (atomic_load_explicit(&wake->pending, memory_order_relaxed) == 0) return;
    uint64_t sink;
    ssize_t got;
    do got = read(wake->read_fd, &sink, sizeof sink);
    while (got < 0 && errno == EINTR);
    /* an exchange, not a store: it reads what the last signaller wrote, so all their work is seen from here on */
    if (got > 0) (void)atomic_exchange_explicit(&wake->pending, 0, memory_order_seq_cst);
}

/* ---- rf_park: many sleepers on one word ---- */

typedef struct rf_park {
    _Atomic(uint32_t) epoch;
    _Atomic(int32_t) parked;
#ifndef __linux__
    pthread_mutex_t mutex;
    pthread_cond_t condition;
#endif
} rf_park;

static inline void rf_park_init(rf_park *park) {
    atomic_init(&park->epoch, 0);
    atomic_init(&park->parked, 0);
#ifndef __linux__
    pthread_mutex_init(&park->mutex, NULL);
#ifdef __APPLE__ /* it waits by relative times and has no clock to choose */
    pthread_cond_init(&park->condition, NULL);
#else
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&park->condition, &monotonic);
    pthread_condattr_destroy(&monotonic);
#endif
#endif
}

static inline void rf_park_destroy(rf_park *park) {
#ifndef __linux__
    pthread_cond_destroy(&park->condition);
    pthread_mutex_destroy(&park->mutex);
#else
    (void)park;
#endif
}

/* Step 1: announce; then look for work once more; then rf_park_wait with this ticket, or rf_park_cancel.
 *
 * Nothing is lost, for one total order of the four steps: either the waker sees `parked`, or its `epoch` came before
 * our look at it, and with the epoch we see the work it had published. Who was woken must look for work before it
 * leaves (or pass the wake-up on with rf_unpark): it may be the only one that was woken. */
static inline uint32_t rf_park_prepare(rf_park *park) {
    atomic_fetch_add_explicit(&park->parked, 1, memory_order_seq_cst);
    return atomic_load_explicit(&park->epoch, memory_order_seq_cst);
}

static inline void rf_park_cancel(rf_park *park) {
    atomic_fetch_sub_explicit(&park->parked, 1, memory_order_seq_cst);
}

/* Sleeps until an unpark after the ticket, or `timeout` ns (negative: no end). May return early (a signal, another's
 * wake-up): look for work, then prepare anew. A ticket is blind to 2^32 unparks between prepare and wait. */
static inline void rf_park_wait(rf_park *park, uint32_t ticket, int64_t timeout) {
    RF_PAUSE();
#ifdef __linux__
    struct timespec wait = {timeout / INT64_C(1000000000), timeout % INT64_C(1000000000)};
    syscall(SYS_futex, &park->epoch, FUTEX_WAIT_PRIVATE, ticket, timeout < 0 ? NULL : &wait, NULL, 0);
#else
    pthread_mutex_lock(&park->mutex);
    if (atomic_load(&park->epoch) == ticket) {
        if (timeout < 0) {
            pthread_cond_wait(&park->condition, &park->mutex);
        } else {
#ifdef __APPLE__
            struct timespec wait = {timeout / INT64_C(1000000000), timeout % INT64_C(1000000000)};
            pthread_cond_timedwait_relative_np(&park->condition, &park->mutex, &wait);
#else
            struct timespec until;
            clock_gettime(CLOCK_MONOTONIC, &until);
            int64_t ns = until.tv_nsec + timeout % INT64_C(1000000000);
            until.tv_sec += timeout / INT64_C(1000000000) + ns / INT64_C(1000000000);
            until.tv_nsec = ns % INT64_C(1000000000);
            pthread_cond_timedwait(&park->condition, &park->mutex, &until);
#endif
        }
    }
    pthread_mutex_unlock(&park->mutex);
#endif
    atomic_fetch_sub_explicit(&park->parked, 1, memory_order_seq_cst);
}

static inline int32_t rf_park_count(rf_park *park) {
    return atomic_load_explicit(&park->parked, memory_order_seq_cst);
}

/* Any thread, after publishing the work: wakes up to `count` sleepers; free of a system call where nobody sleeps. */
static inline void rf_unpark(rf_park *park, int count) {
    atomic_fetch_add_explicit(&park->epoch, 1, memory_order_seq_cst);
    if (count <= 0 || rf_park_count(park) == 0) return;
#ifdef __linux__
    syscall(SYS_futex, &park->epoch, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
#else
    pthread_mutex_lock(&park->mutex);
    if (count == 1) pthread_cond_signal(&park->condition);
    else pthread_cond_broadcast(&park->condition);
    pthread_mutex_unlock(&park->mutex);
#endif
}

#endif
