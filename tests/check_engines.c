#include "check_engines.h"

#include <pthread.h>

static void reverse_engine(void *context, unsigned threads, size_t tasks, void (*body)(void *, size_t), void *task) {
    (void)threads;
    *(size_t *)context += tasks;
    for (size_t i = tasks; i > 0; i--) {
        body(task, i - 1);
    }
}

typedef struct strand {
    size_t first, step, tasks;
    void (*body)(void *, size_t);
    void *task;
} strand;

static void *run_strand(void *context) {
    const strand *s = context;
    for (size_t i = s->first; i < s->tasks; i += s->step) {
        s->body(s->task, i);
    }
    return NULL;
}

static void pthread_engine(void *context, unsigned threads, size_t tasks, void (*body)(void *, size_t), void *task) {
    pthread_t handles[8];
    strand strands[8];
    *(size_t *)context += tasks;
    for (unsigned i = 0; i < threads; i++) {
        strands[i] = (strand){.first = i, .step = threads, .tasks = tasks, .body = body, .task = task};
        pthread_create(&handles[i], NULL, run_strand, &strands[i]);
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(handles[i], NULL);
    }
}

lod_parallel_for *const check_engines[CHECK_ENGINES] = {reverse_engine, pthread_engine};
