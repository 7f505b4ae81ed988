/* ring.h under exhaustive search: two producers, a consumer and a closer, and two consumers, on one and two slots. */
#include <stdatomic.h>

#include "ring.h"

#include "search.h"

/* A value relacy watches: an unordered read and write of it is reported. */
struct item {
    rl::var<int> number;
    item &operator=(const item &other) {
        number($) = (int)const_cast<item &>(other).number($);
        return *this;
    }
};

RF_RING_DEFINE(ring, item)

template <int slots, int producers, int consumers, int closers>
struct ring_model : rl::test_suite<ring_model<slots, producers, consumers, closers>, producers + consumers + closers> {
    enum { EACH = 2 };
    ring shared;
    ring_cell cells[slots];
    int accepted[producers];
    int popped[producers][EACH], drained[producers];
    bool closed_seen;
    rl::var<int> before_close; /* what the closer does first is there for who sees CLOSED */

    void before() {
        shared.cells = cells;
        shared.mask = slots - 1;
        for (uint64_t i = 0; i < slots; i++) atomic_init(&cells[i].sequence, i << 1);
        atomic_init(&shared.tail, 0);
        atomic_init(&shared.head, 0);
        closed_seen = false;
        before_close($) = 0;
        for (int p = 0; p < producers; p++) {
            accepted[p] = drained[p] = 0;
            for (int i = 0; i < EACH; i++) popped[p][i] = 0;
        }
    }

    void thread(unsigned me) {
        if (me < producers) produce((int)me);
        else if (me < producers + consumers) consume();
        else {
            before_close($) = 1;
            ring_close(&shared);
        }
    }

    void produce(int me) {
        for (int i = 0; i < EACH; i++) {
            item in;
            in.number($) = me * EACH + accepted[me];
            int result = ring_try_push(&shared, &in);
            if (result == RF_CLOSED) return;
            if (result == RF_PUSHED) accepted[me]++;
        }
    }

    void take(const item &out) {
        int number = const_cast<item &>(out).number($), p = number / EACH, i = number % EACH;
        RL_ASSERT(p < producers && popped[p][i] == 0);
        popped[p][i] = 1;
    }

    void consume() {
        bool closed = false;
        int last[producers];
        for (int p = 0; p < producers; p++) last[p] = -1;
        for (int i = 0; i < EACH; i++) {
            item out;
            int result = ring_pop(&shared, &out);
            RL_ASSERT(!closed || result == RF_CLOSED);
            if (result == RF_CLOSED) {
                RL_ASSERT((int)before_close($) == 1);
                closed = closed_seen = true;
            }
            if (result != RF_POPPED) continue;
            int number = out.number($), p = number / EACH;
            RL_ASSERT(number > last[p]); /* first in, first out, of each producer */
            last[p] = number;
            take(out);
        }
    }

    void after() {
        item out;
        int result, left = 0;
        while ((result = ring_pop(&shared, &out)) == RF_POPPED) {
            take(out);
            left++;
        }
        RL_ASSERT(result == (closers > 0 ? RF_CLOSED : RF_EMPTY));
        RL_ASSERT(!closed_seen || left == 0);
        for (int p = 0; p < producers; p++)
            for (int i = 0; i < EACH; i++) RL_ASSERT(popped[p][i] == (i < accepted[p] ? 1 : 0));
    }
};

int main() {
    setbuf(stdout, NULL);
    int failed = search<ring_model<1, 1, 1, 1> >("one slot, push | pop | close");
    failed |= search<ring_model<1, 2, 1, 0> >("one slot, push | push | pop");
    failed |= search<ring_model<2, 2, 1, 1> >("two slots, push | push | pop | close");
    failed |= search<ring_model<2, 1, 2, 1> >("two slots, push | pop | pop | close");
    return failed;
}
