// Which of the compiled instruction sets this processor has.
#include "api.h"

#define GEOSR_DECLARE(isa)                                                                                                 \
    extern "C" Chain geosr_##isa##_chain;                                                                                  \
    extern "C" SrcnnRun geosr_##isa##_srcnn;                                                                               \
    extern "C" Bicubic geosr_##isa##_bicubic;                                                                              \
    extern "C" Conserve geosr_##isa##_conserve;

struct Kernels {
    const char *name;
    Chain *chain;
    SrcnnRun *srcnn;
    Bicubic *bicubic;
    Conserve *conserve;
};
#define GEOSR_KERNELS(isa)                                                                                                 \
    { #isa, geosr_##isa##_chain, geosr_##isa##_srcnn, geosr_##isa##_bicubic, geosr_##isa##_conserve }

GEOSR_DECLARE(base)
#ifdef GEOSR_X86
GEOSR_DECLARE(avx2)
GEOSR_DECLARE(avx512)
#endif

namespace {

bool has(const char *name) {
#ifdef GEOSR_X86
    __builtin_cpu_init();
    if (name[3] == '2') return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (name[3] == '5') return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
    return name[0] == 'b';
}

// The best first.
const Kernels ALL[] = {
#ifdef GEOSR_X86
    GEOSR_KERNELS(avx512),
    GEOSR_KERNELS(avx2),
#endif
    GEOSR_KERNELS(base),
};
constexpr long COUNT = sizeof ALL / sizeof ALL[0];

const Kernels *best() {
    for (const Kernels &k : ALL)
        if (has(k.name)) return &k;
    return &ALL[COUNT - 1];
}

const Kernels *chosen = best();

}  // namespace

extern "C" {

// The name of the instruction set in use; with `number`, of the number-th that this processor has, or null.
const char *geosr_isa(long number) {
    if (number < 0) return chosen->name;
    for (const Kernels &k : ALL)
        if (has(k.name) && number-- == 0) return k.name;
    return nullptr;
}

// Use the number-th (0: the best) from now on; for tests.
void geosr_choose(long number) {
    for (const Kernels &k : ALL)
        if (has(k.name) && number-- == 0) {
            chosen = &k;
            return;
        }
}

int geosr_chain(const float *field, long h, long w, const Layer *layers, long count, long scale, float *out) {
    return chosen->chain(field, h, w, layers, count, scale, out);
}
int geosr_srcnn(const float *field, long h, long w, const Srcnn *network, float *out) {
    return chosen->srcnn(field, h, w, network, out);
}
int geosr_bicubic(const float *field, long h, long w, long scale, const float *weights, long add, float *out) {
    return chosen->bicubic(field, h, w, scale, weights, add, out);
}
int geosr_conserve(float *fine, const float *coarse, long h, long w, long scale, const double *share, long correct,
                   double *found) {
    return chosen->conserve(fine, coarse, h, w, scale, share, correct, found);
}
}
