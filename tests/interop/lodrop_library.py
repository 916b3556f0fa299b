"""liblodrop.so through ctypes: what tests and measurements from outside need of include/lodrop.h. Arrays are float32,
of numpy or of PyTorch on the CPU, and are never copied. PyTorch itself is not imported."""
import ctypes
import enum
import mmap
from ctypes import POINTER, Structure, byref, c_bool, c_char, c_char_p, c_double, c_float, c_int, c_size_t, c_ubyte
from ctypes import c_uint, c_uint32, c_uint64, c_void_p
from pathlib import Path

import numpy as np

DOMAIN_TRAIN, DOMAIN_EVAL = 0, 1
POSITION_LORA_INPUT, POSITION_LORA_A, POSITION_LORA_B = 0, 8, 16
POSITION_ATTN_LOGIT, POSITION_ATTN_WEIGHT, POSITION_FFN_OUTPUT = 24, 25, 27
F32 = 0
HUGE_PAGE = 2 << 20  # bytes


class Pattern(enum.IntEnum):
    ELEMENT, COLUMN, SPAN = range(3)


class Compensation(enum.IntEnum):
    NONE, INVERTED, RENORMALISE, RENORMALISE_NOGRAD, INFERENCE = range(5)


class Consistency(enum.IntEnum):
    NONE, KL, JS = range(3)


class lod_error(Structure):
    _fields_ = [("code", c_int), ("field", c_char * 32), ("text", c_char * 192)]


class lod_rows(Structure):
    _fields_ = [("count", c_size_t), ("start", POINTER(c_size_t)), ("draw", POINTER(c_uint32)),
                ("instance", POINTER(c_ubyte))]


class lod_dropout(Structure):
    _fields_ = [("pattern", c_int), ("compensation", c_int), ("p", c_double), ("seed", c_uint64), ("site", c_uint32),
                ("draw", c_uint32), ("per_kv_head", c_bool)]


class lod_attention_shape(Structure):
    _fields_ = [(name, c_size_t) for name in ("heads", "kv_heads", "head_dim", "keys", "queries")]


class lod_lowrank_shape(Structure):
    _fields_ = [(name, c_size_t) for name in ("n_in", "n_out", "rank", "tokens")]


FLOATS = POINTER(c_float)


class lod_weight(Structure):
    _fields_ = [("packed", c_void_p), ("dtype", c_int)]


class lod_grad_sum(Structure):
    _fields_ = [("size", c_size_t), ("levels", c_uint), ("count", c_uint64), ("level", FLOATS)]


class lod_lowrank_args(Structure):
    _fields_ = [("rows", lod_rows), ("rank", c_size_t), ("scale", c_double), ("dropout", lod_dropout),
                ("lora_a", lod_dropout), ("lora_b", lod_dropout), ("x", FLOATS), ("ldx", c_size_t), ("w", lod_weight),
                ("a", FLOATS), ("bt", FLOATS), ("u", FLOATS), ("y", FLOATS), ("ldy", c_size_t), ("dy", FLOATS),
                ("lddy", c_size_t), ("dx", FLOATS), ("lddx", c_size_t), ("da", POINTER(lod_grad_sum)),
                ("dbt", POINTER(lod_grad_sum)), ("instances", c_size_t)]


class lod_attention_args(Structure):
    _fields_ = [("queries", lod_rows), ("keys", lod_rows), ("causal", c_bool), ("scale", c_double),
                ("dropout", lod_dropout), ("q", FLOATS), ("k", FLOATS), ("v", FLOATS), ("ldq", c_size_t),
                ("ldk", c_size_t), ("ldv", c_size_t), ("o", FLOATS), ("ldo", c_size_t), ("lse", FLOATS),
                ("lse_visible", FLOATS), ("d_o", FLOATS), ("dq", FLOATS), ("dk", FLOATS), ("dv", FLOATS)]


class lod_dropout_add_args(Structure):
    _fields_ = [("rows", lod_rows), ("width", c_size_t), ("dropout", lod_dropout), ("inference", c_bool), ("x", FLOATS),
                ("ldx", c_size_t), ("add", FLOATS), ("y", FLOATS), ("ldy", c_size_t)]


class lod_loss_shape(Structure):
    _fields_ = [("n_in", c_size_t), ("vocabulary", c_size_t), ("tokens", c_size_t), ("consistency", c_bool)]


class lod_loss_args(Structure):
    _fields_ = [("tokens", c_size_t), ("h", FLOATS), ("ldh", c_size_t), ("w", lod_weight), ("target", POINTER(c_uint32)),
                ("loss", FLOATS), ("dh", FLOATS), ("lddh", c_size_t), ("consistency", c_int), ("weight", c_double),
                ("h2", FLOATS), ("ldh2", c_size_t), ("loss2", FLOATS), ("divergence", FLOATS), ("dh2", FLOATS),
                ("lddh2", c_size_t)]


class LodropError(Exception):
    """A call's lod_error."""

    def __init__(self, status, error):
        self.status, self.field = status, error.field.decode()
        super().__init__(f"{self.field}: {error.text.decode()}")


PROTOTYPES = {
    "lod_isa_name": [POINTER(c_char_p), POINTER(lod_error)],
    "lod_site": [c_uint] * 5 + [POINTER(c_uint32), POINTER(lod_error)],
    "lod_mask_dump": [c_uint64, c_uint32, c_uint32, c_double] + [c_size_t] * 4 + [c_void_p, POINTER(lod_error)],
    "lod_mask_span": [c_uint64, c_uint32, c_uint32, c_double, c_size_t, POINTER(c_size_t), POINTER(c_size_t),
                      POINTER(lod_error)],
    "lod_pack_weights": [c_size_t, c_size_t, c_int, c_void_p, c_size_t, c_void_p, POINTER(lod_error)],
    "lod_plan_lowrank": [POINTER(lod_lowrank_shape), c_uint, c_int, POINTER(c_void_p), POINTER(lod_error)],
    "lod_lowrank_forward": [c_void_p, POINTER(lod_lowrank_args), c_void_p, POINTER(lod_error)],
    "lod_lowrank_backward": [c_void_p, POINTER(lod_lowrank_args), c_void_p, POINTER(lod_error)],
    "lod_plan_attention": [POINTER(lod_attention_shape), c_uint, c_int, POINTER(c_void_p), POINTER(lod_error)],
    "lod_attention_forward": [c_void_p, POINTER(lod_attention_args), c_void_p, POINTER(lod_error)],
    "lod_attention_backward": [c_void_p, POINTER(lod_attention_args), c_void_p, POINTER(lod_error)],
    "lod_plan_rowwise": [c_uint, POINTER(c_void_p), POINTER(lod_error)],
    "lod_dropout_add": [c_void_p, POINTER(lod_dropout_add_args), POINTER(lod_error)],
    "lod_plan_loss": [POINTER(lod_loss_shape), c_uint, c_int, POINTER(c_void_p), POINTER(lod_error)],
    "lod_loss": [c_void_p, POINTER(lod_loss_args), c_void_p, POINTER(lod_error)],
}
# What returns no lod_status and takes no lod_error: its result, its arguments.
PLAIN = {
    "lod_plan_workspace": (c_size_t, [c_void_p]),
    "lod_plan_free": (None, [c_void_p]),
    "lod_plan_describe": (None, [c_void_p, c_char_p, c_size_t]),
    "lod_packed_size": (c_size_t, [c_size_t, c_size_t, c_int]),
    "lod_grad_sum_size": (c_size_t, [c_size_t, c_uint64]),
    "lod_grad_sum_init": (None, [POINTER(lod_grad_sum), c_size_t, c_uint64, c_void_p]),
    "lod_grad_sum_finish": (None, [POINTER(lod_grad_sum), c_void_p]),
}


class Library:
    """The shared library of a build folder. LODROP_ISA counts until the first call."""

    def __init__(self, build):
        self.c = ctypes.CDLL(str(Path(build).resolve() / "liblodrop.so"))
        for name, arguments in PROTOTYPES.items():
            getattr(self.c, name).argtypes = arguments
            getattr(self.c, name).restype = c_int
        for name, (result, arguments) in PLAIN.items():
            getattr(self.c, name).argtypes, getattr(self.c, name).restype = arguments, result

    def call(self, name, *arguments):
        error = lod_error()
        status = getattr(self.c, name)(*arguments, byref(error))
        if status != 0:
            raise LodropError(status, error)

    def isa(self):
        name = c_char_p()
        self.call("lod_isa_name", byref(name))
        return name.value.decode()

    def site(self, domain, layer, position, instance=0, head=0):
        site = c_uint32()
        self.call("lod_site", domain, layer, position, instance, head, byref(site))
        return site.value

    def mask(self, seed, site, draw, p, rows, cols):
        """Keep bits of two ranges, [rows][cols]."""
        keep = np.empty((len(rows), len(cols)), dtype=np.uint8)
        self.call("lod_mask_dump", seed, site, draw, p, rows.start, len(rows), cols.start, len(cols), keep.ctypes.data)
        return keep.astype(bool)

    def span(self, seed, site, draw, p, length):
        """The cells that a span mask drops."""
        start, count = c_size_t(), c_size_t()
        self.call("lod_mask_span", seed, site, draw, p, length, byref(start), byref(count))
        return range(start.value, start.value + count.value)


def as_numpy(array):
    return array.detach().numpy() if hasattr(array, "detach") else array


def contiguous_floats(array):
    assert array.dtype == np.float32 and array.flags.c_contiguous, (array.dtype, array.strides)
    return array.ctypes.data_as(FLOATS)


def floats(*shape):
    """NaN in memory as PyTorch and the trainer take it: on whole cache lines, on huge pages from their size on."""
    size = int(np.prod(shape))
    if 4 * size >= HUGE_PAGE:
        memory = workspace(4 * size).view(np.float32)
    else:
        memory = np.empty(size + 16, dtype=np.float32)
        skip = -memory.ctypes.data // 4 % 16
        memory = memory[skip:skip + size]
    memory.fill(np.nan)
    return memory.reshape(shape)


def aligned(array):
    """A copy in such memory."""
    copy = floats(*array.shape)
    copy[:] = array
    return copy


def strided(tokens, heads, head_dim, gap=0):
    """[tokens][heads][head_dim] of NaN, with a gap of NaN after each token."""
    memory = floats(tokens, heads * head_dim + gap)
    strides = memory.strides[0], head_dim * memory.itemsize, memory.itemsize  # reshape forgets the gap of a lone token
    return np.lib.stride_tricks.as_strided(memory, (tokens, heads, head_dim), strides)


def gaps(array):
    """Those of a strided array, [tokens][gap]."""
    tokens, heads, head_dim = array.shape
    rows = np.lib.stride_tricks.as_strided(array, (tokens, array.strides[0] // array.itemsize), array.strides[::2])
    return rows[:, heads * head_dim:]


def workspace(size):
    """Memory of that many bytes on huge pages where the system gives them, aligned to them."""
    memory = mmap.mmap(-1, size + HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, dtype=np.uint8)
    skip = -whole.ctypes.data % HUGE_PAGE
    return whole[skip:skip + size]


class Rows:
    """lod_rows of segments of these lengths, with the memory that it points to."""

    def __init__(self, lengths, draw=None, instance=None):
        self.lengths = list(lengths)
        self.start = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.uintp)
        self.draw = np.array(range(len(self.lengths)) if draw is None else draw, dtype=np.uint32)
        self.instance = None if instance is None else np.array(instance, dtype=np.uint8)
        self.c = lod_rows(len(self.lengths), self.start.ctypes.data_as(POINTER(c_size_t)),
                          self.draw.ctypes.data_as(POINTER(c_uint32)),
                          None if instance is None else self.instance.ctypes.data_as(POINTER(c_ubyte)))

    def slices(self):
        return [slice(int(a), int(b)) for a, b in zip(self.start, self.start[1:])]


class Planned:
    """What has a plan: its workspace, its end, its text."""

    def make_plan(self, library, name, shape, threads):
        self.library, self.plan = library, c_void_p()
        library.call(name, byref(shape), threads, 0, byref(self.plan))
        self.workspace = workspace(library.c.lod_plan_workspace(self.plan))

    def __del__(self):
        if getattr(self, "plan", None):
            self.library.c.lod_plan_free(self.plan)

    def describe(self):
        text = ctypes.create_string_buffer(200)
        self.library.c.lod_plan_describe(self.plan, text, len(text))
        return text.value.decode()


class GradSums:
    """So many lod_grad_sum of matrices [rows][cols] over up to that many segments each."""

    def __init__(self, library, count, rows, cols, segments):
        self.library, self.c = library, (lod_grad_sum * count)()
        self.total = np.full((count, rows, cols), np.nan, dtype=np.float32)
        self.memory = [workspace(library.c.lod_grad_sum_size(rows * cols, segments)) for _ in self.c]
        for one, memory in zip(self.c, self.memory):
            library.c.lod_grad_sum_init(byref(one), rows * cols, segments, memory.ctypes.data)

    def finish(self):
        for one, total in zip(self.c, self.total):
            self.library.c.lod_grad_sum_finish(byref(one), total.ctypes.data)
        return self.total


class Lowrank(Planned):
    """A plan, operands and results of a low-rank layer: x [T][n_in], w [n_out][n_in], a [r][n_in], bt [r][n_out], all
    contiguous; a frozen layer without a and bt. The memory stays where it is from call to call. With instances, each
    has its gradients, [instances][r][..]."""

    def __init__(self, library, x, w, rows, a=None, bt=None, scale=1, dropout=None, lora_a=None, lora_b=None,
                 instances=0, threads=1):
        self.rows, self.x, (n_out, n_in) = rows, as_numpy(x), w.shape
        self.a, self.bt = (None if m is None else as_numpy(m) for m in (a, bt))
        tokens, rank = len(self.x), 0 if a is None else len(self.a)
        shape = lod_lowrank_shape(n_in, n_out, rank, tokens)
        self.make_plan(library, "lod_plan_lowrank", shape, threads)
        self.packed = workspace(library.c.lod_packed_size(n_in, n_out, F32))
        library.call("lod_pack_weights", n_in, n_out, F32, as_numpy(w).ctypes.data, n_in, self.packed.ctypes.data)
        self.y, self.dx, self.u = (floats(tokens, n) for n in (n_out, n_in, rank))
        self.args = lod_lowrank_args(
            rows=rows.c, rank=rank, scale=scale, dropout=dropout or lod_dropout(), lora_a=lora_a or lod_dropout(),
            lora_b=lora_b or lod_dropout(), ldx=n_in, ldy=n_out, lddy=n_out, lddx=n_in, instances=instances,
            w=lod_weight(self.packed.ctypes.data, F32),
            **{name: contiguous_floats(getattr(self, name)) for name in ("x", "y", "dx")})
        self.sums = []
        if rank:
            self.sums = [GradSums(library, max(instances, 1), rank, n, len(rows.lengths)) for n in (n_in, n_out)]
            self.args.a, self.args.bt, self.args.u = map(contiguous_floats, (self.a, self.bt, self.u))
            self.args.da, self.args.dbt = (s.c for s in self.sums)

    def forward(self):
        self.library.call("lod_lowrank_forward", self.plan, byref(self.args), self.workspace.ctypes.data)
        return self.y

    def backward(self, dy):
        """dX and, with an adapter, dA [r][n_in] and dB' [r][n_out] over all segments."""
        dy = as_numpy(dy)
        assert dy.shape == self.y.shape
        self.args.dy = contiguous_floats(dy)
        self.library.call("lod_lowrank_backward", self.plan, byref(self.args), self.workspace.ctypes.data)
        return self.dx, *(s.finish() if self.args.instances else s.finish()[0] for s in self.sums)


class Attention(Planned):
    """A plan, operands and results of attention over q [Tq][heads][D], k and v [Tk][kv_heads][D]; results are strided
    like their operands. The memory stays where it is from call to call, so calls can be timed."""

    def __init__(self, library, q, k, v, queries, keys=None, causal=True, scale=None, dropout=None, threads=1):
        self.queries, self.keys = queries, keys or queries
        self.q, self.k, self.v = as_numpy(q), as_numpy(k), as_numpy(v)
        (_, heads, head_dim), kv_heads = self.q.shape, self.k.shape[1]
        self.o, self.dq, self.dk, self.dv = (self.strided_like(a) for a in (self.q, self.q, self.k, self.v))
        self.lse, self.lse_visible = (floats(*self.q.shape[:2]) for _ in range(2))
        self.args = lod_attention_args(
            queries=self.queries.c, keys=self.keys.c, causal=causal, dropout=dropout or lod_dropout(),
            scale=head_dim ** -0.5 if scale is None else scale, lse=self.pointer(self.lse),
            lse_visible=self.pointer(self.lse_visible), ldq=self.leading(self.q), ldk=self.leading(self.k),
            ldv=self.leading(self.v), ldo=self.leading(self.o),
            **{name: self.pointer(getattr(self, name)) for name in ("q", "k", "v", "o", "dq", "dk", "dv")})
        shape = lod_attention_shape(heads, kv_heads, head_dim, max(self.keys.lengths), max(self.queries.lengths))
        self.make_plan(library, "lod_plan_attention", shape, threads)

    def forward(self):
        self.library.call("lod_attention_forward", self.plan, byref(self.args), self.workspace.ctypes.data)
        return self.o

    def backward(self, d_o):
        """d_o is strided like o."""
        d_o = as_numpy(d_o)
        assert d_o.shape == self.o.shape and self.leading(d_o) == self.leading(self.o)
        self.args.d_o = self.pointer(d_o)
        self.library.call("lod_attention_backward", self.plan, byref(self.args), self.workspace.ctypes.data)
        return self.dq, self.dk, self.dv

    @staticmethod
    def leading(array):
        """The leading dimension, which must be there: floats from token to token, heads packed inside one."""
        _, heads, head_dim = array.shape
        assert array.dtype == np.float32 and array.strides[1:] == (4 * head_dim, 4), (array.dtype, array.strides)
        return max(array.strides[0] // 4, heads * head_dim)

    @staticmethod
    def pointer(array):
        return array.ctypes.data_as(FLOATS)

    @classmethod
    def strided_like(cls, array):
        return strided(*array.shape, gap=cls.leading(array) - array.shape[1] * array.shape[2])


def dropout_add(library, rows, dropout, x, add=None, inference=False):
    """y = add + D x, or D x, of x [T][width]."""
    plan, y = c_void_p(), np.full_like(x, np.nan)
    library.call("lod_plan_rowwise", 2, byref(plan))
    args = lod_dropout_add_args(
        rows=rows.c, width=x.shape[1], dropout=dropout, inference=inference, x=contiguous_floats(x), ldx=x.shape[1],
        add=None if add is None else contiguous_floats(add), y=contiguous_floats(y), ldy=x.shape[1])
    try:
        library.call("lod_dropout_add", plan, byref(args))
    finally:
        library.c.lod_plan_free(plan)
    return y


class Loss(Planned):
    """The loss of h and h2 [T][n] under w [vocabulary][n], and their consistency."""

    def __init__(self, library, h, h2, w, target, threads=1):
        self.h, self.h2, self.w, self.target, (vocabulary, n) = h, h2, w, target, w.shape
        self.make_plan(library, "lod_plan_loss", lod_loss_shape(n, vocabulary, len(target), True), threads)
        self.packed = workspace(library.c.lod_packed_size(n, vocabulary, F32))
        library.call("lod_pack_weights", n, vocabulary, F32, w.ctypes.data, n, self.packed.ctypes.data)

    def run(self, consistency, weight, both):
        """loss, loss2, divergence, dh and, if both, dh2."""
        tokens, n = self.h.shape
        loss, loss2, divergence = (np.full(tokens, np.nan, dtype=np.float32) for _ in range(3))
        dh, dh2 = (floats(*self.h.shape) for _ in range(2))
        args = lod_loss_args(
            tokens=tokens, h=contiguous_floats(self.h), ldh=n, w=lod_weight(self.packed.ctypes.data, F32),
            target=self.target.ctypes.data_as(POINTER(c_uint32)), loss=contiguous_floats(loss),
            dh=contiguous_floats(dh), lddh=n, consistency=consistency, weight=weight, h2=contiguous_floats(self.h2),
            ldh2=n, loss2=contiguous_floats(loss2), divergence=contiguous_floats(divergence),
            dh2=contiguous_floats(dh2) if both else None, lddh2=n)
        self.library.call("lod_loss", self.plan, byref(args), self.workspace.ctypes.data)
        return [loss, loss2, divergence, dh] + ([dh2] if both else [])
