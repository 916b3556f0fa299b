// Plans: no choice changes a bit, and which choice a plan gets from which rigor.
#include <stdlib.h>
#include <string.h>

#include "attention_case.h"
#include "plan.h"

static lod_weight random_weight(size_t n_in, size_t n_out) {
    const size_t bytes = lod_packed_size(n_in, n_out, LOD_F32);
    const float *w = check_floats("w", CHECK_IN, n_out, n_in, n_in);
    void *packed = check_operand("packed w", CHECK_OUT, 1, 1, bytes, bytes, 64);
    CHECK_THAT(lod_pack_weights(n_in, n_out, LOD_F32, w, n_in, packed, NULL) == LOD_OK);
    return (lod_weight){.packed = packed, .dtype = LOD_F32};
}

// --- no choice changes a bit ---

// Calls run(context, plan) on a plan of each choice; at least `least` of them.
static void with_choices(const lod_plan *plan, lod_plan_part part, size_t least, void *context,
                         void (*run)(void *context, const lod_plan *plan)) {
    static lod_choice choices[LOD_CANDIDATES_MOST];
    const size_t count = lod_candidates(plan, part, LOD_AXES_ALL, choices);
    CHECK_THAT(count >= least && count < LOD_CANDIDATES_MOST);
    for (size_t i = 0; i < count; i++) {
        lod_plan changed = *plan;
        changed.choice = choices[i];
        lod_plan_settle(&changed);
        run(context, &changed);
    }
}

// A plan of the caller's stack.
static lod_plan taken(lod_plan *plan) {
    lod_plan copy = *plan;
    lod_plan_free(plan);
    return copy;
}

typedef struct layer {
    lod_lowrank_shape shape;
    lod_lowrank_args args;
    float *y, *dx; // of the first choice
} layer;

// The workspace of a choice is only as large as its plan says, and unreadable beyond.
static void run_layer(void *context, const lod_plan *plan) {
    layer *l = context;
    const size_t y_bytes = l->shape.tokens * l->shape.n_out * sizeof(float);
    const size_t dx_bytes = l->shape.tokens * l->shape.n_in * sizeof(float);
    lod_lowrank_args a = l->args;
    void *workspace = aligned_alloc(64, plan->workspace);
    a.y = malloc(y_bytes), a.dx = malloc(dx_bytes);
    bool ran = lod_lowrank_forward(plan, &a, workspace, NULL) == LOD_OK &&
               lod_lowrank_backward(plan, &a, workspace, NULL) == LOD_OK;
    if (!l->y) memcpy(l->y = check_operand("y", CHECK_OUT, 1, 1, y_bytes, y_bytes, 4), a.y, y_bytes);
    if (!l->dx) memcpy(l->dx = check_operand("dx", CHECK_OUT, 1, 1, dx_bytes, dx_bytes, 4), a.dx, dx_bytes);
    bool same = memcmp(a.y, l->y, y_bytes) == 0 && memcmp(a.dx, l->dx, dx_bytes) == 0;
    free(a.y), free(a.dx), free(workspace);
    char text[128];
    lod_plan_describe(plan, text, sizeof text);
    if (!ran || !same) check_fail("%s: %s", text, ran ? "other bits" : "no run");
}

static layer make_layer(lod_lowrank_shape shape) {
    static size_t start[2];
    static const uint32_t draw[1] = {7};
    layer l = {.shape = shape};
    start[1] = shape.tokens;
    l.args = (lod_lowrank_args){
        .rows = {.count = 1, .start = start, .draw = draw}, .rank = shape.rank, .scale = 1.5,
        .dropout = {.compensation = LOD_COMPENSATION_INVERTED, .p = 0.25, .seed = 3},
        .x = check_floats("x", CHECK_IN, shape.tokens, shape.n_in, shape.n_in), .ldx = shape.n_in,
        .w = random_weight(shape.n_in, shape.n_out),
        .a = check_floats("a", CHECK_IN, shape.rank, shape.n_in, shape.n_in),
        .bt = check_floats("bt", CHECK_IN, shape.rank, shape.n_out, shape.n_out),
        .u = check_floats("u", CHECK_OUT, shape.tokens, shape.rank, shape.rank), .ldy = shape.n_out,
        .dy = check_floats("dy", CHECK_IN, shape.tokens, shape.n_out, shape.n_out), .lddy = shape.n_out,
        .lddx = shape.n_in};
    return l;
}

CHECK_ONCE(plan_choices_lowrank, 0) {
    check_skip_ref();
    static const lod_lowrank_shape shapes[] = {
        {200, 150, 3, 70}, {75, 300, 2, 3}, {40, 17, 1, 200}, {70000, 20, 1, 33}}; // the last: X copied in two parts
    for (size_t i = 0; i < COUNT(shapes); i++) {
        for (unsigned threads = 1; threads <= 3; threads += 2) {
            check_shape("n_in=%zu n_out=%zu tokens=%zu threads=%u", shapes[i].n_in, shapes[i].n_out, shapes[i].tokens,
                        threads);
            lod_plan *plan;
            layer l = make_layer(shapes[i]);
            CHECK_THAT(lod_plan_lowrank(&shapes[i], threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
            const lod_plan copy = taken(plan);
            with_choices(&copy, LOD_PART_FORWARD, threads, &l, run_layer);
            with_choices(&copy, LOD_PART_BACKWARD, threads, &l, run_layer);
        }
    }
}

typedef struct head {
    lod_loss_shape shape;
    lod_loss_args args;
    float *loss, *dh; // of the first choice
} head;

static void run_head(void *context, const lod_plan *plan) {
    head *h = context;
    const size_t tokens = h->shape.tokens, bytes = tokens * h->shape.n_in * sizeof(float);
    lod_loss_args a = h->args;
    void *workspace = aligned_alloc(64, plan->workspace);
    a.loss = malloc(tokens * sizeof(float)), a.dh = malloc(bytes);
    bool ran = lod_loss(plan, &a, workspace, NULL) == LOD_OK;
    if (!h->dh) memcpy(h->dh = check_operand("dh", CHECK_OUT, 1, 1, bytes, bytes, 4), a.dh, bytes);
    if (!h->loss) memcpy(h->loss = check_floats("loss", CHECK_OUT, 1, tokens, tokens), a.loss, tokens * sizeof(float));
    bool same = memcmp(a.dh, h->dh, bytes) == 0 && memcmp(a.loss, h->loss, tokens * sizeof(float)) == 0;
    free(a.loss), free(a.dh), free(workspace);
    if (!ran || !same) check_fail(ran ? "other bits" : "no run");
}

CHECK_ONCE(plan_choices_loss, 0) {
    check_skip_ref();
    static const lod_loss_shape shape = {.n_in = 150, .vocabulary = 500, .tokens = 90};
    uint32_t target[90];
    for (unsigned threads = 1; threads <= 3; threads += 2) {
        check_shape("threads=%u", threads);
        lod_plan *plan;
        head h = {.shape = shape};
        for (size_t i = 0; i < shape.tokens; i++) target[i] = (uint32_t)check_below(shape.vocabulary);
        h.args = (lod_loss_args){.tokens = shape.tokens, .ldh = shape.n_in, .target = target, .lddh = shape.n_in};
        h.args.h = check_floats("h", CHECK_IN, shape.tokens, shape.n_in, shape.n_in);
        h.args.w = random_weight(shape.n_in, shape.vocabulary);
        CHECK_THAT(lod_plan_loss(&shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
        const lod_plan copy = taken(plan);
        with_choices(&copy, LOD_PART_FORWARD, 4, &h, run_head);
        with_choices(&copy, LOD_PART_BACKWARD, 10, &h, run_head);
    }
}

typedef struct attention_bits {
    const attention_case *t;
    attention_outputs first;
    bool there;
} attention_bits;

static void run_attention(void *context, const lod_plan *plan) {
    attention_bits *b = context;
    attention_outputs out = attention_case_run_on(b->t, plan, 1);
    if (!b->there) b->first = out;
    b->there = true;
    attention_case_same_bits(b->t, &out, &b->first);
}

CHECK_ONCE(plan_choices_attention, 0) {
    check_skip_ref();
    static const lod_attention_shape shape = {.heads = 2, .kv_heads = 1, .head_dim = 16};
    static const size_t queries[] = {210, 9}, keys[] = {290, 150};
    for (unsigned threads = 1; threads <= 3; threads += 2) {
        attention_case t;
        lod_plan *plan;
        attention_case_make_of(&t, shape, true, attention_case_dropout(0, 0.1), COUNT(keys), queries, keys);
        CHECK_THAT(lod_plan_attention(&t.shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
        const lod_plan copy = taken(plan);
        attention_bits bits = {.t = &t};
        with_choices(&copy, LOD_PART_ATTENTION, 5, &bits, run_attention);
    }
}

// --- rigor ---

typedef struct description {
    char text[128];
} description;

static description planned(size_t tokens, lod_rigor rigor) {
    lod_plan *plan;
    description d;
    CHECK_THAT(lod_plan_lowrank(&(lod_lowrank_shape){.n_in = 96, .n_out = 80, .tokens = tokens}, 1, rigor, &plan,
                                NULL) == LOD_OK);
    lod_plan_describe(plan, d.text, sizeof d.text);
    lod_plan_free(plan);
    return d;
}

CHECK_ONCE(plan_rigor, 0) {
    check_shape("-");
    lod_wisdom_forget();
    lod_plan *plan;
    lod_error err;
    const lod_lowrank_shape shape = {.n_in = 96, .n_out = 80, .tokens = 50};
    const lod_lowrank_shape other = {.n_in = 96, .n_out = 80, .tokens = 70};
    CHECK_THAT(lod_plan_lowrank(&shape, 1, LOD_WISDOM_ONLY, &plan, &err) == LOD_NO_WISDOM && !plan);
    CHECK_THAT(strcmp(err.text, "nothing was measured for lowrank n_in=96 n_out=80 tokens=64") == 0);
    CHECK_THAT(lod_plan_lowrank(&shape, 1, (lod_rigor)4, &plan, &err) == LOD_BAD_ARGUMENT && !plan);

    const description estimate = planned(50, LOD_ESTIMATE);
    lod_plan_time_limit(0); // nothing can be measured, and nothing is remembered
    CHECK_THAT(strcmp(planned(50, LOD_MEASURE).text, estimate.text) == 0);
    CHECK_THAT(lod_plan_lowrank(&shape, 1, LOD_WISDOM_ONLY, &plan, NULL) == LOD_NO_WISDOM);
    lod_plan_time_limit(-1);

    const description measured = planned(50, LOD_EXHAUSTIVE); // more than is known: measures
    CHECK_THAT(strcmp(planned(50, LOD_WISDOM_ONLY).text, measured.text) == 0);
    CHECK_THAT(strcmp(planned(50, LOD_MEASURE).text, measured.text) == 0); // counts for less, too
    CHECK_THAT(lod_plan_lowrank(&other, 1, LOD_WISDOM_ONLY, &plan, NULL) == LOD_NO_WISDOM); // of another class
    CHECK_THAT(lod_plan_lowrank(&shape, 2, LOD_WISDOM_ONLY, &plan, NULL) == LOD_NO_WISDOM); // of other threads
    lod_wisdom_forget();
    CHECK_THAT(lod_plan_lowrank(&shape, 1, LOD_WISDOM_ONLY, &plan, NULL) == LOD_NO_WISDOM);
}

// A search that is cut short keeps what an earlier one of lower rigor found, and does not pass for a whole one.
CHECK_ONCE(plan_cut_short, 0) {
    check_shape("-");
    lod_wisdom_forget();
    lod_plan *draft;
    const lod_lowrank_shape shape = {.n_in = 96, .n_out = 80, .tokens = 50};
    CHECK_THAT(lod_plan_lowrank(&shape, 1, LOD_ESTIMATE, &draft, NULL) == LOD_OK);
    lod_plan found = lod_plan_class(draft);
    lod_plan_free(draft);
    found.choice.forward.kc = found.choice.backward.kc = 16; // unlike the estimate
    lod_plan_settle(&found);
    CHECK_THAT(lod_wisdom_remember(&found, LOD_MEASURE, NULL) == LOD_OK);
    const description known = planned(50, LOD_MEASURE), estimate = planned(70, LOD_ESTIMATE);
    CHECK_THAT(strstr(known.text, " kc 16 ") && !strstr(estimate.text, " kc 16 "));
    lod_plan_time_limit(0);
    CHECK_THAT(strcmp(planned(50, LOD_EXHAUSTIVE).text, known.text) == 0);
    lod_plan_time_limit(-1);
    CHECK_THAT(strcmp(planned(50, LOD_WISDOM_ONLY).text, known.text) == 0);
    lod_plan class = found;
    CHECK_THAT(lod_wisdom_find(&class, LOD_MEASURE) && !lod_wisdom_find(&class, LOD_EXHAUSTIVE));
    lod_wisdom_forget();
}

// Every kind of plan can be measured, and on several threads.
CHECK_ONCE(plan_measured, 0) {
    check_shape("-");
    lod_wisdom_forget();
    lod_plan *plan;
    const lod_attention_shape heads = {.heads = 2, .kv_heads = 1, .head_dim = 16, .keys = 40};
    const lod_loss_shape words = {.n_in = 33, .vocabulary = 70, .tokens = 20};
    const lod_lowrank_shape few = {.n_in = 33, .n_out = 70, .rank = 4, .tokens = 1};
    CHECK_THAT(lod_plan_attention(&heads, 2, LOD_MEASURE, &plan, NULL) == LOD_OK);
    lod_plan_free(plan);
    CHECK_THAT(lod_plan_attention(&heads, 2, LOD_WISDOM_ONLY, &plan, NULL) == LOD_OK);
    lod_plan_free(plan);
    CHECK_THAT(lod_plan_loss(&words, 2, LOD_MEASURE, &plan, NULL) == LOD_OK);
    lod_plan_free(plan);
    CHECK_THAT(lod_plan_loss(&words, 2, LOD_WISDOM_ONLY, &plan, NULL) == LOD_OK);
    lod_plan_free(plan);
    CHECK_THAT(lod_plan_lowrank(&few, 2, LOD_EXHAUSTIVE, &plan, NULL) == LOD_OK);
    lod_plan_free(plan);
    lod_wisdom_forget();
}
