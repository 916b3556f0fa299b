#!/usr/bin/env -S python3 -B
"""lodrop-tune and --tune: what is measured is kept, found again and refused elsewhere, and changes no bit."""
import subprocess

from harness import (adapter, command, environment, expect, finish, metrics, must, other_builds, run, scratch, told,
                     write_model, write_texts)

FOLDER = scratch()
MODEL, DATA, SHAPES = FOLDER / "model", FOLDER / "data.jsonl", FOLDER / "shapes.txt"
TWO_CORES = "Package:1 L3Cache:1(size=8388608) L2Cache:2(size=524288) L1dCache:1(size=32768) Core:1 PU:1"


def tune(wisdom, *options, **how):
    return run("lodrop-tune", *options, "--threads", 1, "--wisdom", wisdom, **how)


def lines_of(wisdom):
    return wisdom.read_text().splitlines() if wisdom.exists() else []


def entries_of(wisdom):
    return [line for line in lines_of(wisdom) if ": " in line]


def keeps_and_finds_again():
    wisdom = FOLDER / "kept"
    done = tune(wisdom, "--shapes", SHAPES)
    expect("lodrop-tune --shapes", done.returncode == 0 and f"wisdom: {wisdom}" in done.stdout, told(done))
    entries = entries_of(wisdom)
    kinds = [entry.split()[0] for entry in entries]
    expect("an entry for each shape, sorted", kinds == ["attention", "lowrank", "lowrank"], lines_of(wisdom))
    before = wisdom.read_bytes()
    must(tune(wisdom, "--shapes", SHAPES))
    expect("what is known is not measured again", wisdom.read_bytes() == before, lines_of(wisdom))
    must(tune(wisdom, "--shapes", SHAPES, "--rigor", "exhaustive"))
    expect("a higher rigor replaces", all("exhausted" in entry for entry in entries_of(wisdom)), lines_of(wisdom))
    must(tune(wisdom, "--shapes", SHAPES))
    expect("a lower rigor does not", all("exhausted" in entry for entry in entries_of(wisdom)), lines_of(wisdom))
    done = must(tune(FOLDER / "unmade", "--shapes", SHAPES, "--rigor", "estimate"))
    expect("an estimate keeps nothing", not (FOLDER / "unmade").exists() and " ms" in done.stdout, done.stdout)
    done = must(tune(FOLDER / "audit", "--shapes", SHAPES, "--rigor", "audit"))
    expect("an audit names two gains", done.stdout.splitlines()[1].count(" x") == 2, done.stdout)
    done = must(tune(FOLDER / "no-time", "--shapes", SHAPES, "--time-limit", 0))
    expect("no time: nothing is run", " ms" not in done.stdout, done.stdout)


def plans_a_model():
    wisdom = FOLDER / "of-model"
    done = tune(wisdom, "--model", MODEL, "--batch-size", 2, "--max-length", 16)
    expect("lodrop-tune --model", done.returncode == 0, told(done))
    kinds = [entry.split()[0] for entry in entries_of(wisdom)]
    expect("layers, attention and loss", set(kinds) == {"attention", "lowrank", "loss"} and
           kinds.count("lowrank") == 4, lines_of(wisdom))


def refuses_what_is_not_of_here():
    wisdom = FOLDER / "mine"
    must(tune(wisdom, "--shapes", SHAPES, "--time-limit", 0))
    text = wisdom.read_text()
    for number, name in enumerate(["build", "kernels", "cpu", "caches", "isa", "threads"], start=2):
        wisdom.write_text(text.replace(f"\n{name} ", f"\n{name} 1"))
        done = tune(wisdom, "--shapes", SHAPES, "--time-limit", 0)
        expect(f"another {name} is refused with the line", done.returncode == 0 and f"line {number}: \"{name} 1" in
               done.stderr, told(done))
        expect(f"another {name}: made anew", wisdom.read_text() == text, wisdom.read_text())
    for build in other_builds("wisdom of another build"):
        done = tune(wisdom, "--shapes", SHAPES, "--time-limit", 0, build=build)
        expect(f"{build.name}: refused", "line 2: \"build " in done.stderr, told(done))
        must(tune(wisdom, "--shapes", SHAPES, "--time-limit", 0))
    faked = subprocess.run(command("lodrop-tune", "--shapes", SHAPES, "--wisdom", wisdom, "--threads", 1),
                           env={**environment(), "HWLOC_SYNTHETIC": TWO_CORES}, capture_output=True, text=True)
    expect("another machine", faked.returncode == 3 and "cannot be told from that of others" in faked.stderr,
           told(faked))


def many_at_once():
    wisdom, shapes = FOLDER / "shared", []
    for i in range(4):
        shapes.append(FOLDER / f"shapes{i}.txt")
        shapes[i].write_text(f"layer 8 {16 + i} 32 2\n")
    running = [subprocess.Popen(command("lodrop-tune", "--shapes", path, "--wisdom", wisdom, "--threads", 1),
                                env=environment(), stdout=subprocess.DEVNULL) for path in shapes]
    expect("four at once", all(process.wait(300) == 0 for process in running))
    expect("nothing of each other's is lost", len(entries_of(wisdom)) == 4, lines_of(wisdom))


def bad_input():
    other = FOLDER / "notes"
    other.write_text("my notes\n")
    (FOLDER / "bad.txt").write_text("layer 8 16\n")
    cases = [
        (2, "needs --model or --shapes", []), (2, "one of the two", ["--model", MODEL, "--shapes", SHAPES]),
        (2, "'--shapes' requires", ["--shapes"]), (2, "'--what=1'", ["--shapes", SHAPES, "--what=1"]),
        (2, "'more' belongs", [f"--shapes={SHAPES}", "more"]),
        (1, "--rigor: patient ", ["--shapes", SHAPES, "--rigor", "patient"]),
        (1, "--time-limit: soon ", ["--shapes", SHAPES, "--time-limit", "soon"]),
        (1, "--threads: -1 ", ["--shapes", SHAPES, "--threads", -1]),
        (1, "bad.txt: line 1: ", ["--shapes", FOLDER / "bad.txt"]),
        (1, "cannot open", ["--model", FOLDER / "nowhere"]),
        (1, "is not overwritten", ["--shapes", SHAPES, "--time-limit", 0, "--wisdom", other]),
        (3, "cannot write", ["--shapes", SHAPES, "--time-limit", 0, "--wisdom", "/proc/lodrop/wisdom"]),
    ]
    for status, words, options in cases:
        done = run("lodrop-tune", *options)
        last = done.stderr.splitlines()[-1:] if status != 2 else [done.stderr]
        expect(f"lodrop-tune {options}", done.returncode == status and last and words in last[0], told(done))
    expect("another file is not overwritten", other.read_text() == "my notes\n")


def train_with(wisdom, name, *options):
    output = FOLDER / name
    done = subprocess.run(command("lodrop-train", "--model", MODEL, "--data", DATA, "--output", output, "--max-steps", 3,
                                  "--threads", 1, *options), env={**environment(), "LODROP_WISDOM": str(wisdom)},
                          capture_output=True, text=True)
    expect(f"training: {name}", done.returncode == 0, told(done))
    return done, adapter(output), metrics(output)


def training_uses_it():
    wisdom = FOLDER / "trained"
    _, *plain = train_with(wisdom, "plain")
    expect("without --tune nothing is kept", not wisdom.exists())
    done, *tuned = train_with(wisdom, "tuned", "--tune")
    expect("--tune tells what it kept", f"kept in {wisdom}" in done.stderr, done.stderr)
    expect("--tune keeps layers, attention and loss", len(entries_of(wisdom)) >= 6, lines_of(wisdom))
    expect("--tune gives the same bits", tuned == plain)
    wisdom.write_text(wisdom.read_text().replace("\nthreads 1", "\nthreads 2"))
    done, *refused = train_with(wisdom, "refused")
    expect("refused wisdom is named", f"{wisdom}: not used: line 7: " in done.stderr, done.stderr)
    expect("and costs no more than time", refused == plain)
    done, *unkept = train_with("/proc/lodrop/wisdom", "unkept", "--tune")
    expect("what cannot be kept is named", "not kept: " in done.stderr and unkept == plain, done.stderr)


write_model(MODEL)
write_texts(DATA, count=10)
SHAPES.write_text("few 4 32 48 2\nmany 40 64 32 4\nattention heads 24 2 1 16\n")
keeps_and_finds_again()
plans_a_model()
refuses_what_is_not_of_here()
many_at_once()
bad_input()
training_uses_it()
finish()
