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

enum { RESULTS = 4, SEGMENTS = 3 };

typedef struct layer {
    lod_lowrank_shape shape;
    lod_lowrank_args args;
    size_t floats[RESULTS];
    float *results[RESULTS]; // y, dx, the sums of dA and dB'; of the first choice
} layer;

static bool compute(const layer *l, const lod_plan *plan, float *const results[RESULTS]) {
    lod_lowrank_args a = l->args;
    lod_grad_sum sums[2];
    void *workspace = aligned_alloc(64, plan->workspace), *memory[2];
    for (size_t i = 0; i < 2; i++) {
        memory[i] = malloc(lod_grad_sum_size(l->floats[2 + i], SEGMENTS));
        lod_grad_sum_init(&sums[i], l->floats[2 + i], SEGMENTS, memory[i]);
    }
    a.y = results[0], a.dx = results[1], a.da = &sums[0], a.dbt = &sums[1];
    bool done = lod_lowrank_forward(plan, &a, workspace, NULL) == LOD_OK &&
                lod_lowrank_backward(plan, &a, workspace, NULL) == LOD_OK;
    for (size_t i = 0; i < 2; i++) {
        lod_grad_sum_finish(&sums[i], results[2 + i]);
        free(memory[i]);
    }
    free(workspace);
    return done;
}

// The workspace of a choice is only as large as its plan says, and unreadable beyond.
static void run_layer(void *context, const lod_plan *plan) {
    layer *l = context;
    float *results[RESULTS];
    char text[128];
    for (size_t i = 0; i < RESULTS; i++) results[i] = malloc(l->floats[i] * sizeof(float));
    bool ran = compute(l, plan, results), same = true;
    for (size_t i = 0; i < RESULTS; i++) {
        const size_t bytes = l->floats[i] * sizeof(float);
        if (!l->results[i]) {
            memcpy(l->results[i] = check_operand("result", CHECK_OUT, 1, 1, bytes, bytes, 4), results[i], bytes);
        }
        same = same && memcmp(results[i], l->results[i], bytes) == 0;
        free(results[i]);
    }
    lod_plan_describe(plan, text, sizeof text);
    if (!ran || !same) check_fail("%s: %s", text, ran ? "other bits" : "no run");
}

// With masks on the input, or of LoRA Dropout with two instances.
static layer make_layer(lod_lowrank_shape shape, bool matrices) {
    static size_t start[SEGMENTS + 1];
    static const uint32_t draw[SEGMENTS] = {7, 8, 9};
    static const uint8_t instance[SEGMENTS] = {0, 1, 0};
    const lod_dropout element = {.compensation = LOD_COMPENSATION_INVERTED, .p = 0.25, .seed = 3};
    const lod_dropout columns = {.pattern = LOD_PATTERN_COLUMN, .p = 0.5, .seed = 3, .draw = 5};
    layer l = {.shape = shape, .floats = {shape.tokens * shape.n_out, shape.tokens * shape.n_in,
                                          shape.rank * shape.n_in, shape.rank * shape.n_out}};
    start[1] = shape.tokens / 3, start[2] = shape.tokens / 2, start[3] = shape.tokens;
    l.args = (lod_lowrank_args){
        .rows = {.count = SEGMENTS, .start = start, .draw = draw, .instance = matrices ? instance : NULL},
        .rank = shape.rank, .scale = 1.5, .dropout = matrices ? (lod_dropout){.p = 0} : element,
        .x = check_floats("x", CHECK_IN, shape.tokens, shape.n_in, shape.n_in), .ldx = shape.n_in,
        .w = random_weight(shape.n_in, shape.n_out),
        .a = check_floats("a", CHECK_IN, shape.rank, shape.n_in, shape.n_in),
        .bt = check_floats("bt", CHECK_IN, shape.rank, shape.n_out, shape.n_out),
        .u = check_floats("u", CHECK_OUT, shape.tokens, shape.rank, shape.rank), .ldy = shape.n_out,
        .dy = check_floats("dy", CHECK_IN, shape.tokens, shape.n_out, shape.n_out), .lddy = shape.n_out,
        .lddx = shape.n_in};
    if (matrices) {
        l.args.lora_a = l.args.lora_b = columns;
        CHECK_THAT(lod_site(0, 2, LOD_POSITION_LORA_A, 0, 0, &l.args.lora_a.site, NULL) == LOD_OK);
        CHECK_THAT(lod_site(0, 2, LOD_POSITION_LORA_B, 0, 0, &l.args.lora_b.site, NULL) == LOD_OK);
    }
    return l;
}

CHECK_ONCE(plan_choices_lowrank, 0) {
    check_skip_ref();
    static const lod_lowrank_shape shapes[] = {
        {200, 150, 3, 70}, {75, 300, 2, 3}, {40, 17, 1, 200}, {70000, 20, 1, 33}}; // the last: X copied in two parts
    for (size_t i = 0; i < 2 * COUNT(shapes) - 1; i++) { // LoRA Dropout copies the widest X no other way
        const lod_lowrank_shape *shape = &shapes[i / 2];
        for (unsigned threads = 1; threads <= 3; threads += 2) {
            check_shape("n_in=%zu n_out=%zu tokens=%zu threads=%u %s", shape->n_in, shape->n_out, shape->tokens,
                        threads, i % 2 ? "LoRA Dropout" : "");
            lod_plan *plan;
            layer l = make_layer(*shape, i % 2);
            CHECK_THAT(lod_plan_lowrank(shape, threads, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
            const lod_plan copy = taken(plan);
            with_choices(&copy, LOD_PART_FORWARD, threads, &l, run_layer);
            with_choices(&copy, LOD_PART_BACKWARD, threads, &l, run_layer);
        }
    }
}

typedef struct head {
    lod_loss_shape shape;
    lod_loss_args args;
    float *results; // loss, divergence, dh, dh2; of the first choice
} head;

static void run_head(void *context, const lod_plan *plan) {
    head *h = context;
    const size_t tokens = h->shape.tokens, cells = tokens * h->shape.n_in;
    const size_t bytes = 2 * (tokens + cells) * sizeof(float);
    lod_loss_args a = h->args;
    void *workspace = aligned_alloc(64, plan->workspace);
    float *results = calloc(1, bytes);
    a.loss = results, a.divergence = results + tokens, a.dh = results + 2 * tokens;
    a.dh2 = h->shape.consistency ? a.dh + cells : NULL;
    bool ran = lod_loss(plan, &a, workspace, NULL) == LOD_OK;
    if (!h->results) memcpy(h->results = check_operand("results", CHECK_OUT, 1, 1, bytes, bytes, 4), results, bytes);
    bool same = memcmp(results, h->results, bytes) == 0;
    free(results), free(workspace);
    if (!ran || !same) check_fail(ran ? "other bits" : "no run");
}

CHECK_ONCE(plan_choices_loss, 0) {
    check_skip_ref();
    uint32_t target[90];
    for (unsigned i = 0; i < 4; i++) {
        const lod_loss_shape shape = {.n_in = 150, .vocabulary = 500, .tokens = 90, .consistency = i % 2};
        const unsigned threads = 1 + i / 2 * 2;
        check_shape("threads=%u%s", threads, shape.consistency ? " two branches" : "");
        lod_plan *plan;
        head h = {.shape = shape};
        for (size_t t = 0; t < shape.tokens; t++) target[t] = (uint32_t)check_below(shape.vocabulary);
        h.args = (lod_loss_args){.tokens = shape.tokens, .ldh = shape.n_in, .target = target, .lddh = shape.n_in};
        h.args.h = check_floats("h", CHECK_IN, shape.tokens, shape.n_in, shape.n_in);
        h.args.w = random_weight(shape.n_in, shape.vocabulary);
        if (shape.consistency) {
            h.args.consistency = LOD_CONSISTENCY_KL, h.args.weight = 0.5;
            h.args.h2 = check_floats("h2", CHECK_IN, shape.tokens, shape.n_in, shape.n_in);
            h.args.ldh2 = h.args.lddh2 = shape.n_in;
        }
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

// A search that is cut short keeps what an earlier one of lower rigor found, and does not pass for an exhaustive one.
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
