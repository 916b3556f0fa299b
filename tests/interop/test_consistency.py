"""Two passes over the same examples: losses, divergences and every adapter gradient of one step, against PyTorch."""
import torch
from safetensors.torch import load_file

from attention import PLAIN, Dropped
from common import assert_gradients, assert_relative, text_examples
from lodrop_library import Consistency
from models import sentences, write_model
from philox import epoch_order
from reference import Masks, gradients, load_adapted, logits
from stories import MODEL, first_stories
from test_gradients import SEED, at_attention, drop_masks, random_init
from test_library_branches import divergence_of
from test_lora_dropout import drops, matrices
from test_training import check_run

HIDDENKEY = [Dropped("attn_logit", "column", "none", 0.3, layers=[1]),
             Dropped("ffn_output", "element", "inverted", 0.3, layers=[1])]
HIDDEN = [Dropped("hidden", "element", "inverted")]


def second_logits(model, tokens, masks, draw, kind):
    """Of the pass with masks of instance 1, or with none (js); a constant unless both passes are trained."""
    for one in masks:
        one.clear() if kind == "js" else one.set(draw, len(tokens) - 1, 1)
    with torch.set_grad_enabled(kind == "r-drop"):
        return logits(model, tokens)


def backward(model, examples, draws, masks, kind, weight):
    """Mean loss and mean divergence over the targets of all examples; the gradient is left in the parameters."""
    model.zero_grad()
    targets = sum(len(tokens) - first_target for tokens, first_target in examples)
    loss, divergence = 0.0, 0.0
    for (tokens, first_target), draw in zip(examples, draws, strict=True):
        z2 = second_logits(model, tokens, masks, draw, kind)[first_target - 1:]
        for one in masks:
            one.set(draw, len(tokens) - 1)
        z, expected = logits(model, tokens)[first_target - 1:], torch.tensor(tokens[first_target:])
        own = sum(torch.nn.functional.cross_entropy(x, expected, reduction="sum")
                  for x in ([z, z2] if kind == "r-drop" else [z]))
        own = own / 2 if kind == "r-drop" else own
        apart = divergence_of(Consistency.JS if kind == "js" else Consistency.KL, z, z2).sum()
        ((own + weight * apart) / targets).backward()
        loss, divergence = loss + own.item() / targets, divergence + apart.item() / targets
    return loss, divergence


def check_step(context, model, data, examples, kind, dropped, weight=0.1, p=0.0, bound=1e-5, **options):
    options = {"seed": SEED, "lora_dropout": p, "batch_size": 7, **random_init(), **options}
    dump = context.folder("gradients") / "gradients.safetensors"
    output, metrics = context.train(model=model, data=data, dump_gradients=dump, max_steps=1, learning_rate=0,
                                    **options)
    got = load_file(dump)
    got.pop("loss")
    reference = load_adapted(model, output, attention=PLAIN if at_attention(dropped) else "sdpa")
    masks = ([Masks(context, reference, SEED, p)] if p else []) + drop_masks(reference, SEED, dropped)
    visited = epoch_order(SEED, 0, len(examples))[:options["batch_size"] * options.get("grad_accum", 1)]
    loss, divergence = backward(reference, [examples[i] for i in visited], range(len(visited)), masks, kind, weight)
    assert_relative("loss", metrics[0]["loss"], loss, 1e-6)
    assert_relative("divergence", metrics[0]["divergence"], divergence, 1e-5)
    worst = assert_gradients(got, gradients(reference), bound)
    return f"loss {loss:.6f}, divergence {divergence:.6f}, gradients off by {worst:.1e} of the norm at most"


def check(context, kind, dropped, count=7, **options):
    model = write_model(context, "random")
    data, examples = text_examples(context, model, sentences(seed=5, count=count, longest=50), 64)
    return check_step(context, model, data, examples, kind, dropped, max_length=64, **options)


def test_hiddenkey(context):
    return check(context, "kl", HIDDENKEY, method="hiddenkey", rate=0.3)


def test_hiddenkey_of_a_larger_weight(context):
    return check(context, "kl", HIDDENKEY, method="hiddenkey", rate=0.3, weight=5, consistency_weight=5)


def test_hiddenkey_accumulated_and_recomputed(context):
    return check(context, "kl", HIDDENKEY, method="hiddenkey", rate=0.3, batch_size=2, grad_accum=3, recompute=True)


def test_hiddenkey_of_stories260k(context):
    """Five layers, the later half are three; the first two run once."""
    model, stories = context.shared(MODEL), [story[:300] for story in first_stories(context, 4)]
    data, examples = text_examples(context, model, stories, 150)
    later = [Dropped(d.position, d.pattern, d.compensation, 0.1, layers=[2, 3, 4]) for d in HIDDENKEY]
    return check_step(context, model, data, examples, "kl", later, method="hiddenkey", batch_size=4, max_length=150)


def test_kl_of_other_dropouts(context):
    """On inputs of A, and before the layers: nothing runs once."""
    dropped = [Dropped("embedding", "element", "inverted", 0.2),
               Dropped("attn_weight", "span", "renormalise-nograd", 0.2)]
    return check(context, "kl", dropped, p=0.3, consistency="kl", weight=1, consistency_weight=1,
                 drop=["embedding:element:0.2", "attn_weight:span:0.2"])


def test_r_drop(context):
    return check(context, "r-drop", HIDDEN, method="r-drop")


def test_r_drop_accumulated_and_recomputed(context):
    return check(context, "r-drop", HIDDENKEY, method="hiddenkey-minus", rate=0.3, p=0.1, consistency="r-drop",
                 weight=2, consistency_weight=2, batch_size=2, grad_accum=3, recompute=True)


def test_js(context):
    """To the pass without dropout."""
    return check(context, "js", HIDDENKEY, method="hiddenkey-minus", rate=0.3, consistency="js", weight=1,
                 consistency_weight=1)


def test_js_recomputed(context):
    dropped = [Dropped("hidden", "column", "inverted", 0.3), Dropped("embedding", "element", "inverted", 0.3)]
    return check(context, "js", dropped, p=0.3, consistency="js", weight=3, consistency_weight=3, recompute=True,
                 drop=["hidden:column:0.3", "embedding:element:0.3"])


def test_js_to_a_scaled_pass(context):
    """Classic dropout: the pass without dropout is multiplied by 1 - p."""
    return check(context, "js", [Dropped("hidden", "element", "inference", 0.3)], method="dropout", rate=0.3,
                 consistency="js", weight=1, consistency_weight=1)


def test_kl_of_adapters_above_the_first_mask(context):
    """The second branch starts where nothing is kept for the backward pass."""
    dropped = [Dropped("ffn_output", "element", "inverted", 0.3)]
    return check(context, "kl", dropped, consistency="kl", weight=1, consistency_weight=1, layers_to_transform="1",
                 drop=["ffn_output:element:0.3"])


def test_js_of_adapters_above_the_first_mask(context):
    dropped = [Dropped("attn_logit", "column", "none", 0.3)]
    return check(context, "js", dropped, consistency="js", weight=1, consistency_weight=1, layers_to_transform="1",
                 drop=["attn_logit:column:0.3"])


def test_lora_dropout(context):
    """Masks of A and B: others in the second pass (kl, r-drop), or their mean (js)."""
    for kind in "kl", "r-drop":
        check(context, kind, matrices(0.3), consistency=kind, weight=1, consistency_weight=1,
              drop=drops(0.3, "none"))
    return check(context, "js", matrices(0.3, "inverted"), consistency="js", weight=1, consistency_weight=1,
                 drop=drops(0.3, "inverted"))


def test_lora_dropout_of_the_later_half(context):
    """The second branch starts between two layers with adapters."""
    for kind in "kl", "js":
        detail = check(context, kind, matrices(0.3, layers=[1]), consistency=kind, weight=1, consistency_weight=1,
                       drop=drops(0.3, "none", ":later-half"), recompute=True)
    return detail


def test_many_targets(context):
    """More than are met with the vocabulary at a time; the gradients come in place of what they are of."""
    for kind in "kl", "r-drop":
        detail = check(context, kind, HIDDENKEY, method="hiddenkey-minus", rate=0.3, consistency=kind, weight=1,
                       consistency_weight=1, batch_size=60, count=60)
    return detail


def train_stories(context, kind, dropped, weight, seed, **options):
    """20 steps, in which the masks of both passes change."""
    model, stories = context.shared(MODEL), first_stories(context, 6)
    data, examples = text_examples(context, model, stories, 100)
    _, detail = check_run(context, model, data, examples, random_init(), dropped,
                          lambda *arguments: backward(*arguments, kind, weight)[0], max_length=100, batch_size=2,
                          learning_rate=1e-3, seed=seed, consistency_weight=weight, **options)
    return detail


def test_hiddenkey_trains_stories260k(context):
    later = [Dropped(d.position, d.pattern, d.compensation, 0.1, layers=[2, 3, 4]) for d in HIDDENKEY]
    return train_stories(context, "kl", later, 0.1, 5, method="hiddenkey")


def test_r_drop_trains_stories260k(context):
    return train_stories(context, "r-drop", HIDDEN, 1, 6, method="r-drop", lora_dropout=0.1)
