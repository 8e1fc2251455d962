# Copyright (c) mmext contributors. All rights reserved.
"""Triton kernels of the distance operator at finite p, and its bounds."""
import triton
import triton.language as tl

from .triton_kernels import (_HIGH, _INV_LN2, _LOW, _NEAR_ONE, _TINY, _axis,
                             _chain, _inputs, _larger, _max_over_k, _outputs,
                             _pixel, _power, _rows, _tile, _window)


@triton.jit
def inf_bounds(lower, upper, w, y_lower, y_upper, M, N, K, C, H, W, HO, WO,
               bucket, KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr,
               SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
               DH: tl.constexpr, DW: tl.constexpr, CONV: tl.constexpr,
               FAST: tl.constexpr, RM: tl.constexpr, RN: tl.constexpr,
               LM: tl.constexpr, LN: tl.constexpr, KB: tl.constexpr,
               STAGES: tl.constexpr):
    """Range of max |x - w| over boxes; arguments as in ``inf_forward``.

    A distance to an interval is max(l - w, w - u, 0) and the largest one is
    max(u - w, w - l), so two differences serve both ends: 6 instructions
    per cell, 4 of them maxima.
    """
    start_m, start_n = _tile(M, N, RM * LM, RN * LN)
    m = _axis(start_m, RM, LM, CONV)
    n = _axis(start_n, RN, LN, False)
    rows, top, left = _rows(m, M, K, C, H, W, HO, WO, SH, SW, PH, PW, CONV)
    w += tl.program_id(1).to(tl.int64) * K * N
    near = tl.zeros([RM, RN, LM, LN], tl.float32)
    far = tl.zeros([RM, RN, LM, LN], tl.float32)
    for start in tl.range(0, K, KB, num_stages=STAGES):
        k = start + tl.arange(0, KB)[:, None, None]
        a = _inputs(lower, k, m, rows, top, left, M, K, H, W, KH, KW, DH, DW,
                    CONV)
        c = _inputs(upper, k, m, rows, top, left, M, K, H, W, KH, KW, DH, DW,
                    CONV)
        b = tl.load(
            w + k.to(tl.int64) * N + n[None],
            mask=(k < K) & (n < N)[None],
            other=0.)
        b = b[:, None, :, None, :]
        below = a[:, :, None, :, None] - b
        above = c[:, :, None, :, None] - b
        near = _larger(near, _max_over_k(_larger(below, -above), FAST))
        far = _larger(far, _max_over_k(_larger(above, -below), FAST))
    out = _outputs(m, n, N, HO, WO, CONV)
    mask = (m < M)[:, None, :, None] & (n < N)[None, :, None, :]
    tl.store(y_lower + out, near, mask=mask)
    tl.store(y_upper + out, far, mask=mask)


@triton.jit
def power_forward(x, w, y, p, M, N, K, C, H, W, HO, WO, bucket,
                  KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr,
                  SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
                  DH: tl.constexpr, DW: tl.constexpr, CONV: tl.constexpr,
                  POW: tl.constexpr, FAST: tl.constexpr, RM: tl.constexpr,
                  RN: tl.constexpr, LM: tl.constexpr, LN: tl.constexpr,
                  KB: tl.constexpr, STAGES: tl.constexpr):
    """(sum |x - w|^p)^(1/p) for an integer p <= 16, not normalised.

    4 instructions per cell at p = 8. A sum that float32 cannot hold well
    gives -1; ``power_stable`` computes it again.
    """
    start_m, start_n = _tile(M, N, RM * LM, RN * LN)
    m = _axis(start_m, RM, LM, CONV)
    n = _axis(start_n, RN, LN, False)
    rows, top, left = _rows(m, M, K, C, H, W, HO, WO, SH, SW, PH, PW, CONV)
    w += tl.program_id(1).to(tl.int64) * K * N
    # KB sums per result: the last product of a power joins one (FFMA).
    sums = tl.zeros([KB, RM, RN, LM, LN], tl.float32)
    for start in tl.range(0, K, KB, num_stages=STAGES):
        k = start + tl.arange(0, KB)[:, None, None]
        a = _inputs(x, k, m, rows, top, left, M, K, H, W, KH, KW, DH, DW, CONV)
        b = tl.load(
            w + k.to(tl.int64) * N + n[None],
            mask=(k < K) & (n < N)[None],
            other=0.)
        d = a[:, :, None, :, None] - b[:, None, :, None, :]
        if POW % 2 == 1:
            d = tl.abs(d)
        sums += _chain(d, POW)
    total = tl.sum(sums, 0)
    root = tl.exp2(tl.log2(total) / p)
    # One step of Newton's method: exp2 is short of the last bits.
    root = root * (1. - (_chain(root, POW) / total - 1.) / p)
    root = tl.where((total < K * _LOW) | (total > _HIGH), -1., root)
    out = _outputs(m, n, N, HO, WO, CONV)
    mask = (m < M)[:, None, :, None] & (n < N)[None, :, None, :]
    tl.store(y + out, root, mask=mask)


@triton.jit
def power_stable(x, w, y, p, M, N, K, C, H, W, HO, WO, bucket,
                 KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr,
                 SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
                 DH: tl.constexpr, DW: tl.constexpr, CONV: tl.constexpr,
                 POW: tl.constexpr, REPAIR: tl.constexpr, FAST: tl.constexpr,
                 RM: tl.constexpr, RN: tl.constexpr, LM: tl.constexpr,
                 LN: tl.constexpr, KB: tl.constexpr, STAGES: tl.constexpr):
    """M (sum (|x - w| / M)^p)^(1/p) with M = max |x - w|.

    Two sweeps: one that rescaled a running sum would pay three special
    functions per block and result, while the maximum costs 2 plain
    instructions per cell, in the shadow of the special function unit.
    REPAIR: only tiles with marks of ``power_forward``.
    """
    start_m, start_n = _tile(M, N, RM * LM, RN * LN)
    m = _axis(start_m, RM, LM, CONV)
    n = _axis(start_n, RN, LN, False)
    out = _outputs(m, n, N, HO, WO, CONV)
    mask = (m < M)[:, None, :, None] & (n < N)[None, :, None, :]
    steps = K
    if REPAIR:
        old = tl.load(y + out, mask=mask, other=0.)
        marks = tl.sum((old == -1.).to(tl.int32))
        steps = tl.where(marks > 0, K, 0)
    rows, top, left = _rows(m, M, K, C, H, W, HO, WO, SH, SW, PH, PW, CONV)
    w += tl.program_id(1).to(tl.int64) * K * N
    largest = tl.full([RM, RN, LM, LN], _TINY, tl.float32)
    for start in tl.range(0, steps, KB, num_stages=STAGES):
        k = start + tl.arange(0, KB)[:, None, None]
        a = _inputs(x, k, m, rows, top, left, M, K, H, W, KH, KW, DH, DW, CONV)
        b = tl.load(
            w + k.to(tl.int64) * N + n[None],
            mask=(k < K) & (n < N)[None],
            other=0.)
        d = tl.abs(a[:, :, None, :, None] - b[:, None, :, None, :])
        largest = _larger(largest, _max_over_k(d, FAST))
    inverse = 1. / largest
    total = tl.zeros([RM, RN, LM, LN], tl.float32)
    for start in tl.range(0, steps, KB, num_stages=STAGES):
        k = start + tl.arange(0, KB)[:, None, None]
        a = _inputs(x, k, m, rows, top, left, M, K, H, W, KH, KW, DH, DW, CONV)
        b = tl.load(
            w + k.to(tl.int64) * N + n[None],
            mask=(k < K) & (n < N)[None],
            other=0.)
        d = a[:, :, None, :, None] - b[:, None, :, None, :]
        total += tl.sum(_power(d, inverse[None], p, POW, POW, FAST), 0)
    # The sum is that of |d| * inverse: divide out what that was rounded by.
    error = tl.fma(largest, inverse, -1.)
    if POW == _NEAR_ONE:
        # The root is near 1; what exceeds 1 is rounded once, with the rest.
        u = tl.log2(total) / (p * _INV_LN2)
        root = 1. + u * (1. / 6.)
        root = 1. + u * (1. / 5.) * root
        root = 1. + u * (1. / 4.) * root
        root = 1. + u * (1. / 3.) * root
        root = 1. + u * (1. / 2.) * root
        result = tl.fma(largest, u * root - error, largest)
        # The largest ratio is 1, unless all differences are 0.
        result = tl.where(total < 0.5, 0., result)
    else:
        root = tl.exp2(tl.log2(total) / p)
        result = largest * tl.fma(root, -error, root)
    if REPAIR:
        mask = mask & (old == -1.)
    tl.store(y + out, result, mask=mask)


@triton.jit
def _odd_power(a, E: tl.constexpr):
    """``|a| ** E`` with the sign of ``a``, E >= 1."""
    if E % 2 == 1:
        return _chain(a, E)
    else:
        return _chain(a, E - 1) * tl.abs(a)


@triton.jit
def _slopes(d, inverse, up_grad, p, POW: tl.constexpr, SMALL: tl.constexpr,
            FAST: tl.constexpr):
    """Gradient of each difference: grad (|d| / y)^(p - 1) sign(d).

    Above p = 2, if it is not a small integer, the sign comes with one factor
    d, which also gives 0 for a zero, and 1 / y is in the gradient already.
    """
    if SMALL:
        slope = _power(d, inverse, p - 1., POW - 1, POW, FAST)
        slope = tl.where(d * inverse == 0, 0., slope)
        return tl.where(d < 0, -slope, slope) * up_grad
    elif POW <= 16:
        return _odd_power(d * inverse, POW - 1) * up_grad
    else:
        return d * _power(d, inverse, p - 2., 0, POW, FAST) * up_grad


@triton.jit
def power_backward_fused(
        held, stream, inverse, grad, result, stream_grad, p, R, N, Q, CHUNK,
        HELD_GROUP, HELD_ROW, STREAM_GROUP, STREAM_STEP, SCALE_GROUP,
        SCALE_STEP, C, CO, H, W, HO, WO, bucket, KH: tl.constexpr,
        KW: tl.constexpr, SH: tl.constexpr, SW: tl.constexpr, PH: tl.constexpr,
        PW: tl.constexpr, DH: tl.constexpr, DW: tl.constexpr,
        MODE: tl.constexpr, POW: tl.constexpr, SMALL: tl.constexpr,
        FAST: tl.constexpr, RM: tl.constexpr, RN: tl.constexpr,
        LM: tl.constexpr, LN: tl.constexpr, KB: tl.constexpr,
        STAGES: tl.constexpr):
    """Both gradients in one sweep: powers are taken once per cell.

    Arguments and MODE 0 and 1 as in ``power_backward`` for the gradient of
    an input. That of the weight, in the memory order of ``stream``, is
    summed over the rows of a tile and added to ``stream_grad`` atomically.
    Rows of a convolution are pixels of the *padded* image, so that every
    cell occurs. Results are added to ``result`` if there are several chunks
    of q, else stored.

    Here the lanes of a warp that hold different rows are the last axis, so
    that sums over rows take RM - 1 additions and shuffles between LM lanes.
    """
    start_r, start_n = _tile(R, N, RM * LM, RN * LN)
    r = _axis(start_r, RM, LM, MODE == 1)
    n = _axis(start_n, RN, LN, False)
    g = tl.program_id(1).to(tl.int64)
    n_mask = n < N
    r_mask = r < R
    area = HO * WO
    if MODE == 1:
        wide = W + 2 * PW
        padded = (H + 2 * PH) * wide
        b = r // padded
        row_h = (r - b * padded) // wide
        row_w = r - b * padded - row_h * wide
        inside = (row_h >= PH) & (row_h < H + PH)
        inside = inside & (row_w >= PW) & (row_w < W + PW) & r_mask
        held_r = (b.to(tl.int64) * C * H + row_h - PH) * W + row_w - PW
        held_n = (g * N + n) * H * W
        scale_r = (b.to(tl.int64) * CO + g * (CO // tl.num_programs(1))) * area
    else:
        inside = r_mask
        held_r = g * HELD_GROUP + r.to(tl.int64) * HELD_ROW
        held_n = n.to(tl.int64)
        scale_r = g * SCALE_GROUP + r
    stream += g * STREAM_GROUP
    stream_grad += g * STREAM_GROUP
    where = held_r[:, None, None, :] + held_n[None, :, :, None]
    mask = inside[:, None, None, :] & n_mask[None, :, :, None]
    h = tl.load(held + where, mask=mask, other=0.)[None]
    total = tl.zeros([RM, RN, LN, LM], tl.float32)
    first = tl.program_id(2) * CHUNK
    last = tl.minimum(first + CHUNK, Q)
    # Programs begin at different terms, so that they do not all add to the
    # same few addresses at the same time.
    steps = tl.cdiv(last - first, KB)
    turn = tl.maximum(steps, 1)  # a chunk may be empty
    for step in tl.range(0, steps, num_stages=STAGES):
        start = first + (step + tl.program_id(0)) % turn * KB
        q = start + tl.arange(0, KB)[:, None, None]
        s_mask = (q < last) & n_mask[None]
        c_mask = (q < last) & r_mask[None]
        offset = q.to(tl.int64) * STREAM_STEP + n[None]
        if MODE == 1:
            o = q // (KH * KW)
            tap = q - o * (KH * KW)
            scale, seen = _covering(row_h[None] - (tap // KW) * DH,
                                    row_w[None] - (tap % KW) * DW, HO, WO, SH,
                                    SW)
            c_mask = c_mask & seen
            scale += scale_r[None] + o.to(tl.int64) * area
        else:
            scale = q.to(tl.int64) * SCALE_STEP + scale_r[None]
        v = tl.load(stream + offset, mask=s_mask, other=0.)
        inv = tl.load(inverse + scale, mask=c_mask, other=0.)
        up_grad = tl.load(grad + scale, mask=c_mask, other=0.)
        slopes = _slopes(h - v[:, None, :, :, None], inv[:, :, None, None, :],
                         up_grad[:, :, None, None, :], p, POW, SMALL, FAST)
        total += tl.sum(slopes, 0)
        part = tl.sum(tl.sum(slopes, 1), 3)
        tl.atomic_add(stream_grad + offset, -part, mask=s_mask, sem='relaxed')
    if tl.num_programs(2) > 1:
        tl.atomic_add(result + where, total, mask=mask, sem='relaxed')
    else:
        tl.store(result + where, total, mask=mask)


@triton.jit
def _covering(up, side, HO, WO, SH: tl.constexpr, SW: tl.constexpr):
    """Output whose window has its corner there, and whether there is one."""
    ho = up // SH
    wo = side // SW
    seen = (up >= 0) & (side >= 0) & (ho * SH == up) & (wo * SW == side)
    return ho * WO + wo, seen & (ho < HO) & (wo < WO)


@triton.jit
def power_backward(held, stream, inverse, grad, result, p, R, N, Q, CHUNK,
                   HELD_GROUP, HELD_ROW, STREAM_GROUP, STREAM_STEP,
                   SCALE_GROUP, SCALE_STEP, SIZE, C, CO, H, W, HO, WO, bucket,
                   KH: tl.constexpr, KW: tl.constexpr, SH: tl.constexpr,
                   SW: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr,
                   DH: tl.constexpr, DW: tl.constexpr, MODE: tl.constexpr,
                   POW: tl.constexpr, SMALL: tl.constexpr, FAST: tl.constexpr,
                   RM: tl.constexpr, RN: tl.constexpr, LM: tl.constexpr,
                   LN: tl.constexpr, KB: tl.constexpr, STAGES: tl.constexpr):
    """sum_q grad (|h - s| / y)^(p - 1) sign(h - s), held minus streamed.

    The gradient of an input holds inputs and streams weights, that of a
    weight the other way round; the sign of the difference turns with them.
    Each program owns its results: no atomics, the same bits every time.

    MODE 0, linear: result [R, N]; element (r, n) of the held operand at
    group * HELD_GROUP + r * HELD_ROW + n, (q, n) of the streamed one at
    group * STREAM_GROUP + q * STREAM_STEP + n, and (q, r) of 1 / y and the
    upstream gradient at group * SCALE_GROUP + q * SCALE_STEP + r.
    MODE 1, input of a convolution: rows are pixels [B, H, W], columns
    channels, q = (output, tap); streamed as in MODE 0.
    MODE 2, weight of a convolution: rows are outputs, columns positions of
    a kernel, q = (image, output pixel).
    Sums over q are split into programs of CHUNK terms, each into a slice of
    SIZE numbers of the result.
    """
    start_r, start_n = _tile(R, N, RM * LM, RN * LN)
    r = _axis(start_r, RM, LM, MODE == 1)
    n = _axis(start_n, RN, LN, MODE == 2)
    g = tl.program_id(1).to(tl.int64)
    n_mask = n < N
    r_mask = r < R
    area = HO * WO
    outputs = CO // tl.num_programs(1)
    if MODE == 1:
        pixels = H * W
        b = r // pixels
        s = r - b * pixels
        row_h = s // W
        row_w = s - row_h * W
        held_r = b.to(tl.int64) * C * pixels + s
        held_n = (g * N + n) * pixels
        scale_r = (b.to(tl.int64) * CO + g * outputs) * area
    else:
        held_r = g * HELD_GROUP + r.to(tl.int64) * HELD_ROW
        held_n = n.to(tl.int64)
        if MODE == 2:
            scale_r = (g * outputs + r) * area
        else:
            scale_r = g * SCALE_GROUP + r
    stream += g * STREAM_GROUP
    where = held_r[:, None, :, None] + held_n[None, :, None, :]
    mask = r_mask[:, None, :, None] & n_mask[None, :, None, :]
    h = tl.load(held + where, mask=mask, other=0.)[None]
    sums = tl.zeros([KB, RM, RN, LM, LN], tl.float32)
    first = tl.program_id(2) * CHUNK
    last = tl.minimum(first + CHUNK, Q)
    for start in tl.range(first, last, KB, num_stages=STAGES):
        q = start + tl.arange(0, KB)[:, None, None]
        ok = q < last
        s_mask = ok & n_mask[None]
        c_mask = ok & r_mask[None]
        if MODE == 2:
            image, s, top, left = _pixel(q, H, W, HO, WO, SH, SW, PH, PW)
            offset, inside = _window(n[None], top, left, H, W, KH, KW, DH, DW)
            offset += image.to(tl.int64) * C * H * W
            s_mask = s_mask & inside
            scale = image.to(tl.int64) * CO * area + s + scale_r[None]
        else:
            offset = q.to(tl.int64) * STREAM_STEP + n[None]
            if MODE == 1:
                o = q // (KH * KW)
                tap = q - o * (KH * KW)
                scale, seen = _covering(row_h[None] + PH - (tap // KW) * DH,
                                        row_w[None] + PW - (tap % KW) * DW, HO,
                                        WO, SH, SW)
                c_mask = c_mask & seen
                scale += scale_r[None] + o.to(tl.int64) * area
            else:
                scale = q.to(tl.int64) * SCALE_STEP + scale_r[None]
        v = tl.load(stream + offset, mask=s_mask, other=0.)
        inv = tl.load(inverse + scale, mask=c_mask, other=0.)
        up_grad = tl.load(grad + scale, mask=c_mask, other=0.)
        d = h - v[:, None, :, None, :]
        inv = inv[:, :, None, :, None]
        up_grad = up_grad[:, :, None, :, None]
        sums += _slopes(d, inv, up_grad, p, POW, SMALL, FAST)
    tl.store(
        result + tl.program_id(2).to(tl.int64) * SIZE + where,
        tl.sum(sums, 0),
        mask=mask)
