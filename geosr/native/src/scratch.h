#pragma once
#include <cstddef>
#include <cstring>
#include <new>

namespace {

// Memory of a thread, kept from call to call. Not std::vector: its members would be compiled for every instruction set under
// one name, and the linker keeps one of them for all.
template <class T> class Scratch {
    static constexpr std::align_val_t ALIGNED{64};
    T *memory = nullptr;
    size_t size = 0, used = 0;

    void release() {
        if (memory) operator delete(memory, ALIGNED);
        memory = nullptr;
        size = 0;
    }

  public:
    ~Scratch() { release(); }
    // Forgets what was taken; false if there is no memory.
    bool reserve(size_t count) {
        used = 0;
        if (count > size) {
            release();
            memory = static_cast<T *>(operator new(count * sizeof(T), ALIGNED, std::nothrow));
            size = memory ? count : 0;
        }
        return memory != nullptr;
    }
    // The next `count`, zero; a multiple of 16 after the one before.
    T *take(size_t count) {
        T *at = memory + used;
        used += (count + 15) / 16 * 16;
        memset(static_cast<void *>(at), 0, count * sizeof(T));
        return at;
    }
};

}  // namespace
