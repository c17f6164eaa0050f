// SRCNN over the bicubic field, from the coarse field: 9x9 -> 1x1 or 3x3 -> 5x5.
//
// Everything on the fine grid is kept as scale * scale "phases", planes of the fine cells at one place in their coarse cell,
// so that lanes of a vector are neighbouring coarse cells:
//
// * Bicubic refinement followed by the 9x9 layer is one linear map: for each phase a filter of the coarse field, of 6x6 cells
//   at x4 (9x9 fine cells are 81 products).
// * A 3x3 layer is done in Winograd's domain: a coarse cell's scale x scale outputs take (scale + 2)^2 products a channel
//   instead of 9 scale^2 (Lavin & Gray 2016, Fast algorithms for convolutional neural networks, CVPR, eq. 8). As its blocks are
//   the coarse cells, rounding errors stay where the products are: what a coarse cell depends on is the same as without.
// * The 5x5 layer to one output is a 1x1 layer to its 25 taps, whose results are summed shifted.
//
// The way is by rows of coarse cells, with as many kept as the next layer looks back at.
#pragma once
#include "api.h"
#include "interleave.h"
#include "panel.h"
#include "scratch.h"

namespace {

// F(S, 3): S outputs of a window of 3 from T = S + 2 inputs. The matrices are those of Lavin & Gray, section 4.1 (S = 2)
// and 4.3 (S = 4); S = 3 by Cook and Toom's way at the points 0, 1, -1, 2 and infinity.
template <int S> struct Winograd;

template <> struct Winograd<2> {
    static void input(const vec *d, long at, vec *t, long to) {
        vec d0 = d[0], d1 = d[at], d2 = d[2 * at], d3 = d[3 * at];
        t[0] = d0 - d2, t[to] = d1 + d2, t[2 * to] = d2 - d1, t[3 * to] = d3 - d1;
    }
    static void output(const vec *m, long at, vec *o, long to) {
        vec m1 = m[at], m2 = m[2 * at];
        o[0] = m[0] + m1 + m2, o[to] = m1 - m2 + m[3 * at];
    }
};

template <> struct Winograd<3> {
    static void input(const vec *d, long at, vec *t, long to) {
        vec d0 = d[0], d1 = d[at], d2 = d[2 * at], d3 = d[3 * at], d4 = d[4 * at], a = d3 - d1;
        t[0] = 2.0f * (d0 - d2) + a;
        t[to] = d3 - 2.0f * d1 - d2;
        t[2 * to] = d3 + 2.0f * d1 - 3.0f * d2;
        t[3 * to] = a;
        t[4 * to] = d4 - d2 - 2.0f * a;
    }
    static void output(const vec *m, long at, vec *o, long to) {
        vec p = m[at] + m[2 * at], q = m[at] - m[2 * at], m3 = m[3 * at];
        o[0] = m[0] + p + m3, o[to] = q + 2.0f * m3, o[2 * to] = p + 4.0f * m3 + m[4 * at];
    }
};

template <> struct Winograd<4> {
    static void input(const vec *d, long at, vec *t, long to) {
        vec d0 = d[0], d1 = d[at], d2 = d[2 * at], d3 = d[3 * at], d4 = d[4 * at], d5 = d[5 * at];
        vec a = d4 - 4.0f * d2, b = d3 - 4.0f * d1, c = d4 - d2, e = 2.0f * (d3 - d1);
        t[0] = 4.0f * d0 - 5.0f * d2 + d4;
        t[to] = a + b, t[2 * to] = a - b, t[3 * to] = c + e, t[4 * to] = c - e;
        t[5 * to] = 4.0f * d1 - 5.0f * d3 + d5;
    }
    static void output(const vec *m, long at, vec *o, long to) {
        vec p = m[at] + m[2 * at], q = m[at] - m[2 * at], r = m[3 * at] + m[4 * at], s = m[3 * at] - m[4 * at];
        o[0] = m[0] + p + r, o[to] = q + 2.0f * s, o[2 * to] = p + 4.0f * r, o[3 * to] = q + 8.0f * s + m[5 * at];
    }
};

class SrcnnTile {
    // Cells worked on at once between layers, and what is added to strides that would be multiples of a page.
    static constexpr long CHUNK = 48, SHIFT = 48;
    // Most columns of cells done at once, such that with their rim they are whole chunks, and a row of the widest networks
    // stays in the processor's larger caches.
    static constexpr long STRIP = 3 * CHUNK - 4;
    const Srcnn &net;
    long h = 0, w = 0;           // cells of the strip
    long wide = 0, onward = 0;   // floats from row to row of the field, and of the output
    const long scale = net.scale, phases = scale * scale, side = scale + 2;
    const long rim = net.middle == 3 ? 2 : 1;  // cells around the tile for which the first layer is needed
    const long pad = rim + net.taps;  // cells around the tile that a window may cover
    long coarse_width = 0, width = 0, hidden_phase = 0;
    float *coarse = nullptr, *hidden = nullptr, *made = nullptr, *second = nullptr, *products = nullptr, *rows = nullptr;
    float *turned = nullptr, *multiplied = nullptr;
    const float **src = nullptr;

    // Layers: `lane` 0 of the first is the cell -rim of the row, of all others the cell -1.

    // The first layer at `phase` of cells [x, x + n) of row j.
    void first_layer(long j, long phase, long x, long n, Rows dst) {
        long k = 0;
        for (long ky = 0; ky < net.taps; ky++) {
            long at = j + ky - net.reach[phase / scale] + pad, first = x + pad - rim - net.reach[phase % scale];
            const float *row = coarse + at * coarse_width + first;
            for (long kx = 0; kx < net.taps; kx++) src[k++] = row + kx;
        }
        long packed = (net.first + PACK - 1) / PACK * PACK;
        multiply({src, k, net.phases + phase * packed * k, net.bias1, net.first, true, dst, {nullptr, 0}}, n);
    }

    void pointwise(const float *from, long channels, long stride, Panel p, long n) {
        for (long c = 0; c < channels; c++) src[c] = from + c * stride;
        p.src = src;
        p.k = channels;
        multiply(p, n);
    }

    // The second layer's outputs (in `second`) to the 25 products of each fine cell of row j.
    void last_layer(long j, long phase, long x, long n, const float *from) {
        float *to = products + ((j + 3) % 3 * phases + phase) * 25 * width + x;
        pointwise(from, net.second, CHUNK, {nullptr, 0, net.last, nullptr, 25, false, {to, width}, {nullptr, 0}}, n);
    }

    void direct_row(long j) {
        for (long phase = 0; phase < phases; phase++)
            for (long x = 0; x < width - LANES; x += CHUNK) {
                long n = width - LANES - x < CHUNK ? width - LANES - x : CHUNK;
                first_layer(j, phase, x, n, {made, CHUNK});
                Panel middle{nullptr, 0, net.weights, net.bias2, net.second, true, {second, CHUNK}, {nullptr, 0}};
                pointwise(made, net.first, CHUNK, middle, n);
                last_layer(j, phase, x, n, second);
            }
    }

    Rows hidden_at(long j, long py, long px) const {
        return {hidden + ((j + 3) % 3 * phases + py * scale + px) * hidden_phase, width};
    }

    void hidden_row(long j) {
        for (long py = 0; py < scale; py++) {
            if ((j == -2 && py < scale - 1) || (j == h + 1 && py > 0)) continue;  // out of the 3x3 layer's sight
            for (long px = 0; px < scale; px++) first_layer(j, py * scale + px, 0, width - LANES, hidden_at(j, py, px));
        }
    }

    template <int S> void winograd_row(long j) {
        constexpr int T = S + 2;
        const long turned_step = net.first * CHUNK + SHIFT, multiplied_step = net.second * CHUNK + SHIFT;
        const float *seen[T][T];  // fine cells -1 ... S of a coarse cell
        for (int r = 0; r < T; r++)
            for (int q = 0; q < T; q++) {
                long row = r == 0 ? j - 1 : r == T - 1 ? j + 1 : j, py = (r + S - 1) % S, px = (q + S - 1) % S;
                seen[r][q] = hidden_at(row, py, px).base + (q == 0 ? 0 : q == T - 1 ? 2 : 1);
            }
        for (long x = 0; x < width - 2 * LANES; x += CHUNK) {
            long n = width - 2 * LANES - x < CHUNK ? width - 2 * LANES - x : CHUNK;
            for (long c = 0; c < net.first; c++)
                for (long at = 0; at < n; at += LANES) {
                    vec d[T * T], half[T * T];
                    for (int i = 0; i < T * T; i++) d[i] = load(seen[i / T][i % T] + c * width + x + at);
                    for (int q = 0; q < T; q++) Winograd<S>::input(d + q, T, half + q, T);
                    for (int r = 0; r < T; r++) Winograd<S>::input(half + r * T, 1, d + r * T, 1);
                    for (int i = 0; i < T * T; i++) store(turned + i * turned_step + c * CHUNK + at, d[i]);
                }
            long packed = (net.second + PACK - 1) / PACK * PACK * net.first;
            for (int i = 0; i < T * T; i++) {
                Rows dst{multiplied + i * multiplied_step, CHUNK};
                Panel p{nullptr, 0, net.weights + i * packed, nullptr, net.second, false, dst, {nullptr, 0}};
                pointwise(turned + i * turned_step, net.first, CHUNK, p, n);
            }
            for (long c = 0; c < net.second; c++)
                for (long at = 0; at < n; at += LANES) {
                    vec m[T * T], half[S * T], o[S * S];
                    for (int i = 0; i < T * T; i++) m[i] = load(multiplied + i * multiplied_step + c * CHUNK + at);
                    for (int q = 0; q < T; q++) Winograd<S>::output(m + q, T, half + q, T);
                    for (int r = 0; r < S; r++) Winograd<S>::output(half + r * T, 1, o + r * S, 1);
                    float bias = net.bias2 ? net.bias2[c] : 0.0f;
                    for (int i = 0; i < S * S; i++)
                        store(second + (i * net.second + c) * CHUNK + at, positive(o[i] + bias));
                }
            for (long phase = 0; phase < phases; phase++)
                last_layer(j, phase, x, n, second + phase * net.second * CHUNK);
        }
    }

    // Row j of the output: for each fine cell the products of its 25 neighbours.
    void sum_row(long j, float *out) {
        auto floor = [this](long a) { return (a + scale) / scale - 1; };
        for (long py = 0; py < scale; py++) {
            for (long px = 0; px < scale; px++) {
                const float *from[25];
                for (long i = 0; i < 25; i++) {
                    long fy = py + i / 5 - 2, fx = px + i % 5 - 2, dy = floor(fy), dx = floor(fx);
                    long phase = (fy - dy * scale) * scale + fx - dx * scale;
                    from[i] = products + (((j + dy + 3) % 3 * phases + phase) * 25 + i) * width + 1 + dx;
                }
                for (long x = 0; x < w; x += LANES) {
                    vec sum = vec{} + (net.bias3 ? net.bias3[0] : 0.0f);
                    for (int i = 0; i < 25; i++) sum += load(from[i] + x);
                    store(rows + px * width + x, sum);
                }
            }
            interleave(rows, width, scale, w, out + py * onward);
        }
    }

    void make_row(long j) {
        if (net.middle == 1) return direct_row(j);
        if (scale == 2) winograd_row<2>(j);
        if (scale == 3) winograd_row<3>(j);
        if (scale == 4) winograd_row<4>(j);
    }

    bool lay_out(const float *field) {
        static thread_local Scratch<float> scratch;
        static thread_local Scratch<const float *> sources;
        long ny = h + 2 * pad;
        width = whole(w + 2 * rim) + 2 * LANES;
        coarse_width = width + net.taps + 2 * pad;
        hidden_phase = net.first * width + SHIFT;
        long points = net.middle == 3 ? side * side : 0, chunks = net.middle == 3 ? phases : 1;
        size_t sizes[] = {size_t(ny * coarse_width),
                          size_t(net.middle == 3 ? 3 * phases * hidden_phase : 0),
                          size_t(net.first * CHUNK),
                          size_t(chunks * net.second * CHUNK),
                          size_t(3 * phases * 25 * width),
                          size_t(scale * width),
                          size_t(points * (net.first * CHUNK + SHIFT)),
                          size_t(points * (net.second * CHUNK + SHIFT))};
        float **parts[] = {&coarse, &hidden, &made, &second, &products, &rows, &turned, &multiplied};
        size_t total = 0;
        for (size_t size : sizes) total += size + 16;
        long most = net.taps * net.taps;
        if (net.first > most) most = net.first;
        if (net.second > most) most = net.second;
        if (!scratch.reserve(total) || !sources.reserve(most)) return false;
        for (int i = 0; i < 8; i++) *parts[i] = scratch.take(sizes[i]);
        src = sources.take(most);
        // Cells beyond the given ones are looked at only for values that nobody uses.
        long shared = pad < net.halo ? pad : net.halo;
        for (long y = -shared; y < h + shared; y++)
            memcpy(coarse + (y + pad) * coarse_width + pad - shared, field + (y + net.halo) * wide + net.halo - shared,
                   (w + 2 * shared) * sizeof(float));
        return true;
    }

    void run_strip(float *out) {
        if (net.middle == 3)
            for (long j = -2; j < 0; j++) hidden_row(j);
        for (long j = -1; j <= h; j++) {
            if (net.middle == 3) hidden_row(j + 1);
            make_row(j);
            if (j >= 1) sum_row(j - 1, out + (j - 1) * scale * onward);
        }
    }

  public:
    explicit SrcnnTile(const Srcnn &net) : net(net) {}

    int run(const float *field, long rows_, long cols_, float *out) {
        long strips = (cols_ + STRIP - 1) / STRIP, step = (cols_ + strips - 1) / strips;
        h = rows_, wide = cols_ + 2 * net.halo, onward = cols_ * scale;
        for (long x = 0; x < cols_; x += step) {
            w = cols_ - x < step ? cols_ - x : step;
            if (!lay_out(field + x)) return 1;
            run_strip(out + x * scale);
        }
        return 0;
    }
};

}  // namespace
