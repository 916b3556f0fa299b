#!/bin/sh
# Writes seeds for the fuzzers: seeds.sh FOLDER makes FOLDER/safetensors, FOLDER/config, FOLDER/jsonl, FOLDER/drop,
# FOLDER/sweep, FOLDER/tokenizer and FOLDER/wisdom.
set -eu
out=$1
mkdir -p "$out/safetensors" "$out/config" "$out/jsonl" "$out/drop" "$out/sweep" "$out/tokenizer" "$out/wisdom"

# tensors NAME HEADER DATA: the header's length as 8 bytes, the header, the data
tensors() {
    printf "\\$(printf %o $((${#2} % 256)))\\$(printf %o $((${#2} / 256)))\\0\\0\\0\\0\\0\\0%s%s" "$2" "$3" > "$out/safetensors/$1"
}
tensors empty '{}' ''
tensors one '{"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}' '12345678'
tensors three '{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]},"a":{"dtype":"F16","shape":[2,1],"data_offsets":[0,4]},"s":{"dtype":"I64","shape":[],"data_offsets":[8,16]}}' '1234567812345678'
tensors overlap '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}' '123'
tensors overflow '{"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}}' ''

cat > "$out/config/llama" <<END
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 172,
 "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "vocab_size": 512,
 "max_position_embeddings": 512, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "hidden_act": "silu", "mlp_bias": false,
 "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2, 3], "attention_dropout": 0.1,
 "hidden_dropout_prob": 0.1,
 "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
  "original_max_position_embeddings": 8192, "rope_type": "llama3"},
 "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 1.0}}
END
cat > "$out/config/adapter" <<END
{"base_model_name_or_path": null, "bias": "none", "fan_in_fan_out": false, "init_lora_weights": true, "lora_alpha": 8,
 "lora_dropout": 0.1, "modules_to_save": null, "peft_type": "LORA", "r": 4, "rank_pattern": {}, "task_type": "CAUSAL_LM",
 "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], "use_rslora": false}
END
printf '{"peft_type": "LORA", "r": 1, "target_modules": "all-linear"}' > "$out/config/linear"

printf '{"text": "some text"}\n\n{"text": "and more, a bit longer than fits"}\n' > "$out/jsonl/text"
printf '{"prompt": "a prompt that is long, a", "completion": "b, done"}\r\n' > "$out/jsonl/completion"
printf '{"prompt": "xa", "choices": ["b", "ab", ""], "label": 1}\n{"prompt": "", "choices": ["x", "y"], "label": "y"}' > "$out/jsonl/choice"

printf 'lora_input:element:0.1' > "$out/drop/input"
printf 'attn_logit:column:0.1:none:12-23' > "$out/drop/range"
printf 'attn_weight:span:0.25:renormalise-nograd:later-half' > "$out/drop/half"
printf 'attn_weight:element:1e-3:inverted:7' > "$out/drop/layer"
printf 'lora_b:column:0.5:none:1@[!a-p]_p?oj*' > "$out/drop/modules"

cat > "$out/sweep/product" <<END
{"base": {"epochs": 5, "learning-rate": 3e-3, "target-modules": "q_proj,v_proj", "drop": ["ffn_output:span:0.1"]},
 "vary": {"lora-r": [2, 16], "rate": [0.1, 0.5], "use-rslora": [true, false], "seed": [0, 1]}}
END
cat > "$out/sweep/runs" <<END
{"runs": [{"name": "plain"}, {"name": "keys", "method": "dropkey", "rate": 0.2}], "vary": {"seed": [0, 1, 2]}}
END
printf '{"vary": {"drop": [[], ["attn_logit:column:0.1", "hidden:element:0.1"]]}}' > "$out/sweep/lists"

# The letters of the fuzzer's text, with the space as U+0120, the line's end as U+010A, and two-byte letters' bytes.
vocab='"a":0,"b":1,"c":2,"1":3,"2":4,"\u0120":5,"\u010a":6,"<":7,"e":8,">":9,"i":10,"t":11,"s":12,"'"'"'":13'
vocab="$vocab"',"\u00c3":14,"\u00a9":15,"\u00e2":16,"\u0124":17,"\u00ac":18,"ab":19,"abab":20,"\u0120ab":21,"abc":22'
tokenizer() { # NAME MERGES ADDED STEPS MODEL
    printf '{"added_tokens":[%s],"normalizer":null,"pre_tokenizer":%s,"model":{"type":"BPE",%s"vocab":{%s},"merges":[%s]}}' \
        "$3" "$4" "$5" "$vocab" "$2" > "$out/tokenizer/$1"
}
tokenizer plain '"a b","ab ab",["\u0120","ab"],"ab c"' '' '{"type":"ByteLevel","add_prefix_space":false}' ''
tokenizer added '"a b","ab ab"' '{"id":23,"content":"<e>"},{"id":24,"content":"it","normalized":true}' \
    '{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false}]}' \
    '"unk_token":"<e>",'
tokenizer split '"a b"' '' \
    '{"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated","pattern":{"Regex":"\\\\p{L}+|\\\\s+(?!\\\\S)"}},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}' \
    '"ignore_merges":true,'

lowrank='lowrank n_in=576 n_out=1536 tokens=1024: measured, forward 6x16 mc 258 kc 288 columns, backward 6x16 mc 258 kc 512 tokens'
attention='attention heads=9 kv_heads=3 head_dim=64 keys=256 queries=256: exhausted, 6x16 queries 66'
loss='loss n_in=576 vocabulary=49152 tokens=1024: measured, forward 6x16 mc 90 kc 288 columns, backward 6x16 mc 90 kc 512 columns'
printf '%s\n' "$lowrank" > "$out/wisdom/lowrank"
printf '%s\n%s\n%s\n' "$attention" "$loss" "$lowrank" > "$out/wisdom/all"
