"""The frozen model alone: loss and logits."""
import torch
from safetensors.torch import load_file

from common import assert_close, assert_relative, text_examples
from models import TIED, sentences, write_model
from reference import load_model, logits, mean_loss
from stories import MODEL, first_stories


def check_loss(context, model, data, examples, max_length):
    got = context.evaluate(model=model, data=data, max_length=max_length)
    want, targets = mean_loss(load_model(model), examples)
    assert got["targets"] == targets, f"{got['targets']} targets, transformers has {targets}"
    assert_relative("loss", got["loss"], want, 1e-6)
    return got["loss"], f"{got['loss']:.8f}, transformers {want:.8f}"


def test_stories260k(context):
    """The figure that was published with the model's folder, and transformers' own."""
    model, stories = context.shared(MODEL), first_stories(context, 50)
    data, examples = text_examples(context, model, stories, 512)
    loss, detail = check_loss(context, model, data, examples, 512)
    assert_close("loss of the first 50 stories", loss, 1.23857, 0.00003)
    return detail


def check_random_model(context, name, **settings):
    """Loss of ragged batches, and logits token by token, so that no error can hide in a mean."""
    model = write_model(context, name, **settings)
    data, examples = text_examples(context, model, sentences(seed=3, count=12, longest=60), 48)
    _, detail = check_loss(context, model, data, examples, 48)
    dump = context.folder("logits") / "logits.safetensors"
    context.evaluate(model=model, data=data, max_length=48, dump_logits=dump)
    got, reference = load_file(dump), load_model(model)
    assert len(got) == len(examples)
    for i, (tokens, _) in enumerate(examples):
        with torch.no_grad():
            want = logits(reference, tokens)
        error = (got[f"example.{i}"].double() - want).abs().max().item()
        assert error <= 1e-4, f"logits of example {i}: off by {error:.3g}"
    return detail


def test_random_f32(context):
    return check_random_model(context, "random")


def test_random_bf16_in_shards(context):
    detail = check_random_model(context, "random-bf16", dtype=torch.bfloat16, max_shard_size="60KB")
    assert_sharded(context.models["random-bf16"])
    return detail


def test_random_f16_in_shards(context):
    detail = check_random_model(context, "random-f16", dtype=torch.float16, max_shard_size="60KB")
    assert_sharded(context.models["random-f16"])
    return detail


def assert_sharded(folder):
    assert (folder / "model.safetensors.index.json").exists() and len(list(folder.glob("model-*.safetensors"))) > 2


def test_other_rope_theta(context):
    """And the two losses are different models': the setting is really read."""
    rope = {"rope_type": "default", "rope_theta": 500000.0}
    detail = check_random_model(context, "random-theta", rope_parameters=rope)
    data, _ = text_examples(context, context.models["random-theta"], sentences(seed=3, count=12, longest=60), 48)
    losses = [context.evaluate(model=write_model(context, name), data=data, max_length=48)["loss"]
              for name in ("random", "random-theta")]
    assert abs(losses[0] - losses[1]) > 1e-4, f"rope_theta changes nothing: {losses}"
    return detail


def test_llama3_scaling(context):
    """Frequencies in all three bands: waves of 6 to 2000 positions, those of 64 to 256 blended."""
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
    return check_random_model(context, "random-llama3", rope_parameters=rope)


def test_tied_head_and_no_gqa(context):
    return check_random_model(context, "random-tied", **TIED)
