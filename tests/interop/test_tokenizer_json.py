"""tokenizer.json: the tokens, their places and the text back, as Hugging Face's own library has them; then a model."""
import json
import random
import subprocess

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from common import assert_relative, write_jsonl
from models import make_llama, sentences
from reference import load_model, mean_loss

BEGIN, END, SAY = "<|begin|>", "<|end|>", "<|say|>"
# What Llama 3's file parts by.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
SCRIPTS = [(0x20, 0x7e), (0xa0, 0x24f), (0x370, 0x3ff), (0x400, 0x4ff), (0x5d0, 0x5ea), (0x620, 0x669), (0x905, 0x970),
           (0xe01, 0xe5b), (0x300, 0x36f), (0x2000, 0x206f), (0x2150, 0x218b), (0x3040, 0x30ff), (0x4e00, 0x4eff),
           (0xac00, 0xacff), (0x1d400, 0x1d4ff), (0x1f600, 0x1f64f)]
TEXTS = ["", " ", "a", "  two  spaces ", "\ttab\n\nlines \r\n end\n", "I'm you're WE'LL it's 'sorry' O'Dell'S",
         "1 12 123 1234 12345 3.14159 ²³ ½ ٣٤٥ Ⅷ", "naïve café — “quotes” … ¿qué?", "日本語のテキスト、漢字。",
         "한국어 텍스트", "नमस्ते दुनिया", "שלום עולם", "🙂👍🏽👨‍👩‍👧‍👦 e\u0301", "x" * 5000, " " * 3000 + "x", "ab" * 3000,
         "a" + "\u00a0" * 5 + "b\u3000c\u2028d\x85e", f"{BEGIN}{SAY}hi {END} <|beg <|say|<|say|>", "<|say|> <|sayhello|> x",
         "def f(x):\n    return x**2  # comment\n", "https://example.org/a?b=c&d=%20", "\x01\x02\x7f control"]


def random_texts(seed, count):
    pick = random.Random(seed)

    def character():
        return chr(pick.randint(*pick.choice(SCRIPTS))) if pick.random() < 0.7 else pick.choice(" \n\t'.,sdtm019")

    return ["".join(character() for _ in range(pick.randint(1, 80))) for _ in range(count)]


def train(pre_tokenizer, begins=False, bytes_from=None, **model):
    """A tokenizer of its own: all bytes or those of some texts, merges of many lengths, and three added tokens, one of
    which holds another."""
    tokenizer = tokenizers.Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [] if bytes_from else pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=[BEGIN, END], initial_alphabet=alphabet,
                                  show_progress=False)
    texts = bytes_from or sentences(seed=1, count=400) + TEXTS + random_texts(2, 300)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(SAY, normalized=True),
                          tokenizers.AddedToken(SAY + "hello|>", normalized=True),
                          tokenizers.AddedToken("<|sayhello|>", normalized=True)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if begins:
        template = processors.TemplateProcessing(single=f"{BEGIN} $A",
                                                 special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))])
        tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, template])
    return tokenizer


def byte_level(**settings):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, **settings)


def ours(context, path, texts):
    """BOS, EOS and the size; each text's [(id, end)]; the texts as they come back."""
    back = context.folder("back") / "texts"
    done = subprocess.run([context.build / "tokens", path, back], input="".join(text + "\0" for text in texts).encode(),
                          capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    first, *lines = done.stdout.decode().splitlines()
    tokens = [[tuple(map(int, token.split(":"))) for token in line.split()] for line in lines]
    return [int(word) for word in first.split()], tokens, back.read_bytes().decode(errors="replace").split("\0")[:-1]


def check(context, tokenizer, path, whole=True):
    """whole: every text comes back. Where a byte has no token, the library's own ends take those behind it for it."""
    texts = TEXTS + random_texts(3, 600) + sentences(seed=4, count=50)
    (bos, _, size), got, back = ours(context, path, texts)
    assert size == tokenizer.get_vocab_size(), f"{size} tokens, not {tokenizer.get_vocab_size()}"
    begins = tokenizer.encode("", add_special_tokens=True).ids
    assert begins == ([bos] if bos >= 0 else []), f"BOS is {bos}, the template gives {begins}"
    for text, tokens, again in zip(texts, got, back, strict=True):
        want = tokenizer.encode(text, add_special_tokens=False)
        assert [id for id, _ in tokens] == want.ids, f"{text!r}: {tokens}, not {want.ids}"
        ends = [len(text[:end].encode()) for _, end in want.offsets]
        assert [end for _, end in tokens] == ends or not whole, f"{text!r}: ends {tokens}, not {ends}"
        assert again == text or not whole, f"{text!r} comes back as {again!r}"
    return f"{len(texts)} texts, {sum(map(len, got))} tokens"


def check_trained(context, name, tokenizer, whole=True):
    path = context.folder(name) / "tokenizer.json"
    tokenizer.save(str(path))
    return check(context, tokenizer, path, whole)


def test_gpt2(context):
    path = context.shared("tokenizers/gpt2/tokenizer.json")
    return check(context, tokenizers.Tokenizer.from_file(str(path)), path)


def test_byte_level(context):
    return check_trained(context, "byte-level", train(byte_level()))


def test_digits(context):
    """As SmolLM's."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return check_trained(context, "digits", train(pre_tokenizers.Sequence([digits, byte_level()])))


def test_grouped_digits(context):
    digits = pre_tokenizers.Digits(individual_digits=False)
    return check_trained(context, "grouped-digits", train(pre_tokenizers.Sequence([digits, byte_level()])))


def test_pattern(context):
    """As Llama 3's: whole words first, and BOS before a text."""
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    tokenizer = train(pre_tokenizers.Sequence([split, byte_level(use_regex=False)]), begins=True, ignore_merges=True)
    return check_trained(context, "pattern", tokenizer)


def test_literal(context):
    split = pre_tokenizers.Split("an", "isolated")
    return check_trained(context, "literal", train(pre_tokenizers.Sequence([split, byte_level(use_regex=False)])))


def test_missing_bytes(context):
    """As SmolLM2's, which has no token for some: they are left out, and their neighbours merge."""
    tokenizer = train(byte_level(), bytes_from=["cat and dog " * 3, "\u00e9\u0627 1"])
    return check_trained(context, "missing-bytes", tokenizer, whole=False)


def write_model(context, name, tokenizer):
    folder = context.folder(name)
    make_llama(seed=7, vocab_size=tokenizer.get_vocab_size()).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))
    return folder


def check_model(context, name, tokenizer):
    """Texts and completions, with what the tokenizer has for BOS; training takes the same tokens."""
    model = write_model(context, name, tokenizer)
    reference, texts = load_model(model), sentences(seed=5, count=12)
    folder = context.folder("data")
    data = write_jsonl(folder / "texts.jsonl", [{"text": text} for text in texts])
    examples = [(tokenizer.encode(text).ids, 1) for text in texts]
    pairs = write_jsonl(folder / "pairs.jsonl", [{"prompt": text, "completion": " " + text} for text in texts])
    end = tokenizer.token_to_id(END)
    both = [(tokenizer.encode(f"{text} {text}").ids + [end], len(tokenizer.encode(text).ids)) for text in texts]
    for file, wanted in (data, examples), (pairs, both):
        got = context.evaluate(model=model, data=file, max_length=128)
        want, targets = mean_loss(reference, wanted)
        assert got["targets"] == targets, f"{file.name}: {got['targets']} targets, not {targets}"
        assert_relative(file.name, got["loss"], want, 1e-6)
    _, metrics = context.train(model=model, data=pairs, max_steps=1, learning_rate=0, batch_size=12)
    assert_relative("loss of training", metrics[0]["loss"], want, 1e-6)
    return f"{len(texts)} texts, loss {want:.6f}"


def test_model(context):
    return check_model(context, "model", train(byte_level()))


def test_model_with_bos(context):
    return check_model(context, "model-with-bos", train(byte_level(), begins=True))


def test_transformers_reads_the_same(context):
    """AutoTokenizer on the model's folder gives what was compared with: no step in between changes it."""
    tokenizer = train(byte_level(), begins=True)
    model = write_model(context, "model-folder", tokenizer)
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(model)
    assert loaded.eos_token == END
    for text in TEXTS[:10]:
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
