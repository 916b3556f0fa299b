#!/usr/bin/env python3
"""The peer's side of step.py, in processes of its own.

    step_torch.py make FOLDER WORK        a Llama of random weights in FOLDER/F32 and FOLDER/BF16, with examples
    step_torch.py train FOLDER SETTINGS   a plain training loop over them; peer.jsonl: seconds and loss of each step
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

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "demo" / "base" / "tokenizer.model"
ADAPTED = ["q_proj", "v_proj"]


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


def adapted(folder, settings):
    import peft
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "F32", dtype=torch.float32)
    if settings["method"] != "lora-dropout":
        sys.exit(f"step_torch.py: method: {settings['method']!r} is unknown")
    config = peft.LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], lora_dropout=settings["rate"],
                             target_modules=ADAPTED)
    model = peft.get_peft_model(model, config).train()
    model.config.use_cache = False
    return model


def train(folder, settings):
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(1)
    model = adapted(folder, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0)
    ids = torch.tensor(json.loads((folder / "tokens.json").read_text()))
    with (folder / "peer.jsonl").open("w", buffering=1) as out:
        for _ in range(settings["steps"]):
            begin = time.perf_counter()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1)
            optimiser.step()
            optimiser.zero_grad()
            seconds = time.perf_counter() - begin
            out.write(json.dumps({"seconds": seconds, "loss": loss.item()}) + "\n")


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    {"make": make, "train": train}[sys.argv[1]](Path(sys.argv[2]), json.loads(sys.argv[3]))
