// What the process knows by measurement.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wisdom_entries.h"

enum { TOKENS_MOST = 1024, KEYS_MOST = 2048 }; // beyond these no choice depends on how many there are

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static lod_wisdom known;

// --- Classes of shapes ---

static size_t power_of_two(size_t value, size_t most) {
    size_t power = 1;
    while (power < value && power < most) power *= 2;
    return value ? power : 0;
}

lod_plan lod_plan_class(const lod_plan *plan) {
    lod_plan class = *plan;
    if (plan->kind == LOD_PLAN_LOWRANK) {
        lod_lowrank_shape *s = &class.shape.lowrank;
        s->tokens = power_of_two(s->tokens, TOKENS_MOST);
        s->rank = 0; // a few more steps of k, which no block size depends on
    } else if (plan->kind == LOD_PLAN_ATTENTION) {
        lod_attention_shape *s = &class.shape.attention;
        s->keys = power_of_two(s->keys, KEYS_MOST);
        s->queries = power_of_two(s->queries, KEYS_MOST);
    } else {
        lod_loss_shape *s = &class.shape.loss;
        s->tokens = power_of_two(s->tokens, TOKENS_MOST);
        class.chunk = lod_estimate_loss_chunk(s->vocabulary, s->tokens);
    }
    return class;
}

void lod_plan_key(const lod_plan *plan, char key[LOD_KEY_SIZE]) {
    const lod_lowrank_shape *layer = &plan->shape.lowrank;
    const lod_attention_shape *attention = &plan->shape.attention;
    const lod_loss_shape *loss = &plan->shape.loss;
    if (plan->kind == LOD_PLAN_LOWRANK) {
        snprintf(key, LOD_KEY_SIZE, "lowrank n_in=%zu n_out=%zu tokens=%zu", layer->n_in, layer->n_out,
                 layer->tokens);
    } else if (plan->kind == LOD_PLAN_ATTENTION) {
        snprintf(key, LOD_KEY_SIZE, "attention heads=%zu kv_heads=%zu head_dim=%zu keys=%zu queries=%zu",
                 attention->heads, attention->kv_heads, attention->head_dim, attention->keys, attention->queries);
    } else {
        snprintf(key, LOD_KEY_SIZE, "loss n_in=%zu vocabulary=%zu tokens=%zu", loss->n_in, loss->vocabulary,
                 loss->tokens);
    }
}

// --- Lists ---

static int order(const lod_wisdom_entry *a, const char *key, unsigned threads) {
    int keys = strcmp(a->key, key);
    return keys ? keys : (a->threads > threads) - (a->threads < threads);
}

// The first place that is not before (key, threads).
static size_t place_of(const lod_wisdom *wisdom, const char *key, unsigned threads) {
    size_t begin = 0, end = wisdom->count;
    while (begin < end) {
        size_t middle = begin + (end - begin) / 2;
        if (order(&wisdom->entries[middle], key, threads) < 0) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

static bool stands_at(const lod_wisdom *wisdom, size_t place, const char *key, unsigned threads) {
    return place < wisdom->count && order(&wisdom->entries[place], key, threads) == 0;
}

bool lod_wisdom_put(lod_wisdom *wisdom, const lod_wisdom_entry *entry) {
    const size_t place = place_of(wisdom, entry->key, entry->threads);
    if (stands_at(wisdom, place, entry->key, entry->threads)) {
        if (wisdom->entries[place].rigor <= entry->rigor) wisdom->entries[place] = *entry;
        return true;
    }
    lod_wisdom_entry *entries = realloc(wisdom->entries, (wisdom->count + 1) * sizeof *entries);
    if (!entries) return false;
    memmove(entries + place + 1, entries + place, (wisdom->count - place) * sizeof *entries);
    entries[place] = *entry;
    *wisdom = (lod_wisdom){.entries = entries, .count = wisdom->count + 1};
    return true;
}

// --- What is known ---

bool lod_wisdom_find(lod_plan *plan, lod_rigor rigor) {
    char key[LOD_KEY_SIZE];
    const lod_plan class = lod_plan_class(plan);
    lod_plan_key(&class, key);
    pthread_mutex_lock(&lock);
    const size_t place = place_of(&known, key, plan->threads);
    bool found = stands_at(&known, place, key, plan->threads) &&
                 (rigor == LOD_WISDOM_ONLY || known.entries[place].rigor >= rigor);
    if (found) plan->choice = known.entries[place].choice;
    pthread_mutex_unlock(&lock);
    return found;
}

lod_status lod_wisdom_remember(const lod_plan *class, lod_rigor rigor, lod_error *err) {
    lod_wisdom_entry entry = {.threads = class->threads, .rigor = rigor, .choice = class->choice};
    lod_plan_key(class, entry.key);
    pthread_mutex_lock(&lock);
    bool done = lod_wisdom_put(&known, &entry);
    pthread_mutex_unlock(&lock);
    return done ? LOD_OK : lod_fail(err, LOD_NO_MEMORY, "rigor", "no memory for what was measured");
}

bool lod_wisdom_copy_known(unsigned threads, lod_wisdom *copy) {
    bool done = true;
    *copy = (lod_wisdom){0};
    pthread_mutex_lock(&lock);
    for (size_t i = 0; done && i < known.count; i++) {
        if (known.entries[i].threads == threads) done = lod_wisdom_put(copy, &known.entries[i]);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

bool lod_wisdom_add_known(const lod_wisdom *wisdom) {
    bool done = true;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; done && i < wisdom->count; i++) done = lod_wisdom_put(&known, &wisdom->entries[i]);
    pthread_mutex_unlock(&lock);
    return done;
}

void lod_wisdom_forget(void) {
    pthread_mutex_lock(&lock);
    free(known.entries);
    known = (lod_wisdom){0};
    pthread_mutex_unlock(&lock);
}
