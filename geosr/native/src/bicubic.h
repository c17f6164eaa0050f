// Bicubic refinement, the same sums in the same order as geosr/interpolate.py, so that the two agree to the last bit.
#pragma once
#include "interleave.h"
#include "scratch.h"

namespace {

constexpr long TAPS = 5;

// to[x] = sum of w[k] * from[k * stride + x] over the taps with a weight, in their order.
inline void taps(const float *from, long stride, const float *w, long n, float *to) {
    bool first = true;
    for (long k = 0; k < TAPS; k++) {
        if (w[k] == 0.0f) continue;
        const float *row = from + k * stride;
        if (first)
            for (long x = 0; x < n; x++) to[x] = w[k] * row[x];
        else
            for (long x = 0; x < n; x++) to[x] += w[k] * row[x];
        first = false;
    }
}

inline int bicubic_tile(const float *field, long h, long w, long scale, const float *weights, bool add, float *out) {
    static thread_local Scratch<float> scratch;
    if (!scratch.reserve((scale + 1) * (w + 4) + scale * w + 48)) return 1;
    float *column = scratch.take(w + 4), *planes = scratch.take(scale * (w + 4)), *row = scratch.take(scale * w);
    for (long t = 0; t < h; t++)
        for (long py = 0; py < scale; py++, out += w * scale) {
            taps(field + t * (w + 4), w + 4, weights + py * TAPS, w + 4, column);
            for (long px = 0; px < scale; px++) taps(column, 1, weights + px * TAPS, w, planes + px * (w + 4));
            interleave(planes, w + 4, scale, w, add ? row : out);
            if (add)
                for (long x = 0; x < w * scale; x++) out[x] = row[x] + out[x];
        }
    return 0;
}

}  // namespace
