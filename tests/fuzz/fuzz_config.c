// Any bytes are a config.json that is refused, or one whose numbers keep their promises; so for adapter_config.json.
#include <stdlib.h>

#include "../../trainer/adapter.h"
#include "../../trainer/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool kept) {
    if (!kept) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct model_config c;
    struct adapter_config a;
    fault f = {0};
    if (model_config_parse(&c, data, size, "fuzz", &f)) {
        check(c.hidden_size && c.intermediate_size && c.layers && c.layers <= MODEL_MAX_LAYERS);
        check(c.heads && c.heads <= MODEL_MAX_HEADS && c.kv_heads && c.heads % c.kv_heads == 0);
        check(c.head_dim && c.head_dim % 8 == 0 && c.head_dim <= MODEL_MAX_HEAD_DIM);
        check(c.vocab_size && c.bos_token_id < (int64_t)c.vocab_size && c.eos_count <= MODEL_MAX_EOS);
        check(c.rms_norm_eps > 0 && c.rms_norm_eps < 1 && c.rope_theta >= 1);
        check(c.rope_scaling.factor == 0 || (c.rope_scaling.factor >= 1 && c.rope_scaling.original_positions >= 1 &&
                                             c.rope_scaling.high_freq_factor > c.rope_scaling.low_freq_factor));
        check(c.attention_dropout >= 0 && c.attention_dropout < 1);
        check(c.hidden_dropout >= 0 && c.hidden_dropout < 1);
    } else {
        check(f.status && f.text[0]);
    }
    f = (fault){0};
    if (adapter_parse_config(&a, data, size, "fuzz", &f)) {
        check(a.r && a.r <= ADAPTER_MAX_RANK && a.modules && a.modules <= ADAPTER_ALL_MODULES);
        check(a.dropout >= 0 && a.dropout < 1);
    } else {
        check(f.status && f.text[0]);
    }
    return 0;
}
