"""Models and data that need nothing from outside: small Llamas of random weights with a tokenizer of their own."""
import random

import peft
import sentencepiece
import torch
import transformers

WORDS = ("a cat dog bird fish sat ran flew swam slept on under over near by the mat tree house river hill old young "
         "small big red green happy and then but because it she he was is went home again today").split()
PIECES = 300  # of the tokenizer

# Settings of a model unlike the usual one below: heads of a width of their own, all with keys, a tied head.
TIED = {"tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 24,
        "hidden_size": 51}


def sentences(seed, count, shortest=3, longest=24):
    """Texts of words, of very different lengths: batches of them are ragged."""
    pick = random.Random(seed)
    return [" ".join(pick.choice(WORDS) for _ in range(pick.randint(shortest, longest))) for _ in range(count)]


def write_tokenizer(folder):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(seed=1, count=400)), model_prefix=str(folder / "tokenizer"), model_type="bpe",
        vocab_size=PIECES, byte_fallback=True, hard_vocab_limit=False, minloglevel=2, num_threads=1)
    (folder / "tokenizer.vocab").unlink()


def make_llama(seed, **settings):
    """Three query heads per KV head; no width is a multiple of 32; weights large enough that every part matters."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**{
        "vocab_size": 320, "hidden_size": 72, "intermediate_size": 100, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        "initializer_range": 0.15, **settings})
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def write_model(context, name, dtype=torch.float32, max_shard_size="1GB", **settings):
    """A Hugging Face folder written by transformers; made once for each name."""
    if name not in context.models:
        folder = context.folder(name)
        make_llama(seed=7, **settings).to(dtype).save_pretrained(folder, max_shard_size=max_shard_size)
        write_tokenizer(folder)
        context.models[name] = folder
    return context.models[name]


def write_adapter(context, model_folder, dtype=torch.float32, **settings):
    """A PEFT folder written by PEFT itself, with random A and B; settings are LoraConfig's."""
    torch.manual_seed(11)
    base = transformers.LlamaForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    config = peft.LoraConfig(**{"task_type": "CAUSAL_LM", "r": 8, "lora_alpha": 16, **settings})
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_((2 * torch.rand_like(parameter) - 1) / parameter.shape[0] ** 0.5)
    folder = context.folder("peft-adapter")
    model.to(dtype).save_pretrained(folder)
    return folder
