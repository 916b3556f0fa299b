"""What runs, on what: the machine, the build, and peers held to lodrop's instruction set."""
import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Of PyTorch's own kernels, MKL and oneDNN (by its two names); BLIS has numbers that differ between versions (blas.py).
PEER_LIMITS = {"avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2",
                        "DNNL_MAX_CPU_ISA": "AVX2"},
               "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "DNNL_MAX_CPU_ISA": "AVX512_CORE"}}


def peer_environment(isa, threads):
    """For PyTorch and other BLAS libraries: to be set before they are loaded."""
    count = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")}
    # PyTorch's allocator then asks for huge pages, as lodrop has them.
    return {**count, "THP_MEM_ALLOC_ENABLE": "1", **PEER_LIMITS.get(isa, {})}


def cpu_has(flag):
    return re.search(rf"^flags\s*:.*\b{flag}\b", Path("/proc/cpuinfo").read_text(), re.M) is not None


def cpu():
    told = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M))
    if "model name" not in told:
        return f"{platform.machine()} CPU"
    return f"{told['model name']} (family {told.get('cpu family', '?')}, model {told.get('model', '?')})"


def compiler(build):
    """From what CMake wrote down."""
    files = sorted(build.glob("CMakeFiles/*/CMakeCCompiler.cmake"))
    told = dict(re.findall(r'set\(CMAKE_C_COMPILER_(ID|VERSION) "(.*)"\)', files[-1].read_text())) if files else {}
    commands = build / "compile_commands.json"
    levels = set(re.findall(r" (-O\w+)", commands.read_text())) if commands.exists() else ()
    return " ".join([told.get("ID", "compiler unknown"), told.get("VERSION", ""), *sorted(levels)])


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return f" ({done.stdout.strip()})" if done.returncode == 0 else ""


def version(build):
    done = subprocess.run([build / "lodrop-bench", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.split()[1]


def describe(build, isa):
    return f"{cpu()}, {os.cpu_count()} CPUs; lodrop {version(build)}{commit()}; {compiler(build)}, {isa}"
