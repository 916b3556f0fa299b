"""sgemm of oneDNN and BLIS as Debian has them (libdnnl2 and later, libblis4-serial, -pthread or -openmp), where they
are installed, or are found in LD_LIBRARY_PATH."""
import ctypes
import os
from ctypes import POINTER, c_char, c_char_p, c_float, c_int, c_int64

import host

FLOATS = POINTER(c_float)
ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112  # of CBLAS
SONAMES = {"oneDNN sgemm": ("libdnnl.so.3", "libdnnl.so.2"), "BLIS sgemm": ("libblis.so.4", "libblis.so.3")}


def load(names):
    """The first that is there, and its name. Bound to its own symbols: PyTorch has some of the same names."""
    for name in names:
        try:
            return ctypes.CDLL(name, mode=os.RTLD_NOW | os.RTLD_LOCAL | os.RTLD_DEEPBIND), name
        except OSError as error:
            why = str(error)
    return None, why


def onednn(library, isa):
    gemm = library.dnnl_sgemm
    gemm.argtypes = [c_char, c_char, c_int64, c_int64, c_int64, c_float, FLOATS, c_int64, FLOATS, c_int64, c_float,
                     FLOATS, c_int64]

    def call(x, w, y):
        (tokens, n_in), n_out = x.shape, len(w)
        x, w, y = (a.ctypes.data_as(FLOATS) for a in (x, w, y))
        return lambda: gemm(b"N", b"T", tokens, n_out, n_in, 1, x, n_in, w, n_in, 0, y, n_out)
    return call


def limit_blis(library):
    """To AVX2, before its first use: by the number that this version gives to its kernels for Haswell."""
    library.bli_arch_string.restype = c_char_p
    for number in range(32):
        if library.bli_arch_string(number) == b"haswell":
            os.environ["BLIS_ARCH_TYPE"] = str(number)
            return


def blis(library, isa):
    if isa == "avx2" and host.cpu_has("avx512f"):
        limit_blis(library)
    gemm = library.cblas_sgemm
    gemm.argtypes = [c_int] * 6 + [c_float, FLOATS, c_int, FLOATS, c_int, c_float, FLOATS, c_int]

    def call(x, w, y):
        (tokens, n_in), n_out = x.shape, len(w)
        x, w, y = (a.ctypes.data_as(FLOATS) for a in (x, w, y))
        return lambda: gemm(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, tokens, n_out, n_in, 1, x, n_in, w, n_in, 0, y, n_out)
    return call


def find(isa):
    """{name: a function that makes y = x w' a call}, and one line for each of what is there and what is absent."""
    found, told = {}, []
    for (name, sonames), make in zip(SONAMES.items(), (onednn, blis)):
        library, text = load(sonames)
        if library:
            found[name] = make(library, isa)
        told.append(f"{name}: {text}" if library else f"{name}: absent ({text})")
    return found, told
