"""Losses, learning rates and gradient norms of whole runs, step by step, against PyTorch's optimiser and clipping and
transformers' schedules, our masks put in at every step."""
import math

import torch
import transformers

from attention import PLAIN
from common import assert_close, assert_relative, text_examples
from models import sentences, write_adapter, write_model
from philox import epoch_order
from reference import Masks, adapter_parameters, backward, load_adapted
from stories import MODEL, first_stories
from test_gradients import at_attention, drop_masks

SCHEDULES = {"linear": transformers.get_linear_schedule_with_warmup,
             "cosine": transformers.get_cosine_schedule_with_warmup}
STEPS = 20


def visits(seed, count, per_step):
    """For step after step, the (running number, example) of its visits; an epoch's last step takes what is left."""
    epoch = 0
    while True:
        order = list(enumerate(epoch_order(seed, epoch, count), start=epoch * count))
        for first in range(0, count, per_step):
            yield order[first:first + per_step]
        epoch += 1


def reference_steps(model, masks, examples, options, backward):
    """(loss, learning rate, gradient norm before clipping) of every step; backward: reference.backward or its like."""
    parameters = list(adapter_parameters(model).values())
    optimiser = torch.optim.AdamW(parameters, lr=options["learning_rate"], betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=options.get("weight_decay", 0))
    warmup = math.ceil(options.get("warmup_ratio", 0.06) * STEPS)
    schedule = SCHEDULES[options.get("lr_scheduler", "linear")](optimiser, warmup, STEPS)
    order = visits(options["seed"], len(examples), options["batch_size"] * options.get("grad_accum", 1))
    for _, visited in zip(range(STEPS), order):
        loss = backward(model, [examples[i] for _, i in visited], [draw for draw, _ in visited], masks)
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.get("max_grad_norm", 1.0)).item()
        yield loss, schedule.get_last_lr()[0], norm
        optimiser.step()
        schedule.step()


def check_run(context, model, data, examples, init, dropped=(), backward=backward, **options):
    """dropped: what the options drop elsewhere than on inputs of A. The loss must fall: else little was compared."""
    options = {"max_length": 128, **options}
    start, _, _ = context.train_first_step(model=model, data=data, **init, **options)
    _, metrics = context.train(model=model, data=data, max_steps=STEPS, **init, **options)
    assert len(metrics) == STEPS
    reference = load_adapted(model, start, attention=PLAIN if at_attention(dropped) else "sdpa")
    p = options.get("lora_dropout", 0)
    masks = [Masks(context, reference, options["seed"], p)] if p else []
    masks += drop_masks(reference, options["seed"], dropped)
    worst = 0.0
    for got, (loss, rate, norm) in zip(metrics, reference_steps(reference, masks, examples, options, backward),
                                      strict=True):
        step = f"step {got['step']}: "
        assert_close(step + "loss", got["loss"], loss, 1e-4)
        assert_close(step + "learning rate", got["learning_rate"], rate, 1e-12)
        assert_relative(step + "gradient norm", got["grad_norm"], norm, 1e-3)
        worst = max(worst, abs(got["loss"] - loss))
    losses = [m["loss"] for m in metrics]
    assert losses[-1] < losses[0] - 0.01, f"nothing was learnt: {losses}"
    clipped = sum(m["grad_norm"] > options.get("max_grad_norm", 1.0) for m in metrics)
    return clipped, (f"{losses[0]:.5f} to {losses[-1]:.5f} in {STEPS} steps, {clipped} of them clipped, "
                     f"off by {worst:.1e} at most")


def check_texts(context, model, init, count, **options):
    data, examples = text_examples(context, model, sentences(seed=31, count=count, longest=30), 128)
    return check_run(context, model, data, examples, init, **options)


def test_stories260k(context):
    model, stories = context.shared(MODEL), [story[:250] for story in first_stories(context, 6)]
    data, examples = text_examples(context, model, stories, 128)
    init = {"lora_r": 8, "target_modules": "all-linear", "init_b": "random"}
    _, detail = check_run(context, model, data, examples, init, batch_size=2, lora_dropout=0.1, learning_rate=1e-3,
                          seed=5)
    return detail


def test_from_the_start_with_short_batches(context):
    """B starts at 0; seven examples in batches of three: every third step has but one. Some steps are clipped."""
    model, init = write_model(context, "random"), {"lora_r": 8, "target_modules": "all-linear"}
    clipped, detail = check_texts(context, model, init, count=7, batch_size=3, lora_dropout=0.1, learning_rate=3e-3,
                                  max_grad_norm=2, seed=2**33 + 1)
    assert 0 < clipped < STEPS, f"{clipped} of {STEPS} steps clipped: too few or too many"
    return detail


def test_cosine_decay_and_accumulation(context):
    model = write_model(context, "random")
    init = {"lora_r": 4, "target_modules": "q_proj,v_proj,down_proj", "init_b": "random"}
    _, detail = check_texts(context, model, init, count=8, batch_size=2, grad_accum=2, lora_dropout=0.3,
                            learning_rate=3e-3, lr_scheduler="cosine", warmup_ratio=0.2, weight_decay=0.1, seed=6)
    return detail


def test_adapter_of_peft_goes_on(context):
    """PEFT wrote it, with a list of modules; the run takes its rank, its alpha and its modules."""
    model = write_model(context, "random")
    adapter = write_adapter(context, model, r=6, lora_alpha=9, target_modules=["q_proj", "o_proj", "gate_proj"])
    _, detail = check_texts(context, model, {"adapter": adapter}, count=5, batch_size=5, learning_rate=3e-3, seed=8)
    return detail
