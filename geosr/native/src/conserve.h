// Conservation of a tile, in place: the same sums in the same order as geosr/conserve.py, to the last bit.
#pragma once
#include "scratch.h"

namespace {

// Weighted means of the cells of row t: sum over rows (sum over columns * share of the row) / scale.
template <int S> inline void block_means(const float *fine, long w, long scale_, const double *share, double *mean) {
    const long scale = S ? S : scale_;
    for (long py = 0; py < scale; py++, fine += w * scale)
        for (long x = 0; x < w; x++) {
            double sum = 0.0;
            for (long px = 0; px < scale; px++) sum += fine[x * scale + px];
            mean[x] = py ? mean[x] + sum * share[py] : sum * share[py];
        }
    for (long x = 0; x < w; x++) mean[x] /= double(scale);
}

template <int S> inline void shift(float *fine, long w, long scale_, const double *by) {
    const long scale = S ? S : scale_;
    for (long py = 0; py < scale; py++, fine += w * scale)
        for (long x = 0; x < w; x++)
            for (long px = 0; px < scale; px++) fine[x * scale + px] = float(fine[x * scale + px] + by[x]);
}

template <int S>
inline int conserve_tile(float *fine, const float *coarse, long h, long w, long scale, const double *share, bool correct,
                         double *found) {
    static thread_local Scratch<double> scratch;
    if (!scratch.reserve(2 * w + 16)) return 1;
    double *mean = scratch.take(w), *by = scratch.take(w);
    for (long t = 0; t < h; t++, coarse += w, fine += w * scale * scale) {
        block_means<S>(fine, w, scale, share + t * scale, mean);
        // Without correction 0 is added, or NaN where the coarse cell is NaN.
        for (long x = 0; x < w; x++) by[x] = correct ? coarse[x] - mean[x] : coarse[x] - coarse[x];
        shift<S>(fine, w, scale, by);
        block_means<S>(fine, w, scale, share + t * scale, mean);
        for (long x = 0; x < w; x++) {
            double error = __builtin_fabs(mean[x] - coarse[x]), size = __builtin_fabs(double(coarse[x]));
            if (error > found[0]) found[0] = error;  // never for NaN
            if (size > found[1]) found[1] = size;
        }
    }
    return 0;
}

inline int conserve_any(float *fine, const float *coarse, long h, long w, long scale, const double *share, bool correct,
                        double *found) {
    switch (scale) {
    case 2: return conserve_tile<2>(fine, coarse, h, w, scale, share, correct, found);
    case 3: return conserve_tile<3>(fine, coarse, h, w, scale, share, correct, found);
    case 4: return conserve_tile<4>(fine, coarse, h, w, scale, share, correct, found);
    default: return conserve_tile<0>(fine, coarse, h, w, scale, share, correct, found);
    }
}

}  // namespace
