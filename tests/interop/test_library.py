"""The ctypes binding itself: every struct and constant as a C compiler sees the header."""
import ctypes
import os
import shlex
import subprocess
from pathlib import Path

import lodrop_library as lod

INCLUDE = Path(__file__).resolve().parents[2] / "include"
STRUCTS = (lod.lod_error, lod.lod_rows, lod.lod_dropout, lod.lod_attention_shape, lod.lod_attention_args,
           lod.lod_lowrank_shape, lod.lod_weight, lod.lod_grad_sum, lod.lod_lowrank_args, lod.lod_dropout_add_args,
           lod.lod_loss_shape, lod.lod_loss_args)
CONSTANTS = {"LOD_DOMAIN_TRAIN": lod.DOMAIN_TRAIN, "LOD_DOMAIN_EVAL": lod.DOMAIN_EVAL,
             "LOD_POSITION_LORA_INPUT": lod.POSITION_LORA_INPUT, "LOD_F32": lod.F32,
             "LOD_POSITION_LORA_A": lod.POSITION_LORA_A, "LOD_POSITION_LORA_B": lod.POSITION_LORA_B,
             "LOD_POSITION_ATTN_LOGIT": lod.POSITION_ATTN_LOGIT, "LOD_POSITION_ATTN_WEIGHT": lod.POSITION_ATTN_WEIGHT,
             "LOD_POSITION_FFN_OUTPUT": lod.POSITION_FFN_OUTPUT,
             **{f"LOD_PATTERN_{p.name}": p for p in lod.Pattern},
             **{f"LOD_CONSISTENCY_{c.name}": c for c in lod.Consistency},
             **{f"LOD_COMPENSATION_{c.name}": c for c in lod.Compensation}}


def quantities():
    """What is asked of C, as expressions, and what ctypes answers."""
    for struct in STRUCTS:
        name = struct.__name__
        yield f"sizeof({name})", ctypes.sizeof(struct)
        for field, *_ in struct._fields_:
            yield f"offsetof({name}, {field})", getattr(struct, field).offset
            yield f"sizeof((({name} *)0)->{field})", getattr(struct, field).size
    for name, value in CONSTANTS.items():
        yield name, int(value)


def test_layouts_are_those_of_the_header(context):
    expressions, values = zip(*quantities())
    folder = context.folder("layout")
    prints = "\n".join(f'    printf("%zu\\n", (size_t){e});' for e in expressions)
    source = f"#include <lodrop.h>\n#include <stdio.h>\nint main(void) {{\n{prints}\n}}\n"
    (folder / "layout.c").write_text(source)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, f"-I{INCLUDE}", folder / "layout.c", "-o", folder / "layout"], check=True)
    told = map(int, subprocess.run([folder / "layout"], check=True, capture_output=True).stdout.split())
    wrong = [f"{e} is {t}, ctypes has {v}" for e, v, t in zip(expressions, values, told, strict=True) if v != t]
    assert not wrong, "; ".join(wrong)
    return f"{len(values)} sizes, offsets and constants"


def test_errors_are_told(context):
    library = lod.Library(context.build)
    try:
        library.site(0, 1024, 0)
    except lod.LodropError as error:
        assert error.status == 1 and error.field == "layer", f"{error.status}, {error}"
        return f"{library.isa()}: {error}"
    raise AssertionError("a layer of 1024 was taken")
