// What geosr/overlap.py hands over: structures of plain C. Arrays are C-contiguous.
#pragma once

#include <cstdint>

extern "C" {

struct Footprints {  // pixels
    long count, geographic;
    const double *x, *y;           // [count][4] corners: longitude and latitude in degrees if geographic, else column and row
    const double *value, *sigma;   // [count]; sigma is read only where there is room for it
    const double *weight;          // [1] the area of a unit of the plane if geographic, else [count] areas of the pixels
    double straight, longest, shortest;  // of edges: degrees, and squared chords (geosr/overlap.py)
    double share, rounding;        // the least overlaps that count, and that are no rounding
};

struct Grid {
    long ny, nx;
    double c, a, f, e;    // first edge and step of columns and rows
    const double *edges;  // [ny + 1] ascending v of the row edges
};

struct Sums {
    double *cells;          // [ny][nx][room]: sums of w, w v, the count, w^2 s^2, w s
    std::uint8_t *touched;  // [ny][tiles]
    long room, tiles, tile;
};

}
