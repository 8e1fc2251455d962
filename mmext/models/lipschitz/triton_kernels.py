# Copyright (c) mmext contributors. All rights reserved.
"""Triton kernels of the distance operator; see :mod:`.triton_backend`.

The operator is a matrix product whose multiply-add was replaced by a few
float32 instructions per *cell*, one difference x - w, so no tensor cores can
help and the pipes for float32 (128 results per clock and multiprocessor),
minimum and maximum (64) and special functions (16) set the limit. All else
has to hide behind them:

- Each thread keeps a block of RM x RN results in registers and reads RM + RN
  numbers from shared memory per RM * RN cells. Triton has no word for that:
  a two-dimensional tile gets a layout in which a thread owns a long column
  (32 x 1), and shared memory becomes the limit. Here a tile has the axes
  [KB, RM, RN, LM, LN]. The default layout of a tensor hands threads out from
  the last axis on, so that LM x LN *are* the threads (LM * LN = 32 warps)
  and KB, RM, RN stay in registers; sums over KB need no other thread.
- Operands are loaded once per block as [KB, RM, LM] and [KB, RN, LN], which
  the pipeliner turns into asynchronous copies to shared memory, STAGES ahead.
  Windows of a convolution are addressed there (no unfold): the divisions cost
  a few instructions per loaded number, which serves BN or BM cells.
- A reduction tail is loaded as zeros on both sides: a zero difference changes
  neither a maximum nor a sum. A padded pixel is a zero against the weight.

Differences from the equations that are for speed only: at p = inf the inner
loop remembers which block of KB positions raised the maximum, not which
position, and a second kernel looks it up (2.4 instructions per cell instead
of 4). Integer powers are summed without a normaliser first; results out of
the safe range of float32 are marked and computed again. From p = 32 on,
log2(r) is a polynomial in r - 1: more accurate than the special function
where it matters, because (1 + f)^p is nothing long before |f| is large,
and it frees half of the scarce unit. See ``_power``.
"""
import triton
import triton.language as tl

# Values of POW beside the integers 1 to 16, which are chains of products.
GENERAL = 17
NEAR_ONE = 18

_GENERAL = tl.constexpr(GENERAL)
_NEAR_ONE = tl.constexpr(NEAR_ONE)
_TINY = tl.constexpr(1.1754943508222875e-38)
_INV_LN2 = tl.constexpr(1.4426950408889634)
# A power sum of n terms is kept if it is between n * _LOW (what fell below
# the smallest normal number is then under rounding) and _HIGH.
_LOW = tl.constexpr(2.**-100)
_HIGH = tl.constexpr(1e38)


@triton.jit
def _axis(start, R: tl.constexpr, L: tl.constexpr, BY_LANE: tl.constexpr):
    """Positions [R, L] of a tile: neighbours in a thread, or in lanes.

    The first makes wide copies where memory is contiguous, the second
    makes narrow ones coalesce where Triton cannot know that it is.
    """
    r = tl.arange(0, R)[:, None]
    lane = tl.arange(0, L)[None, :]
    if BY_LANE:
        where = r * L + lane
    else:
        where = lane * R + r
    return start + where


@triton.jit
def _tile(M, N, BM: tl.constexpr, BN: tl.constexpr):
    """First row and column of this program; the shorter axis runs first.

    Programs that run together then share their operands in the L2 cache.
    """
    tiles_m = tl.cdiv(M, BM)
    tiles_n = tl.cdiv(N, BN)
    pid = tl.program_id(0)
    by_row = tiles_m <= tiles_n
    pid_m = tl.where(by_row, pid % tiles_m, pid // tiles_n)
    pid_n = tl.where(by_row, pid // tiles_m, pid % tiles_n)
    return pid_m * BM, pid_n * BN


@triton.jit
def _pixel(q, H, W, HO, WO, SH: tl.constexpr, SW: tl.constexpr,
           PH: tl.constexpr, PW: tl.constexpr):
    """Image, output position and window corner of rows (b, ho, wo)."""
    area = HO * WO
    b = q // area
    s = q - b * area
    ho = s // WO
    return b, s, ho * SH - PH, (s - ho * WO) * SW - PW


@triton.jit
def _window(k, top, left, H, W, KH: tl.constexpr, KW: tl.constexpr,
            DH: tl.constexpr, DW: tl.constexpr):
    """Offset of position k in an image, and whether it is inside.

    Offsets are short: each one is computed for a few cells only.
    """
    c = k // (KH * KW)
    tap = k - c * (KH * KW)
    h = top + (tap // KW) * DH
    w = left + (tap % KW) * DW
    # As unsigned numbers those below zero are the largest.
    inside = (h.to(tl.uint32) < H) & (w.to(tl.uint32) < W)
    return (c * H + h) * W + w, inside


@triton.jit
def _inputs(x, k, m, rows, top, left, M, K, H, W, KH: tl.constexpr,
            KW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
            CONV: tl.constexpr):
    """Numbers [KB, RM, LM] of the windows ``m`` at positions ``k``."""
    mask = (k < K) & (m < M)[None]
    if CONV:
        offset, inside = _window(k, top[None], left[None], H, W, KH, KW, DH,
                                 DW)
        return tl.load(x + rows[None] + offset, mask=mask & inside, other=0.)
    else:
        return tl.load(
            x + k.to(tl.int64) * M + rows[None], mask=mask, other=0.)


@triton.jit
def _rows(m, M, K, C, H, W, HO, WO, SH: tl.constexpr, SW: tl.constexpr,
          PH: tl.constexpr, PW: tl.constexpr, CONV: tl.constexpr):
    """Where the windows ``m`` start, without their corner."""
    g = tl.program_id(1).to(tl.int64)
    if CONV:
        b, s, top, left = _pixel(m, H, W, HO, WO, SH, SW, PH, PW)
        groups = tl.num_programs(1)
        rows = (b.to(tl.int64) * C + g * (C // groups)) * H * W
    else:
        rows = g * K * M + m
        top = m
        left = m
    return rows, top, left


@triton.jit
def _outputs(m, n, N, HO, WO, CONV: tl.constexpr):
    """Offsets [RM, RN, LM, LN] of results in [B, Co, Ho, Wo]."""
    g = tl.program_id(1)
    count = N * tl.num_programs(1)
    if CONV:
        area = HO * WO
        b = m // area
        row = b.to(tl.int64) * count * area + (m - b * area)
        column = (n + g * N).to(tl.int64) * area
    else:
        row = m.to(tl.int64) * count
        column = (n + g * N).to(tl.int64)
    return row[:, None, :, None] + column[None, :, None, :]


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _max_over_k(t, FAST: tl.constexpr):
    """Maximum over the first axis that does not lose a NaN."""
    if FAST:
        return tl.reduce(t, 0, _larger)
    else:
        # The interpreter is quick with tl.max only, which drops NaN.
        lost = tl.max((t != t).to(tl.int32), 0) > 0
        return tl.where(lost, float('nan'), tl.max(t, 0))


@triton.jit
def _log2(a, FAST: tl.constexpr):
    """Base-2 logarithm by the special function unit, or exactly.

    tl.log2 is accurate to the last bit and 20 instructions long.
    """
    if FAST:
        return tl.inline_asm_elementwise(
            'lg2.approx.ftz.f32 $0, $1;',
            '=f,f', [a],
            dtype=tl.float32,
            is_pure=True,
            pack=1)
    else:
        return tl.log2(a)


@triton.jit
def _chain(a, E: tl.constexpr):
    """``a ** E`` for 0 <= E <= 16, by squaring; unused squares vanish."""
    a2 = a * a
    a4 = a2 * a2
    a8 = a4 * a4
    # The longest factors last: the final product joins the sum.
    out = tl.full(a.shape, 1., tl.float32)
    if E % 2 == 1:
        out = out * a
    if (E // 2) % 2 == 1:
        out = out * a2
    if (E // 4) % 2 == 1:
        out = out * a4
    if (E // 8) % 2 == 1:
        out = out * a8
    if E == 16:
        out = a8 * a8
    return out


@triton.jit
def _power(d, inverse, e, E: tl.constexpr, POW: tl.constexpr,
           FAST: tl.constexpr):
    """``(|d| * inverse) ** e`` of a ratio in [0, 1]; E is e if integer.

    NEAR_ONE (e >= 30): log2(1 + f) as five terms of its series. With
    |f| = u the relative error of a power is e u^6 / 6 and its size
    exp(-e u): at most 8e-7 of the largest term at e = 30 and 2e-9 at 100,
    less than what rounding of the difference does. A zero gives 2^-98.
    """
    if POW == _NEAR_ONE:
        f = tl.fma(tl.abs(d), inverse, -1.)
        c = e * _INV_LN2
        log = tl.fma(f, c * 0.2, c * -0.25)
        log = tl.fma(log, f, c * (1. / 3.))
        log = tl.fma(log, f, c * -0.5)
        log = tl.fma(log, f, c)
        return tl.exp2(log * f)
    elif POW == _GENERAL:
        return tl.exp2(e * _log2(tl.abs(d) * inverse, FAST))
    else:
        return _chain(tl.abs(d) * inverse, E)


@triton.jit
def inf_forward(x, w, y, block, M, N, K, C, H, W, HO, WO, bucket,
                KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr,
                SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
                DH: tl.constexpr, DW: tl.constexpr, CONV: tl.constexpr,
                NEED_BLOCK: tl.constexpr, FAST: tl.constexpr, RM: tl.constexpr,
                RN: tl.constexpr, LM: tl.constexpr, LN: tl.constexpr,
                KB: tl.constexpr, STAGES: tl.constexpr):
    """max |x - w|, and the start of the first KB positions that hold it.

    Args: x [B, C, H, W] or, for a linear layer, [G, K, M]; w [G, K, N];
    y and block (multiples of KB) [B, Co, Ho, Wo]; M = B Ho Wo rows, N = Co /
    G, K = C / G KH KW. ``bucket`` only tells the tuner sizes apart.
    """
    start_m, start_n = _tile(M, N, RM * LM, RN * LN)
    m = _axis(start_m, RM, LM, CONV)
    n = _axis(start_n, RN, LN, False)
    rows, top, left = _rows(m, M, K, C, H, W, HO, WO, SH, SW, PH, PW, CONV)
    w += tl.program_id(1).to(tl.int64) * K * N
    acc = tl.zeros([RM, RN, LM, LN], tl.float32)
    if NEED_BLOCK:
        first = tl.zeros([RM, RN, LM, LN], tl.int32)
    for start in tl.range(0, K, KB, num_stages=STAGES):
        k = start + tl.arange(0, KB)[:, None, None]
        a = _inputs(x, k, m, rows, top, left, M, K, H, W, KH, KW, DH, DW, CONV)
        b = tl.load(
            w + k.to(tl.int64) * N + n[None],
            mask=(k < K) & (n < N)[None],
            other=0.)
        d = tl.abs(a[:, :, None, :, None] - b[:, None, :, None, :])
        largest = _max_over_k(d, FAST)
        if NEED_BLOCK:
            first = tl.where(largest > acc, start, first)
        acc = _larger(acc, largest)
    out = _outputs(m, n, N, HO, WO, CONV)
    mask = (m < M)[:, None, :, None] & (n < N)[None, :, None, :]
    tl.store(y + out, acc, mask=mask)
    if NEED_BLOCK:
        tl.store(block + out, first, mask=mask)


@triton.jit
def inf_resolve(x, w, y, index, total, N, K, C, H, W, HO, WO, KH: tl.constexpr,
                KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr,
                PH: tl.constexpr, PW: tl.constexpr, DH: tl.constexpr,
                DW: tl.constexpr, KB: tl.constexpr, BLOCK: tl.constexpr):
    """From blocks to positions, in place: k, or ~k where x - w < 0.

    KB is the largest block that ``inf_forward`` may have had: what it reads
    beyond a smaller one comes after the position that is looked for.

    Args: x [B, C, H, W]; w [N, K]; index and y [B, N, Ho, Wo].
    """
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = e < total
    area = HO * WO
    o = (e // area) % N
    b = e // area // N
    q = b * area + e % area
    _, _, top, left = _pixel(q, H, W, HO, WO, SH, SW, PH, PW)
    channels = K // (KH * KW)
    group = o // (N // (C // channels))
    image = (b * C + group * channels) * H * W
    start = tl.load(index + e, mask=mask, other=0)
    target = tl.load(y + e, mask=mask, other=0.)
    found = tl.zeros([BLOCK], tl.int32)
    code = start
    for j in tl.static_range(KB):
        k = start + j
        offset, inside = _window(k, top, left, H, W, KH, KW, DH, DW)
        valid = mask & (k < K)
        a = tl.load(x + image + offset, mask=valid & inside, other=0.)
        d = a - tl.load(w + o * K + k, mask=valid, other=0.)
        hit = valid & (tl.abs(d) == target) & (found == 0)
        code = tl.where(hit, tl.where(d < 0, -k - 1, k), code)
        found = tl.where(hit, 1, found)
    tl.store(index + e, code, mask=mask)


@triton.jit
def inf_scatter(grad, index, grad_x, grad_w, total, N, K, C, H, W, HO, WO,
                KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr,
                SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
                DH: tl.constexpr, DW: tl.constexpr, NEED_X: tl.constexpr,
                NEED_W: tl.constexpr, BLOCK: tl.constexpr):
    """Gradients at p = inf: add each output's gradient at its position.

    Args: grad and index [B, N, Ho, Wo]; grad_x [B, C, H, W] and grad_w
    [N, K] hold zeros.
    """
    e = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = e < total
    area = HO * WO
    o = (e // area) % N
    b = e // area // N
    code = tl.load(index + e, mask=mask, other=0)
    value = tl.load(grad + e, mask=mask, other=0.)
    value = tl.where(code < 0, -value, value)
    k = tl.where(code < 0, -code - 1, code)
    if NEED_W:
        tl.atomic_add(grad_w + o * K + k, -value, mask=mask, sem='relaxed')
    if NEED_X:
        q = b * area + e % area
        _, _, top, left = _pixel(q, H, W, HO, WO, SH, SW, PH, PW)
        channels = K // (KH * KW)
        group = o // (N // (C // channels))
        offset, inside = _window(k, top, left, H, W, KH, KW, DH, DW)
        tl.atomic_add(
            grad_x + (b * C + group * channels) * H * W + offset,
            value,
            mask=mask & inside,
            sem='relaxed')
