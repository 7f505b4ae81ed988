/* How long each fetch took and what it brought, for whoever asked to be told (River: HookMetricEmit).
 *
 * The fetcher thread writes, one thread reads, under a lock of its own. Bounded: the oldest are dropped. Where nobody
 * asked there is none of this.
 */
#ifndef RF_METRICS_H
#define RF_METRICS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "limits.h"

typedef struct rf_metric {
    int32_t queue;
    int64_t rows, took_ns;
} rf_metric;

typedef struct rf_metrics {
    pthread_mutex_t lock; /* guards what follows */
    int first, count;
    rf_metric list[RF_METRICS];
} rf_metrics;

static rf_metrics *rf_metrics_new(void) {
    rf_metrics *metrics = (rf_metrics *)calloc(1, sizeof *metrics);
    if (metrics != NULL) pthread_mutex_init(&metrics->lock, NULL);
    return metrics;
}

/* True: half full by now, the reader should come. */
static bool rf_metrics_add(rf_metrics *metrics, int32_t queue, int64_t rows, int64_t took_ns) {
    pthread_mutex_lock(&metrics->lock);
    if (metrics->count == RF_METRICS) {
        metrics->first = (metrics->first + 1) % RF_METRICS;
        metrics->count--;
    }
    metrics->list[(metrics->first + metrics->count++) % RF_METRICS] = (rf_metric){queue, rows, took_ns};
    bool half = metrics->count == RF_METRICS / 2;
    pthread_mutex_unlock(&metrics->lock);
    return half;
}

static bool rf_metrics_take(rf_metrics *metrics, rf_metric *out) {
    pthread_mutex_lock(&metrics->lock);
    bool some = metrics->count > 0;
    if (some) {
        *out = metrics->list[metrics->first];
        metrics->first = (metrics->first + 1) % RF_METRICS;
        metrics->count--;
    }
    pthread_mutex_unlock(&metrics->lock);
    return some;
}

#endif
