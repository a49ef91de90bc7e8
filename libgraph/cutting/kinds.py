"""What operations are to values: affine, of each number by itself, or neither."""

from __future__ import annotations

import operator
from typing import Any

from libgraph.cutting import functions
from libgraph.cutting.values import Value, values_in


def _words(text: str) -> set[str]:
    return set(text.split())


JOINTLY = _words("""
    reshape view _unsafe_view permute transpose t numpy_T unsqueeze squeeze expand expand_as
    select slice cat concat concatenate stack hstack vstack split split_with_sizes chunk unbind
    getitem flatten unflatten flip roll neg negative sum mean index_select index gather repeat
    repeat_interleave tile constant_pad_nd pad reflection_pad1d reflection_pad2d
    replication_pad1d replication_pad2d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
    upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_linear1d
    upsample_bicubic2d movedim moveaxis narrow cumsum tril triu diagonal add sub subtract rsub
    masked_fill where pixel_shuffle pixel_unshuffle channel_shuffle swapaxes swapdims
    squeeze_copy im2col unfold centre group_centre every_channel spread cast_like
    native_channel_shuffle rot90 select_scatter slice_scatter view_as_real as_complex
""")
"""Affine in all that depends on data, taken together."""


ONE_FACTOR = _words("""
    mul multiply matmul mm bmm mv dot einsum linear conv1d conv2d conv3d convolution
    conv_transpose1d conv_transpose2d conv_transpose3d addmm addbmm baddbmm addmv div divide
    true_divide kron outer tensordot
""")
"""Affine where one factor alone depends on data."""


CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


UNARY = _words("""
    relu gelu silu sigmoid tanh softplus elu celu selu leaky_relu hardtanh relu6 hardsigmoid
    hardswish mish softsign log_sigmoid exp exp2 expm1 log log2 log10 log1p sqrt rsqrt
    reciprocal pow square abs sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc
    sign clamp clamp_min clamp_max threshold softshrink hardshrink sgn logit sinc cast_like
    floor ceil round trunc frac relu_ nan_to_num
""")
"""Of each number by itself."""


BINARY = _words("""
    add sub rsub mul div neg maximum minimum max min where gt ge lt le eq ne pow logical_not
    logical_and logical_or atan2 masked_fill lerp
""")
"""Of each number by itself, where the others are numbers or made of the same ones."""


def name_of(value: Value) -> str:
    """What an operation is called, without its signature."""
    target: Any = value.target
    if target is None:
        return ""
    if target is operator.getitem:
        return "getitem"
    packet = getattr(target, "overloadpacket", None)
    if packet is not None:
        return str(packet.__name__)
    return str(getattr(target, "__name__", target))


def is_affine(value: Value) -> bool:
    """Whether a value is affine in what it is computed of."""
    name = name_of(value)
    if not all(v.floating or v.complex or v.shape is None for v in (value, *value.sources)):
        return False
    if name in JOINTLY:
        return not (name == "index" and _depends(value.args[1:]))
    if name not in ONE_FACTOR:
        return False
    if name in ("div", "divide", "true_divide"):
        return not _depends(value.args[1:]) and not value.kwargs
    if name == "einsum":
        return sum(map(_depends, value.args[1])) == 1
    if name in ("addmm", "baddbmm", "addbmm", "addmv"):
        return _depends(value.args[1]) + _depends(value.args[2]) <= 1
    if name == "linear" or name.startswith("conv"):
        return not _depends(value.args[1:])
    return sum(map(_depends, value.args[:2])) == 1 and not _depends(value.args[2:])


def _depends(tree: Any) -> bool:
    return any(source.depends for source in values_in(tree))


def is_elementwise(value: Value) -> bool:
    """Whether each number is made of numbers at its place alone, and of single ones."""
    name = name_of(value)
    if name not in UNARY | BINARY or value.target in (functions.divide,):
        return False
    if name in ("max", "min") and len(value.args) > 1 and not isinstance(value.args[1], Value):
        return False
    for part in values_in((value.args, value.kwargs)):
        if part.depends:
            if part.shape != value.shape:
                return False
        elif part.constant is None or part.constant.numel() != 1:
            return False
    return bool(value.sources)
