"""LoRA Dropout with its instances: loss and every adapter gradient of one step, and whole runs, against PyTorch."""
from attention import Dropped
from common import text_examples
from matrices import MatrixMasks
from models import TIED, sentences, write_model
from reference import backward
from stories import MODEL, first_stories
from test_gradients import check_step, check_texts, random_init
from test_training import check_run


def matrices(p=0.5, compensation="none", layers=None):
    return [Dropped(position, "column", compensation, p, layers) for position in ("lora_a", "lora_b")]


def check(context, dropped, instances=4, batch_size=7, modules="all-linear", model=None, **options):
    """A model with three query heads for each KV head, texts of 3 to 64 tokens."""
    model = model or write_model(context, "random")
    return check_texts(context, model, random_init(modules=modules), batch_size=batch_size, max_length=64,
                       dropped=dropped, instances=instances, **{"p": 0, **options})


def drops(p, compensation, layers=""):
    return [f"{position}:column:{p}:{compensation}{layers}" for position in ("lora_a", "lora_b")]


def test_lora_dropout(context):
    return check(context, matrices(), method="lora-dropout")


def test_one_instance(context):
    return check(context, matrices(0.3), instances=1, method="lora-dropout", rate=0.3)


def test_inverted(context):
    return check(context, matrices(0.7, "inverted"), instances=3, drop=drops(0.7, "inverted"))


def test_accumulated_and_recomputed(context):
    return check(context, matrices(), method="lora-dropout", batch_size=2, grad_accum=3, recompute=True)


def test_later_half(context):
    """The first layer runs once, its adapters get the gradients of all instances."""
    return check(context, matrices(0.3, layers=[1]), instances=5, drop=drops(0.3, "none", ":later-half"))


def test_later_half_recomputed(context):
    return check(context, matrices(0.3, layers=[1]), instances=2, recompute=True, batch_size=3, grad_accum=2,
                 drop=drops(0.3, "none", ":1"))


def test_adapters_in_the_later_half(context):
    return check(context, matrices(), method="lora-dropout", layers_to_transform="later-half")


def test_adapters_below_the_dropout(context):
    """And some in neither."""
    model = write_model(context, "random-5-layers", num_hidden_layers=5)
    return check(context, matrices(0.4, layers=[3]), instances=3, drop=drops(0.4, "none", ":3"), model=model,
                 layers_to_transform="1-3", modules="k_proj,down_proj")


def test_adapters_above_the_dropout(context):
    model = write_model(context, "random-5-layers", num_hidden_layers=5)
    return check(context, [Dropped("ffn_output", "element", "inverted", 0.2, [1])], instances=3, model=model,
                 layers_to_transform="3", modules="up_proj", drop=["ffn_output:element:0.2:inverted:1"])


def test_some_modules(context):
    """Each alone: what needs no gradient is not computed, what does is."""
    for module in "q_proj", "o_proj", "gate_proj", "down_proj":
        detail = check(context, matrices(0.3, layers=[1]), instances=2, modules=module,
                       drop=drops(0.3, "none", ":1"))
    return detail


def test_patterns_of_modules(context):
    """Another rate in other modules, and none in the rest."""
    dropped = [Dropped("lora_a", "column", "none", 0.3, modules=["q_proj", "k_proj"]),
               Dropped("lora_a", "column", "inverted", 0.6, [1], modules=["down_proj"]),
               Dropped("lora_b", "column", "none", 0.5, modules=["gate_proj", "up_proj", "down_proj"])]
    return check(context, dropped, instances=3, drop=["lora_a:column:0.3@[qk]_proj", "lora_b:column:0.5@*[!kqvo]_proj",
                                                      "lora_a:column:0.6:inverted:1@down_proj"])


def test_beside_other_dropouts(context):
    """Every one of them has masks of its own for each instance."""
    model = write_model(context, "random-tied", **TIED)
    dropped = [*matrices(), Dropped("attn_logit", "column", "none", 0.2), Dropped("ffn_middle", "element", "inverted"),
               Dropped("embedding", "element", "inverted")]
    return check(context, dropped, model=model, method="lora-dropout",
                 drop=["attn_logit:column:0.2", "ffn_middle:element:0.1", "embedding:element:0.1"])


def test_instances_of_other_dropouts(context):
    return check(context, [Dropped("hidden", "column", "inverted")], instances=3, p=0.2, method="variational")


def test_stories260k(context):
    model, stories = context.shared(MODEL), [story[:300] for story in first_stories(context, 4)]
    data, examples = text_examples(context, model, stories, 150)
    return check_step(context, model, data, examples, random_init(), p=0, dropped=matrices(), instances=4,
                      method="lora-dropout", batch_size=4, max_length=150)


def train_stories(context, dropped, seed, instances=4, **options):
    """20 steps, in which the masks change with every step."""
    model, stories = context.shared(MODEL), first_stories(context, 6)
    data, examples = text_examples(context, model, stories, 100)
    steps = iter(range(1000))

    def one_step(model, examples, draws, masks):
        step = next(steps)
        for one in masks:
            if isinstance(one, MatrixMasks):
                one.step = step
        return backward(model, examples, draws, masks, instances)

    _, detail = check_run(context, model, data, examples, random_init(), dropped, one_step, max_length=100,
                          batch_size=2, learning_rate=1e-3, seed=seed, instances=instances, **options)
    return detail


def test_lora_dropout_trains_stories260k(context):
    return train_stories(context, matrices(), 5, method="lora-dropout")


def test_lora_dropout_beside_dropkey_trains_stories260k(context):
    dropped = [*matrices(0.2, "inverted"), Dropped("attn_logit", "column", "none")]
    return train_stories(context, dropped, 6, instances=2, method="dropkey", drop=drops(0.2, "inverted"))
