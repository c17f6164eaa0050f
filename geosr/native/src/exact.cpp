// What numpy can do too, with the same result to the last bit: compiled without fused multiply-add, which rounds once less.
#include "api.h"
#include "bicubic.h"
#include "conserve.h"

extern "C" {
int GEOSR_NAME(bicubic)(const float *field, long h, long w, long scale, const float *weights, long add, float *out) {
    return bicubic_tile(field, h, w, scale, weights, add != 0, out);
}
int GEOSR_NAME(conserve)(float *fine, const float *coarse, long h, long w, long scale, const double *share, long correct,
                         double *found) {
    return conserve_any(fine, coarse, h, w, scale, share, correct != 0, found);
}
}
