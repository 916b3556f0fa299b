// The search among candidates: they are run in turns, A B C A B C, so that a busy moment of the machine strikes all of
// them; the hopeless leave early; the first one, which is what the plan would do otherwise, is kept unless the medians
// of the ratios to it beat it by more than their spread.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "plan.h"

enum { ROUNDS_LEAST = 3, ROUNDS_MOST = 9 };
static const double SAMPLE_SECONDS = 2e-3; // a shorter run is repeated
static const double HOPELESS[] = {1.5, 1.25, 1.1}; // times the best, after so many rounds

static _Atomic double time_limit = -1;

void lod_plan_time_limit(double seconds) {
    time_limit = seconds;
}

double lod_clock_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

typedef struct candidate {
    lod_choice choice;
    bool out;
    size_t runs; // that make a sample
    double seconds[ROUNDS_MOST]; // of one run
} candidate;

typedef struct search {
    lod_plan *plan;
    lod_plan_part part;
    lod_trial *trial;
    candidate *list;
    size_t count;
    double deadline; // of the whole plan
    bool cut;        // it came before the end
} search;

static bool time_is_up(search *s) {
    s->cut = s->cut || lod_clock_seconds() >= s->deadline;
    return s->cut;
}

static bool sample(search *s, candidate *c, size_t round) {
    if (round == 0) {
        double once = lod_trial_run(s->trial, &c->choice, 1); // warms up what the choice uses, too
        if (once < 0) return false;
        c->runs = once < SAMPLE_SECONDS ? 1 + (size_t)(SAMPLE_SECONDS / (once > 1e-7 ? once : 1e-7)) : 1;
    }
    double seconds = lod_trial_run(s->trial, &c->choice, c->runs);
    c->seconds[round] = seconds / (double)c->runs;
    return seconds >= 0;
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Of the ratios to the first candidate, round by round.
typedef struct verdict {
    double median, spread; // spread: half of what lies between the quartiles
} verdict;

static verdict judge(const candidate *c, const candidate *first, size_t rounds) {
    double ratio[ROUNDS_MOST];
    for (size_t i = 0; i < rounds; i++) ratio[i] = c->seconds[i] / first->seconds[i];
    qsort(ratio, rounds, sizeof *ratio, ascending);
    return (verdict){.median = rounds % 2 ? ratio[rounds / 2] : (ratio[rounds / 2 - 1] + ratio[rounds / 2]) / 2,
                     .spread = (ratio[rounds - 1 - rounds / 4] - ratio[rounds / 4]) / 2};
}

// The first candidate stays to the end: the others are measured by it.
static void drop_hopeless(search *s, size_t rounds) {
    double best = 1;
    for (size_t i = 1; i < s->count; i++) {
        if (!s->list[i].out) best = fmin(best, judge(&s->list[i], s->list, rounds).median);
    }
    const size_t levels = sizeof HOPELESS / sizeof *HOPELESS;
    const double bound = best * HOPELESS[lod_min(rounds, levels) - 1];
    for (size_t i = 1; i < s->count; i++) {
        candidate *c = &s->list[i];
        c->out = c->out || judge(c, s->list, rounds).median > bound;
    }
}

static size_t winner(const search *s, size_t rounds) {
    size_t best = 0;
    double least = 1;
    for (size_t i = 1; i < s->count; i++) {
        if (s->list[i].out) continue;
        verdict v = judge(&s->list[i], s->list, rounds);
        if (v.median + v.spread < 1 && v.median < least) best = i, least = v.median;
    }
    return best;
}

// Rounds over the candidates until one is known to be best or the time is up; sets the plan's choice.
static bool compete(search *s) {
    size_t rounds = 0, left = s->count;
    while (left > 1 && rounds < ROUNDS_MOST) {
        for (size_t i = 0; i < s->count; i++) {
            if (time_is_up(s)) {
                if (rounds >= ROUNDS_LEAST) s->plan->choice = s->list[winner(s, rounds)].choice; // of whole rounds
                return true;
            }
            if (!s->list[i].out && !sample(s, &s->list[i], rounds)) return false;
        }
        drop_hopeless(s, ++rounds);
        left = 0;
        for (size_t i = 0; i < s->count; i++) left += !s->list[i].out;
    }
    if (rounds) s->plan->choice = s->list[winner(s, rounds)].choice;
    return true;
}

static bool search_axes(search *s, unsigned axes, lod_choice *choices) {
    s->count = lod_candidates(s->plan, s->part, axes, choices);
    s->list = calloc(s->count, sizeof *s->list);
    if (!s->list) return false;
    for (size_t i = 0; i < s->count; i++) s->list[i].choice = choices[i];
    bool done = compete(s);
    free(s->list);
    return done;
}

// MEASURE improves one axis after the other; EXHAUSTIVE walks all combinations.
static bool search_part(search *s, lod_rigor rigor, lod_choice *choices) {
    static const unsigned measured[] = {LOD_AXIS_TILE, LOD_AXIS_DEPTH, LOD_AXIS_HEIGHT, LOD_AXIS_WIDTH,
                                        LOD_AXIS_CUT};
    if (time_is_up(s)) return true;
    s->trial = lod_trial_make(s->plan, s->part);
    bool done = s->trial != NULL;
    if (rigor == LOD_EXHAUSTIVE) {
        done = done && search_axes(s, LOD_AXES_ALL, choices);
    } else {
        for (size_t i = 0; i < sizeof measured / sizeof *measured; i++) {
            done = done && search_axes(s, measured[i], choices);
        }
    }
    lod_trial_free(s->trial);
    return done;
}

// Few tokens have a kernel of their own, which takes no blocks.
static bool has_choice(const lod_plan *class) {
    return class->kind == LOD_PLAN_ATTENTION || lod_product_shape_of(class, true).tokens > LOD_FEW_TOKENS;
}

static bool search_class(search *s, lod_rigor rigor) {
    if (!has_choice(s->plan)) return true;
    lod_choice *choices = calloc(LOD_CANDIDATES_MOST, sizeof *choices);
    bool done = choices != NULL;
    if (s->plan->kind == LOD_PLAN_ATTENTION) {
        s->part = LOD_PART_ATTENTION;
        done = done && search_part(s, rigor, choices);
    } else {
        s->part = LOD_PART_FORWARD;
        done = done && search_part(s, rigor, choices);
        s->part = LOD_PART_BACKWARD;
        done = done && search_part(s, rigor, choices);
    }
    free(choices);
    return done;
}

// It starts from what is known at a lower rigor, so that one cut short loses nothing. What that one found counts as
// measured, since it was; where it found nothing there is nothing to remember, and a later plan measures.
lod_status lod_search(lod_plan *plan, lod_rigor rigor, lod_error *err) {
    lod_plan class = lod_plan_class(plan);
    const double limit = time_limit, deadline = limit < 0 ? INFINITY : lod_clock_seconds() + limit;
    if (!lod_wisdom_find(&class, LOD_WISDOM_ONLY)) lod_estimate(&class);
    lod_plan_settle(&class);
    const lod_choice start = class.choice;
    search s = {.plan = &class, .deadline = deadline};
    if (!search_class(&s, rigor)) {
        return lod_fail(err, LOD_NO_MEMORY, "rigor", "no memory to measure on; LOD_ESTIMATE needs none");
    }
    plan->choice = class.choice;
    if (s.cut && lod_same_choice(&class.choice, &start)) return LOD_OK;
    return lod_wisdom_remember(&class, s.cut ? LOD_MEASURE : rigor, err);
}
