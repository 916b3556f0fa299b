"""The masks that lodrop-mask prints, and so the ones that every other test injects, are those of the contract."""
import numpy as np

import philox
from common import ALL_MODULES


def test_known_answers(context):
    """Philox4x32-10's published vectors, for the generator that the next test compares with."""
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
    ones = (0xFFFFFFFF,) * 6
    vectors = {(0,) * 6: "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
               ones: "408f276d 41c83b0e a20bc7c6 6d5451fd",
               pi: "d16cfe09 94fdcceb 5001e420 24126ea1"}
    for (c0, c1, c2, c3, key0, key1), words in vectors.items():
        got = " ".join(f"{int(word):08x}" for word in philox.philox(key0 | key1 << 32, c0, c1, c2, c3))
        assert got == words, f"{got}, published: {words}"


def test_dump_is_the_contract(context):
    cases = [dict(seed=0, layer=0, module="q_proj", draw=0, row=0, rows=5, col=0, cols=300, p=0.1),
             dict(seed=2**62 + 12345, layer=4, module="down_proj", draw=77, row=3, rows=9, col=0, cols=172, p=0.5),
             dict(seed=99, layer=1023, module="o_proj", draw=2**32 - 1, row=1000, rows=2, col=125, cols=131, p=0.999)]
    for case in cases:
        dump = np.frombuffer(context.run("lodrop-mask", **case), dtype=np.uint8)
        rows, cols = range(case["row"], case["row"] + case["rows"]), range(case["col"], case["col"] + case["cols"])
        want = philox.keep(case["seed"], case["layer"], ALL_MODULES.index(case["module"]), case["draw"], rows, cols,
                           case["p"])
        wrong = int((dump.reshape(want.shape) != want).sum())
        assert wrong == 0, f"{wrong} of {want.size} cells differ for {case}"
    return f"{len(cases)} ranges of cells"
