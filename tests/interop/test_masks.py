"""The masks that lodrop-mask prints, and so the ones that every other test injects, are those of the contract."""
import itertools

import numpy as np

import philox
from common import ALL_MODULES
from lodrop_library import Library


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


# seed, lod_site's arguments (domain, layer, position, instance, head), draw
ATTENTION_SITES = [(0, (0, 0, 24, 0, 0), 0), (2**63 + 5, (0, 31, 24, 7, 31), 12345),
                   (77, (0, 1023, 25, 63, 255), 2**32 - 1), (2**40 + 17, (1, 2, 25, 0, 1), 9)]
RANGES = [(0.1, range(300), range(300)), (0.5, range(1), range(1000)), (0.97, range(9), range(70, 201))]


def attention_site(library, domain, layer, position, instance, head):
    site, contract = library.site(domain, layer, position, instance, head), philox.site(domain, layer, position, head)
    assert site == contract | instance << 8, f"site {site:#x}, contract {contract:#x}"
    return site


def test_library_dump_is_the_contract(context):
    """At the sites of attention's heads, from the library itself."""
    library = Library(context.build)
    for seed, place, draw in ATTENTION_SITES:
        site = attention_site(library, *place)
        for p, rows, cols in RANGES:
            want = philox.cells(seed, site, draw, rows, cols, p)
            wrong = int((library.mask(seed, site, draw, p, rows, cols) != want).sum())
            assert wrong == 0, f"{wrong} cells differ: p = {p}, seed {seed}, site {place}, draw {draw}"
    return f"{len(ATTENTION_SITES)} sites"


def test_library_span_is_the_contract(context):
    """One run of max(1, floor(p L)) cells, none at p = 0; it comes to stand everywhere."""
    library, firsts = Library(context.build), set()
    cases = itertools.product(ATTENTION_SITES, (1e-4, 0.1, 0.5, 0.97), (1, 2, 5, 64, 1000), range(20))
    for (seed, place, _), p, length, draw in cases:
        site = attention_site(library, *place)
        got, keep = library.span(seed, site, draw, p, length), np.ones(length, dtype=bool)
        keep[got.start:got.stop] = False
        case = f"p = {p} of {length} cells, seed {seed}, site {place}, draw {draw}"
        assert (keep == philox.span(seed, site, draw, length, p)).all(), f"{got} is not the contract's: {case}"
        assert not library.span(seed, site, draw, 0, length), f"a span at rate 0: {case}"
        if length == 5 and p == 0.5:
            firsts.add(got.start)
    assert firsts == {0, 1, 2, 3}, f"runs of 2 of 5 cells start at {sorted(firsts)}"
