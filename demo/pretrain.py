#!/usr/bin/env python3
"""Makes the demo's base model: a SentencePiece tokenizer and a small Llama, both from WordNet's text alone.

    torchrun --nproc-per-node 2 pretrain.py OUTPUT [--wordnet FOLDER] [--epochs N] [--seed N]

Needs torch, transformers, safetensors, sentencepiece and numpy. OUTPUT gets config.json, model.safetensors (bfloat16)
and tokenizer.model. The script was run once; its output is demo/base.

Only synsets that make_data.part_of calls 'text' are read: neither tokenizer nor model sees a gloss of the task, be it
held out or trained on. No line tells a synset's class. A synset gives one line an epoch, drawn among

    GLOSS = WORD        the gloss first, then one of the synset's own words or of its direct hypernyms'
    WORD: GLOSS         the dictionary's order
    EXAMPLE             a sentence that shows the use of the word
"""

import argparse
import io
import json
import math
import os
import random
import time

import numpy as np
import sentencepiece
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import make_data

UNK, BOS, EOS = 0, 1, 2
FIRST_CLASS = 3  # the class names are the pieces right behind the control pieces
VOCABULARY = 2048
BATCH_TOKENS = 3072
MAX_LENGTH = 112
ANSWER_WEIGHT = 3.0  # loss weight of what follows the separator: the reading of a gloss is what the task needs
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 60


# config.json in the form that every release of transformers reads.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 384,
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": VOCABULARY,
}


def train_tokenizer(synsets, path):
    """BPE with byte fallback on the text as it stands; each class name is one piece."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(
            text for s in synsets for text in [s.definition + make_data.SEPARATOR, *s.examples, *s.words]
        ),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        user_defined_symbols=make_data.CLASSES,
        num_threads=1,
        minloglevel=2,
    )
    with open(path, "wb") as file:
        file.write(model.getvalue())
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=path)
    for i, name in enumerate(make_data.CLASSES):
        tokens = tokenizer.encode("a member of the genus Canis" + make_data.SEPARATOR + name)
        assert tokens[-1] == FIRST_CLASS + i and tokens[:-1] == tokenizer.encode(
            "a member of the genus Canis" + make_data.SEPARATOR
        ), name


class Lines:
    """The tokenised parts of every synset, put together anew for each epoch."""

    def __init__(self, synsets, known, tokenizer):
        encode = tokenizer.encode
        self.gloss = encode([s.definition for s in synsets])
        self.question = encode([s.definition + make_data.SEPARATOR for s in synsets])
        self.words = [encode(s.words) for s in synsets]
        self.hypernyms = [encode([w for h in s.hypernyms if h in known for w in known[h].words]) for s in synsets]
        self.head = [encode([w + ":" for w in s.words]) for s in synsets]
        self.examples = [encode(s.examples) for s in synsets]

    def draw(self, i, rng):
        """(tokens, number of leading tokens that have weight 1)"""
        kind = rng.random()
        if kind < 0.1:
            tokens = rng.choice(self.head[i]) + self.gloss[i]
        elif kind < 0.2 and self.examples[i]:
            tokens = rng.choice(self.examples[i])
        else:
            answers = self.hypernyms[i] if self.hypernyms[i] and rng.random() < 0.65 else self.words[i]
            tokens = self.question[i] + rng.choice(answers)
            return [BOS, *tokens, EOS], 1 + len(self.question[i])
        return [BOS, *tokens, EOS], 2 + len(tokens)

    def batches(self, rng):
        """An epoch as lists of lines. Lines of about one length share a batch, so that little is padded."""
        drawn = [self.draw(i, rng) for i in range(len(self.gloss))]
        drawn = sorted((d for d in drawn if len(d[0]) <= MAX_LENGTH), key=lambda d: len(d[0]) + rng.random())
        batches, at = [], 0
        while at < len(drawn):
            size = max(1, BATCH_TOKENS // len(drawn[at][0]))
            batches.append(drawn[at : at + size])
            at += size
        rng.shuffle(batches)
        return batches


def padded(batch):
    """(tokens [row][position], loss weight of each next token)"""
    width = max(len(tokens) for tokens, _ in batch)
    lengths = torch.tensor([[len(tokens)] for tokens, _ in batch])
    plain = torch.tensor([[plain] for _, plain in batch])
    tokens = torch.tensor([tokens + [EOS] * (width - len(tokens)) for tokens, _ in batch])
    target = torch.arange(1, width)
    return tokens, (target < lengths) * torch.where(target < plain, 1.0, ANSWER_WEIGHT)


def token_losses(model, tokens):
    """[row][position] next-token losses; the class pieces take no part in the softmax, so none is pushed anywhere."""
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    logits = hidden @ model.model.embed_tokens.weight.T
    classes = torch.zeros(VOCABULARY)
    classes[FIRST_CLASS : FIRST_CLASS + len(make_data.CLASSES)] = -math.inf
    return F.cross_entropy((logits + classes).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(
        len(tokens), -1
    )


def optimizers(model):
    """Muon for the matrices, AdamW for embedding and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


@torch.no_grad()
def validation_losses(model, lines):
    """Mean loss of all tokens and of the answers alone, over the glosses of the task's training part."""
    total, answers = np.zeros(2), np.zeros(2)
    for tokens, weight in map(padded, lines.batches(random.Random(0))):
        loss, real, answer = token_losses(model, tokens), (weight > 0).float(), (weight > 1).float()
        total += (loss * real).sum().item(), real.sum().item()
        answers += (loss * answer).sum().item(), answer.sum().item()
    return total[0] / total[1], answers[0] / answers[1]


def average_gradients(parameters):
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, grad in zip(parameters, (flat / dist.get_world_size()).split([p.numel() for p in parameters])):
        p.grad.copy_(grad.view_as(p))


def pretrain(model, lines, epochs, seed, end_of_epoch):
    rank, world = dist.get_rank(), dist.get_world_size()
    rng, parameters, opts = random.Random(seed), list(model.parameters()), optimizers(model)
    step, start = 0, time.time()
    for epoch in range(epochs):
        batches = lines.batches(rng)
        steps_per_epoch = len(batches) // world
        # The number of batches differs a little between epochs; the schedule takes this epoch's for all.
        steps = step + (epochs - epoch) * steps_per_epoch
        losses = []
        for batch in batches[rank : steps_per_epoch * world : world]:
            tokens, weight = padded(batch)
            loss = (token_losses(model, tokens) * weight).sum() / weight.sum()
            loss.backward()
            average_gradients(parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            rate = min((step + 1) / WARMUP_STEPS, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = LEARNING_RATE * rate
                opt.step()
                opt.zero_grad()
            step += 1
            losses.append(loss.item())
            if rank == 0 and step % 50 == 0:
                print(f"step {step}/{steps}  loss {np.mean(losses[-50:]):.4f}  {time.time() - start:.0f} s", flush=True)
        if rank == 0:
            print(f"epoch {epoch + 1}: {sum(len(t) for b in batches for t, _ in b)} tokens", flush=True)
            end_of_epoch()


@torch.no_grad()
def set_class_embeddings(model, tokenizer):
    """A class piece that training never met needs a place of its own in the tied head. It gets the mean embedding of
    the pieces that spell its two names (noun, food), less the mean over classes, at the norm of an ordinary piece."""
    table = model.model.embed_tokens.weight
    norm = table[FIRST_CLASS + len(make_data.CLASSES) + 256 :].norm(dim=1).mean()
    rows = []
    for name in make_data.CLASSES:
        rows.append(torch.stack([table[tokenizer.encode(part)].mean(0) for part in name.lower().split(".")]).mean(0))
    rows = torch.stack(rows)
    rows -= rows.mean(0)
    table[FIRST_CLASS : FIRST_CLASS + len(rows)] = rows / rows.norm(dim=1, keepdim=True) * norm


def save_model(model, tokenizer, output):
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    set_class_embeddings(copy, tokenizer)
    tensors = {n: p.to(torch.bfloat16) for n, p in copy.named_parameters()}
    save_file(tensors, os.path.join(output, "model.safetensors"), metadata={"format": "pt"})
    with open(os.path.join(output, "config.json"), "w", encoding="utf-8") as file:
        json.dump(CONFIG, file, indent=2)
        file.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    os.makedirs(args.output, exist_ok=True)

    dist.init_process_group("gloo")
    synsets = make_data.read_wordnet(args.wordnet)
    text = [s for s in synsets if make_data.part_of(s.name) == "text"]
    known = {s.name: s for s in text}
    tokenizer_path = os.path.join(args.output, "tokenizer.model")
    if dist.get_rank() == 0:
        train_tokenizer(text, tokenizer_path)
    dist.barrier()
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=tokenizer_path)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    validation = Lines([s for s in synsets if make_data.part_of(s.name) == "train"], known, tokenizer)

    def end_of_epoch():
        all_tokens, answers = validation_losses(model, validation)
        print(f"validation loss {all_tokens:.4f}, of the answers {answers:.4f}", flush=True)
        save_model(model, tokenizer, args.output)

    if dist.get_rank() == 0:
        print(f"{len(text)} synsets, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    pretrain(model, Lines(text, known, tokenizer), args.epochs, args.seed, end_of_epoch)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
