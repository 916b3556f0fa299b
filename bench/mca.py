#!/usr/bin/env python3
"""What llvm-mca makes of the inner loops of the product kernels: an estimate for CPUs that are not at hand.

    mca.py BUILD    prints a Markdown table

The loops come out of the compiled kernels: of BUILD's objects, and NEON's, where BUILD is for another machine, of
aarch64-linux-gnu-gcc. A kernel's inner loop is the innermost one with the most fused multiply-adds, and of those the
one with the fewest other instructions.
"""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CPUS = {"avx2": ("x86_64", ["znver3"]), "neon": ("aarch64", ["cortex-a76", "neoverse-n1"])}
FMA = re.compile(r"vfn?madd|fml[as]\b")
BRANCH = re.compile(r"(?:j[a-z]+|b\.[a-z]+|b|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\w+,)\s+(?:0x)?([0-9a-f]+) <")
NEON_FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=off", "-fno-tree-slp-vectorize", "-Iinclude", "-Ikernels"]
ITERATIONS = 1000


def run(command, **options):
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout
    except FileNotFoundError:
        sys.exit(f"mca.py: {command[0]}: is not installed (Debian: llvm-19; g++-aarch64-linux-gnu for NEON)")
    except subprocess.CalledProcessError as error:
        sys.exit(f"mca.py: {command[0]}: {(error.stderr.strip() or 'failed').splitlines()[0]}")


def newest(tool):
    """A tool of LLVM's by the name of its newest version: models of CPUs get better."""
    names = [f"{tool}-{version}" for version in range(40, 13, -1)]
    return next((name for name in names if shutil.which(name)), tool)


def objects(build, folder):
    """The compiled tile kernels of each instruction set: (isa, path)."""
    for isa in CPUS:
        built = [path for name in ("lowrank", "attention") for path in
                 sorted(build.glob(f"CMakeFiles/lod_{isa}.dir/kernels/{isa}/{name}.c.o"))]
        if isa == "neon" and not built and not shutil.which("aarch64-linux-gnu-gcc"):
            print("(Without NEON: aarch64-linux-gnu-gcc is not installed.)\n")
        elif isa == "neon" and not built:
            for name in ("lowrank", "attention"):
                built.append(pathlib.Path(folder) / f"{name}.o")
                run(["aarch64-linux-gnu-gcc", *NEON_FLAGS, "-c", f"kernels/neon/{name}.c", "-o", built[-1]], cwd=ROOT)
        yield from ((isa, path) for path in built)


def functions(path):
    """Each kernel of an object: (name, [(address, instruction)])."""
    name, body = None, []
    for line in run([newest("llvm-objdump"), "-d", "--no-show-raw-insn", path]).splitlines():
        start = re.match(r"[0-9a-f]+ <(\S+)>:", line)
        if start:
            if name:
                yield name, body
            name, body = start[1], []
        elif re.match(r"\s+[0-9a-f]+:", line):
            address, text = line.split(":", 1)
            body.append((int(address, 16), re.sub(r"\s+(#|//) .*", "", text.strip())))
    if name:
        yield name, body


def inner_loop(body):
    """The instructions of the densest innermost loop, its branch last; None: there is none with multiply-adds."""
    place = {address: i for i, (address, _) in enumerate(body)}
    branches = [(BRANCH.match(text), end) for end, (_, text) in enumerate(body)]
    targets = [(place.get(int(branch[1], 16), end), end) for branch, end in branches if branch]
    loops = [(start, end) for start, end in targets if start < end]
    innermost = [(s, e) for s, e in loops if not any(s <= s2 and e2 <= e and (s, e) != (s2, e2) for s2, e2 in loops)]
    texts = [[text for _, text in body[s:e + 1]] for s, e in innermost]
    fused = [(sum(bool(FMA.match(t)) for t in loop), -len(loop), loop) for loop in texts]
    best = max(fused, default=(0, 0, None), key=lambda entry: entry[:2])
    return best[2] if best[0] else None


def cycles(isa, cpu, instructions):
    """(cycles an iteration, cycles that the busiest port needs) by llvm-mca."""
    machine = CPUS[isa][0]
    lines = [re.sub(r"(?:0x)?[0-9a-f]+ <.*>", "loop", text) for text in instructions]
    report = run([newest("llvm-mca"), f"-mtriple={machine}-linux-gnu", f"-mcpu={cpu}", f"-iterations={ITERATIONS}"],
                 input="loop:\n" + "\n".join(lines) + "\n")
    total = float(re.search(r"Total Cycles:\s+(\d+)", report)[1])
    return total / ITERATIONS, float(re.search(r"Block RThroughput:\s+([\d.]+)", report)[1])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    build = pathlib.Path(sys.argv[1])
    version = re.search(r"LLVM version (\S+)", run([newest("llvm-mca"), "--version"]))[1]
    print(f"An estimate, not a measurement: llvm-mca {version}, every load a hit in the first cache. Where LLVM has no\n"
          "model of a CPU's own it takes a relative's: for cortex-a76 that of cortex-a57, which does one 128-bit\n"
          "multiply-add a cycle, not two. The bound is the model's for the loop's multiply-adds alone.\n")
    rows = ["| kernel | CPU | instructions | multiply-adds | cycles | bound | share |",
            "| --- | --- | --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as folder:
        for isa, path in objects(build, folder):
            for name, body in functions(path):
                loop = inner_loop(body) if "_tile_" in name and "__" in name else None
                for cpu in CPUS[isa][1] if loop else []:
                    fused = [text for text in loop if FMA.match(text)]
                    taken, bound = cycles(isa, cpu, loop)[0], cycles(isa, cpu, fused)[1]
                    rows.append(f"| {name.removeprefix('lod_')} | {cpu} | {len(loop)} | {len(fused)} | {taken:.1f} | "
                                f"{bound:.1f} | {bound / taken:.2f} |")
    if len(rows) == 2:
        sys.exit(f"mca.py: {build}: has no kernels of {', '.join(CPUS)}")
    print("\n".join(rows))


main()
