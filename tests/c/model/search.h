/* Runs a model through every interleaving with at most RF_BOUND preemptions, and every value a relaxed load may see. */
#ifndef SEARCH_H
#define SEARCH_H

#include <stdio.h>
#include <stdlib.h>

template <typename model> static int search(const char *name) {
    rl::test_params params;
    const char *bound = getenv("RF_BOUND");
    params.search_type = rl::sched_bound;
    params.context_bound = bound != NULL ? (unsigned)atoi(bound) : 2;
    params.execution_depth_limit = 2000;
    std::ostringstream sink;
    params.progress_stream = &sink;
    bool passed = rl::simulate<model>(params);
    if (passed) printf("%s: %llu executions\n", name, (unsigned long long)params.stop_iteration);
    else fprintf(stderr, "FAILED %s: %s\n", name, rl::test_result_str(params.test_result));
    return passed ? 0 : 1;
}

#endif
