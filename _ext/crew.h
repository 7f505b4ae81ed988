/* A queue's worker threads, and whether any of them could use a CPU now.
 *
 * "Every thread is inside a job and nothing was started for a while" has two causes that look alike from outside: the jobs
 * block (then more threads help), or the threads wait for a CPU or for the GIL (then more threads only make it worse, and
 * their waiting looks like long jobs: measured, 2,000 threads and a tenth of the rate). The kernel can tell: of threads
 * that wait for the GIL, the one that holds it is runnable; of threads that block, none is.
 *
 * Worker threads enter and leave themselves; the fetcher thread asks. Elsewhere than on Linux nobody can be asked, and
 * growth goes by patience alone.
 */
#ifndef RF_CREW_H
#define RF_CREW_H

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

enum { RF_CREW_SPARE = 64 }; /* places beyond max_threads: threads of stuck jobs that were replaced */

typedef struct rf_crew {
    _Atomic(_Atomic int32_t *) threads; /* kernel thread ids; 0: a free place */
    _Atomic int32_t room;
} rf_crew;

static inline int32_t rf_thread_id(void) {
#ifdef __linux__
    return (int32_t)syscall(SYS_gettid);
#else
    return 0;
#endif
}

/* The calling thread serves from now on. One that finds no place is merely not asked about. */
static void rf_crew_enter(rf_crew *crew, int32_t max_threads) {
    _Atomic int32_t *threads = atomic_load(&crew->threads);
    int32_t id = rf_thread_id(), room = max_threads + RF_CREW_SPARE;
    if (id == 0) return;
    if (threads == NULL) {
        _Atomic int32_t *made = (_Atomic int32_t *)calloc((size_t)room, sizeof *made), *none = NULL;
        if (made == NULL) return;
        atomic_store(&crew->room, room);
        if (atomic_compare_exchange_strong(&crew->threads, &none, made)) {
            threads = made;
        } else {
            free((void *)made);
            threads = none;
        }
    }
    for (int32_t i = 0; i < room; i++) {
        int32_t vacant = 0;
        if (atomic_load_explicit(&threads[i], memory_order_relaxed) == 0
            && atomic_compare_exchange_strong(&threads[i], &vacant, id))
            return;
    }
}

static void rf_crew_leave(rf_crew *crew) {
    _Atomic int32_t *threads = atomic_load(&crew->threads);
    int32_t id = rf_thread_id(), room = atomic_load(&crew->room);
    for (int32_t i = 0; threads != NULL && i < room; i++)
        if (atomic_load_explicit(&threads[i], memory_order_relaxed) == id) {
            atomic_store(&threads[i], 0);
            return;
        }
}

static void rf_crew_free(rf_crew *crew) {
    free((void *)atomic_load(&crew->threads));
    atomic_store(&crew->threads, NULL);
}

#ifdef __linux__
static bool rf_thread_runnable(int32_t id) {
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)id);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return false;
    text[length] = 0;
    char *name_end = strrchr(text, ')'); /* the name before it may hold anything */
    return name_end != NULL && name_end[1] == ' ' && name_end[2] == 'R';
}
#endif

/* How many of the crew run or would run, counted up to `enough`. About 5 us a thread. */
static int32_t rf_crew_runnable(rf_crew *crew, int32_t enough) {
    int32_t runnable = 0;
#ifdef __linux__
    _Atomic int32_t *threads = atomic_load(&crew->threads);
    int32_t room = atomic_load(&crew->room);
    for (int32_t i = 0; threads != NULL && i < room && runnable < enough; i++) {
        int32_t id = atomic_load_explicit(&threads[i], memory_order_relaxed);
        if (id != 0 && rf_thread_runnable(id)) runnable++;
    }
#else
    (void)crew;
    (void)enough;
#endif
    return runnable;
}

/* Whether more threads would help a crew of `busy` that does not keep up: none of it wants a CPU; or all of it do, at
 * once, which threads that share a GIL cannot, and there are CPUs left. */
static bool rf_crew_may_grow(rf_crew *crew, int32_t busy) {
    static _Atomic int32_t processors = 0;
    int32_t count = atomic_load_explicit(&processors, memory_order_relaxed);
    if (count == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        count = online < 1 ? 1 : (int32_t)online;
        atomic_store_explicit(&processors, count, memory_order_relaxed);
    }
    if (busy < 2) return true;
    int32_t runnable = rf_crew_runnable(crew, busy < count ? busy : 1);
    return runnable == 0 || (runnable >= busy && busy < count);
}

#endif
