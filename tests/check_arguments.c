// Bad arguments of every public call: the status, the field that is named, one line of text, and nothing written (all
// operands are inputs to the harness).
#include <math.h>
#include <string.h>

#include "check.h"

enum {
    N_IN = 33,
    N_OUT = 20,
    RANK = 4,
    TOKENS = 6,
    HEADS = 4,
    KV_HEADS = 2,
    HEAD_DIM = 8,
    CELLS = 64,
    MANY_HEADS = 258
};

static void expect(lod_status status, const lod_error *err, const char *field, const char *what) {
    if (status != LOD_BAD_ARGUMENT || err->code != status || strcmp(err->field, field) != 0) {
        check_fail("%s: status %d field '%s' text '%s', want field '%s'", what, (int)status, err->field, err->text,
                   field);
    }
    if (!err->text[0] || strchr(err->text, '\n')) {
        check_fail("%s: text '%s' is not one line", what, err->text);
    }
}

// `call` takes &err; it must name `wanted` after `change`, and be the same without an lod_error.
#define BAD(wanted, change, call)                                                                                      \
    do {                                                                                                               \
        lod_error err_ = {.code = LOD_OK}, *err = &err_;                                                               \
        change;                                                                                                        \
        check_before_call();                                                                                           \
        lod_status status_ = call;                                                                                     \
        expect(status_, err, wanted, #change);                                                                         \
        err = NULL;                                                                                                    \
        CHECK_THAT((call) == status_);                                                                                 \
        check_after_call();                                                                                            \
    } while (0)

static float *floats(const char *name, size_t rows, size_t cols) {
    return check_floats(name, CHECK_IN, rows, cols, cols);
}

static void *workspace_of(const lod_plan *plan) {
    size_t bytes = lod_plan_workspace(plan);
    return check_operand("workspace", CHECK_IN, 1, 1, bytes, bytes, 64);
}

static lod_weight packed(size_t n_in, size_t n_out) {
    size_t bytes = lod_packed_size(n_in, n_out, LOD_F32);
    return (lod_weight){.packed = check_operand("w", CHECK_IN, 1, 1, bytes, bytes, 64), .dtype = LOD_F32};
}

// --- plans and packing ---

CHECK_ONCE(arguments_plans, 0) {
    check_shape("-");
    lod_plan *plan = NULL;
    const lod_lowrank_shape layer = {.n_in = N_IN, .n_out = N_OUT, .rank = RANK, .tokens = TOKENS};
    const lod_attention_shape attention = {.heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .keys = TOKENS};
    const lod_loss_shape loss = {.n_in = N_IN, .vocabulary = N_OUT, .tokens = TOKENS};
#define LAYER(field, change)                                                                                           \
    BAD(field, lod_lowrank_shape s = layer; change, lod_plan_lowrank(&s, 1, LOD_ESTIMATE, &plan, err))
    LAYER("n_in", s.n_in = 0);
    LAYER("n_in", s.n_in = SIZE_MAX);
    LAYER("n_out", s.n_out = 0);
    LAYER("n_out", s.n_out = SIZE_MAX / 2);
    LAYER("rank", s.rank = 1025);
    LAYER("tokens", s.tokens = 0);
    LAYER("tokens", s.tokens = SIZE_MAX);
#define ATTENTION(field, change)                                                                                       \
    BAD(field, lod_attention_shape s = attention; change, lod_plan_attention(&s, 1, LOD_ESTIMATE, &plan, err))
    ATTENTION("heads", s.heads = 0);
    ATTENTION("kv_heads", s.kv_heads = 0);
    ATTENTION("kv_heads", s.kv_heads = 3);
    ATTENTION("head_dim", s.head_dim = 0);
    ATTENTION("head_dim", s.head_dim = 12);
    ATTENTION("head_dim", s.head_dim = 264);
    ATTENTION("keys", s.keys = 0);
#define LOSS(field, change) BAD(field, lod_loss_shape s = loss; change, lod_plan_loss(&s, 1, LOD_ESTIMATE, &plan, err))
    LOSS("n_in", s.n_in = 0);
    LOSS("vocabulary", s.vocabulary = 0);
    LOSS("tokens", s.tokens = 0);
    BAD("rigor", , lod_plan_lowrank(&layer, 1, (lod_rigor)7, &plan, err));
    BAD("rigor", , lod_plan_attention(&attention, 1, (lod_rigor)7, &plan, err));
    BAD("rigor", , lod_plan_loss(&loss, 1, (lod_rigor)7, &plan, err));
    BAD("threads", , lod_plan_lowrank(&layer, 100000, LOD_ESTIMATE, &plan, err));
    BAD("threads", , lod_plan_rowwise(100000, &plan, err));
    BAD("plan", , lod_plan_rowwise(1, NULL, err));
    CHECK_THAT(plan == NULL);
    lod_plan_free(NULL);
}

CHECK_ONCE(arguments_packing, 0) {
    check_shape("%d x %d", N_OUT, N_IN);
    CHECK_THAT(lod_packed_size(SIZE_MAX, 2, LOD_F32) == 0);
    CHECK_THAT(lod_packed_size(SIZE_MAX / 8, 8, LOD_F32) == 0);
    CHECK_THAT(lod_packed_size(33, 2, LOD_BF16) == 48 * 2 * 2);
    CHECK_THAT(lod_grad_sum_size(SIZE_MAX / 2, 3) == 0);
    float *from = floats("from", N_OUT, N_IN);
    void *to = (void *)(uintptr_t)packed(N_IN, N_OUT).packed;
    BAD("dtype", , lod_pack_weights(N_IN, N_OUT, (lod_dtype)9, from, N_IN, to, err));
    BAD("ldw", , lod_pack_weights(N_IN, N_OUT, LOD_F32, from, N_IN - 1, to, err));
    BAD("n_in", , lod_pack_weights(SIZE_MAX / 8, 8, LOD_F32, from, SIZE_MAX / 8, to, err));
    BAD("w", , lod_pack_weights(N_IN, N_OUT, LOD_F32, NULL, N_IN, to, err));
    BAD("packed", , lod_pack_weights(N_IN, N_OUT, LOD_F32, from, N_IN, NULL, err));
    BAD("packed", , lod_pack_weights(N_IN, N_OUT, LOD_F32, from, N_IN, (char *)to + 4, err));
}

// --- the low-rank layer ---

typedef lod_status lowrank_call(const lod_plan *, const lod_lowrank_args *, void *, lod_error *);

static void check_lowrank(lowrank_call *call, bool backward) {
    static const size_t start[] = {0, 4, TOKENS}, late[] = {1, 4, TOKENS}, descending[] = {0, 7, TOKENS};
    static const size_t long_start[] = {0, 4, TOKENS + 1};
    static const uint32_t draw[] = {1, 2};
    static const uint8_t instance[] = {0, 64};
    check_shape("%s", backward ? "backward" : "forward");
    const lod_lowrank_shape shape = {.n_in = N_IN, .n_out = N_OUT, .rank = RANK, .tokens = TOKENS};
    lod_plan *plan, *other;
    CHECK_THAT(lod_plan_lowrank(&shape, 1, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    CHECK_THAT(lod_plan_rowwise(1, &other, NULL) == LOD_OK);
    char *memory = workspace_of(plan);
    lod_grad_sum da, dbt;
    lod_grad_sum_init(&da, RANK * N_IN, 2, floats("da", 2, RANK * N_IN));
    lod_grad_sum_init(&dbt, RANK * N_OUT, 2, floats("dbt", 2, RANK * N_OUT));
    lod_lowrank_args base = {.rows = {.count = 2, .start = start, .draw = draw}, .rank = RANK, .scale = 2};
    base.dropout = (lod_dropout){.compensation = LOD_COMPENSATION_INVERTED, .p = 0.1};
    base.ldx = base.lddx = N_IN, base.ldy = base.lddy = N_OUT, base.w = packed(N_IN, N_OUT);
    base.x = floats("x", TOKENS, N_IN), base.a = floats("a", RANK, N_IN), base.bt = floats("bt", RANK, N_OUT);
    base.u = floats("u", TOKENS, RANK), base.y = floats("y", TOKENS, N_OUT), base.dy = floats("dy", TOKENS, N_OUT);
    base.dx = floats("dx", TOKENS, N_IN), base.da = &da, base.dbt = &dbt;
#define LAYER_CALL(field, change) BAD(field, lod_lowrank_args a = base; change, call(plan, &a, memory, err))
    BAD("plan", , call(NULL, &base, memory, err));
    BAD("plan", , call(other, &base, memory, err));
    BAD("workspace", , call(plan, &base, NULL, err));
    BAD("workspace", , call(plan, &base, memory + 4, err));
    LAYER_CALL("rank", a.rank = RANK + 1);
    LAYER_CALL("p", a.dropout.p = 1);
    LAYER_CALL("p", a.dropout.p = NAN);
    LAYER_CALL("p", a.dropout.p = -0.1);
    LAYER_CALL("p", a.dropout.p = 1e-7);
    LAYER_CALL("site", a.dropout.site = 1);
    LAYER_CALL("site", a.dropout.site = 1 << 13);
    LAYER_CALL("dropout", a.dropout.pattern = LOD_PATTERN_COLUMN);
    LAYER_CALL("dropout", a.dropout.compensation = LOD_COMPENSATION_INFERENCE);
    LAYER_CALL("compensation", a.dropout.compensation = (lod_compensation)9);
    const lod_dropout columns = {.pattern = LOD_PATTERN_COLUMN, .p = 0.5};
#define COLUMNS_CALL(field, change)                                                                                    \
    LAYER_CALL(#field, a.dropout.p = 0; a.field = columns; change);                                                    \
    LAYER_CALL(#field, a.dropout.p = 0; a.lora_a = a.lora_b = columns; change)
    COLUMNS_CALL(lora_a, a.lora_a.p = 1);
    COLUMNS_CALL(lora_a, a.lora_a.site = 1);
    COLUMNS_CALL(lora_a, a.lora_a.pattern = LOD_PATTERN_ELEMENT);
    COLUMNS_CALL(lora_a, a.lora_a.pattern = LOD_PATTERN_SPAN);
    COLUMNS_CALL(lora_a, a.lora_a.compensation = LOD_COMPENSATION_INFERENCE);
    COLUMNS_CALL(lora_a, a.lora_a.compensation = (lod_compensation)9);
    COLUMNS_CALL(lora_b, a.lora_b.p = -1);
    COLUMNS_CALL(lora_b, a.lora_b.pattern = LOD_PATTERN_ELEMENT);
    COLUMNS_CALL(lora_b, a.lora_b.compensation = LOD_COMPENSATION_RENORMALISE);
    LAYER_CALL("dropout", a.lora_a = columns);
    LAYER_CALL("dropout", a.lora_b = columns);
    LAYER_CALL("rows", a.rows.start = NULL);
    LAYER_CALL("rows", a.rows.start = late);
    LAYER_CALL("rows", a.rows.start = descending);
    LAYER_CALL("rows", a.rows.start = long_start);
    LAYER_CALL("rows", a.rows.draw = NULL);
    LAYER_CALL("rows", a.rows.instance = instance);
    LAYER_CALL("w", a.w.packed = NULL);
    LAYER_CALL("w", a.w.dtype = (lod_dtype)9);
    LAYER_CALL("a", a.a = NULL);
    LAYER_CALL("bt", a.bt = NULL);
    LAYER_CALL("u", a.u = NULL);
    LAYER_CALL("x", a.x = NULL);
    LAYER_CALL("x", a.ldx--);
    if (!backward) {
        LAYER_CALL("y", a.y = NULL);
        LAYER_CALL("y", a.ldy--);
    } else {
        lod_grad_sum full = da, narrow = da;
        full.count = 2, narrow.size--;
        LAYER_CALL("dy", a.dy = NULL);
        LAYER_CALL("dy", a.lddy--);
        LAYER_CALL("dx", a.lddx--);
        LAYER_CALL("da", a.da = &full);
        LAYER_CALL("da", a.da = &narrow);
        LAYER_CALL("dbt", a.dbt = &da);
        static const uint8_t second[] = {0, 1};
        lod_grad_sum pair_a[] = {da, full}, pair_b[] = {dbt, dbt};
        pair_a[1].count = 3;
        LAYER_CALL("instances", a.instances = 65);
        LAYER_CALL("rows", a.instances = 1; a.rows.instance = second);
        LAYER_CALL("da", a.instances = 2; a.rows.instance = second; a.da = pair_a; a.dbt = pair_b);
        pair_a[1] = da, pair_b[1].size++;
        LAYER_CALL("dbt", a.instances = 2; a.da = pair_a; a.dbt = pair_b);
    }
    lod_plan_free(plan);
    lod_plan_free(other);
}

CHECK_ONCE(arguments_lowrank, 0) {
    check_lowrank(lod_lowrank_forward, false);
    check_lowrank(lod_lowrank_backward, true);
}

// --- attention ---

typedef lod_status attention_call(const lod_plan *, const lod_attention_args *, void *, lod_error *);

static void check_attention(attention_call *call, bool backward) {
    static const size_t start[] = {0, 4, TOKENS}, late[] = {1, 4, TOKENS}, more[] = {0, 5, TOKENS};
    static const size_t long_start[] = {0, 4, 4 + TOKENS + 1};
    static const uint32_t draw[] = {1, 2};
    static const uint8_t instance[] = {0, 64};
    check_shape("%s", backward ? "backward" : "forward");
    const lod_attention_shape shape = {.heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM, .keys = TOKENS};
    const size_t width = HEADS * HEAD_DIM, kv_width = KV_HEADS * HEAD_DIM;
    lod_attention_shape short_shape = shape, wide_shape = shape;
    short_shape.queries = 3, wide_shape.heads = MANY_HEADS;
    lod_plan *plan, *other, *short_plan, *wide_plan;
    CHECK_THAT(lod_plan_attention(&shape, 1, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    CHECK_THAT(lod_plan_attention(&short_shape, 1, LOD_ESTIMATE, &short_plan, NULL) == LOD_OK);
    CHECK_THAT(lod_plan_attention(&wide_shape, 1, LOD_ESTIMATE, &wide_plan, NULL) == LOD_OK);
    CHECK_THAT(lod_plan_rowwise(1, &other, NULL) == LOD_OK);
    char *memory = workspace_of(plan);
    const lod_rows rows = {.count = 2, .start = start, .draw = draw};
    lod_attention_args base = {.queries = rows, .keys = rows, .causal = true, .scale = 0.4};
    base.ldq = base.ldo = width, base.ldk = base.ldv = kv_width;
    base.q = floats("q", TOKENS, width), base.k = floats("k", TOKENS, kv_width), base.v = floats("v", TOKENS, kv_width);
    base.o = floats("o", TOKENS, width), base.d_o = floats("d_o", TOKENS, width);
    base.lse = floats("lse", TOKENS, HEADS), base.dq = floats("dq", TOKENS, width);
    base.dk = floats("dk", TOKENS, kv_width), base.dv = floats("dv", TOKENS, kv_width);
#define ATTENTION_CALL(field, change) BAD(field, lod_attention_args a = base; change, call(plan, &a, memory, err))
    BAD("plan", , call(NULL, &base, memory, err));
    BAD("plan", , call(other, &base, memory, err));
    BAD("workspace", , call(plan, &base, NULL, err));
    BAD("workspace", , call(plan, &base, memory + 4, err));
    ATTENTION_CALL("queries", a.queries.start = NULL);
    ATTENTION_CALL("queries", a.queries.start = late);
    ATTENTION_CALL("queries", a.queries.start = more);
    ATTENTION_CALL("keys", a.keys.start = NULL);
    ATTENTION_CALL("keys", a.keys.count = 1);
    ATTENTION_CALL("keys", a.keys.start = long_start);
    ATTENTION_CALL("q", a.q = NULL);
    ATTENTION_CALL("q", a.ldq--);
    ATTENTION_CALL("k", a.k = NULL);
    ATTENTION_CALL("k", a.ldk--);
    ATTENTION_CALL("v", a.v = NULL);
    ATTENTION_CALL("v", a.ldv--);
    ATTENTION_CALL("o", a.o = NULL);
    ATTENTION_CALL("o", a.ldo--);
    ATTENTION_CALL("lse", a.lse = NULL);
    ATTENTION_CALL("scale", a.scale = NAN);
    ATTENTION_CALL("scale", a.scale = INFINITY);
    ATTENTION_CALL("scale", a.scale = 1e39); // as a float
    BAD("queries", , call(short_plan, &base, memory, err));
    const lod_compensation nograd = LOD_COMPENSATION_RENORMALISE_NOGRAD, inverted = LOD_COMPENSATION_INVERTED;
    ATTENTION_CALL("p", a.dropout.p = 1);
    ATTENTION_CALL("p", a.dropout.p = -0.1);
    ATTENTION_CALL("p", a.dropout.p = NAN);
    ATTENTION_CALL("p", a.dropout.p = 1e-7);
    ATTENTION_CALL("site", a.dropout.p = 0.5; a.dropout.site = 1);
    ATTENTION_CALL("site", a.dropout.p = 0.5; a.dropout.site = 1 << 13);
    ATTENTION_CALL("pattern", a.dropout.pattern = (lod_pattern)3);
    ATTENTION_CALL("pattern", a.dropout.pattern = (lod_pattern)-1);
    ATTENTION_CALL("compensation", a.dropout.compensation = (lod_compensation)9);
    ATTENTION_CALL("dropout", a.dropout.pattern = LOD_PATTERN_COLUMN; a.dropout.compensation = inverted);
    ATTENTION_CALL("dropout", a.dropout.pattern = LOD_PATTERN_SPAN; a.dropout.compensation = inverted);
    ATTENTION_CALL("dropout", a.dropout.compensation = LOD_COMPENSATION_INFERENCE);
    ATTENTION_CALL("lse_visible", a.dropout.p = 0.5; a.dropout.compensation = nograd);
    ATTENTION_CALL("queries", a.dropout.p = 0.5; a.queries.draw = NULL);
    ATTENTION_CALL("queries", a.queries.instance = instance);
    BAD("dropout", lod_attention_args a = base; a.dropout.p = 0.5, call(wide_plan, &a, memory, err));
    if (backward) {
        ATTENTION_CALL("d_o", a.d_o = NULL);
        ATTENTION_CALL("dq", a.dq = NULL);
        ATTENTION_CALL("dk", a.dk = NULL);
        ATTENTION_CALL("dv", a.dv = NULL);
    }
    lod_plan_free(plan);
    lod_plan_free(short_plan);
    lod_plan_free(wide_plan);
    lod_plan_free(other);
}

CHECK_ONCE(arguments_attention, 0) {
    check_attention(lod_attention_forward, false);
    check_attention(lod_attention_backward, true);
}

// --- the loss ---

CHECK_ONCE(arguments_loss, 0) {
    check_shape("-");
    const lod_loss_shape shape = {.n_in = N_IN, .vocabulary = N_OUT, .tokens = TOKENS};
    static const uint32_t target[] = {0, 1, 2, 3, 4, N_OUT - 1}, beyond[] = {0, 1, 2, 3, 4, N_OUT};
    lod_plan *plan, *other;
    CHECK_THAT(lod_plan_loss(&shape, 1, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    CHECK_THAT(lod_plan_rowwise(1, &other, NULL) == LOD_OK);
    char *memory = workspace_of(plan);
    lod_loss_args base = {.tokens = TOKENS, .h = floats("h", TOKENS, N_IN), .ldh = N_IN, .w = packed(N_IN, N_OUT)};
    base.target = target, base.loss = floats("loss", 1, TOKENS), base.dh = floats("dh", TOKENS, N_IN), base.lddh = N_IN;
#define LOSS_CALL(field, change) BAD(field, lod_loss_args a = base; change, lod_loss(plan, &a, memory, err))
    BAD("plan", , lod_loss(NULL, &base, memory, err));
    BAD("plan", , lod_loss(other, &base, memory, err));
    BAD("workspace", , lod_loss(plan, &base, NULL, err));
    LOSS_CALL("tokens", a.tokens = TOKENS + 1);
    LOSS_CALL("h", a.h = NULL);
    LOSS_CALL("h", a.ldh--);
    LOSS_CALL("w", a.w.packed = NULL);
    LOSS_CALL("w", a.w.dtype = (lod_dtype)9);
    LOSS_CALL("target", a.target = NULL);
    LOSS_CALL("target", a.target = beyond);
    LOSS_CALL("loss", a.loss = NULL);
    LOSS_CALL("dh", a.lddh--);
    LOSS_CALL("consistency", a.consistency = LOD_CONSISTENCY_KL);
    lod_plan_free(plan);
    lod_plan_free(other);
}

CHECK_ONCE(arguments_consistency, 0) {
    check_shape("-");
    const lod_loss_shape shape = {.n_in = N_IN, .vocabulary = N_OUT, .tokens = TOKENS, .consistency = true};
    static const uint32_t target[TOKENS] = {0};
    lod_plan *plan;
    CHECK_THAT(lod_plan_loss(&shape, 1, LOD_ESTIMATE, &plan, NULL) == LOD_OK);
    char *memory = workspace_of(plan);
    float *h = floats("h", TOKENS, N_IN), *cells = floats("cells", 1, TOKENS);
    lod_loss_args base = {.tokens = TOKENS, .h = h, .ldh = N_IN, .w = packed(N_IN, N_OUT), .target = target};
    base.loss = base.divergence = cells, base.dh = base.dh2 = h, base.lddh = base.lddh2 = N_IN;
    base.consistency = LOD_CONSISTENCY_JS, base.weight = 1, base.h2 = h, base.ldh2 = N_IN;
    LOSS_CALL("consistency", a.consistency = (lod_consistency)3);
    LOSS_CALL("consistency", a.consistency = (lod_consistency)-1);
    LOSS_CALL("weight", a.weight = -0.1);
    LOSS_CALL("weight", a.weight = NAN);
    LOSS_CALL("weight", a.weight = 1e39); // as a float
    LOSS_CALL("h2", a.h2 = NULL);
    LOSS_CALL("h2", a.ldh2--);
    LOSS_CALL("divergence", a.divergence = NULL);
    LOSS_CALL("dh2", a.dh = NULL);
    LOSS_CALL("dh2", a.lddh2--);
    LOSS_CALL("dh2", a.lddh2++); // in place of h2
    LOSS_CALL("dh", a.lddh++);
    LOSS_CALL("target", a.target = NULL);
    lod_plan_free(plan);
}

// --- row-wise operations ---

CHECK_ONCE(arguments_rowwise, 0) {
    check_shape("-");
    lod_plan *plan, *other;
    const lod_loss_shape shape = {.n_in = N_IN, .vocabulary = N_OUT, .tokens = TOKENS};
    CHECK_THAT(lod_plan_rowwise(1, &plan, NULL) == LOD_OK);
    CHECK_THAT(lod_plan_loss(&shape, 1, LOD_ESTIMATE, &other, NULL) == LOD_OK);
    float *x = floats("x", TOKENS, N_IN), *g = floats("g", 1, N_IN), *cells = floats("cells", 1, CELLS);
    const lod_rmsnorm_args norm = {.tokens = TOKENS,
                                   .width = N_IN,
                                   .eps = 1e-5,
                                   .x = x,
                                   .ldx = N_IN,
                                   .g = g,
                                   .rstd = cells,
                                   .y = x,
                                   .ldy = N_IN,
                                   .dy = x,
                                   .lddy = N_IN,
                                   .dx = x,
                                   .lddx = N_IN};
#define NORM(field, change)                                                                                            \
    BAD(field, lod_rmsnorm_args a = norm; change, lod_rmsnorm_forward(plan, &a, err));                                 \
    BAD(field, lod_rmsnorm_args a = norm; change, lod_rmsnorm_backward(plan, &a, err))
#define NORM_BACKWARD(field, change) BAD(field, lod_rmsnorm_args a = norm; change, lod_rmsnorm_backward(plan, &a, err))
    BAD("plan", , lod_rmsnorm_forward(other, &norm, err));
    BAD("plan", , lod_rmsnorm_backward(NULL, &norm, err));
    NORM("width", a.width = 0);
    NORM("eps", a.eps = -1);
    NORM("eps", a.eps = NAN);
    NORM("x", a.x = NULL);
    NORM("x", a.ldx--);
    NORM("g", a.g = NULL);
    NORM("rstd", a.rstd = NULL);
    BAD("y", lod_rmsnorm_args a = norm; a.y = NULL, lod_rmsnorm_forward(plan, &a, err));
    BAD("y", lod_rmsnorm_args a = norm; a.ldy--, lod_rmsnorm_forward(plan, &a, err));
    NORM_BACKWARD("dx", a.lddx++); // in place of dy
    NORM_BACKWARD("dy", a.dy = NULL);
    NORM_BACKWARD("dy", a.lddy--);
    NORM_BACKWARD("dx", a.dx = NULL);
    NORM_BACKWARD("dx", a.lddx--);
    static const uint32_t position[TOKENS] = {0};
    const lod_rope_args rope = {.tokens = TOKENS,
                                .heads = HEADS,
                                .head_dim = HEAD_DIM,
                                .x = x,
                                .ldx = N_IN,
                                .position = position,
                                .cosine = cells,
                                .sine = cells};
#define ROPE(field, change) BAD(field, lod_rope_args a = rope; change, lod_rope(plan, &a, err))
    BAD("plan", , lod_rope(other, &rope, err));
    ROPE("head_dim", a.head_dim = 7);
    ROPE("head_dim", a.head_dim = 0);
    ROPE("x", a.x = NULL);
    ROPE("x", a.ldx = HEADS * HEAD_DIM - 1);
    ROPE("position", a.position = NULL);
    ROPE("cosine", a.cosine = NULL);
    ROPE("sine", a.sine = NULL);
    lod_plan_free(plan);
    lod_plan_free(other);
}

CHECK_ONCE(arguments_dropout_add, 0) {
    static const size_t start[] = {0, 4, TOKENS}, late[] = {1, 4, TOKENS};
    static const uint32_t draw[] = {1, 2};
    static const uint8_t instance[] = {0, 64};
    check_shape("-");
    lod_plan *plan;
    CHECK_THAT(lod_plan_rowwise(1, &plan, NULL) == LOD_OK);
    float *x = floats("x", TOKENS, N_IN);
    const lod_dropout_add_args base = {.rows = {.count = 2, .start = start, .draw = draw}, .width = N_IN,
                                       .dropout = {.compensation = LOD_COMPENSATION_INVERTED, .p = 0.1},
                                       .x = x, .ldx = N_IN, .add = x, .y = x, .ldy = N_IN};
#define DROPOUT(field, change) BAD(field, lod_dropout_add_args a = base; change, lod_dropout_add(plan, &a, err))
    BAD("plan", , lod_dropout_add(NULL, &base, err));
    DROPOUT("rows", a.rows.start = NULL);
    DROPOUT("rows", a.rows.start = late);
    DROPOUT("rows", a.rows.draw = NULL);
    DROPOUT("rows", a.rows.instance = instance);
    DROPOUT("width", a.width = 0);
    DROPOUT("x", a.x = NULL);
    DROPOUT("x", a.ldx--);
    DROPOUT("y", a.y = NULL);
    DROPOUT("y", a.ldy--);
    DROPOUT("y", a.ldy++); // in place of x
    DROPOUT("p", a.dropout.p = 1);
    DROPOUT("p", a.dropout.p = 1e-7);
    DROPOUT("site", a.dropout.site = 1);
    DROPOUT("pattern", a.dropout.pattern = (lod_pattern)3);
    DROPOUT("compensation", a.dropout.compensation = (lod_compensation)9);
    for (int triple = 0; triple < 3 * 5; triple++) {
        const lod_pattern pattern = (lod_pattern)(triple / 5);
        const lod_compensation c = (lod_compensation)(triple % 5);
        bool valid = pattern == LOD_PATTERN_SPAN ? c == LOD_COMPENSATION_NONE : c == LOD_COMPENSATION_INVERTED;
        if (valid || (pattern == LOD_PATTERN_ELEMENT && c == LOD_COMPENSATION_INFERENCE)) continue;
        DROPOUT("dropout", a.dropout.pattern = pattern; a.dropout.compensation = c);
    }
    lod_plan_free(plan);
}

CHECK_ONCE(arguments_elementwise, 0) {
    check_shape("-");
    lod_plan *plan;
    CHECK_THAT(lod_plan_rowwise(1, &plan, NULL) == LOD_OK);
    float *x = floats("x", 1, CELLS);
    const lod_silu_mul_args silu = {.count = CELLS, .gate = x, .up = x, .y = x, .dy = x, .dgate = x, .dup = x};
#define SILU(field, change)                                                                                            \
    BAD(field, lod_silu_mul_args a = silu; change, lod_silu_mul_forward(plan, &a, err));                               \
    BAD(field, lod_silu_mul_args a = silu; change, lod_silu_mul_backward(plan, &a, err))
#define SILU_BACKWARD(field, change)                                                                                   \
    BAD(field, lod_silu_mul_args a = silu; change, lod_silu_mul_backward(plan, &a, err))
    BAD("plan", , lod_silu_mul_forward(NULL, &silu, err));
    BAD("plan", , lod_silu_mul_backward(NULL, &silu, err));
    SILU("gate", a.gate = NULL);
    SILU("up", a.up = NULL);
    BAD("y", lod_silu_mul_args a = silu; a.y = NULL, lod_silu_mul_forward(plan, &a, err));
    SILU_BACKWARD("dy", a.dy = NULL);
    SILU_BACKWARD("dgate", a.dgate = NULL);
    SILU_BACKWARD("dup", a.dup = NULL);
    const lod_add_args sum = {.count = CELLS, .a = x, .b = x, .y = x};
#define ADD(field, change) BAD(field, lod_add_args a = sum; change, lod_add(plan, &a, err))
    BAD("plan", , lod_add(NULL, &sum, err));
    ADD("a", a.a = NULL);
    ADD("b", a.b = NULL);
    ADD("y", a.y = NULL);
    const lod_adamw_args adamw = {.count = CELLS,
                                  .w = x,
                                  .g = x,
                                  .m = x,
                                  .v = x,
                                  .learning_rate = 1e-3,
                                  .beta1 = 0.9,
                                  .beta2 = 0.999,
                                  .eps = 1e-8,
                                  .step = 1};
#define ADAMW(field, change) BAD(field, lod_adamw_args a = adamw; change, lod_adamw(plan, &a, err))
    BAD("plan", , lod_adamw(NULL, &adamw, err));
    ADAMW("w", a.w = NULL);
    ADAMW("g", a.g = NULL);
    ADAMW("m", a.m = NULL);
    ADAMW("v", a.v = NULL);
    ADAMW("beta1", a.beta1 = 1);
    ADAMW("beta1", a.beta1 = NAN);
    ADAMW("beta2", a.beta2 = -0.1);
    ADAMW("step", a.step = 0);
    lod_plan_free(plan);
}
