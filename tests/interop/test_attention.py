"""Dropout at attention: loss and every adapter gradient of one step, and whole runs, against PyTorch."""
import torch

from attention import PLAIN, Dropped
from common import text_examples
from models import sentences, write_model
from reference import load_model, logits
from stories import MODEL, first_stories
from test_gradients import check_step, check_texts, random_init
from test_training import check_run

DROPKEY = Dropped("attn_logit", "column", "none")
DROPATTENTION = Dropped("attn_weight", "column", "renormalise-nograd")


def check(context, *dropped, batch_size=7, **options):
    """A model with three query heads for each KV head, texts of 3 to 64 tokens."""
    return check_texts(context, write_model(context, "random"), random_init(), batch_size=batch_size, max_length=64,
                       **{"p": 0, **options}, dropped=dropped)


def test_attention_without_dropout(context):
    """That what the others are compared with is transformers' attention."""
    model = write_model(context, "random")
    _, examples = text_examples(context, model, sentences(seed=3, count=5, longest=60), 64)
    with torch.no_grad():
        error = max((logits(load_model(model, PLAIN), tokens) - logits(load_model(model), tokens)).abs().max().item()
                    for tokens, _ in examples)
    assert error <= 1e-12, f"logits are off by {error:.3g}"
    return f"logits off by {error:.1e} at most"


def test_dropkey(context):
    return check(context, DROPKEY, method="dropkey")


def test_dropkey_and_input_dropout(context):
    return check(context, DROPKEY, method="dropkey", p=0.1)


def test_dropkey_recomputed(context):
    return check(context, DROPKEY, method="dropkey", batch_size=2, grad_accum=3, recompute=True)


def test_dropkey_per_kv_head(context):
    return check(context, Dropped("attn_logit", "column", "none", 0.3, per_kv_head=True), method="dropkey", rate=0.3,
                 mask_per_kv_head=True)


def test_dropkey_at_a_high_rate(context):
    """Most of the first queries see no key at all: their outputs are 0."""
    return check(context, Dropped("attn_logit", "column", "none", 0.9), method="dropkey", rate=0.9)


def test_dropattention(context):
    return check(context, DROPATTENTION, method="dropattention")


def test_dropattention_at_a_high_rate(context):
    return check(context, Dropped("attn_weight", "column", "renormalise-nograd", 0.9), method="dropattention", rate=0.9,
                 recompute=True)


def test_dropattention_per_kv_head(context):
    return check(context, Dropped("attn_weight", "column", "renormalise-nograd", 0.3, per_kv_head=True),
                 method="dropattention", rate=0.3, mask_per_kv_head=True)


def test_models_own_attention_dropout(context):
    """As its config.json has it."""
    model = write_model(context, "random-dropping", attention_dropout=0.2)
    return check_texts(context, model, random_init(), batch_size=7, max_length=64, p=0, model_dropout="config",
                       dropped=[Dropped("attn_weight", "element", "inverted", 0.2)])


def test_weights_renormalised(context):
    return check(context, Dropped("attn_weight", "span", "renormalise", 0.2), drop=["attn_weight:span:0.2:renormalise"])


def test_weights_by_element(context):
    return check(context, Dropped("attn_weight", "element", "inverted"), drop=["attn_weight:element:0.1"])


def test_weights_by_element_renormalised(context):
    return check(context, Dropped("attn_weight", "element", "renormalise-nograd", 0.5),
                 drop=["attn_weight:element:0.5:renormalise-nograd"])


def test_logits_by_element(context):
    return check(context, Dropped("attn_logit", "element", "none", 0.5), drop=["attn_logit:element:0.5"])


def test_logits_by_span(context):
    return check(context, Dropped("attn_logit", "span", "none", 0.2), drop=["attn_logit:span:0.2"])


def test_spans_per_kv_head(context):
    return check(context, Dropped("attn_logit", "span", "none", 0.4, per_kv_head=True), drop=["attn_logit:span:0.4"],
                 mask_per_kv_head=True)


def test_another_dropout_in_every_layer(context):
    return check(context, Dropped("attn_weight", "element", "inverted", 0.1, layers=[0]),
                 Dropped("attn_logit", "span", "none", 0.2, layers=[1]), p=0.1,
                 drop=["attn_weight:element:0.1:inverted:0", "attn_logit:span:0.2:none:later-half"])


def test_rates_of_layers(context):
    """One layer of five renormalises without gradient, two have rates of their own, two none."""
    model, stories = context.shared(MODEL), [story[:250] for story in first_stories(context, 4)]
    data, examples = text_examples(context, model, stories, 100)
    dropped = [Dropped("attn_logit", "column", "none", 0.1, layers=[0]),
               Dropped("attn_weight", "column", "renormalise-nograd", 0.3, layers=[2]),
               Dropped("attn_logit", "column", "none", 0.5, layers=[4])]
    return check_step(context, model, data, examples, random_init(), p=0, dropped=dropped, batch_size=4, max_length=100,
                      drop=["attn_logit:column:0.1:none:0", "attn_weight:column:0.3:renormalise-nograd:2",
                            "attn_logit:column:0.5:none:4-4"])


def train_stories(context, dropped, seed, **options):
    """20 steps on stories of up to 200 tokens: more than one block of keys."""
    model, stories = context.shared(MODEL), first_stories(context, 6)
    data, examples = text_examples(context, model, stories, 200)
    init = {"lora_r": 8, "target_modules": "all-linear", "init_b": "random"}
    _, detail = check_run(context, model, data, examples, init, [dropped], max_length=200, batch_size=2,
                          learning_rate=1e-3, seed=seed, **options)
    return detail


def test_dropkey_trains_stories260k(context):
    return train_stories(context, DROPKEY, 5, method="dropkey")


def test_dropattention_trains_stories260k(context):
    return train_stories(context, DROPATTENTION, 6, method="dropattention", lora_dropout=0.1)
