// The one inner loop of geosr's networks: a small matrix times rows of cells.
//
//   dst[c][x] = act( bias[c] + sum_k w[k][c] * src[k][x] ) + add[c][x]
//
// Lanes of a vector are neighbouring cells of a row ("planar" layout), so a convolution is this loop with one `src`
// pointer for each (input channel, window row, window column), shifted by the column. Every output is one sum in the
// order of k, whatever the extent of the row or the width of the vectors: results do not depend on tiles.
//
// This file is compiled once for each instruction set (GEOSR_LANES floats in a vector); see CMakeLists.txt.
#pragma once
#include <cstring>

namespace {

typedef float vec __attribute__((vector_size(4 * GEOSR_LANES)));
constexpr long LANES = GEOSR_LANES;
// Outputs whose weights lie together, and how many of them are kept in registers at once, with how many vectors of
// cells: 8 x 3 accumulators of AVX-512's 32 registers, 4 x 3 of 16.
constexpr int PACK = 8, ROWS = GEOSR_LANES == 16 ? 8 : 4, VECS = 3;

inline vec load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
inline void store(float *p, vec v) { memcpy(p, &v, sizeof v); }
inline vec positive(vec v) { return v > 0.0f ? v : vec{}; }
constexpr long whole(long n) { return (n + LANES - 1) / LANES * LANES; }

struct Rows {  // where rows of cells lie: one for each channel, `stride` floats apart
    float *base;
    long stride;
};

struct Panel {
    const float *const *src;  // [k] first cell of each input row
    long k;
    const float *weights;  // [ceil(outputs / PACK)][k][PACK]
    const float *bias;     // [outputs], or null
    long outputs;
    bool relu;
    Rows dst, add;  // add.base may be null
};

template <int C, int V> inline void block(const Panel &p, long first, long x) {
    const float *w = p.weights + first / PACK * p.k * PACK + first % PACK;
    vec sum[C][V];
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) sum[c][v] = vec{} + (p.bias ? p.bias[first + c] : 0.0f);
    for (long k = 0; k < p.k; k++, w += PACK) {
        const float *s = p.src[k] + x;
        vec in[V];
        for (int v = 0; v < V; v++) in[v] = load(s + v * LANES);
        for (int c = 0; c < C; c++)
            for (int v = 0; v < V; v++) sum[c][v] += in[v] * w[c];
    }
    for (int c = 0; c < C; c++)
        for (int v = 0; v < V; v++) {
            vec out = p.relu ? positive(sum[c][v]) : sum[c][v];
            long at = (first + c) * p.dst.stride + x + v * LANES;
            if (p.add.base) out += load(p.add.base + (first + c) * p.add.stride + x + v * LANES);
            store(p.dst.base + at, out);
        }
}

template <int V> inline void outputs(const Panel &p, long x) {
    long c = 0;
    for (; c + ROWS <= p.outputs; c += ROWS) block<ROWS, V>(p, c, x);
    if (ROWS > 4 && c + 4 <= p.outputs) block<4, V>(p, c, x), c += 4;
    if (c + 2 <= p.outputs) block<2, V>(p, c, x), c += 2;
    if (c < p.outputs) block<1, V>(p, c, x);
}

// Cells [0, n) of the rows; n is a multiple of LANES.
inline void multiply(const Panel &p, long n) {
    long x = 0;
    for (; x + VECS * LANES <= n; x += VECS * LANES) outputs<VECS>(p, x);
    for (; x < n; x += LANES) outputs<1>(p, x);
}

}  // namespace
