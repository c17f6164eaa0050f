// Planes of a coarse cell's columns to rows of fine cells.
#pragma once

namespace {

template <int S> inline void interleave_by(const float *planes, long stride, long n, float *out) {
    for (long x = 0; x < n; x++)
        for (int p = 0; p < S; p++) out[x * S + p] = planes[p * stride + x];
}

// out[x * scale + p] = planes[p * stride + x] for x in [0, n).
inline void interleave(const float *planes, long stride, long scale, long n, float *out) {
    switch (scale) {  // constants make vectors of it
    case 2: return interleave_by<2>(planes, stride, n, out);
    case 3: return interleave_by<3>(planes, stride, n, out);
    case 4: return interleave_by<4>(planes, stride, n, out);
    }
    for (long p = 0; p < scale; p++)
        for (long x = 0; x < n; x++) out[x * scale + p] = planes[p * stride + x];
}

}  // namespace
