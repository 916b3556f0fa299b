// config.h: what is read, which defaults stand in, and each thing that is refused.
#include "../../trainer/config.h"

#include <stdlib.h>
#include <string.h>

#include "../../trainer/file.h"
#include "../../trainer/json.h"
#include "expect.h"

static const char base[] = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 172,"
                           " \"num_hidden_layers\": 5, \"num_attention_heads\": 8, \"vocab_size\": 512,"
                           " \"max_position_embeddings\": 256}";

// base with the fields of `changes` set over it (null takes a field away).
static bool parse(struct model_config *config, const char *changes, fault *f) {
    json_t *root = json_loads(base, 0, NULL), *over = json_loads(changes, 0, NULL);
    CHECK(root && over);
    json_object_update(root, over);
    char *text = json_dumps(root, 0);
    bool done = model_config_parse(config, text, strlen(text), "config.json", f);
    free(text);
    json_decref(root);
    json_decref(over);
    return done;
}

static void refuse(const char *changes, const char *field, const char *reason) {
    struct model_config config;
    fault f = {0};
    bool done = parse(&config, changes, &f);
    REFUSED(done, &f, FAULT_INPUT, field, reason);
    CHECK(strncmp(f.text, "config.json: ", 13) == 0);
}

static void defaults(void) {
    struct model_config c;
    fault f = {0};
    CHECK(parse(&c, "{}", &f));
    CHECK(c.hidden_size == 64 && c.intermediate_size == 172 && c.layers == 5 && c.heads == 8 && c.kv_heads == 8);
    CHECK(c.head_dim == 8 && c.vocab_size == 512 && c.max_positions == 256 && !c.tie_word_embeddings);
    CHECK(c.rms_norm_eps == 1e-6 && c.rope_theta == 10000.0 && c.attention_dropout == 0.0 &&
          c.hidden_dropout == 0.0);
    CHECK(c.bos_token_id == -1 && c.eos_count == 0);
}

static void given(void) {
    struct model_config c;
    fault f = {0};
    CHECK(parse(&c,
                "{\"num_key_value_heads\": 2, \"head_dim\": 16, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true,"
                " \"attention_dropout\": 0.1, \"hidden_dropout_prob\": 0.2, \"bos_token_id\": 1,"
                " \"eos_token_id\": [2, 3], \"rope_scaling\": null,"
                " \"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"default\"}, \"attention_bias\": false}",
                &f));
    CHECK(c.kv_heads == 2 && c.head_dim == 16 && c.rms_norm_eps == 1e-5 && c.tie_word_embeddings);
    CHECK(c.hidden_dropout == 0.2 && c.attention_dropout == 0.1 && c.rope_theta == 5e5 && c.bos_token_id == 1);
    CHECK(c.eos_count == 2 && c.eos_token_ids[0] == 2 && c.eos_token_ids[1] == 3);
    CHECK(parse(&c, "{\"rope_theta\": 1000000, \"eos_token_id\": 5, \"rope_scaling\": {\"type\": \"default\"}}", &f));
    CHECK(c.rope_theta == 1e6 && c.eos_count == 1 && c.eos_token_ids[0] == 5 && c.rope_scaling.factor == 0);
    CHECK(parse(&c,
                "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1.0,"
                " \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 100}}",
                &f));
    CHECK(c.rope_scaling.factor == 8 && c.rope_scaling.low_freq_factor == 1 && c.rope_scaling.high_freq_factor == 4 &&
          c.rope_scaling.original_positions == 100);
}

static void refused(void) {
    refuse("{\"model_type\": null}", "model_type", "missing");
    refuse("{\"model_type\": \"mistral\"}", "model_type", "\"mistral\" is not supported");
    refuse("{\"model_type\": 1}", "model_type", "must be a string");
    refuse("{\"hidden_size\": null}", "hidden_size", "missing");
    refuse("{\"hidden_size\": 0}", "hidden_size", "is 0, must be 1");
    refuse("{\"hidden_size\": 16777216}", "hidden_size", "is 16777216");
    refuse("{\"hidden_size\": 64.5}", "hidden_size", "must be an integer");
    refuse("{\"hidden_size\": 63}", "hidden_size", "not a multiple of the 8");
    refuse("{\"intermediate_size\": -1}", "intermediate_size", "is -1");
    refuse("{\"num_hidden_layers\": 1025}", "num_hidden_layers", "is 1025");
    refuse("{\"num_attention_heads\": 257}", "num_attention_heads", "is 257");
    refuse("{\"num_attention_heads\": \"8\"}", "num_attention_heads", "must be an integer");
    refuse("{\"num_key_value_heads\": 3}", "num_key_value_heads", "3 does not divide");
    refuse("{\"num_key_value_heads\": 0}", "num_key_value_heads", "is 0");
    refuse("{\"head_dim\": 12}", "head_dim", "multiple of 8");
    refuse("{\"head_dim\": 264}", "head_dim", "at most 256");
    refuse("{\"vocab_size\": 0}", "vocab_size", "is 0");
    refuse("{\"max_position_embeddings\": 0}", "max_position_embeddings", "is 0");
    refuse("{\"rms_norm_eps\": 0}", "rms_norm_eps", "is 0");
    refuse("{\"rms_norm_eps\": 1}", "rms_norm_eps", "is 1");
    refuse("{\"rope_theta\": -1}", "rope_theta", "is -1");
    refuse("{\"rope_scaling\": {\"rope_type\": \"llama3\"}}", "rope_scaling.factor", "missing");
    refuse("{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 0.5}}", "rope_scaling.factor", "is 0.5");
    refuse("{\"rope_parameters\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4,"
           " \"high_freq_factor\": 4}}",
           "rope_parameters.high_freq_factor", "above low_freq_factor");
    refuse("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}", "rope_scaling.type", "\"linear\" is not");
    refuse("{\"rope_parameters\": {\"rope_type\": \"yarn\"}}", "rope_parameters.rope_type", "\"yarn\" is not");
    refuse("{\"rope_parameters\": {\"partial_rotary_factor\": 0.5}}", "rope_parameters.partial_rotary_factor",
           "is 0.5");
    refuse("{\"rope_parameters\": 1}", "rope_parameters", "must be an object");
    refuse("{\"hidden_act\": \"gelu\"}", "hidden_act", "\"gelu\" is not supported");
    refuse("{\"attention_bias\": true}", "attention_bias", "not supported");
    refuse("{\"mlp_bias\": true}", "mlp_bias", "not supported");
    refuse("{\"quantization_config\": {}}", "quantization_config", "not supported");
    refuse("{\"attention_dropout\": 1}", "attention_dropout", "is 1");
    refuse("{\"hidden_dropout_prob\": 1}", "hidden_dropout_prob", "is 1");
    refuse("{\"tie_word_embeddings\": 1}", "tie_word_embeddings", "true or false");
    refuse("{\"bos_token_id\": 512}", "bos_token_id", "not in the vocabulary");
    refuse("{\"eos_token_id\": -1}", "eos_token_id", "not in the vocabulary");
    refuse("{\"eos_token_id\": [1, \"2\"]}", "eos_token_id", "must be an integer");
    refuse("{\"eos_token_id\": [1,1,1,1,1,1,1,1,1]}", "eos_token_id", "9 tokens");
}

static void broken_json(void) {
    struct model_config c;
    fault f = {0};
    REFUSED(model_config_parse(&c, "{\"model_type\": ", 15, "config.json", &f), &f, FAULT_INPUT, "config.json: column",
            "not valid JSON");
    REFUSED(model_config_parse(&c, NULL, 0, "config.json", &f), &f, FAULT_INPUT, "config.json", "not valid JSON");
    REFUSED(model_config_read(&c, temporary("no-model"), &f), &f, FAULT_INPUT, "no-model", "No such file");
    CHECK(file_make_folders(temporary("model"), &f));
    REFUSED(model_config_read(&c, temporary("model"), &f), &f, FAULT_INPUT, "model/config.json", "No such file");
}

static void real_model(void) {
    const char *path = real_data("real_model", "models/stories260k");
    struct model_config c;
    fault f = {0};
    if (!path) {
        return;
    }
    CHECK(model_config_read(&c, path, &f));
    CHECK(c.hidden_size == 64 && c.layers == 5 && c.heads == 8 && c.kv_heads == 4 && c.tie_word_embeddings);
}

int main(void) {
    defaults();
    given();
    refused();
    broken_json();
    real_model();
    return check_end();
}
