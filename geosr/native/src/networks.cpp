// Networks. Compiled once for each instruction set, with GEOSR_LANES and GEOSR_ISA given; dispatch.cpp chooses.
#include "api.h"
#include "chain.h"
#include "srcnn.h"

extern "C" {
int GEOSR_NAME(chain)(const float *field, long h, long w, const Layer *layers, long count, long scale, float *out) {
    return ChainRun(layers, count, scale).run(field, h, w, out);
}
int GEOSR_NAME(srcnn)(const float *field, long h, long w, const Srcnn *network, float *out) {
    return SrcnnTile(*network).run(field, h, w, out);
}
}
