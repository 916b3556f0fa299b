"""lodrop-generate: the likeliest tokens are those of transformers' generate, and draws follow its softmax."""
import json
import subprocess

import scipy.stats
import torch

from common import Tokenizer
from models import PIECES, sentences, write_adapter, write_model
from reference import load_adapted, load_model, logits
from stories import MODEL
from test_tokenizer_json import END, byte_level, train
from test_tokenizer_json import write_model as write_byte_level

DRAWS, TEMPERATURE = 160, 1.3


def ours(context, model, prompt, **options):
    return json.loads(context.run("lodrop-generate", model=model, prompt=prompt, json=True, **options))


def suppressed(model, tokenizer):
    """The model's rows for which there is no token."""
    return list(range(tokenizer.pieces.get_piece_size(), model.config.vocab_size)) or None


def check_greedy(context, model, reference, prompts, new_tokens, **options):
    tokenizer, count = Tokenizer(model), 0
    for prompt in prompts:
        begin = tokenizer.text(prompt, 10**6)[0]
        with torch.no_grad():
            want = reference.generate(torch.tensor([begin]), max_new_tokens=new_tokens, do_sample=False,
                                      suppress_tokens=suppressed(reference, tokenizer))[0].tolist()
        want = want[len(begin):]
        want = want[:want.index(2)] if 2 in want else want  # up to EOS
        got = ours(context, model, prompt, max_new_tokens=new_tokens, **options)
        assert got["prompt_tokens"] == len(begin)
        assert got["tokens"] == want, f"{prompt!r}: {got['tokens']}, not {want}"
        text = tokenizer.pieces.decode(begin[1:] + want)[len(tokenizer.pieces.decode(begin[1:])):]
        assert got["text"] == text.rstrip("\ufffd"), f"{got['text']!r}, not {text!r}"  # bytes of half a character
        count += len(want)
    return f"{count} tokens of {len(prompts)} prompts"


def test_stories260k(context):
    model = context.shared(MODEL)
    prompts = ["Once upon a time", "Lily and Ben went to the park.", "The big dog", "One day, a bird said: \"I"]
    return check_greedy(context, model, load_model(model), prompts, 100)


def test_random_model(context):
    """A prompt of more than one piece of 512 tokens, and short ones."""
    model = write_model(context, "random-long", max_position_embeddings=1024)
    prompts = sentences(seed=61, count=6) + [" ".join(sentences(seed=62, count=15))]
    length = len(Tokenizer(model).text(prompts[-1], 10**6)[0])
    assert 512 < length < 960, length
    return check_greedy(context, model, load_model(model), prompts, 60)


def test_adapter(context):
    model = write_model(context, "random-long", max_position_embeddings=1024)
    adapter = write_adapter(context, model, target_modules=["q_proj", "v_proj", "down_proj"])
    return check_greedy(context, model, load_adapted(model, adapter), sentences(seed=63, count=6), 60, adapter=adapter)


def check_byte_level(context, begins):
    """A tokenizer.json: the end by its name, text by bytes; without BOS something must stand before the first token."""
    tokenizer = train(byte_level(), begins=begins)
    model, count = write_byte_level(context, f"byte-level-{begins}", tokenizer), 0
    reference = load_model(model)
    for prompt in sentences(seed=64, count=5):
        begin = tokenizer.encode(prompt).ids
        with torch.no_grad():
            want = reference.generate(torch.tensor([begin]), max_new_tokens=60, do_sample=False,
                                      eos_token_id=tokenizer.token_to_id(END))[0].tolist()[len(begin):]
        want = [token for token in want if token not in (2, tokenizer.token_to_id(END))]
        got = ours(context, model, prompt, max_new_tokens=60)
        assert got["tokens"] == want, f"{prompt!r}: {got['tokens']}, not {want}"
        count += len(want)
    alone = subprocess.run([context.build / "lodrop-generate", "--model", model, "--max-new-tokens", "3"],
                           capture_output=True)
    refused = b"no BOS" in alone.stderr and alone.returncode == 1
    assert refused != begins and (alone.returncode == 0) == begins, f"without a prompt: {alone}"
    return f"{count} tokens"


def test_byte_level(context):
    return check_byte_level(context, begins=False)


def test_byte_level_with_bos(context):
    return check_byte_level(context, begins=True)


def check_draws(context, options, keep):
    """The first token of many seeds against the softmax over what `keep` leaves, in five classes of like weight."""
    model, prompt = write_model(context, "random-long", max_position_embeddings=1024), "the old cat"
    with torch.no_grad():
        last = logits(load_model(model), Tokenizer(model).text(prompt, 99)[0] + [0])[-1][:PIECES]
    share, order = torch.sort(torch.softmax(last / TEMPERATURE, 0), descending=True)
    count = keep(share)
    share, order = share[:count] / share[:count].sum(), order[:count].tolist()
    drawn = [ours(context, model, prompt, max_new_tokens=1, temperature=TEMPERATURE, seed=seed, **options)["tokens"]
             for seed in range(DRAWS)]
    places = [order.index(tokens[0]) if tokens else order.index(2) for tokens in drawn]  # nothing drawn: EOS was
    classes = (torch.cumsum(share, 0) - share / 2).mul(5).long().clamp(max=4)
    seen = torch.bincount(classes[places], minlength=5).double()
    wanted = torch.zeros(5, dtype=torch.double).index_add_(0, classes, share.double()) * DRAWS
    there = wanted > 0
    p = scipy.stats.chisquare(seen[there], wanted[there]).pvalue
    assert p > 1e-3, f"drawn {seen.tolist()}, expected {wanted.tolist()}: p = {p:.2g}"
    return f"{DRAWS} draws from {count} tokens, p = {p:.2f}"


def test_draws(context):
    return check_draws(context, {}, len)


def test_draws_of_the_likeliest(context):
    return check_draws(context, {"top_k": 7}, lambda share: 7)


def test_draws_of_a_share(context):
    return check_draws(context, {"top_p": 0.6}, lambda share: int((torch.cumsum(share, 0) < 0.6).sum()) + 1)
