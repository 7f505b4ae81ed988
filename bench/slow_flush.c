/* A disk that takes its time: preloaded into a server, every flush of its log takes RF_FLUSH_US more. For latency only:
 * a real slow disk has its own ways of joining flushes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd) {
    static int (*real)(int);
    const char *more = getenv("RF_FLUSH_US");
    if (real == NULL) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (more != NULL) usleep((useconds_t)atoi(more));
    return real(fd);
}
