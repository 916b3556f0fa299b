"""Loss and every adapter gradient of one step, against PyTorch + PEFT in float64 with our masks put in."""
import torch

from activations import ActivationMasks
from attention import PLAIN, AttentionMasks
from common import Tokenizer, assert_gradients, assert_relative, text_examples, write_jsonl
from matrices import POSITIONS, MatrixMasks
from models import TIED, sentences, write_adapter, write_model
from philox import epoch_order
from reference import Masks, adapter_parameters, backward, gradients, load_adapted
from stories import MODEL, first_stories

SEED = 2**40 + 17  # both halves of the key count


def at_attention(dropped):
    return [d for d in dropped if d.position.startswith("attn")]


def drop_masks(model, seed, dropped):
    """Of attention, loaded as PLAIN, of A and B, and of activations."""
    attention, matrices = at_attention(dropped), [d for d in dropped if d.position in POSITIONS]
    kinds = [(AttentionMasks, attention), (MatrixMasks, matrices),
             (ActivationMasks, [d for d in dropped if d not in attention + matrices])]
    return [kind(model, seed, some) for kind, some in kinds if some]


def check_step(context, model, data, examples, init, p=0.1, layers=None, dropped=(), instances=None, **options):
    """init: options that say what adapter the step starts from; p: on the input of A, in these layers (None: all);
    dropped: what the options drop elsewhere. The first step of a run visits the first examples of epoch 0's order,
    and numbers them from 0."""
    options = {"lora_dropout": p, "seed": SEED, **({"instances": instances} if instances else {}), **options}
    output, loss, got = context.train_first_step(model=model, data=data, **init, **options)
    # A learning rate of 0 left the adapter as it was: what was written is what the step started from.
    reference = load_adapted(model, output, attention=PLAIN if at_attention(dropped) else "sdpa")
    masks = [Masks(context, reference, SEED, p, layers)] if p else []
    masks += drop_masks(reference, SEED, dropped)
    visited = epoch_order(SEED, 0, len(examples))[:options["batch_size"] * options.get("grad_accum", 1)]
    want = backward(reference, [examples[i] for i in visited], range(len(visited)), masks, instances or 1)
    assert_relative("loss", loss, want, 1e-6)
    worst = assert_gradients(got, gradients(reference), 1e-5)
    return f"loss {loss:.7f}, PyTorch {want:.7f}; {len(got)} gradients, off by {worst:.1e} of the norm at most"


def random_init(adapter_rank=8, modules="all-linear", **options):
    return {"lora_r": adapter_rank, "target_modules": modules, "init_b": "random", **options}


def check_texts(context, model, init, batch_size, max_length, count=7, **options):
    data, examples = text_examples(context, model, sentences(seed=5, count=count, longest=50), max_length)
    return check_step(context, model, data, examples, init, batch_size=batch_size, max_length=max_length, **options)


def test_stories260k(context):
    """Real weights, six stories of different lengths, r = 8 on all seven modules."""
    model, stories = context.shared(MODEL), first_stories(context, 6)
    stories = [story[:200 + 60 * i] for i, story in enumerate(stories)]
    data, examples = text_examples(context, model, stories, 200)
    return check_step(context, model, data, examples, random_init(), batch_size=6, max_length=200)


def test_ragged_batch(context):
    return check_texts(context, write_model(context, "random"), random_init(), batch_size=7, max_length=64)


def test_accumulated_and_recomputed(context):
    return check_texts(context, write_model(context, "random"), random_init(), batch_size=2, grad_accum=3,
                       max_length=64, recompute=True)


def test_without_dropout(context):
    return check_texts(context, write_model(context, "random"), random_init(), batch_size=7, max_length=64, p=0)


def test_dropout_in_one_layer(context):
    return check_texts(context, write_model(context, "random"), random_init(), batch_size=7, max_length=64, p=0.3,
                       layers=[1], lora_dropout=0, drop=["lora_input:element:0.3:inverted:later-half"])


def test_high_rate(context):
    """Where the effective rate, a multiple of 1/65536, and the one asked for part visibly."""
    return check_texts(context, write_model(context, "random"), random_init(), batch_size=4, max_length=64, p=0.9)


def test_rslora_and_odd_rank(context):
    init = random_init(adapter_rank=5, use_rslora=True, lora_alpha=7)
    return check_texts(context, write_model(context, "random"), init, batch_size=3, max_length=64)


def test_some_modules_of_a_bf16_model(context):
    model = write_model(context, "random-bf16", dtype=torch.bfloat16, max_shard_size="60KB")
    return check_texts(context, model, random_init(modules="k_proj,o_proj,up_proj"), batch_size=3, max_length=64)


def test_f16_model(context):
    model = write_model(context, "random-f16", dtype=torch.float16, max_shard_size="60KB")
    return check_texts(context, model, random_init(), batch_size=3, max_length=64)


def test_tied_head(context):
    return check_texts(context, write_model(context, "random-tied", **TIED), random_init(), batch_size=3, max_length=64)


def test_many_targets(context):
    """More than are met with the vocabulary at a time; the gradient at the hidden states comes in place of these."""
    return check_texts(context, write_model(context, "random"), random_init(), batch_size=60, count=60, max_length=64)


def test_adapter_of_peft(context):
    """A and B drawn by PyTorch, not by us."""
    model = write_model(context, "random")
    adapter = write_adapter(context, model, target_modules="all-linear", lora_dropout=0.1)
    return check_texts(context, model, {"adapter": adapter}, batch_size=5, max_length=64)


def test_completions(context):
    """Only the completions' tokens are targets, yet the prompts' tokens carry gradients too."""
    model = write_model(context, "random")
    tokenizer = Tokenizer(model)
    pairs = [(prompt, " " + completion) for prompt, completion in
             zip(sentences(seed=21, count=5), sentences(seed=22, count=5, longest=9))]
    data = write_jsonl(context.folder("data") / "pairs.jsonl",
                       [{"prompt": prompt, "completion": completion} for prompt, completion in pairs])
    return check_step(context, model, data, [tokenizer.completion(*pair) for pair in pairs], random_init(),
                      batch_size=5, max_length=128)


def test_first_values(context):
    """As PEFT draws them: B = 0, and A uniform within 1 / sqrt(n_in), its variance a third of that squared."""
    model = write_model(context, "random")
    data, _ = text_examples(context, model, sentences(seed=5, count=2), 128)
    output, _, _ = context.train_first_step(model=model, data=data, lora_r=64, target_modules="all-linear")
    for name, value in adapter_parameters(load_adapted(model, output)).items():
        if "lora_B" in name:
            assert not value.any(), f"{name} does not start at 0"
            continue
        scaled = value.detach() * value.shape[1] ** 0.5
        assert scaled.abs().max() <= 1 and scaled.abs().max() > 0.99, f"{name}: largest {scaled.abs().max():.4f}"
        spread = scaled.square().mean().item() * 3
        assert abs(spread - 1) < 5 * (0.8 / scaled.numel()) ** 0.5, f"{name}: {spread:.4f} of the variance"
        assert abs(scaled.mean().item()) < 5 * (1 / (3 * scaled.numel())) ** 0.5, f"{name}: mean {scaled.mean():.4f}"
