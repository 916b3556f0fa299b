#!/usr/bin/env python3
"""Makes the demo's base model: a SentencePiece tokenizer and a small Llama, both from WordNet's text alone.

    pretrain.py OUTPUT [--wordnet FOLDER] [--epochs N] [--threads N] [--seed N]

Needs torch, transformers, sentencepiece and numpy. OUTPUT gets config.json, model.safetensors (bfloat16) and
tokenizer.model. The script was run once; its output is demo/base.

Only synsets that make_data.part_of calls 'text' are read: neither tokenizer nor model sees a gloss of the task, be it
held out or trained on. No line tells a synset's class. A synset gives one line an epoch, drawn among

    GLOSS = WORD        the gloss first, then one of the synset's own words or of its direct hypernyms'
    WORD: GLOSS         the dictionary's order
    EXAMPLE             a sentence that shows the use of the word
"""

import argparse
import json
import math
import os
import random
import time

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import make_data

UNK, BOS, EOS = 0, 1, 2
FIRST_CLASS = 3  # the class names are the pieces right behind the control pieces
VOCABULARY = 2048
BATCH_TOKENS = 4096
MAX_LENGTH = 128
ANSWER_WEIGHT = 3.0  # loss weight of what follows the separator: the reading of a gloss is what the task needs
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 60


def llama_config():
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=16,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=True,
    )


def train_tokenizer(synsets, path):
    """BPE with byte fallback on the text as it stands; each class name is one piece."""
    with open(path + ".txt", "w", encoding="utf-8") as file:
        for s in synsets:
            for text in [s.definition, *s.examples, *s.words]:
                file.write(text + "\n")
    sentencepiece.SentencePieceTrainer.train(
        input=path + ".txt",
        model_prefix=path.removesuffix(".model"),
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
    os.remove(path + ".txt")
    os.remove(path.removesuffix(".model") + ".vocab")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=path)
    for i, name in enumerate(make_data.CLASSES):
        tokens = tokenizer.encode("a member of the genus Canis" + make_data.SEPARATOR + name)
        assert tokens[-1] == FIRST_CLASS + i and tokens[:-1] == tokenizer.encode(
            "a member of the genus Canis" + make_data.SEPARATOR
        ), name
    return tokenizer


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
        """An epoch as (tokens [row][position], loss weight of each next token): lines of about one length share a
        batch, so that little is padded, and no line sees another."""
        drawn = [self.draw(i, rng) for i in range(len(self.gloss))]
        drawn = sorted((d for d in drawn if len(d[0]) <= MAX_LENGTH), key=lambda d: len(d[0]) + rng.random())
        batches, at = [], 0
        while at < len(drawn):
            size = max(1, BATCH_TOKENS // len(drawn[at][0]))
            batches.append(drawn[at : at + size])
            at += size
        rng.shuffle(batches)
        for rows in batches:
            width = max(len(tokens) for tokens, _ in rows)
            lengths = torch.tensor([[len(tokens)] for tokens, _ in rows])
            plain = torch.tensor([[plain] for _, plain in rows])
            tokens = torch.tensor([tokens + [EOS] * (width - len(tokens)) for tokens, _ in rows])
            target = torch.arange(1, width)
            yield tokens, (target < lengths) * torch.where(target < plain, 1.0, ANSWER_WEIGHT)


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
    for tokens, weight in lines.batches(random.Random(0)):
        loss, real, answer = token_losses(model, tokens), (weight > 0).float(), (weight > 1).float()
        total += (loss * real).sum().item(), real.sum().item()
        answers += (loss * answer).sum().item(), answer.sum().item()
    return total[0] / total[1], answers[0] / answers[1]


def pretrain(model, lines, validation, epochs, seed, save):
    rng = random.Random(seed)
    steps_per_epoch = sum(1 for _ in lines.batches(random.Random(seed)))
    steps, step, start = epochs * steps_per_epoch, 0, time.time()
    opts = optimizers(model)
    for epoch in range(epochs):
        total, count, tokens_seen = 0.0, 0.0, 0
        for tokens, weight in lines.batches(rng):
            rate = min((step + 1) / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))) + 0.01)
            loss = (token_losses(model, tokens) * weight).sum() / weight.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for opt in opts:
                for group in opt.param_groups:
                    group["lr"] = LEARNING_RATE * rate
                opt.step()
                opt.zero_grad()
            total, count, tokens_seen = total + loss.item(), count + 1, tokens_seen + weight.count_nonzero().item()
            step += 1
            if step % 50 == 0:
                print(f"step {step}/{steps}  loss {total / count:.4f}  {time.time() - start:.0f} s", flush=True)
                total, count = 0.0, 0.0
        all_tokens, answers = validation_losses(model, validation)
        print(
            f"epoch {epoch + 1}  {tokens_seen} tokens  validation loss {all_tokens:.4f}, answers {answers:.4f}",
            flush=True,
        )
        save()


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
    copy.to(torch.bfloat16).save_pretrained(output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output")
    parser.add_argument("--wordnet", default="/usr/share/wordnet")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    os.makedirs(args.output, exist_ok=True)

    synsets = make_data.read_wordnet(args.wordnet)
    text = [s for s in synsets if make_data.part_of(s.name) == "text"]
    known = {s.name: s for s in text}
    tokenizer = train_tokenizer(text, os.path.join(args.output, "tokenizer.model"))
    model = LlamaForCausalLM(llama_config())
    print(f"{len(text)} synsets, {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    validation = [s for s in synsets if make_data.part_of(s.name) == "train"]
    pretrain(
        model,
        Lines(text, known, tokenizer),
        Lines(validation, known, tokenizer),
        args.epochs,
        args.seed,
        lambda: save_model(model, tokenizer, args.output),
    )


if __name__ == "__main__":
    main()
