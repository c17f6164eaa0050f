// Convolutions on the coarse grid, row by row: a layer makes a row as soon as the rows it needs are there, and keeps only
// as many as the layers after it look back at. So a tile of any height needs the memory of a few rows of each layer.
#pragma once
#include "api.h"
#include "panel.h"
#include "scratch.h"

namespace {

struct Ring {  // the last rows of a layer's output, planar
    float *memory;
    long rows, channels, width, cells, done;

    Rows row(long t) const { return {memory + t % rows * channels * width, width}; }
};

class ChainRun {
    const Layer *layers;
    long count, scale;
    Ring *rings = nullptr;  // [0] is the field, [i + 1] what layer i makes
    const float **src = nullptr;

    void make_row(long i) {
        const Layer &l = layers[i];
        const Ring &from = rings[i];
        Ring &to = rings[i + 1];
        long t = to.done++, k = 0;
        for (long ky = 0; ky < l.kernel; ky++) {
            Rows row = from.row(t + ky);
            for (long kx = 0; kx < l.kernel; kx++)
                for (long c = 0; c < l.inputs; c++) src[k++] = row.base + c * row.stride + kx;
        }
        Rows add{nullptr, 0};
        if (l.skip) {  // the cells in the middle of what this layer and the one before it looked at
            long rim = (layers[i - 1].kernel + l.kernel) / 2 - 1;
            add = rings[i - 1].row(t + rim);
            add.base += rim;
        }
        multiply({src, k, l.weights, l.bias, l.outputs, l.relu != 0, to.row(t), add}, whole(to.cells));
    }

    // Rows of value i up to `last`, and of those before it what that takes.
    void advance(long i, long last) {
        while (rings[i].done <= last) {
            if (i > 1) advance(i - 1, rings[i].done + layers[i - 1].kernel - 1);
            make_row(i - 1);
        }
    }

    void shuffle(long t, long w, float *out) const {
        Rows row = rings[count].row(t);
        for (long py = 0; py < scale; py++, out += w * scale)
            for (long px = 0; px < scale; px++) {
                const float *from = row.base + (py * scale + px) * row.stride;
                for (long x = 0; x < w; x++) out[x * scale + px] = from[x];
            }
    }

  public:
    ChainRun(const Layer *layers, long count, long scale) : layers(layers), count(count), scale(scale) {}

    int run(const float *field, long h, long w, float *out) {
        static thread_local Scratch<float> scratch;
        static thread_local Scratch<Ring> values;
        static thread_local Scratch<const float *> sources;
        long reach = 0, most = 0;
        for (long i = 0; i < count; i++) {
            const Layer &l = layers[i];
            reach += l.kernel / 2;
            if (l.kernel * l.kernel * l.inputs > most) most = l.kernel * l.kernel * l.inputs;
        }
        if (!values.reserve(count + 1) || !sources.reserve(most)) return 1;
        rings = values.take(count + 1);
        src = sources.take(most);
        long ny = h + 2 * reach, nx = w + 2 * reach;
        // Whole vectors are computed (what lies beyond a row's cells is never read as data), and a window may reach as far.
        long width = whole(nx) + LANES, cells = nx;
        size_t need = 0;
        for (long i = 0; i <= count; i++) {
            long channels = i ? layers[i - 1].outputs : layers[0].inputs;
            long rows = i == 0 ? ny : i == count ? 1 : layers[i].kernel + (i + 1 < count ? layers[i + 1].kernel : 0);
            if (i) cells -= 2 * (layers[i - 1].kernel / 2);
            rings[i] = {nullptr, rows, channels, width, cells, 0};
            need += rows * channels * width + 16;
        }
        if (!scratch.reserve(need)) return 1;
        for (long i = 0; i <= count; i++)
            rings[i].memory = scratch.take(rings[i].rows * rings[i].channels * rings[i].width);
        for (long y = 0; y < ny; y++) memcpy(rings[0].row(y).base, field + y * nx, nx * sizeof(float));
        rings[0].done = ny;
        for (long t = 0; t < h; t++) {
            advance(count, t);
            shuffle(t, w, out + t * scale * w * scale);
        }
        return 0;
    }
};

}  // namespace
