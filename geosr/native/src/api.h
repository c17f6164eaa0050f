// What the library exports. Plain C, so that it needs no Python headers: geosr/native/__init__.py calls it with ctypes,
// which releases the interpreter's lock meanwhile. Arrays are C-contiguous float32 unless said otherwise; every function
// may be called from several threads at once. 0 is success, 1 is out of memory.
#pragma once

// Names of functions that are compiled once for each instruction set, GEOSR_ISA.
#define GEOSR_JOIN(isa, name) geosr_##isa##_##name
#define GEOSR_EXPAND(isa, name) GEOSR_JOIN(isa, name)
#define GEOSR_NAME(name) GEOSR_EXPAND(GEOSR_ISA, name)

extern "C" {

struct Layer {            // a "valid" convolution
    long kernel;          // side of its window, odd
    long inputs, outputs; // channels
    long relu;            // then max(0, x)
    long skip;            // then add the input of the layer before, cropped (the end of a residual block)
    const float *weights; // packed: [ceil(outputs / 8)][kernel][kernel][inputs][8]
    const float *bias;    // [outputs], or null
};

// Convolutions on the coarse grid, then the pixel shuffle: field (h + 2 reach, w + 2 reach) -> out (h * scale, w * scale),
// where the last layer has scale * scale outputs.
typedef int Chain(const float *field, long h, long w, const Layer *layers, long count, long scale, float *out);

// SRCNN over the bicubic field: 9x9 and bicubic folded into filters of the coarse field, then 1x1 or (Winograd) 3x3, then
// 5x5 to one output. field (h + 2 halo, w + 2 halo) -> out (h * scale, w * scale).
struct Srcnn {
    long scale, halo;
    long taps;            // side of a phase's window on the coarse field
    long first, second;   // channels
    long middle;          // 1: 1x1; 3: 3x3 in Winograd's domain F(scale, 3), scale 2, 3 or 4
    const long *reach;    // [scale] how far before its cell the window of a phase's row (or column) begins
    const float *phases;  // packed: [scale * scale][ceil(first / 8)][taps][taps][8]
    const float *bias1;   // [first], or null; and so on
    const float *weights; // packed: [middle == 3 ? (scale + 2)^2 : 1][ceil(second / 8)][first][8]
    const float *bias2;
    const float *last;    // packed: [4][second][8], outputs are the 25 taps of the window
    const float *bias3;   // [1]
};
typedef int SrcnnRun(const float *field, long h, long w, const Srcnn *network, float *out);

// Bicubic refinement of field (h + 4, w + 4), added to out (h * scale, w * scale) or stored there. weights (scale, 5).
typedef int Bicubic(const float *field, long h, long w, long scale, const float *weights, long add, float *out);

// Conservation in place: fine (h * scale, w * scale) so that each coarse cell's weighted mean is that of coarse (h, w), or,
// without `correct`, only NaN where coarse is. share (h * scale) float64: of each fine row in its coarse row. found
// (2) float64: is raised to the largest |mean - coarse| after that, and to the largest |coarse|.
typedef int Conserve(float *fine, const float *coarse, long h, long w, long scale, const double *share, long correct,
                     double *found);

}
