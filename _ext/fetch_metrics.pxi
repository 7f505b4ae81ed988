"""What each fetch took and brought, as part of fetcher.pyx: kept from the start only where somebody asks for it."""


def keep_metrics(fetcher: Fetcher) -> None:
    """Measure every fetch, for `take_metrics`; before `run`."""
    if fetcher._f.metrics == NULL:
        fetcher._f.metrics = rf_metrics_new()
    if fetcher._f.metrics == NULL:
        raise MemoryError


def take_metrics(fetcher: Fetcher) -> list:
    """(queue index, jobs, nanoseconds) of each fetch since the last call, oldest first; one thread."""
    cdef list found = []
    cdef rf_metric metric
    if fetcher._f.metrics != NULL:
        while rf_metrics_take(fetcher._f.metrics, &metric):
            found.append((metric.queue, metric.rows, metric.took_ns))
    return found
