#!/usr/bin/env -S python3 -B
"""Every combination of dropouts, methods and options does what it says, or is refused in one line that names it.

What is expected stands in tables here, of what the methods' papers define; the programs are asked for all the rest:
position x pattern x compensation, dropout x dropout, method x dropout, method x option, option x --resume. What is
accepted changes exactly the fields of --print-config that it should, and what training measures if and only if it
should.
"""
import itertools
import json
import re

from harness import (adapter, expect, finish, metrics, must, resume, run, scratch, told, train, write_choices,
                     write_model, write_texts)

DAMAGED, USAGE, RESOURCE = 1, 2, 3  # exit statuses

# --- Dropouts: which triples have a definition, and what they stand on ---

POSITIONS = ["lora_input", "lora_a", "lora_b", "attn_logit", "attn_weight", "ffn_middle", "ffn_output", "embedding",
             "hidden"]
PATTERNS = ["element", "column", "span"]
COMPENSATIONS = ["none", "inverted", "renormalise", "renormalise-nograd", "inference"]
FFN, ACTIVATIONS = ["ffn_middle", "ffn_output"], ["ffn_middle", "ffn_output", "embedding", "hidden"]
DEFINED = [  # who, positions, patterns, compensations; the first one is meant where none is named
    ("inverted, classic", ACTIVATIONS, ["element"], ["inverted", "inference"]),
    ("variational", ACTIVATIONS, ["column"], ["inverted"]),
    ("PEFT's lora_dropout", ["lora_input"], ["element"], ["inverted"]),
    ("LoRA Dropout", ["lora_a", "lora_b"], ["column"], ["none", "inverted"]),
    ("attention dropout, or DropAttention of pairs", ["attn_weight"], ["element"],
     ["inverted", "renormalise-nograd", "renormalise"]),
    ("DropAttention", ["attn_weight"], ["column", "span"], ["renormalise-nograd", "renormalise"]),
    ("DropKey", ["attn_logit"], ["element", "column", "span"], ["none"]),
    ("HiddenCut", FFN, ["span"], ["none"]),
]
VALID = {(position, pattern): compensations for _, positions, patterns, compensations in DEFINED
         for position in positions for pattern in patterns}
TRIPLES = [(*at, compensation) for at, compensations in VALID.items() for compensation in compensations]
PLACES = {"lora_input": ["on A", "on B"], "lora_a": ["on A"], "lora_b": ["on B"], "attn_logit": ["on attention"],
          "attn_weight": ["on attention"], "ffn_middle": ["on the middle of the FFN"],
          "ffn_output": ["on the output of the FFN"], "hidden": ["on the output of the FFN"],
          "embedding": ["on the embedding"]}  # each takes one dropout in a layer
INPUT = ("lora_input", "element", "inverted")
ADAPTERS = ["lora_input", "lora_a", "lora_b"]  # B is 0 at first: the first step's loss is that without dropout


def entry(triple, p=0.3, **more):
    position, pattern, compensation = triple
    return {"position": position, "pattern": pattern, "p": p, "compensation": compensation, **more}


def text(triple, p=0.3):
    position, pattern, compensation = triple
    return f"{position}:{pattern}:{p}:{compensation}"


def common_place(one, other):
    places = [place for place in PLACES[one[0]] if place in PLACES[other[0]]]
    return places[0] if places else None


def drop(*triples):
    return [word for triple in triples for word in ["--drop", text(triple)]]


def as_peft(method, triple):
    """The method that plain LoRA with PEFT's dropout is called."""
    return {"method": "lora-input-dropout"} if method == "lora" and triple == INPUT else {}


# --- What programs say ---

STEPS = ["--max-steps", 2, "--warmup-ratio", 0, "--threads", 1]
numbers = itertools.count()


def say(options):
    return " ".join(map(str, options)) or "no options"


def expect_refusal(what, done, words, status, lines=1):
    said = done.stderr.splitlines()
    missing = [word for word in words if word not in "".join(said[-1:])]
    okay = done.returncode == status and not missing and len(said) == lines and not done.stdout
    return expect(what, okay, f"{told(done)}\nwanted: exit status {status}, one line with {words}; without: {missing}")


def refused(options, words, status=DAMAGED, model=None, output=None):
    """By --print-config and by training, in the same words, and nothing is left."""
    output = output or FOLDER / f"refused{next(numbers)}"
    printed = train(model or MODEL, DATA, output, *options, "--print-config")
    expect_refusal(f"{say(options)}: refused", printed, words, status)
    trained = train(model or MODEL, DATA, output, *options, *STEPS)
    expect(f"{say(options)}: refused by training as by --print-config", trained.stderr == printed.stderr and
           trained.returncode == status and not trained.stdout and not output.exists(), told(trained))


def refused_when_read(options, words):
    """By training, which reads the data."""
    output = FOLDER / f"refused{next(numbers)}"
    expect_refusal(f"{say(options)}: refused", train(MODEL, DATA, output, *options, *STEPS), words, DAMAGED)
    expect(f"{say(options)}: nothing is left", not output.exists())


def configuration(*options, model=None):
    """What --print-config shows, but for the place of the output."""
    config = json.loads(must(train(model or MODEL, DATA, FOLDER / "printed", *options, "--print-config")).stdout)
    return {name: value for name, value in config.items() if name not in ("model", "output")}


def changes(before, after):
    return {name: value for name, value in after.items() if before.get(name) != value}


def trained(*options, model=None, data=None):
    """What two steps measured, and their folder."""
    output = FOLDER / f"trained{next(numbers)}"
    must(train(model or MODEL, data or DATA, output, *STEPS, *options))
    return metrics(output), output


def measured(lines):
    return [(line["loss"], line["grad_norm"]) for line in lines]


def losses(lines):
    return [line["loss"] for line in lines]


# --- Triples ---


def check_triples():
    seen = {}
    for triple in itertools.product(POSITIONS, PATTERNS, COMPENSATIONS):
        position, pattern, compensation = triple
        options = drop(triple)
        if triple not in TRIPLES:
            why = compensation if (position, pattern) in VALID else pattern
            refused(options, ["lodrop-train", f"--drop {text(triple)}: ", position, why])
            continue
        changed = changes(PLAIN_CONFIG, configuration(*options))
        expected = {"drop": [text(triple)], "drops": [entry(triple)], **as_peft("lora", triple)}
        expect(f"{text(triple)}: --print-config", changed == expected, changed)
        lines, output = trained(*options)
        expect(f"{text(triple)}: the first loss is that without dropout if and only if B hides it",
               (losses(lines)[0] == losses(PLAIN)[0]) == (position in ADAPTERS), (lines, PLAIN))
        expect(f"{text(triple)}: the second is not", losses(lines)[1] != losses(PLAIN)[1], (lines, PLAIN))
        recipe = json.loads((output / "lodrop.json").read_text())
        expect(f"{text(triple)}: lodrop.json", recipe["dropouts"] == [entry(triple)], recipe)
        seen[text(triple)] = measured(lines)
        lines, _ = trained(*options, "--instances", 2)
        seen[f"{text(triple)} of two instances"] = measured(lines)
    for one, other in itertools.combinations(seen, 2):
        expect(f"{one} is not {other}", seen[one] != seen[other], seen[one])


def check_usual_compensations():
    for position, pattern in itertools.product(POSITIONS, PATTERNS):
        options = ["--drop", f"{position}:{pattern}:0.3"]
        if (position, pattern) in VALID:
            drops = configuration(*options)["drops"]
            expect(f"{say(options)}: the usual compensation",
                   drops == [entry((position, pattern, VALID[position, pattern][0]))], drops)
        else:
            refused(options, ["--drop", position])


def check_modules():
    """Patterns of modules, for the positions that adapters have; q_proj and v_proj have adapters here."""
    for triple in TRIPLES:
        said = text(triple)
        if triple[0] not in ADAPTERS:
            refused(["--drop", f"{said}@q_proj"], ["--drop", triple[0], "not of modules"])
            continue
        options = ["--target-modules", "q_proj,v_proj", "--drop"]
        base, (every, _) = changes(PLAIN_CONFIG, configuration(*options[:2])), trained(*options, said)
        for pattern, same in [("q_proj", False), ("[uv]*", False), ("*_proj", True), ("?_proj", True)]:
            changed = changes(PLAIN_CONFIG, configuration(*options, f"{said}@{pattern}"))
            method = as_peft("lora", triple) if same else {}
            expect(f"{said}@{pattern}: --print-config", changed == {
                **base, "drop": [f"{said}@{pattern}"], "drops": [entry(triple, modules=pattern)], **method}, changed)
            lines, output = trained(*options, f"{said}@{pattern}")
            expect(f"{said}@{pattern}: as of all modules, or not", (measured(lines) == measured(every)) == same and
                   measured(lines) != measured(PLAIN), (lines, every))
            recipe = json.loads((output / "lodrop.json").read_text())
            expect(f"{said}@{pattern}: lodrop.json", recipe["dropouts"] == [entry(triple, modules=pattern)], recipe)
            evaluated = must(run("lodrop-eval", "--model", MODEL, "--data", DATA, "--adapter", output))
            expect(f"{said}@{pattern}: evaluated", evaluated.stdout.startswith("loss "), evaluated.stdout)
            rate = json.loads((output / "adapter_config.json").read_text())["lora_dropout"]
            expect(f"{said}@{pattern}: PEFT's lora_dropout", rate == (0.3 if method else 0), rate)
        for pattern, word in [("k_proj", "only q_proj, v_proj have adapters"), ("w_proj", "matches no module"),
                              ("", "matches no module"), ("q_proj,v_proj", "matches no module")]:
            refused([*options, f"{said}@{pattern}"], ["--drop", said, f"@{pattern}", word])
        apart = [*options, f"{said}@q_proj", "--drop", f"{said}@v_proj"]
        expect(f"{say(apart)}: the two together are all modules", measured(trained(*apart)[0]) == measured(every))
        refused([*options, f"{said}@q_proj", "--drop", f"{said}@?_proj"],
                ["--drop", f"{said}@q_proj (--drop)", f"{said}@?_proj (--drop)", "in layer 0"])
        refused(["--layers-to-transform", "1", "--drop", f"{said}:0"], ["--drop", f"{said}:0", "none of its layers"])
    check_resumed_modules()


def check_resumed_modules():
    options = ["--drop", "lora_a:column:0.5:none:later-half@q_proj", "--instances", 2]
    lines, whole = trained(*options)
    output = FOLDER / "modules"
    must(train(MODEL, DATA, output, *STEPS, *options, "--stop-after", 1))
    must(resume(output))
    expect("modules, stopped and resumed", metrics(output) == lines and adapter(output) == adapter(whole))


def check_pairs_of_dropouts():
    for one, other in itertools.product(TRIPLES, TRIPLES):
        options = drop(one, other)
        place = common_place(one, other)
        if place:
            done = train(MODEL, DATA, FOLDER / "pair", *options, "--print-config")
            expect_refusal(f"{say(options)}: refused", done, ["--drop", text(one), text(other), place], DAMAGED)
        else:
            drops = configuration(*options)["drops"]
            expect(f"{say(options)}: both", drops == [entry(one), entry(other)], drops)


# --- Methods ---

KEYS, WEIGHTS = ("attn_logit", "column", "none"), ("attn_weight", "column", "renormalise-nograd")
CUT, LATER = ("ffn_output", "element", "inverted"), {"layers": "later-half"}
COLUMNS_AND_ROWS = [("lora_a", "column", "none"), ("lora_b", "column", "none")]
METHODS = {  # its dropouts, their rate, in some layers only; how two passes are held together; instances
    "lora": ([], 0, {}, "", 1),
    "lora-input-dropout": ([INPUT], 0.1, {}, "", 1),
    "lora-dropout": (COLUMNS_AND_ROWS, 0.5, {}, "", 4),
    "dropkey": ([KEYS], 0.1, {}, "", 1),
    "dropattention": ([WEIGHTS], 0.1, {}, "", 1),
    "hiddencut": ([CUT], 0.1, {}, "", 1),
    "hiddenkey-minus": ([KEYS, CUT], 0.1, LATER, "", 1),
    "hiddenkey": ([KEYS, CUT], 0.1, LATER, "kl", 1),
    "r-drop": ([("hidden", "element", "inverted")], 0.1, {}, "r-drop", 1),
    "dropout": ([("hidden", "element", "inference")], 0.1, {}, "", 1),
    "variational": ([("hidden", "column", "inverted")], 0.1, {}, "", 1),
}
HAVE_KEY_SETS = [(position, pattern) for position in ["attn_logit", "attn_weight"] for pattern in ["column", "span"]]
OWN_ATTENTION, OWN_HIDDEN = ("attn_weight", "element", "inverted"), ("hidden", "element", "inverted")


class Method:
    def __init__(self, name):
        self.name = name
        self.triples, self.rate, self.layers, self.consistency, self.instances = METHODS[name]
        self.options = ["--method", name]
        self.config = configuration(*self.options)
        self.lines, _ = trained(*self.options)

    def drops(self, p=None):
        return [entry(triple, self.rate if p is None else p, **self.layers) for triple in self.triples]

    def shared_place(self, triple):
        places = [common_place(own, triple) for own in self.triples]
        return next((place for place in places if place), None)

    def accepts(self, options, expected, same=False, model=None):
        """The option changes these fields alone, and what is trained unless it shall be the same."""
        what = f"{say(self.options + options)}"
        changed = changes(self.config, configuration(*self.options, *options, model=model))
        expect(f"{what}: --print-config", changed == expected, f"{changed}\nwanted: {expected}")
        lines, output = trained(*self.options, *options, model=model)
        expect(f"{what}: {'the same' if same else 'another'} training",
               (measured(lines) == measured(self.lines)) == same, (lines, self.lines))
        return lines, output

    def refuses(self, options, words, status=DAMAGED, model=None):
        refused(self.options + options, words, status, model)


def check_method(m):
    names = {"method": m.name, "rate": m.rate, "instances": m.instances, "consistency": m.consistency,
             "drops": m.drops(), "lora_dropout": 0.1 if m.name == "lora-input-dropout" else 0}
    got = {name: m.config[name] for name in names}
    expect(f"{m.name}: --print-config", got == names, got)
    expect(f"{m.name}: drops something", (measured(m.lines) != measured(PLAIN)) == bool(m.triples), m.lines)
    expect(f"{m.name}: two passes", all(("divergence" in line) == bool(m.consistency) for line in m.lines), m.lines)


def check_rates(m):
    if not m.triples:
        m.refuses(["--rate", 0.3], ["--rate", "lora", "no dropout"], USAGE)
        m.refuses(["--rate", 0], ["--rate", "lora", "no dropout"], USAGE)
    else:
        both = {"lora_dropout": 0.3} if m.name == "lora-input-dropout" else {}
        m.accepts(["--rate", 0.3], {"rate": 0.3, "drops": m.drops(0.3), **both})
    beside = {"lora_dropout": 0.3, "drops": [*m.drops(), entry(INPUT)]}
    if m.name == "lora":
        m.accepts(["--lora-dropout", 0.3], {**beside, "method": "lora-input-dropout"})
    elif m.name == "lora-input-dropout":
        m.accepts(["--lora-dropout", 0.3], {"lora_dropout": 0.3, "rate": 0.3, "drops": m.drops(0.3)})
        m.refuses(["--lora-dropout", 0.3, "--rate", 0.3], ["--rate", "--lora-dropout"], USAGE)
    elif m.shared_place(INPUT):
        m.refuses(["--lora-dropout", 0.3], ["--lora-dropout", text(INPUT), m.shared_place(INPUT)])
    else:
        m.accepts(["--lora-dropout", 0.3], beside)


def check_dropouts_beside(m):
    for triple in TRIPLES:
        place = m.shared_place(triple)
        if place:
            m.refuses(drop(triple), ["--drop", "(--method)", text(triple), place])
        else:
            m.accepts(drop(triple), {"drop": [text(triple)], "drops": [*m.drops(), entry(triple)],
                                     **as_peft(m.name, triple)})


def check_key_sets(m):
    options = ["--mask-per-kv-head"]
    shared = [{**one, "per_kv_head": True} if t[:2] in HAVE_KEY_SETS else one for t, one in zip(m.triples, m.drops())]
    if shared == m.drops():
        m.refuses(options, ["--mask-per-kv-head", "columns or spans at attention"])
    else:
        m.accepts(options, {"mask_per_kv_head": True, "drops": shared})
        m.refuses(options, ["--mask-per-kv-head", "KV head", "same"], model=EVERY_HEAD)


def check_consistencies(m):
    weight = ["--consistency-weight", 2]
    if m.consistency:
        m.accepts(weight, {"consistency_weight": 2})
    else:
        m.refuses(weight, ["--consistency-weight", "needs --consistency"], USAGE)
    for kind in ["kl", "r-drop", "js"]:
        options = ["--consistency", kind]
        if not m.triples:
            m.refuses(options, ["--consistency", kind, "needs a dropout"])
            continue
        if m.instances > 1:
            m.refuses(options, ["--consistency", kind, f"{m.instances} instances"])
            m.accepts([*options, "--instances", 1], {"consistency": kind, "instances": 1})
            continue
        same = kind == m.consistency
        lines, _ = m.accepts(options, {} if same else {"consistency": kind}, same)
        expect(f"{m.name} {kind}: the passes differ", lines[1].get("divergence", 0) > 0, lines)
    m.refuses(["--consistency", "l2"], ["--consistency", "'l2'"])


def check_models_own(m):
    """What config.json of the model asks for, which training tells where it is not applied."""
    option, field = ["--model-dropout", "config"], {"model_dropout": "config"}
    m.refuses(option, ["--model-dropout", "attention_dropout", "hidden_dropout_prob"])
    for model, name, own in [(DROPS_WEIGHTS, "attention_dropout", OWN_ATTENTION),
                             (DROPS_HIDDEN, "hidden_dropout_prob", OWN_HIDDEN)]:
        output = FOLDER / f"unapplied{next(numbers)}"
        done = must(train(model, DATA, output, *m.options, *STEPS))
        expect(f"{m.name} without the model's {name}", f"{name} of 0.3 is not applied" in done.stderr, done.stderr)
        if m.shared_place(own):
            m.refuses(option, ["--model-dropout", text(own), m.shared_place(own)], model=model)
        else:
            m.accepts(option, {**field, "drops": [*m.drops(), entry(own)]}, model=model)


def check_instances(m):
    options = ["--instances", 2]
    if not m.triples:
        m.refuses(options, ["--instances", "need a dropout"])
    elif m.consistency:
        m.refuses(options, ["--consistency", m.consistency, "2 instances"])
    else:
        m.accepts(options, {"instances": 2})


def check_forms(m):
    m.accepts(["--layers-to-transform", "1"], {"layers_to_transform": "1"})
    m.accepts(["--form", "adalora"], {"form": "adalora"})
    m.refuses(["--orthogonality-weight", 2], ["--orthogonality-weight", "needs --form adalora"], USAGE)
    weighed = ["--form", "adalora", "--orthogonality-weight", 2]
    m.accepts(weighed, {"form": "adalora", "orthogonality_weight": 2})
    m.refuses(["--form", "lokr"], ["--form", "'lokr'"])


def check_same_training(m):
    """What changes time and memory, and no bit."""
    m.accepts(["--recompute"], {"recompute": True}, same=True)
    m.accepts(["--threads", 2], {"threads": 2}, same=True)
    m.accepts(["--memory-limit", "1GiB"], {"memory_limit": 1 << 30}, same=True)
    output = FOLDER / f"refused{next(numbers)}"
    done = train(MODEL, DATA, output, *m.options, *STEPS, "--memory-limit", "1MiB")
    expect_refusal(f"{m.name} in no memory", done, ["--memory-limit", "is 1 MiB"], RESOURCE)
    expect(f"{m.name} in no memory: nothing is left", not output.exists())


def check_evaluations(m):
    held_out, shown = ["--eval-data", DATA], {"eval_data": str(DATA)}
    for field, *value in [("eval-steps", 1), ("metric-for-best-model", "loss"), ("load-best-model-at-end",),
                          ("early-stopping-patience", 1)]:
        m.refuses([f"--{field}", *value], [f"--{field}", "needs --eval-data"], USAGE)
    for patience in [[], ["--early-stopping-patience", 0]]:
        m.refuses([*held_out, *patience, "--early-stopping-threshold", 0.5],
                  ["--early-stopping-threshold", "needs --early-stopping-patience"], USAGE)
    lines, output = m.accepts([*held_out, "--eval-steps", 1], {**shown, "eval_steps": 1}, same=True)
    expect(f"{m.name}: evaluated twice", all("eval_loss" in line for line in lines), lines)
    _, output = m.accepts([*held_out, "--load-best-model-at-end"], {**shown, "load_best_model_at_end": True}, same=True)
    summary = json.loads((output / "summary.json").read_text())
    expect(f"{m.name}: the best is left", summary["adapter_step"] == summary["best"]["step"], summary)
    m.accepts([*held_out, "--early-stopping-patience", 1], {**shown, "early_stopping_patience": 1}, same=True)
    options = [*m.options, *held_out, "--eval-steps", 1, "--early-stopping-patience", 1, "--early-stopping-threshold",
               100, "--max-steps", 5]
    _, output = trained(*options)
    summary = json.loads((output / "summary.json").read_text())
    expect(f"{m.name}: stops early", summary["stopped_by"] == "early_stopping" and summary["steps"] == 2, summary)
    accuracy = ["--metric-for-best-model", "accuracy"]
    refused_when_read([*m.options, *held_out, *accuracy], ["texts.jsonl", "accuracy", "choices"])
    _, output = trained(*m.options, "--eval-data", CHOICES, *accuracy, data=CHOICES)
    summary = json.loads((output / "summary.json").read_text())
    expect(f"{m.name}: best by accuracy", summary["best"]["metric"] == "accuracy", summary)


def check_sweeps():
    """All methods in a sweep are what they are alone; what is of one run is refused beside it."""
    file, output = FOLDER / "sweep.json", FOLDER / "sweep"
    file.write_text(json.dumps({"vary": {"method": list(METHODS)}}))
    must(train(MODEL, DATA, output, *STEPS, "--sweep", file, "--jobs", 2))
    for name in METHODS:
        lines = metrics(output / f"method={name}")
        expect(f"{name} in a sweep", lines == trained("--method", name)[0], lines)
        refused(["--method", name, "--jobs", 2], ["--jobs", "needs --sweep"], USAGE)
    for flag, *value in [("--resume",), ("--stop-after", 1), ("--print-config",), ("--dump-gradients", "file")]:
        done = train(MODEL, DATA, FOLDER / "refused", *STEPS, "--sweep", file, flag, *value)
        expect_refusal(f"--sweep {flag}", done, [flag, "--sweep"], USAGE)


# --- Options ---

FREE = {  # may change when a run goes on, as nothing of what it computes does
    "model": None, "data": None, "output": None, "resume": None, "print-config": None, "threads": 2, "tune": True,
    "recompute": True, "save-steps": 1, "stop-after": 2, "eval-data": None, "memory-limit": None}
OTHER = {  # cannot: another value than the checkpoint's
    "eval-steps": 2, "metric-for-best-model": "accuracy", "load-best-model-at-end": True,
    "early-stopping-patience": 1, "early-stopping-threshold": 0.5, "adapter": "elsewhere", "method": "dropkey",
    "rate": 0.3, "drop": "ffn_middle:element:0.3", "model-dropout": "config", "consistency": "js",
    "consistency-weight": 2, "mask-per-kv-head": True, "lora-r": 4, "lora-alpha": 8, "lora-dropout": 0.3,
    "use-rslora": True, "target-modules": "q_proj", "max-length": 20, "batch-size": 3, "grad-accum": 2, "epochs": 4,
    "max-steps": 5, "learning-rate": 1e-3, "lr-scheduler": "cosine", "warmup-ratio": 0.5, "weight-decay": 0.1,
    "max-grad-norm": 2, "seed": 1, "instances": 2, "layers-to-transform": "1", "form": "adalora",
    "orthogonality-weight": 2}
SWEEPS = ["sweep", "jobs"]


def flag_of(name, value):
    return [f"--{name}", *([] if value is True else [value])]


def check_all_are_known():
    """Another method, option, position, pattern or compensation needs its row in the tables above."""
    said = run("lodrop-train", "--help").stdout
    options = set(re.findall(r"^  --([a-z-]+)", said, re.MULTILINE)) - {"help", "version"}
    known = {*FREE, *OTHER, *SWEEPS}
    expect("all options are in the tables", options == known, f"{options - known} {known - options}")
    for options, names in [(["--method", "?"], METHODS), (["--drop", "?:element:0.1"], POSITIONS),
                           (["--drop", "hidden:?:0.1"], PATTERNS), (["--drop", "hidden:element:0.1:?"], COMPENSATIONS)]:
        done = train(MODEL, DATA, FOLDER / "unknown", *options)
        expect(f"{say(options)}: all are in the tables", done.stderr.endswith(f" one of {', '.join(names)}\n"),
               done.stderr)
    dashes, underscores = configuration("--lora-r", 4, "--use-rslora"), configuration("--lora_r=4", "--use_rslora")
    expect("options may be spelled with underscores", dashes == underscores, changes(dashes, underscores))


def check_empty_words():
    """An empty word is what a script's unset variable leaves, not a wish for nothing."""
    for name in ["model", "data", "output", "eval-data", "adapter", "consistency", "model-dropout", "sweep",
                 "metric-for-best-model", "target-modules", "lr-scheduler", "method", "layers-to-transform", "form"]:
        done = train(MODEL, DATA, FOLDER / "empty", f"--{name}", "")
        expect_refusal(f"--{name} of an empty word", done, [f"--{name}", "is empty"], DAMAGED)


def check_adapter():
    """What an adapter brings along cannot be asked for beside it."""
    _, output = trained()
    for name, value in [("lora-r", 8), ("lora-alpha", 16), ("use-rslora", True), ("target-modules", "q_proj"),
                        ("init-b", "random"), ("layers-to-transform", "1")]:
        refused(["--adapter", output, *flag_of(name, value)], [f"--{name}", "comes from --adapter"], USAGE)


def check_resume():
    output = FOLDER / "resumed"
    options = ["--eval-data", DATA, "--eval-steps", 1, "--stop-after", 1]
    must(train(MODEL, DATA, output, *STEPS, *options))
    before = json.loads(must(resume(output, "--print-config")).stdout)
    for name, value in OTHER.items():
        flag = flag_of(name, value)
        words = [f"--{name}", "differs from the checkpoint's"]
        expect_refusal(f"--resume {say(flag)}: refused", resume(output, *flag), words, DAMAGED)
        if value is not True and name not in ("adapter", "drop"):
            held = before[name.replace("-", "_")]
            again = ["--resume", *flag_of(name, held)] if held != "" else ["--resume"]
            done = json.loads(must(resume(output, *again, "--print-config")).stdout)
            expect(f"{say(again)}: as before", done == before, changes(before, done))
    for name, value in FREE.items():
        if value is not None:
            done = json.loads(must(resume(output, *flag_of(name, value), "--print-config")).stdout)
            expect(f"--resume --{name}: shown", changes(before, done) == {name.replace("-", "_"): value},
                   changes(before, done))
    state, elsewhere = output / "checkpoint" / "state.json", write_model(FOLDER / "elsewhere", attention_dropout=0.5)
    kept = state.read_text()
    options = json.loads(kept)["options"]
    state.write_text(json.dumps({**json.loads(kept), "options": {**options, "model_dropout": "config"}}))
    for model in [DROPS_WEIGHTS, elsewhere]:
        expect_refusal("--resume with other dropouts of the model", resume(output, "--model", model),
                       ["lodrop.json", "dropouts", "not those"], DAMAGED)
    state.write_text(kept)
    expect_refusal("--resume --jobs", resume(output, "--jobs", 2), ["--jobs", "needs --sweep"], USAGE)
    expect_refusal("--resume --sweep", resume(output, "--sweep", DATA), ["--resume", "--sweep"], USAGE)
    expect("what was refused goes on", resume(output).returncode == 0)


FOLDER = scratch()
MODEL, DATA = write_model(FOLDER / "model"), write_texts(FOLDER / "texts.jsonl", count=10)
DROPS_WEIGHTS = write_model(FOLDER / "weights", attention_dropout=0.3)
DROPS_HIDDEN = write_model(FOLDER / "hidden", hidden_dropout_prob=0.3)
CHOICES = write_choices(FOLDER / "choices.jsonl", count=10)
EVERY_HEAD = write_model(FOLDER / "heads", num_key_value_heads=4)
PLAIN_CONFIG, (PLAIN, _) = configuration(), trained()
check_all_are_known()
check_triples()
check_usual_compensations()
check_modules()
check_pairs_of_dropouts()
for name in METHODS:
    method = Method(name)
    for check in [check_method, check_rates, check_dropouts_beside, check_key_sets, check_consistencies,
                  check_models_own, check_instances, check_forms, check_same_training, check_evaluations]:
        check(method)
check_sweeps()
check_empty_words()
check_adapter()
check_resume()
finish()
