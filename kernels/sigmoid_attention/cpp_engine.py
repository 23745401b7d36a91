"""A flat call handed to the C++ engine: float32 on the CPU."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from .cpp_build import library
from .flat import Flat, offset_bias, row_term
from .tiles import Sums, scaled_rows
from .weightings import listed, served_by

# A share of one head's queries has at least this many rows. In the backward each has sums of its
# own over all keys, so shares are few and larger.
FORWARD_ROWS = 96
BACKWARD_ROWS = 384
BLOCK_COLUMNS = 48 + 128  # offsets that one block of scores meets


class _Strided(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((x, ctypes.c_int64) for x in ("b", "h", "t"))]


_POINTERS = ctypes.c_void_p
_SIZES = "batch heads kv_heads queries keys d dv weighting threads splits"


class _Call(ctypes.Structure):
    """Field for field the struct Call of attention.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES.split()),
        *((name, _Strided) for name in ("q", "k", "v", "do")),
        *((name, _POINTERS) for name in ("lo", "hi")),
        ("run_stride", ctypes.c_int64),
        ("row", _POINTERS),
        *((name, ctypes.c_int64) for name in ("row_b", "row_h", "row_t")),
        *((name, _POINTERS) for name in ("bias", "u", "vb", "r", "rt")),
        ("rt_stride", ctypes.c_int64),
        ("scale", ctypes.c_double),
        *((name, _POINTERS) for name in ("o", "dq", "dk", "dv_out", "dqv", "drow", "dbias", "dr")),
    ]


def available() -> bool:
    """Tell whether the engine is built or can be; compile it on first use."""
    return library() is not None


def refusal(weighting_map: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why the engine cannot serve, or None; compile nothing."""
    if weighting_map not in served_by("c++"):
        return f"it has {listed(served_by('c++'))}, not {weighting_map}"
    if device.type != "cpu" or dtype != torch.float32:
        return f"it has float32 on the cpu, not {dtype} on {device.type}"
    return None


class _Inputs:
    """A call's struct and the tensors it points into, which must outlive it."""

    def __init__(self, flat: Flat, splits: int) -> None:
        self.held: list[Tensor] = []
        batch, heads, num_queries, channels = flat.q.shape
        kv_heads, num_keys = flat.k.shape[1:3]
        self.call = call = _Call()
        call.batch, call.heads, call.kv_heads = batch, heads, kv_heads
        call.queries, call.keys, call.d, call.dv = num_queries, num_keys, channels, flat.v.shape[3]
        call.weighting = _library().sigmoid_attention_weighting(flat.map.encode())
        assert call.weighting >= 0, f"the table says that the engine has {flat.map}"
        call.threads, call.splits = torch.get_num_threads(), splits
        call.q, call.k, call.v = (self.strided(x) for x in (flat.q, flat.k, flat.v))
        if flat.lo_bt is not None and flat.hi_bt is not None:
            call.lo, call.run_stride = self.broadcast(flat.lo_bt, torch.int32)[:2]
            call.hi, run_stride = self.broadcast(flat.hi_bt, torch.int32)[:2]
            assert run_stride == call.run_stride
        row = row_term(flat)
        if row is not None:
            call.row, call.row_b, call.row_h, call.row_t = self.broadcast(row)
        bias = offset_bias(flat)
        if bias is not None:
            length: int = _library().sigmoid_attention_vector_length()
            call.bias = self.pointer(F.pad(bias, (length, length)))
        if flat.u_hd is not None and flat.vb_hd is not None and flat.r_hpd is not None:
            call.u, call.vb = self.pointer(flat.u_hd), self.pointer(flat.vb_hd)
            rows_hpd = _rows_of_r(flat)
            call.r = self.pointer(rows_hpd)
            # one column of a block of scores beyond the last offset may be read; an odd number of
            # vectors, or the rows would meet in the same few lines of a cache
            columns = rows_hpd.shape[1] + BLOCK_COLUMNS
            rt_hdp = rows_hpd.new_zeros(heads, channels, columns + (-columns) % 32 + 16)
            rt_hdp[:, :, : rows_hpd.shape[1]] = rows_hpd[..., :channels].mT
            call.rt, call.rt_stride = self.pointer(rt_hdp), rt_hdp.shape[2]
        call.scale = flat.scale

    def native(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return x as the engine reads it: of `dtype` on the CPU, last axis adjacent; held.

        Pointers and strides are taken from the tensor returned here and from no other.
        """
        assert x.device.type == "cpu", f"got {x.device}"
        x = x.detach().to(dtype)
        if x.dim() and x.stride(-1) != 1:
            x = x.contiguous()
        self.held.append(x)
        return x

    def strided(self, x: Tensor) -> _Strided:
        """Return pointer and strides of a tensor (B, H, T, D)."""
        x = self.native(x)
        return _Strided(x.data_ptr(), *x.stride()[:3])

    def broadcast(self, x: Tensor, dtype: torch.dtype = torch.float32) -> tuple[int, ...]:
        """Return pointer and strides of a tensor whose axes of size 1 stand for any size."""
        x = self.native(x.contiguous(), dtype)
        return (x.data_ptr(), *(x.stride(i) * (x.shape[i] > 1) for i in range(x.dim())))

    def pointer(self, x: Tensor) -> int:
        """Return the pointer of a tensor that the engine reads as one block."""
        return self.native(x.contiguous()).data_ptr()


def forward(flat: Flat) -> Tensor:
    """o_bhtd of a flat call."""
    batch, heads, num_queries, _ = flat.q.shape
    # Small shares even out the load: ragged lengths, a busy core.
    inputs = _Inputs(flat, _splits(batch * flat.k.shape[1], num_queries, 4, FORWARD_ROWS))
    o = flat.q.new_empty(batch, heads, num_queries, flat.v.shape[3])
    inputs.call.o = o.data_ptr()
    _library().sigmoid_attention_forward(ctypes.byref(inputs.call))
    return scaled_rows(flat, o)


def backward(flat: Flat, do: Tensor, row: bool, by_offset: bool) -> Sums:
    """Gradient sums of a flat call, given that of its output; `row`, `by_offset`: wanted too."""
    batch, heads, num_queries, channels = flat.q.shape
    kv_heads, num_keys = flat.k.shape[1:3]
    splits = _splits(batch * kv_heads, num_queries, 1, BACKWARD_ROWS)
    inputs = _Inputs(flat, splits)
    call, new = inputs.call, flat.q.new_empty
    call.do = inputs.strided(scaled_rows(flat, do))
    num_offsets = num_queries + num_keys - 1
    sums = Sums(
        q=new(batch, heads, num_queries, channels),
        k=new(batch, kv_heads, num_keys, channels),
        v=new(batch, kv_heads, num_keys, flat.v.shape[3]),
        row=flat.q.new_zeros(batch, heads, num_queries) if row else None,
        by_offset=None,
        qv=None,
        r=None,
    )
    call.dq, call.dk, call.dv_out = sums.q.data_ptr(), sums.k.data_ptr(), sums.v.data_ptr()
    if sums.row is not None:
        call.drow = sums.row.data_ptr()
    dbias = dr = None
    if by_offset:
        dbias = flat.q.new_zeros(splits, batch, heads, num_offsets)
        call.dbias = dbias.data_ptr()
    if flat.r_hpd is not None:
        padded = _padded(channels)
        dr = flat.q.new_zeros(splits, batch, heads, num_offsets, padded)
        qv = new(batch, heads, num_queries, channels)
        call.dr, call.dqv = dr.data_ptr(), qv.data_ptr()
        sums.qv = qv.transpose(0, 1)
    _library().sigmoid_attention_backward(ctypes.byref(call))
    if dbias is not None:
        sums.by_offset = dbias.sum((0, 1))
    if dr is not None and flat.r_hpd is not None:
        first = flat.delta - (num_queries - 1) + flat.zero
        sums.r = torch.zeros_like(flat.r_hpd)
        sums.r[:, first : first + num_offsets] = dr.sum((0, 1))[..., :channels]
    return sums


def _rows_of_r(flat: Flat) -> Tensor:
    """The rows of r for the offsets of this call, channels padded to whole vectors."""
    assert flat.r_hpd is not None
    first = flat.delta - (flat.q.shape[2] - 1) + flat.zero
    rows = flat.r_hpd[:, first : first + flat.q.shape[2] + flat.k.shape[2] - 1].float()
    return F.pad(rows, (0, _padded(rows.shape[2]) - rows.shape[2]))


def _splits(items: int, num_queries: int, per_thread: int, least_rows: int) -> int:
    """Shares of one head's queries, so that each thread has `per_thread` tasks if rows suffice."""
    wanted = -(-per_thread * torch.get_num_threads() // max(items, 1))
    return max(1, min(wanted, num_queries // least_rows))


def _padded(channels: int) -> int:
    length: int = _library().sigmoid_attention_vector_length()
    return -(-channels // length) * length


def _library() -> ctypes.CDLL:
    loaded = library()
    assert loaded is not None, "the caller asks available() first"
    return loaded
