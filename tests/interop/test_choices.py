"""{"prompt", "choices", "label"}: every choice's score equals that of its sequence computed alone."""
import random

import numpy

from common import Tokenizer, assert_close, assert_relative, write_jsonl
from models import sentences, write_adapter, write_model
from reference import load_adapted, load_model, target_losses
from stories import MODEL


def random_prompts(count):
    """Choices of different lengths; some begin alike, so that they share tokens past the prompt."""
    pick = random.Random(51)
    prompts = sentences(seed=52, count=count)
    for i, prompt in enumerate(prompts):
        choices = sentences(seed=100 + i, count=pick.randint(2, 5), shortest=1, longest=4)
        if i % 2:
            choices += [choices[0] + " again and again"]
        choices = [" " + choice for choice in dict.fromkeys(choices)]
        yield {"prompt": prompt, "choices": choices, "label": pick.randrange(len(choices))}


def choice_losses(model, tokenizer, line, max_length):
    """Summed nats and number of targets of every choice, each run separately. If one is too long, the prompt of all
    loses as many tokens after BOS as that one must."""
    examples = [tokenizer.completion(line["prompt"], choice) for choice in line["choices"]]
    excess = max(0, max(len(tokens) for tokens, _ in examples) - max_length)
    examples = [(tokens[:1] + tokens[1 + excess:], first_target - excess) for tokens, first_target in examples]
    return [(target_losses(model, *example).sum().item(), len(example[0]) - example[1]) for example in examples]


def calibration_error(scores, labels):
    """Confidence is the softmax over the choices' summed log-probabilities; 15 equal bins, closed on the right."""
    shares = [numpy.exp(-numpy.array(score)) / numpy.exp(-numpy.array(score)).sum() for score in scores]
    confidence = numpy.array([share.max() for share in shares])
    right = numpy.array([share.argmax() == label for share, label in zip(shares, labels)])
    edges = numpy.linspace(0, 1, 16)[1:-1]
    bins = numpy.digitize(confidence, edges, right=True)
    assert numpy.abs(confidence[:, None] - edges).min() > 1e-5, "an answer lies between two bins"
    each = [(bins == b, numpy.mean(bins == b)) for b in numpy.unique(bins)]
    return sum(share * abs(right[there].mean() - confidence[there].mean()) for there, share in each)


def check(context, model, reference, lines, max_length=128, **options):
    """The file as a whole; then each line with each choice as the right one, which shows that choice's own score."""
    tokenizer, folder = Tokenizer(model), context.folder("choices")
    scores = [choice_losses(reference, tokenizer, line, max_length) for line in lines]
    options = {"model": model, "max_length": max_length, **options}
    right, total, targets = 0, 0.0, 0
    for line, score in zip(lines, scores, strict=True):
        ranked = sorted(nats for nats, _ in score)
        assert ranked[1] - ranked[0] > 1e-3, "two choices score the same: their order would be chance"
        right += score[line["label"]][0] == ranked[0]
        total += score[line["label"]][0]
        targets += score[line["label"]][1]
    got = context.evaluate(data=write_jsonl(folder / "all.jsonl", lines), **options)
    assert got["targets"] == targets, f"{got['targets']} targets, not {targets}"
    assert_relative("loss of the right choices", got["loss"], total / targets, 1e-6)
    assert_close("accuracy", got["metrics"]["accuracy"], right / len(lines), 1e-8)  # printed with nine digits
    ece = calibration_error([[nats for nats, _ in score] for score in scores], [line["label"] for line in lines])
    assert_close("ECE", got["metrics"]["ece"], ece, 1e-5)
    for i, (line, score) in enumerate(list(zip(lines, scores))[:4]):
        for k, (nats, count) in enumerate(score):
            data = write_jsonl(folder / f"line-{i}-{k}.jsonl", [{**line, "label": line["choices"][k]}])
            one = context.evaluate(data=data, **options)
            assert_relative(f"line {i}, choice {k}", one["loss"] * one["targets"], nats, 2e-6)
            assert one["targets"] == count
    return f"loss {got['loss']:.6f}, accuracy {right} of {len(lines)}, ECE {ece:.4f}"


def test_random_model(context):
    model = write_model(context, "random")
    return check(context, model, load_model(model), list(random_prompts(24)))


def test_prompts_cut_on_the_left(context):
    model, lines = write_model(context, "random"), list(random_prompts(12))
    lengths = [len(Tokenizer(model).completion(line["prompt"], line["choices"][0])[0]) for line in lines]
    assert min(lengths) < 45 < max(lengths), f"{lengths}: some must be cut and some not"
    return check(context, model, load_model(model), lines, max_length=45)


def test_with_an_adapter(context):
    model = write_model(context, "random")
    adapter = write_adapter(context, model, target_modules=["q_proj", "k_proj", "v_proj", "up_proj"])
    return check(context, model, load_adapted(model, adapter).eval(), list(random_prompts(12)), adapter=adapter)


def test_stories260k(context):
    model = context.shared(MODEL)
    lines = [{"prompt": "Once upon a time, there was a little girl named",
              "choices": [" Lily.", " table.", " ran."], "label": 0},
             {"prompt": "Tom was very sad. He started to", "choices": [" cry.", " Mom"], "label": 0},
             {"prompt": "She wanted to play", "choices": [" of", " with her toys", " the", " outside"], "label": 3}]
    return check(context, model, load_model(model), lines)
