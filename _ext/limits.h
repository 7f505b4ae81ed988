/* Every bound of the compiled part, with its reason. Times in nanoseconds unless named otherwise. */
#include_next <limits.h> /* this folder is on the include path: the system's file of this name must not be hidden */
#ifndef RF_LIMITS_H
#define RF_LIMITS_H

#include <stdint.h>

#define RF_MS INT64_C(1000000)
#define RF_SECOND INT64_C(1000000000)

/* Operations on the server. River gives a hot operation 10 s; no wait of ours is longer. */
#define RF_OPERATION_DEADLINE (10 * RF_SECOND)
#define RF_CONNECT_DEADLINE (10 * RF_SECOND)
/* Reconnects: at most two attempts a second for each connection (promise P9). */
#define RF_RECONNECT_PAUSE (500 * RF_MS)

/* The job ring. */
#define RF_FIRST_FETCH 64                  /* a queue's first LIMIT; doubles, so one huge row cannot fill memory */
#define RF_FETCH_MAX 5000                  /* rows in one fetch: River's sub-batch; larger ones gain nothing */
#define RF_FETCH_BYTES (64 * 1024 * 1024)  /* what one fetch may bring, by the mean row size seen */
#define RF_RING_WAIT (50 * RF_MS)          /* an unstarted job is held no longer (hotpath.md 2) */
#define RF_PREFETCH_HORIZON (20 * RF_MS)   /* prefetch: what starts within this time */
#define RF_PREFETCH_RUN_TIME (20 * RF_MS)  /* jobs as long as this are never prefetched: as long as the horizon */

#define RF_PUSH_TRIES 16                   /* yields before a ring's half-read slot is passed by */
#define RF_LOOK_EVERY (1 * RF_MS)          /* while a ring holds jobs, the fetcher looks after waking and growing */
#define RF_SHORT_RUN (RF_MS / 5)           /* jobs this short are served by one woken thread at a time */
#define RF_GIL_WAIT (6 * RF_MS)             /* CPython's switch interval, 5 ms, and some: a worker waits no longer for the GIL alone */
#define RF_CREW_SHARE 20                     /* asking the crew takes at most a twentieth of the fetcher's time */
#define RF_BIRTH (250 * RF_MS)              /* an announced thread comes to pop within this time, or is not counted on */
#define RF_GROW_AGAIN RF_SECOND            /* Python did not answer GROW: ask again */
#define RF_IDLE_THREAD (10 * RF_SECOND)    /* a worker thread idle so long may end ... */
#define RF_IDLE_THREADS 2                  /* ... while more than these are left */
#define RF_TOKENS 5                        /* fetches a queue may save up */
#define RF_TOKENS_KEPT 2                   /* of them kept for notifications */
#define RF_EMPTY_FETCHES 2                 /* so many in a row end the repeating */
#define RF_FULL_FETCH 64                   /* a full fetch of this many is repeated without a token */
#define RF_UNSAID_ROWS 4                   /* more than a fetch may find of jobs whose notification is on its way */
#define RF_RECHECK_FIRST (100 * RF_MS)     /* River Go suppresses notifications this long ... */
#define RF_RECHECK_LAST (250 * RF_MS)      /* ... and a commit may come later still */
#define RF_REST_FIRST (100 * RF_MS)        /* a queue whose jobs came back unstarted rests, doubling to RF_REST_MAX */
#define RF_REST_MAX RF_SECOND
#define RF_WALK_SHORT (10 * RF_MS)         /* a fetch of known kinds alone that took this long for what it brought ... */
#define RF_WALK_ROW (RF_MS / 10)           /* ... a claimed row takes a third of this ... */
#define RF_WALK_REST 4                     /* ... walked past others' jobs: it rests for so many times as long */
#define RF_WALK_WARN (100 * RF_MS)         /* a walk that is worth a word, once in RF_WALK_WARN_AGAIN */
#define RF_WALK_WARN_AGAIN (600 * RF_SECOND)
#define RF_POLL_QUEUES 2000                /* queues named in one common poll */
#define RF_GIVE_BACK_ROWS 500              /* where unnest plans stay good */
#define RF_STOP_GRACE (250 * RF_MS)        /* for a cancelled fetch's reply, and for the giving back after it */
#define RF_CLOSE_DEADLINE RF_SECOND        /* close without a stop before it still gives back */
#define RF_LOCK_RETRY RF_SECOND            /* the liveness lock is held by somebody: try again ... */
#define RF_LOCK_WARN (15 * RF_SECOND)      /* ... and say so once */
#define RF_HEARTBEAT (5 * RF_SECOND)       /* a registered client that has no lock says so often that it lives ... */
#define RF_HEARTBEAT_LOCKED (60 * RF_SECOND) /* ... and one that has a lock that it is still registered */
#define RF_ERROR_PAUSE (100 * RF_MS)       /* a refused statement: doubling to RF_ERROR_PAUSE_MAX */
#define RF_ERROR_PAUSE_MAX RF_SECOND
#define RF_NOTICE_AGAIN (10 * RF_SECOND)   /* the same trouble is logged this often */
#define RF_CANCELS 1024                    /* remembered remote cancels ... */
#define RF_CANCEL_KEPT (15 * RF_SECOND)    /* ... for as long as a fetch may take, and some */
#define RF_METRICS 1024                    /* measured fetches that nobody has read: some 1,000 a second at most */
#define RF_NOTICES 128                     /* unread notices; the oldest are dropped */

/* Completion. */
#define RF_FLUSH_ROWS 1000                 /* flush at so many outcomes ... */
#define RF_FLUSH_AFTER (3 * RF_MS)         /* ... or so long after the first */
#define RF_FLUSH_AFTER_MAX (20 * RF_MS)    /* it doubles to this while flushes carry under RF_FLUSH_FEW rows */
#define RF_FLUSH_FEW 10
#define RF_BATCH_MAX 5000                  /* rows in one COPY flush: River's sub-batch */
#define RF_RICH_MAX 500                    /* rows in one array statement: where unnest plans stay good */
#ifndef RF_RELIEF_AT                       /* the stress test comes to it sooner */
#define RF_RELIEF_AT RF_BATCH_MAX          /* more than the next flush takes: a second connection records some too ... */
#endif
#define RF_RELIEF_KEPT (60 * RF_SECOND)    /* ... and is closed when it was not needed for so long */
#define RF_RELIEF_PAUSE (5 * RF_SECOND)    /* after a failure the completer is on its own for this long */
#define RF_COMPLETION_RING 32768           /* slots; RF_BACKLOG_MAX, what rings and slots may add to it, and room: back-pressure comes first */
#define RF_BACKLOG_MAX 10000               /* unacknowledged outcomes that stop fetching: River's */
#define RF_ERROR_TEXT_MAX (16 * 1024)      /* an error text after sanitising */

_Static_assert(RF_BACKLOG_MAX < RF_COMPLETION_RING, "fetching must stop before the completion ring is full");
_Static_assert(RF_BATCH_MAX <= RF_BACKLOG_MAX, "a full flush must be able to gather");
_Static_assert((RF_COMPLETION_RING & (RF_COMPLETION_RING - 1)) == 0, "a ring's capacity is a power of two");

#endif
