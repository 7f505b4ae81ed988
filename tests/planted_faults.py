"""Bugs that the programs of tests/c must find: each is one change to a header, with the program that sees it."""

from __future__ import annotations

from typing import NamedTuple

from tests.fix_c import Fault


class Plant(NamedTuple):
    """A fault, who must find it, and the compiler flags it needs."""

    fault: Fault
    program: str
    mode: str
    flags: tuple[str, ...] = ()


def _ring(true: str, false: str, mode: str, program: str = "ring_stress") -> Plant:
    return Plant(Fault("ring.h", true, false), program, mode)


def _wakeup(true: str, false: str, program: str, *flags: str) -> Plant:
    return Plant(Fault("wakeup.h", true, false), program, "plain", flags)


_READ_OF_FREE_SLOT = """has been read */
            uint64_t sequence = atomic_load_explicit(&cell->sequence, memory_order_"""
_READ_OF_VALUE = """has been written */
            uint64_t sequence = atomic_load_explicit(&cell->sequence, memory_order_"""
_WRITE = """                    cell->value = *value;
"""
_PUBLISH = """                    atomic_store_explicit(&cell->sequence, tail + 1, memory_order_release);
"""
_READ = """                    *value = cell->value;
"""
_FREE = (
    "                    atomic_store_explicit(&cell->sequence, (head + ring->mask + 1) << 1, memory_order_release);\n"
)
_CLEAR = """    uint64_t sink;
    ssize_t got;
    do got = read(wake->read_fd, &sink, sizeof sink);
    while (got < 0 && errno == EINTR);
    /* an exchange, not a store: it reads what the last signaller wrote, so all their work is seen from here on */
    if (got > 0) (void)atomic_exchange_explicit(&wake->pending, 0, memory_order_seq_cst);
"""
_CLEAR_LOWERS_FIRST = """    uint64_t sink;
    atomic_store(&wake->pending, 0);
    RF_PAUSE();
    (void)!read(wake->read_fd, &sink, sizeof sink);
"""
_LOCKED_LOOK = """    pthread_mutex_lock(&park->mutex);
    if (atomic_load(&park->epoch) == ticket) {
"""
_LOOK_THEN_LOCK = """    bool same = atomic_load(&park->epoch) == ticket;
    RF_PAUSE();
    pthread_mutex_lock(&park->mutex);
    if (same) {
"""

PLANTS = {
    # memory orders: only TSan sees them on a machine as orderly as x86
    "push publishes relaxed": _ring(
        "tail + 1, memory_order_release", "tail + 1, memory_order_relaxed", "tsan"),
    "pop takes relaxed": _ring(_READ_OF_VALUE + "acquire", _READ_OF_VALUE + "relaxed", "tsan"),
    "pop frees relaxed": _ring("+ 1) << 1, memory_order_release", "+ 1) << 1, memory_order_relaxed", "tsan"),
    "push takes a free slot relaxed": _ring(_READ_OF_FREE_SLOT + "acquire", _READ_OF_FREE_SLOT + "relaxed", "tsan"),
    # steps left out, doubled or in the wrong order
    "push publishes before it writes": _ring(
        _WRITE + _PUBLISH, _PUBLISH + "                    RF_PAUSE();\n" + _WRITE, "plain"),
    "pop frees before it reads": _ring(_READ + _FREE, _FREE + "                    RF_PAUSE();\n" + _READ, "plain"),
    "pop loses the slot": _ring("(head + ring->mask + 1) << 1,", "(head + ring->mask) << 1,", "plain"),
    "two pushes take one slot": _ring(
        """atomic_compare_exchange_weak_explicit(&ring->tail, &tail, tail + 2, memory_order_relaxed,
                                                          memory_order_relaxed)""",
        "(atomic_store(&ring->tail, tail + 2), 1)", "plain"),
    "two pops take one value": _ring(
        """atomic_compare_exchange_weak_explicit(&ring->head, &head, head + 1, memory_order_relaxed,
                                                          memory_order_relaxed)""",
        "(atomic_store(&ring->head, head + 1), 1)", "plain"),
    "one step for both states of a slot": _ring(
        "if (ahead == 0) {\n                if (atomic_compare_exchange_weak_explicit(&ring->tail",
        "if (ahead == 0 || (ring->mask == 0 && ahead == -1)) {\n"
        "                if (atomic_compare_exchange_weak_explicit(&ring->tail", "plain"),
    # the close
    "close skips the drain": _ring("if (tail == (head << 1 | RF_CLOSED_BIT)) return", "if (tail & 1) return", "plain"),
    "close skips a push in flight": _ring(
        "if (tail == (head << 1 | RF_CLOSED_BIT)) return",
        "if ((tail & 1) && sequence == head << 1) return", "plain"),
    "close overwrites a push": _ring(
        "atomic_fetch_or_explicit(&ring->tail, RF_CLOSED_BIT, memory_order_acq_rel)",
        "uint64_t tail = atomic_load(&ring->tail); RF_PAUSE(); atomic_store(&ring->tail, tail | 1)",
        "plain", "ring_linear"),
    "push does not see the close": _ring(
        "if (tail & RF_CLOSED_BIT) return RF_CLOSED;", "tail &= ~UINT64_C(1);", "plain"),
    "an open ring says CLOSED": _ring(
        "if (tail == (head << 1 | RF_CLOSED_BIT)) return", "if (tail >> 1 == head) return", "plain", "ring_linear"),
    "FULL where another push was first": _ring(
        "                    return RF_PUSHED;\n                }\n",
        "                    return RF_PUSHED;\n                }\n                return RF_FULL;\n",
        "plain", "ring_linear"),
    "EMPTY where another pop was first": _ring(
        "                    return RF_POPPED;\n                }\n",
        "                    return RF_POPPED;\n                }\n                return RF_EMPTY;\n",
        "plain", "ring_linear"),
    # memory
    "a slot too few": _ring("bytes = capacity * sizeof", "bytes = (capacity - 1) * sizeof", "asan"),
    "a ring never freed": _ring("free(ring->cells);", "", "asan"),
    "a capacity that overflows": _ring(
        "if (capacity > SIZE_MAX / 2 / sizeof(name##_cell)) return -1;", "", "asan"),
    # rf_wake
    "clear lowers without the write": _wakeup(
        "if (got > 0) (void)atomic_exchange", "(void)atomic_exchange", "wake_stress"),
    "clear lowers first": _wakeup(_CLEAR, _CLEAR_LOWERS_FIRST, "wake_stress"),
    "clear blocks": _wakeup("EFD_NONBLOCK | EFD_CLOEXEC", "EFD_CLOEXEC", "wake_stress"),
    "signal writes only now and then": _wakeup(
        "if (atomic_exchange_explicit(&wake->pending, 1, memory_order_seq_cst) == 0) {",
        "if (atomic_exchange(&wake->pending, 1) == 0 && (rng() & 7)) {",
        "wake_stress"),
    # rf_park
    "unpark leaves the epoch": _wakeup("&park->epoch, 1, memory", "&park->epoch, 0, memory", "park_stress"),
    "wait ignores its ticket": _wakeup("_PRIVATE, ticket,", "_PRIVATE, atomic_load(&park->epoch),", "park_stress"),
    "prepare does not announce": _wakeup(
        "atomic_fetch_add_explicit(&park->parked, 1, memory_order_seq_cst);", "", "park_stress"),
    "unpark wakes one where all are meant": _wakeup("_PRIVATE, count,", "_PRIVATE, 1,", "park_stress"),
    "wait never times out": _wakeup("timeout < 0 ? NULL : &wait", "NULL", "park_stress"),
    "wait counts microseconds": _wakeup(
        "timeout % INT64_C(1000000000)};\n    syscall", "timeout / 1000};\n    syscall", "park_stress"),
    "without futex: wait ignores its ticket": _wakeup(
        "if (atomic_load(&park->epoch) == ticket) {", "{", "park_stress", "-U__linux__"),
    "without futex: wait looks before it locks": _wakeup(
        _LOCKED_LOOK, _LOOK_THEN_LOCK, "park_stress", "-U__linux__"),
}
