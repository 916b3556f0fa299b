#include "config.h"

#include <inttypes.h>
#include <string.h>

#include "file.h"
#include "json.h"

enum { MAX_SIZE = (1 << 24) - 1 };

static bool read_size(struct json_scope scope, const char *field, enum json_need need, int64_t most, uint32_t *value,
                      fault *f) {
    int64_t number = *value;
    if (!json_get_integer(scope, field, need, 1, most, &number, f)) {
        return false;
    }
    *value = (uint32_t)number;
    return true;
}

static bool read_family(struct json_scope scope, fault *f) {
    const char *type;
    if (!json_get_string(scope, "model_type", JSON_REQUIRED, &type, f)) {
        return false;
    }
    if (strcmp(type, "llama") != 0) {
        return json_fault(scope, "model_type", f, "\"%s\" is not supported, only \"llama\"", type);
    }
    return !json_has(scope, "quantization_config") ||
           json_fault(scope, "quantization_config", f, "quantised weights are not supported");
}

static bool read_heads(struct model_config *config, struct json_scope scope, fault *f) {
    if (!read_size(scope, "num_attention_heads", JSON_REQUIRED, MODEL_MAX_HEADS, &config->heads, f)) {
        return false;
    }
    config->kv_heads = config->heads;
    if (!read_size(scope, "num_key_value_heads", JSON_OPTIONAL, MODEL_MAX_HEADS, &config->kv_heads, f)) {
        return false;
    }
    if (config->heads % config->kv_heads != 0) {
        return json_fault(scope, "num_key_value_heads", f,
                          "%" PRIu32 " does not divide the %" PRIu32 " attention heads", config->kv_heads,
                          config->heads);
    }
    if (!json_has(scope, "head_dim") && config->hidden_size % config->heads != 0) {
        return json_fault(scope, "hidden_size", f, "%" PRIu32 " is not a multiple of the %" PRIu32 " attention heads",
                          config->hidden_size, config->heads);
    }
    config->head_dim = config->hidden_size / config->heads;
    if (!read_size(scope, "head_dim", JSON_OPTIONAL, MAX_SIZE, &config->head_dim, f)) {
        return false;
    }
    if (config->head_dim % 8 != 0 || config->head_dim > MODEL_MAX_HEAD_DIM) {
        return json_fault(scope, "head_dim", f, "is %" PRIu32 ", must be a multiple of 8, at most %d", config->head_dim,
                          MODEL_MAX_HEAD_DIM);
    }
    return true;
}

static bool read_sizes(struct model_config *config, struct json_scope scope, fault *f) {
    return read_size(scope, "hidden_size", JSON_REQUIRED, MAX_SIZE, &config->hidden_size, f) &&
           read_size(scope, "intermediate_size", JSON_REQUIRED, MAX_SIZE, &config->intermediate_size, f) &&
           read_size(scope, "num_hidden_layers", JSON_REQUIRED, MODEL_MAX_LAYERS, &config->layers, f) &&
           read_heads(config, scope, f) &&
           read_size(scope, "vocab_size", JSON_REQUIRED, MAX_SIZE, &config->vocab_size, f) &&
           read_size(scope, "max_position_embeddings", JSON_REQUIRED, MAX_SIZE, &config->max_positions, f);
}

static bool read_llama3_scaling(struct model_config *config, struct json_scope scope, fault *f) {
    lod_rope_scaling s = {.original_positions = config->max_positions};
    if (!json_get_number(scope, "factor", JSON_REQUIRED, 1.0, 1e6, &s.factor, f) ||
        !json_get_number(scope, "low_freq_factor", JSON_REQUIRED, 1e-3, 1e6, &s.low_freq_factor, f) ||
        !json_get_number(scope, "high_freq_factor", JSON_REQUIRED, 1e-3, 1e6, &s.high_freq_factor, f) ||
        !json_get_number(scope, "original_max_position_embeddings", JSON_OPTIONAL, 1.0, MAX_SIZE,
                         &s.original_positions, f)) {
        return false;
    }
    config->rope_scaling = s;
    return s.high_freq_factor > s.low_freq_factor ||
           json_fault(scope, "high_freq_factor", f, "is %g, must be above low_freq_factor, %g", s.high_freq_factor,
                      s.low_freq_factor);
}

// Older files call the type "type".
static bool read_rope_type(struct model_config *config, struct json_scope scope, fault *f) {
    const char *type = "default";
    const char *field = json_has(scope, "rope_type") ? "rope_type" : "type";
    if (!json_get_string(scope, field, JSON_OPTIONAL, &type, f)) {
        return false;
    }
    if (strcmp(type, "llama3") == 0) {
        return read_llama3_scaling(config, scope, f);
    }
    return strcmp(type, "default") == 0 ||
           json_fault(scope, field, f, "\"%s\" is not supported, only \"default\" and \"llama3\"", type);
}

static bool read_rope(struct model_config *config, struct json_scope scope, fault *f) {
    const json_t *scaling = NULL, *parameters = NULL;
    config->rope_theta = 10000.0;
    if (!json_get_number(scope, "rope_theta", JSON_OPTIONAL, 1.0, 1e12, &config->rope_theta, f) ||
        !json_get_object(scope, "rope_scaling", JSON_OPTIONAL, &scaling, f) ||
        !json_get_object(scope, "rope_parameters", JSON_OPTIONAL, &parameters, f)) {
        return false;
    }
    double rotary = 1.0;
    struct json_scope within_scaling = {.object = scaling, .file = scope.file, .within = "rope_scaling"};
    struct json_scope within_parameters = {.object = parameters, .file = scope.file, .within = "rope_parameters"};
    return read_rope_type(config, within_scaling, f) && read_rope_type(config, within_parameters, f) &&
           json_get_number(within_parameters, "partial_rotary_factor", JSON_OPTIONAL, 1.0, 1.0, &rotary, f) &&
           json_get_number(within_parameters, "rope_theta", JSON_OPTIONAL, 1.0, 1e12, &config->rope_theta, f);
}

static bool read_token(struct model_config *config, struct json_scope scope, const char *field, const json_t *value,
                       int32_t *token, fault *f) {
    if (!json_is_integer(value)) {
        return json_fault(scope, field, f, "must be an integer");
    }
    int64_t number = json_integer_value(value);
    if (number < 0 || number >= config->vocab_size) {
        return json_fault(scope, field, f, "token %" PRId64 " is not in the vocabulary of %" PRIu32, number,
                          config->vocab_size);
    }
    *token = (int32_t)number;
    return true;
}

static bool read_tokens(struct model_config *config, struct json_scope scope, fault *f) {
    config->bos_token_id = -1;
    if (json_has(scope, "bos_token_id") &&
        !read_token(config, scope, "bos_token_id", json_object_get(scope.object, "bos_token_id"), &config->bos_token_id,
                    f)) {
        return false;
    }
    if (!json_has(scope, "eos_token_id")) {
        return true;
    }
    const json_t *eos = json_object_get(scope.object, "eos_token_id");
    if (!json_is_array(eos)) {
        config->eos_count = 1;
        return read_token(config, scope, "eos_token_id", eos, &config->eos_token_ids[0], f);
    }
    size_t count = json_array_size(eos);
    if (count > MODEL_MAX_EOS) {
        return json_fault(scope, "eos_token_id", f, "%zu tokens, at most %d can be held", count, MODEL_MAX_EOS);
    }
    for (size_t i = 0; i < count; i++) {
        if (!read_token(config, scope, "eos_token_id", json_array_get(eos, i), &config->eos_token_ids[i], f)) {
            return false;
        }
    }
    config->eos_count = (uint32_t)count;
    return true;
}

static bool read_rate(struct json_scope scope, const char *field, double *rate, fault *f) {
    return json_get_number(scope, field, JSON_OPTIONAL, 0.0, 1.0, rate, f) &&
           (*rate < 1.0 || json_fault(scope, field, f, "is 1, must be below 1"));
}

static bool read_layers(struct model_config *config, struct json_scope scope, fault *f) {
    const char *activation = "silu";
    config->rms_norm_eps = 1e-6;
    if (!json_get_string(scope, "hidden_act", JSON_OPTIONAL, &activation, f) ||
        !json_get_number(scope, "rms_norm_eps", JSON_OPTIONAL, 0.0, 1.0, &config->rms_norm_eps, f) ||
        !read_rate(scope, "attention_dropout", &config->attention_dropout, f) ||
        !read_rate(scope, "hidden_dropout_prob", &config->hidden_dropout, f) ||
        !json_get_bool(scope, "tie_word_embeddings", JSON_OPTIONAL, &config->tie_word_embeddings, f)) {
        return false;
    }
    if (strcmp(activation, "silu") != 0) {
        return json_fault(scope, "hidden_act", f, "\"%s\" is not supported, only \"silu\"", activation);
    }
    if (!(config->rms_norm_eps > 0.0 && config->rms_norm_eps < 1.0)) {
        return json_fault(scope, "rms_norm_eps", f, "is %g, must lie between 0 and 1", config->rms_norm_eps);
    }
    return json_refuse_true(scope, "attention_bias", f) && json_refuse_true(scope, "mlp_bias", f);
}

static bool read_object(struct model_config *config, const json_t *root, const char *file, fault *f) {
    struct json_scope scope = {.object = root, .file = file};
    return read_family(scope, f) && read_sizes(config, scope, f) && read_layers(config, scope, f) &&
           read_rope(config, scope, f) && read_tokens(config, scope, f);
}

bool model_config_parse(struct model_config *config, const void *data, size_t size, const char *file, fault *f) {
    json_t *root;
    *config = (struct model_config){0};
    if (!json_read_bytes(&root, data, size, file, f)) {
        return false;
    }
    bool done = read_object(config, root, file, f);
    json_decref(root);
    return done;
}

bool model_config_read(struct model_config *config, const char *path, fault *f) {
    char inside[FILE_PATH_MAX];
    struct mapped_file map;
    if (!file_path(inside, file_is_folder(path) ? path : NULL, file_is_folder(path) ? "config.json" : path, f) ||
        !file_map(&map, inside, f)) {
        return false;
    }
    bool done = model_config_parse(config, map.data, map.size, inside, f);
    file_unmap(&map);
    return done;
}
