"""Dropout of activations: loss and every adapter gradient of one step, and whole runs, against PyTorch."""
from activations import ActivationMasks
from attention import Dropped
from common import ALL_MODULES, assert_relative, text_examples
from models import TIED, sentences, write_model
from reference import load_adapted, mean_loss
from stories import MODEL, first_stories
from test_gradients import check_step, check_texts, random_init
from test_training import check_run

HIDDENCUT = Dropped("ffn_output", "element", "inverted")
TRIPLES = [("element", "inverted"), ("element", "inference"), ("column", "inverted"), ("span", "none")]
HIDDENKEY_MINUS = [Dropped("attn_logit", "column", "none", 0.3, layers=[1]),
                   Dropped("ffn_output", "element", "inverted", 0.3, layers=[1])]


def check(context, *dropped, batch_size=7, modules="all-linear", **options):
    """A model with three query heads for each KV head, texts of 3 to 64 tokens."""
    return check_texts(context, write_model(context, "random"), random_init(modules=modules), batch_size=batch_size,
                       max_length=64, **{"p": 0, **options}, dropped=dropped)


def test_hiddencut(context):
    return check(context, HIDDENCUT, method="hiddencut")


def test_hiddenkey_minus(context):
    return check(context, *HIDDENKEY_MINUS, method="hiddenkey-minus", rate=0.3)


def test_hiddenkey_minus_of_stories260k(context):
    """Five layers: the later half are three."""
    model, stories = context.shared(MODEL), [story[:300] for story in first_stories(context, 4)]
    data, examples = text_examples(context, model, stories, 150)
    later = [Dropped(d.position, d.pattern, d.compensation, 0.1, layers=[2, 3, 4]) for d in HIDDENKEY_MINUS]
    return check_step(context, model, data, examples, random_init(), p=0, dropped=later, method="hiddenkey-minus",
                      batch_size=4, max_length=150)


def test_dropout(context):
    return check(context, Dropped("hidden", "element", "inference"), method="dropout")


def test_variational(context):
    return check(context, Dropped("hidden", "column", "inverted", 0.3), method="variational", rate=0.3)


def test_every_triple(context):
    """At every position, with dropout on the inputs of A, recomputed and not."""
    details = []
    for position in "ffn_middle", "ffn_output", "hidden", "embedding":
        for i, (pattern, compensation) in enumerate(TRIPLES if "ffn" in position else TRIPLES[:3]):
            details.append(check(context, Dropped(position, pattern, compensation, 0.2), p=0.1 * (i % 2),
                                 recompute=[True] * (i // 2), drop=[f"{position}:{pattern}:0.2:{compensation}"]))
    return f"{len(details)} triples; the last: {details[-1]}"


def test_some_modules(context):
    """Each alone: what needs no gradient is not computed, what does is."""
    dropped = [Dropped("hidden", "element", "inverted", 0.2), Dropped("ffn_middle", "column", "inverted", 0.3),
               Dropped("embedding", "element", "inverted", 0.1)]
    for i, module in enumerate(ALL_MODULES):
        detail = check(context, *dropped, modules=module, recompute=[True] * (i % 2),
                       drop=["hidden:element:0.2", "ffn_middle:column:0.3", "embedding:element:0.1"])
    return detail


def test_adapters_below_the_dropouts(context):
    """Gradients pass layers that drop and have no adapters, down to one module alone; recomputed and not."""
    model = write_model(context, "random-5-layers", num_hidden_layers=5)
    dropped = [Dropped("attn_logit", "column", "none", 0.2, [2, 3]), Dropped("ffn_output", "element", "inverted", 0.2,
                                                                             [2, 3])]
    for i, module in enumerate(("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj")):
        detail = check_texts(context, model, random_init(modules=module), batch_size=3, grad_accum=2, max_length=64,
                             p=0, layers_to_transform="0", dropped=dropped, recompute=[True] * (i % 2),
                             drop=["attn_logit:column:0.2:none:2-3", "ffn_output:element:0.2:inverted:2-3"])
    return detail


def test_all_at_once(context):
    """Also a model of other widths, at high rates; accumulated and recomputed."""
    model = write_model(context, "random-tied", **TIED)
    dropped = [Dropped("hidden", "element", "inverted", 0.5, layers=[0]), Dropped("ffn_output", "span", "none", 0.4,
                                                                                  layers=[1]),
               Dropped("ffn_middle", "element", "inference", 0.9), Dropped("embedding", "column", "inverted", 0.5),
               Dropped("attn_weight", "column", "renormalise-nograd", 0.5)]
    return check_texts(context, model, random_init(), batch_size=2, grad_accum=3, max_length=64, p=0.3, recompute=True,
                       dropped=dropped, drop=["hidden:element:0.5:inverted:0", "ffn_output:span:0.4:none:1",
                                              "ffn_middle:element:0.9:inference", "embedding:column:0.5",
                                              "attn_weight:column:0.5"])


def train_stories(context, dropped, seed, **options):
    model, stories = context.shared(MODEL), first_stories(context, 6)
    data, examples = text_examples(context, model, stories, 100)
    init = {"lora_r": 8, "target_modules": "all-linear", "init_b": "random"}
    _, detail = check_run(context, model, data, examples, init, dropped, max_length=100, batch_size=2,
                          learning_rate=1e-3, seed=seed, **options)
    return detail


def test_dropout_trains_stories260k(context):
    return train_stories(context, [Dropped("hidden", "element", "inference")], 5, method="dropout")


def test_variational_trains_stories260k(context):
    return train_stories(context, [Dropped("hidden", "column", "inverted")], 6, method="variational", lora_dropout=0.1)


def test_scaled_at_inference(context):
    """Held-out loss in training and in lodrop-eval; with inverted dropouts nothing is scaled."""
    model, texts = write_model(context, "random"), sentences(seed=9, count=6, longest=40)
    data, examples = text_examples(context, model, texts, 64)
    details = []
    for compensation in "inference", "inverted":
        dropped = [Dropped(position, "element", compensation, 0.3)
                   for position in ("hidden", "embedding", "ffn_middle")]
        drops = [f"{d.position}:element:0.3:{compensation}" for d in dropped]
        output, metrics = context.train(model=model, data=data, eval_data=data, max_length=64, max_steps=2, drop=drops,
                                        target_modules="all-linear", init_b="random")
        reference = load_adapted(model, output).eval()
        ActivationMasks(reference, 0, dropped).clear()
        want, _ = mean_loss(reference, examples)
        assert_relative("held-out loss", metrics[-1]["eval_loss"], want, 1e-6)
        got = context.evaluate(model=model, adapter=output, data=data, max_length=64)["loss"]
        assert_relative("lodrop-eval's loss", got, want, 1e-6)
        details.append(want)
    assert abs(details[0] - details[1]) > 1e-3, f"scaling changes nothing: {details}"
    return f"{details[0]:.6f} scaled, {details[1]:.6f} not"
