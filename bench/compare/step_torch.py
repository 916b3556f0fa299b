#!/usr/bin/env python3
"""The peer's side of step.py, in processes of its own.

    step_torch.py make FOLDER WORK        a Llama of random weights in FOLDER/F32 and FOLDER/BF16, with examples
    step_torch.py train FOLDER SETTINGS   a plain training loop over them; peer.jsonl: seconds and loss of each step

The methods are written as is usual on top of transformers and PEFT: masks are tensors, passes are calls of the model.
"""
import json
import random
import sys
import time
from pathlib import Path

import sentencepiece
import torch
import transformers
from sentencepiece import sentencepiece_model_pb2
from torch.nn import functional as F
from transformers.integrations import sdpa_attention
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.llama import modeling_llama

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "demo" / "base" / "tokenizer.model"
ADAPTED = ["q_proj", "v_proj"]
ATTENTIONS = {"eager": modeling_llama.eager_attention_forward, "SDPA": sdpa_attention.sdpa_attention_forward}
HIDDEN = -1e9  # logit of a dropped key: as good as none, and no NaN where all keys are dropped


def write_tokenizer(folder, vocabulary):
    """The demo's, with as many pieces that never occur as the model's vocabulary needs."""
    model = sentencepiece_model_pb2.ModelProto.FromString(TOKENIZER.read_bytes())
    for i in range(len(model.pieces), vocabulary):
        model.pieces.add(piece=f"<unused{i}>", type=sentencepiece_model_pb2.ModelProto.SentencePiece.UNUSED)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())


def write_examples(folder, tokenizer, batch, tokens):
    """One batch of texts that are longer than it takes, and its tokens."""
    pick, examples = random.Random(1), []
    for _ in range(batch):
        words = ("".join(pick.choices("abcdefghijklmnopqrstuvwxyz", k=pick.randint(2, 9))) for _ in range(tokens))
        examples.append(" ".join(words))
    (folder / "examples.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in examples))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    rows = [([pieces.bos_id()] + pieces.encode(text))[:tokens] for text in examples]
    assert all(len(row) == tokens for row in rows)
    (folder / "tokens.json").write_text(json.dumps(rows))


def make(folder, work):
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=work["vocabulary"], hidden_size=work["hidden"], intermediate_size=work["intermediate"],
        num_hidden_layers=work["layers"], num_attention_heads=work["heads"], num_key_value_heads=work["kv_heads"],
        max_position_embeddings=max(2048, work["tokens"]), tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    for stored, dtype in (("BF16", torch.bfloat16), ("F32", torch.float32)):  # the same numbers
        model.to(dtype).save_pretrained(folder / stored)
        write_tokenizer(folder / stored, work["vocabulary"])
    write_examples(folder, folder / "F32" / "tokenizer.model", work["batch"], work["tokens"])


# --- Methods ---

def in_later_half(config, layer):
    return layer >= config.num_hidden_layers // 2


def dropkey(inner, rate):
    """Attention of which a share of the keys is hidden from all queries of a head."""
    def attend(module, query, key, value, attention_mask, **more):
        if module.training and in_later_half(module.config, module.layer_idx):
            dropped = torch.rand(*query.shape[:2], 1, key.shape[2]) < rate
            attention_mask = attention_mask + HIDDEN * dropped
        return inner(module, query, key, value, attention_mask, **more)
    return attend


def load_hiddenkey(folder, settings):
    """Column DropKey through the attention's mask, element HiddenCut on what comes from the FFN."""
    rate = settings["rate"]
    transformers.AttentionInterface.register("dropkey", dropkey(ATTENTIONS[settings["way"]], rate))
    AttentionMaskInterface.register("dropkey", eager_mask)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                              attn_implementation="dropkey")
    for index, layer in enumerate(model.model.layers):
        if in_later_half(model.config, index):
            layer.mlp.register_forward_hook(lambda mlp, _, output: F.dropout(output, rate, mlp.training))
    return model


def drop_columns_and_rows(layer, rate, instances):
    """Of A and of B, for each instance its own; instances of a pass stand one behind the other in the batch."""
    a, b, scale = layer.lora_A["default"].weight, layer.lora_B["default"].weight, layer.scaling["default"]
    lead = (instances,) if instances > 1 else ()

    def forward(x):
        down = a * (torch.rand(*lead, 1, a.shape[1]) >= rate)
        up = b * (torch.rand(*lead, b.shape[0], 1) >= rate)
        added = x.reshape(*lead, -1, x.shape[-1]) @ down.mT @ up.mT
        return layer.base_layer(x) + scale * added.view(*x.shape[:-1], -1)
    layer.forward = forward


def adapted(folder, settings):
    """A model with adapters and the method's dropouts, in training mode."""
    import peft
    method = settings["method"]
    if method.startswith("hiddenkey"):
        model = load_hiddenkey(folder, settings)
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], target_modules=ADAPTED,
                             lora_dropout=settings["rate"] if method == "lora-input-dropout" else 0)
    model = peft.get_peft_model(model, config).train()
    if method == "lora-dropout":
        instances = settings["instances"] if settings["way"] == "stacked" else 1
        for layer in (m for m in model.modules() if isinstance(m, peft.tuners.lora.Linear)):
            drop_columns_and_rows(layer, settings["rate"], instances)
    model.config.use_cache = False
    return model


def consistency(logits, others):
    """Mean over the targets of (KL(P||Q) + KL(Q||P)) / 2."""
    p, q = (F.log_softmax(z[:, :-1], -1) for z in (logits, others))
    both = sum(F.kl_div(x, y, log_target=True, reduction="sum") for x, y in ((q, p), (p, q)))
    return both / 2 / (p.shape[0] * p.shape[1])


def forward(model, ids, settings):
    """Loss and divergence. HiddenKey's gradient goes through the first pass alone."""
    output = model(input_ids=ids, labels=ids)
    if settings["method"] != "hiddenkey":
        return output.loss, 0.0
    with torch.no_grad():
        others = model(input_ids=ids).logits
    return output.loss, consistency(output.logits, others)


def backward(model, ids, settings):
    """Gradients of one step, its loss and divergence."""
    passes = settings["instances"] if settings["way"] == "passes" else 1
    if settings["way"] == "stacked":
        ids = ids.repeat(settings["instances"], 1)
    told = [0.0, 0.0]
    for _ in range(passes):
        loss, apart = forward(model, ids, settings)
        ((loss + settings["weight"] * apart) / passes).backward()
        told = [all + float(one) / passes for all, one in zip(told, (loss, apart), strict=True)]
    return told


def train(folder, settings):
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    model = adapted(folder / "F32", settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0)
    ids = torch.tensor(json.loads((folder / "tokens.json").read_text()))
    with (folder / "peer.jsonl").open("w", buffering=1) as out:
        for _ in range(settings["steps"]):
            begin = time.perf_counter()
            loss, apart = backward(model, ids, settings)
            torch.nn.utils.clip_grad_norm_(trained, 1)
            optimiser.step()
            optimiser.zero_grad()
            seconds = time.perf_counter() - begin
            out.write(json.dumps({"seconds": seconds, "loss": loss, "divergence": apart}) + "\n")


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    {"make": make, "train": train}[sys.argv[1]](Path(sys.argv[2]), json.loads(sys.argv[3]))
