"""What the tests of the programs share: running them, small inputs, counting. Only Python's standard library.

    LODROP_BUILD         folder of the programs (default: build)
    LODROP_TEST_DATA     folder of larger models and texts; what needs them is skipped without it
    LODROP_OTHER_BUILDS  folders, parted by blanks, of the programs by other compilers or with other optimisation; what
                         needs them is skipped without them
    LODROP_QEMU_BUILD    folder of the same programs for aarch64; what needs it is skipped without it
    LODROP_QEMU          what runs those (default: qemu-aarch64 -L /)
"""
import array
import atexit
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

BUILD = pathlib.Path(os.environ.get("LODROP_BUILD", "build")).resolve()
TIMEOUT_SECONDS = 300
QEMU = os.environ.get("LODROP_QEMU", "qemu-aarch64 -L /").split()

# --- Counting ---

_counts = {"passed": 0, "failed": 0, "skipped": 0}


def expect(what, okay, details=""):
    _counts["passed" if okay else "failed"] += 1
    if not okay:
        print(f"FAIL {what}")
        for line in str(details).splitlines()[:20]:
            print(f"     {line}")
    return okay


def skip(what, why):
    _counts["skipped"] += 1
    print(f"skip {what}: {why}")


def finish():
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**_counts))
    sys.exit(_counts["failed"] > 0)


# --- Running programs ---


def command(program, *arguments, build=BUILD, emulator=()):
    return [*emulator, str(build / program), *map(str, arguments)]


def environment(isa=None):
    """The caller's, but for the instruction set, which the programs choose unless one is given, and for wisdom."""
    values = {name: value for name, value in os.environ.items() if name != "LODROP_ISA"}
    values["LODROP_WISDOM"] = str(BUILD / "no-wisdom")
    return {**values, "LODROP_ISA": isa} if isa else values


def run(program, *arguments, isa=None, build=BUILD, emulator=()):
    """The program's end: returncode, stdout, stderr."""
    return subprocess.run(command(program, *arguments, build=build, emulator=emulator), env=environment(isa),
                          capture_output=True, text=True, timeout=TIMEOUT_SECONDS)


def train(model, data, output, *options, **how):
    return run("lodrop-train", "--model", model, "--data", data, "--output", output, *options, **how)


def resume(output, *options, **how):
    return run("lodrop-train", "--output", output, "--resume", *options, **how)


def told(done):
    """How a program ended, for the details of a failure."""
    return f"exit status {done.returncode}\n{done.stderr}"


def must(done):
    """For runs that a test builds on."""
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(done.args)}\n{told(done)}")
    return done


def info(**how):
    return json.loads(must(run("lodrop-info", "--json", **how)).stdout)


def simd_isas():
    """The SIMD instruction sets that this CPU runs, and those of the build that it lacks."""
    kernels = [k for k in info()["kernels"] if k["isa"] != "ref"]
    there = sorted({k["isa"] for k in kernels if k["runs"]})
    return there, sorted({k["isa"] for k in kernels} - set(there))


def skip_missing_isas(what, lacking):
    for isa in lacking:
        skip(f"{what}, {isa}", "this CPU does not have it")


def qemu_build(what):
    """The folder of the aarch64 programs, or None (and a skip) where they cannot be run."""
    folder = os.environ.get("LODROP_QEMU_BUILD")
    if not folder or not shutil.which(QEMU[0]):
        skip(what, "LODROP_QEMU_BUILD is not set" if not folder else f"{QEMU[0]} is not installed")
        return None
    return pathlib.Path(folder).resolve()


def other_builds(what):
    folders = os.environ.get("LODROP_OTHER_BUILDS", "").split()
    if not folders:
        skip(what, "LODROP_OTHER_BUILDS is not set")
    return [pathlib.Path(folder).resolve() for folder in folders]


def shared_data(what, *names):
    """Paths within LODROP_TEST_DATA, or None (and a skip) where one is missing."""
    folder = os.environ.get("LODROP_TEST_DATA")
    paths = [pathlib.Path(folder) / name for name in names] if folder else []
    missing = [str(path) for path in paths if not path.exists()]
    if missing or not folder:
        skip(what, f"{missing[0]} does not exist" if missing else "LODROP_TEST_DATA is not set")
        return None
    return paths


# --- Results ---


def adapter(output):
    return (pathlib.Path(output) / "adapter_model.safetensors").read_bytes()


def metrics(output):
    """metrics.jsonl without what a clock measured."""
    lines = (pathlib.Path(output) / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "tokens_per_second"} for line in lines]


# --- Places ---


def scratch():
    """A folder that goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="lodrop-programs-")
    _keep.append(folder)
    return pathlib.Path(folder.name)


_keep = []


def enter_mount_namespace():
    """Runs the script again where its mounts are its own. Returns whether mount() can be used."""
    if "LODROP_TEST_MOUNTS" not in os.environ:
        unshare = ["unshare", "--mount" if os.geteuid() == 0 else "--map-root-user", "--mount"]
        probe = shutil.which("unshare") and subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"],
                                                           capture_output=True)
        usable = bool(probe) and probe.returncode == 0
        os.environ["LODROP_TEST_MOUNTS"] = "yes" if usable else "no"
        if usable:
            os.execvp("unshare", [*unshare, sys.executable, "-B", *sys.argv])
    return os.environ["LODROP_TEST_MOUNTS"] == "yes"


def mount(folder, options):
    """A small disk at the folder, until the script ends; or, with the option remount, other options for it."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    if "remount" not in options:
        atexit.register(subprocess.run, ["umount", str(folder)])


# --- safetensors: a header {name: {dtype, shape, data_offsets}} and the data behind it ---


def write_safetensors(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    content = path.read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    return json.loads(content[8:8 + length]), content[8 + length:]


# --- A small model: random weights, and a tokenizer of single letters and a few words ---

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["the", "and", "he", "in", "\u2581the", "\u2581a"]
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # SentencePiece's types of pieces
PIECES = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)] + [(p, NORMAL) for p in ["\u2581", *LETTERS, *WORDS]]
CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}


def _field(number, payload):
    """A protocol buffer's field: bytes with their length, a whole number, or a float."""
    if isinstance(payload, bytes):
        return bytes([number << 3 | 2, len(payload)]) + payload
    if isinstance(payload, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", payload)
    return bytes([number << 3, payload])


def write_tokenizer(folder, pieces=PIECES):
    model = b""
    for rank, (text, kind) in enumerate(pieces):
        model += _field(1, _field(1, text.encode()) + _field(2, float(-rank)) + _field(3, kind))
    trainer, normalizer = _field(3, 2), _field(1, b"identity") + _field(3, 1) + _field(4, 0)  # BPE; a leading space
    (folder / "tokenizer.model").write_bytes(model + _field(2, trainer) + _field(3, normalizer))


def _shapes(config):
    width, inner = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    linear = {"self_attn.q_proj": [width, width], "self_attn.k_proj": [keys, width], "self_attn.v_proj": [keys, width],
              "self_attn.o_proj": [width, width], "mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width],
              "mlp.down_proj": [width, inner], "input_layernorm": [width], "post_attention_layernorm": [width]}
    shapes = {"model.embed_tokens.weight": [config["vocab_size"], width], "model.norm.weight": [width]}
    for layer in range(config["num_hidden_layers"]):
        shapes.update({f"model.layers.{layer}.{name}.weight": shape for name, shape in linear.items()})
    return shapes


def write_model(folder, seed=1, **more):
    """A Hugging Face folder of a Llama that has learnt nothing; more: of its config.json."""
    rng = random.Random(seed)
    config = {**CONFIG, "vocab_size": len(PIECES), **more}
    folder.mkdir()
    header, data = {}, array.array("f")
    for name, shape in _shapes(config).items():
        begin, count = 4 * len(data), shape[0] * (shape[1] if len(shape) > 1 else 1)
        mean, spread = (1, 0.1) if len(shape) == 1 else (0, shape[1] ** -0.5)
        data.extend(rng.gauss(mean, spread) for _ in range(count))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, 4 * len(data)]}
    write_safetensors(folder / "model.safetensors", header, data.tobytes())
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(folder)
    return folder


def write_lines(path, objects):
    path.write_text("".join(json.dumps(line) + "\n" for line in objects))
    return path


def random_words(rng, most):
    count = rng.randint(1, most)
    return " ".join("".join(rng.choices(LETTERS, k=rng.randint(1, 6))) for _ in range(count))


def write_texts(path, count=40, seed=2, words=14):
    """Examples of random lengths, {"text"}."""
    rng = random.Random(seed)
    return write_lines(path, [{"text": random_words(rng, words)} for _ in range(count)])


def write_completions(path, count=40, seed=3):
    rng = random.Random(seed)
    return write_lines(path, [{"prompt": random_words(rng, 9), "completion": " " + random_words(rng, 3)}
                              for _ in range(count)])


def write_choices(path, count=40, seed=4):
    rng = random.Random(seed)
    return write_lines(path, [{"prompt": random_words(rng, 6), "choices": [" yes", " no", " perhaps"],
                               "label": rng.randrange(3)} for _ in range(count)])
