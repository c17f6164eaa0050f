// Exact overlap of pixel footprints and grid cells, in double precision; what it does and why: geosr/overlap.py, whose
// twin in numba (geosr/overlap_numba.py) this follows line by line, so that both give the same sums to the last bits.
#include "overlap.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

namespace {

constexpr double PI = 3.141592653589793, RADIANS = PI / 180.0, DEGREES = 180.0 / PI;
constexpr long MAX_VERTICES = 4096, MAX_DEPTH = 16;
enum { INVALID, DEGENERATE, REPAIRED, USED };

struct Columns {
    long first, last;
};

// Add an edge piece inside one row, from column xa to xb, rising by dv.
Columns add_piece(double xa, double xb, double dv, long nx, double *cover) {
    double left = std::min(xa, xb), right = std::max(xa, xb);
    if (left >= nx) return {nx, nx};  // not the grid's, but cells up to its rim may lie inside the polygon
    if (right <= 0.0) {
        cover[0] += dv;
        return {0, 0};
    }
    long first = nx, final = -1;
    if (left < 0.0) {  // what lies left of the grid still covers everything to its right
        const double part = dv * (-left / (right - left));
        cover[0] += part;
        dv -= part;
        left = 0.0;
        first = 0;
    }
    if (right > nx) {
        dv *= (nx - left) / (right - left);
        right = double(nx);
        final = nx;
    }
    const long j = long(left), last = std::min(long(right), nx - 1);
    first = std::min(first, j);
    if (j == last) {
        const double middle = 0.5 * (left + right) - j;
        cover[j] += dv * (1.0 - middle);
        cover[j + 1] += dv * middle;
        return {first, std::max(final, j + 1)};
    }
    const double slope = dv / (right - left);
    double part = (j + 1 - left) * slope, middle = 0.5 * (left - j + 1.0);
    cover[j] += part * (1.0 - middle);
    cover[j + 1] += part * middle;
    for (long q = j + 1; q < last; q++) {
        cover[q] += 0.5 * slope;
        cover[q + 1] += 0.5 * slope;
    }
    part = (right - last) * slope;
    middle = 0.5 * (right - last);
    cover[last] += part * (1.0 - middle);
    cover[last + 1] += part * middle;
    return {first, std::max(final, last + 1)};
}

// Walk the polygon's edges between v = low and high; the range of columns touched.
Columns row_cover(const double *px, const double *pv, long n, double low, double high, long nx, double *cover) {
    Columns all{nx, -1};
    double x0 = px[n - 1], v0 = pv[n - 1];
    for (long k = 0; k < n; k++) {
        const double x1 = px[k], v1 = pv[k];
        if (v0 != v1 && std::max(v0, v1) > low && std::min(v0, v1) < high) {
            const double va = std::min(std::max(v0, low), high), vb = std::min(std::max(v1, low), high);
            const double slope = (x1 - x0) / (v1 - v0);
            const double xa = va == v0 ? x0 : x0 + (va - v0) * slope;
            const double xb = vb == v1 ? x1 : x0 + (vb - v0) * slope;
            const Columns piece = add_piece(xa, xb, vb - va, nx, cover);
            all = {std::min(all.first, piece.first), std::max(all.last, piece.last)};
        }
        x0 = x1;
        v0 = v1;
    }
    return all;
}

// Do a quadrilateral's corners turn twice left and twice right: does it cross itself?
bool crosses(const double *px, const double *pv) {
    int left = 0, right = 0;
    for (int k = 0; k < 4; k++) {
        const int a = k, b = (k + 1) % 4, c = (k + 2) % 4;
        const double cross = (px[b] - px[a]) * (pv[c] - pv[b]) - (pv[b] - pv[a]) * (px[c] - px[b]);
        left += cross > 0.0;
        right += cross < 0.0;
    }
    return left == 2 && right == 2;
}

// Reorder the corners of a self-crossing quadrilateral into a ring; false if it was none.
bool untangle(double *px, double *pv) {
    if (!crosses(px, pv)) return false;
    for (int i = 1; i < 3; i++) {
        std::swap(px[i], px[i + 1]);
        std::swap(pv[i], pv[i + 1]);
        if (!crosses(px, pv)) break;
        std::swap(px[i], px[i + 1]);
        std::swap(pv[i], pv[i + 1]);
    }
    return true;
}

// Longitude difference in -180 to 180; antisymmetric, so that neighbours agree on a shared edge.
double wrap(double d) {
    while (d > 180.0) d -= 360.0;
    while (d < -180.0) d += 360.0;
    return d;
}

// `crosses` seen from above the pixel, for corners q on the unit sphere.
bool crosses_on_sphere(const double (*q)[3], const long *order) {
    int left = 0, right = 0;
    for (int k = 0; k < 4; k++) {
        const double *a = q[order[k]], *b = q[order[(k + 1) % 4]], *c = q[order[(k + 2) % 4]];
        double turn = 0.0;
        for (int i = 0; i < 3; i++) {
            const int j = (i + 1) % 3, m = (i + 2) % 3;
            const double up = q[0][i] + q[1][i] + q[2][i] + q[3][i];
            turn += up * ((b[j] - a[j]) * (c[m] - b[m]) - (b[m] - a[m]) * (c[j] - b[j]));
        }
        left += turn > 0.0;
        right += turn < 0.0;
    }
    return left == 2 && right == 2;
}

void order_ring(const double (*q)[3], long *order) {
    if (!crosses_on_sphere(q, order)) return;
    for (int i = 1; i < 3; i++) {
        std::swap(order[i], order[i + 1]);
        if (!crosses_on_sphere(q, order)) return;
        std::swap(order[i], order[i + 1]);
    }
}

struct End {  // of a piece of an edge: on the unit sphere, its longitude, and the bisections behind it
    double x, y, z, lon;
    int depth;
};

// Ring of a pixel near a pole or with long edges, subdivided along great circles, closed along the pole; longitudes come
// out unwrapped. The number of vertices; 0: not a pixel.
long great_circle_ring(const double *lon, const double *lat, const Footprints &in, double *plon, double *plat,
                       long *order) {
    double q[4][3];
    for (int k = 0; k < 4; k++) {
        const double la = lat[k] * RADIANS, lo = lon[k] * RADIANS;
        q[k][0] = std::cos(la) * std::cos(lo);
        q[k][1] = std::cos(la) * std::sin(lo);
        q[k][2] = std::sin(la);
        order[k] = k;
    }
    order_ring(q, order);
    End todo[MAX_DEPTH + 2];
    long n = 0;
    const double start = lon[order[0]];
    double here = start;
    for (int k = 0; k < 4; k++) {
        const long a = order[k], b = order[(k + 1) % 4];
        plon[n] = here;
        plat[n++] = lat[a];
        double x = q[a][0], y = q[a][1], z = q[a][2], plain = lon[a];
        todo[0] = {q[b][0], q[b][1], q[b][2], lon[b], 0};
        const double dx = q[b][0] - x, dy = q[b][1] - y, dz = q[b][2] - z;
        if (dx * dx + dy * dy + dz * dz > in.longest) return 0;
        for (int top = 0; top >= 0;) {
            const End end = todo[top];
            const double turn = wrap(end.lon - plain);
            const double ex = end.x - x, ey = end.y - y, ez = end.z - z, chord = ex * ex + ey * ey + ez * ez;
            if (std::fabs(turn) > in.straight && chord > in.shortest && end.depth < MAX_DEPTH) {
                const double mx = x + end.x, my = y + end.y, mz = z + end.z;
                const double norm = std::sqrt(mx * mx + my * my + mz * mz);
                todo[top].depth = end.depth + 1;
                todo[++top] = {mx / norm, my / norm, mz / norm, std::atan2(my, mx) * DEGREES, end.depth + 1};
                continue;
            }
            here += turn;
            x = end.x;
            y = end.y;
            z = end.z;
            plain = end.lon;
            if (--top >= 0) {
                if (n >= MAX_VERTICES - 8) return 0;
                plon[n] = here;
                plat[n++] = std::atan2(end.z, std::hypot(end.x, end.y)) * DEGREES;
            }
        }
    }
    if (std::fabs(here - start) > 180.0) {  // once around: the pole is inside
        const double pole = lat[0] > 0 ? 90.0 : -90.0;
        plon[n] = here;
        plat[n++] = lat[order[0]];
        plon[n] = here;
        plat[n++] = pole;
        plon[n] = start;
        plat[n++] = pole;
    }
    return n;
}

struct Polygon {
    std::vector<double> x, v, row, lon, lat;
    long order[4] = {0, 1, 2, 3};
    long n = 0;
    bool repaired = false;
    Polygon() : x(MAX_VERTICES), v(MAX_VERTICES), row(MAX_VERTICES), lon(MAX_VERTICES), lat(MAX_VERTICES) {}
};

bool valid(const double *x, const double *y, bool geographic) {
    for (int k = 0; k < 4; k++)
        if (!std::isfinite(x[k]) || !std::isfinite(y[k]) ||
            (geographic && (std::fabs(y[k]) > 90.001 || std::fabs(x[k]) > 1000.0)))
            return false;
    return true;
}

// The pixel's corners in the plane; false if it surely misses the grid's rows.
bool in_plane(const double *x, const double *y, const Footprints &in, const Grid &grid, Polygon &p) {
    p.n = 4;
    p.repaired = false;
    if (!in.geographic) {
        for (int k = 0; k < 4; k++) {
            p.x[k] = x[k];
            p.v[k] = p.row[k] = y[k];
        }
        p.repaired = untangle(p.x.data(), p.v.data());
        return true;
    }
    const double d[4] = {wrap(x[1] - x[0]), wrap(x[2] - x[1]), wrap(x[3] - x[2]), wrap(x[0] - x[3])};
    const double most = std::max(std::max(std::fabs(d[0]), std::fabs(d[1])), std::max(std::fabs(d[2]), std::fabs(d[3])));
    const double low = std::min(std::min(y[0], y[1]), std::min(y[2], y[3]));
    const double high = std::max(std::max(y[0], y[1]), std::max(y[2], y[3]));
    const bool near = most <= in.straight && high - low <= 20.0;
    if (near) {
        const double r0 = (low - grid.f) / grid.e, r1 = (high - grid.f) / grid.e;
        if (std::max(r0, r1) <= 0 || std::min(r0, r1) >= grid.ny) return false;
        p.lon[0] = x[0];
        for (int k = 0; k < 3; k++) p.lon[k + 1] = p.lon[k] + d[k];
        std::copy(y, y + 4, p.lat.begin());
    } else {
        p.n = great_circle_ring(x, y, in, p.lon.data(), p.lat.data(), p.order);
        p.repaired = p.order[1] != 1 || p.order[2] != 2;
    }
    const double sign = grid.e > 0 ? 1.0 : -1.0;
    for (long k = 0; k < p.n; k++) {
        const double lat = std::min(std::max(p.lat[k], -90.0), 90.0);
        p.x[k] = (p.lon[k] - grid.c) / grid.a;
        p.v[k] = sign * std::sin(lat * RADIANS);
        p.row[k] = (lat - grid.f) / grid.e;
    }
    if (near) p.repaired = untangle(p.x.data(), p.v.data());
    return true;
}

struct Box {
    double xmin, xmax, vmin, vmax, rmin, rmax, area;  // of a polygon; the area with the sign of its sense
};

Box box_of(const Polygon &p) {
    constexpr double inf = std::numeric_limits<double>::infinity();
    Box b{inf, -inf, inf, -inf, inf, -inf, 0.0};
    for (long k = 0; k < p.n; k++) {
        const long q = k + 1 < p.n ? k + 1 : 0;
        // relative to the first vertex: pixels are small and lie far from the origin
        b.area += (p.x[k] - p.x[0]) * (p.v[q] - p.v[0]) - (p.x[q] - p.x[0]) * (p.v[k] - p.v[0]);
        b.xmin = std::min(b.xmin, p.x[k]);
        b.xmax = std::max(b.xmax, p.x[k]);
        b.vmin = std::min(b.vmin, p.v[k]);
        b.vmax = std::max(b.vmax, p.v[k]);
        b.rmin = std::min(b.rmin, p.row[k]);
        b.rmax = std::max(b.rmax, p.row[k]);
    }
    b.area *= 0.5;
    return b;
}

void accumulate(const Footprints &in, const Grid &grid, const Sums &sums, std::int64_t *tally) {
    std::vector<double> cover(grid.nx + 2);
    Polygon p;
    const double period = 360.0 / std::fabs(grid.a);
    for (long i = 0; i < in.count; i++) {
        const double *x = in.x + 4 * i, *y = in.y + 4 * i;
        if (!valid(x, y, in.geographic)) {
            tally[INVALID]++;
            continue;
        }
        if (!in_plane(x, y, in, grid, p)) {
            tally[USED]++;
            continue;
        }
        Box b = box_of(p);
        const double orient = b.area < 0 ? 1.0 : -1.0;  // `cover` counts what lies right of rising edges: clockwise
        const double size = std::fabs(b.area);
        if (p.n == 0 || size <= 1e-7 * (b.xmax - b.xmin) * (b.vmax - b.vmin)) {  // no pixel, or all on one line
            tally[DEGENERATE]++;
            continue;
        }
        tally[USED]++;
        tally[REPAIRED] += p.repaired;
        // Rows in floating point first: a pixel far from the grid has numbers that are no longs.
        if (b.rmax < 0 || b.rmin >= grid.ny) continue;
        const long i0 = long(std::floor(std::max(b.rmin, 0.0))), i1 = long(std::min(std::floor(b.rmax), grid.ny - 1.0));
        if (in.geographic) {  // the copies of the pixel, 360 degrees apart, that reach the grid
            const double shift = (std::floor(-b.xmax / period) + 1) * period;
            for (long k = 0; k < p.n; k++) p.x[k] += shift;
            b.xmin += shift;
            b.xmax += shift;
        }
        const double unit = in.geographic ? in.weight[0] : in.weight[i] / size;
        while (b.xmin < grid.nx && b.xmax > 0) {
            for (long row = i0; row <= i1; row++) {
                const double low = grid.edges[row], high = grid.edges[row + 1];
                const Columns span = row_cover(p.x.data(), p.v.data(), p.n, low, high, grid.nx, cover.data());
                const double enough = in.share * std::min(size, high - low);
                double run = 0.0;
                for (long j = span.first; j <= span.last; j++) {
                    run += cover[j];
                    cover[j] = 0.0;
                    const double share = orient * run;
                    if (!(share > in.rounding * size && j < grid.nx)) continue;
                    const double w = share * unit;
                    sums.touched[row * sums.tiles + j / sums.tile] = 1;
                    double *cell = sums.cells + (row * grid.nx + j) * sums.room;
                    cell[0] += w;
                    cell[1] += w * in.value[i];
                    if (share > enough) cell[2] += 1.0;
                    if (sums.room > 3) cell[3] += (w * in.sigma[i]) * (w * in.sigma[i]);
                    if (sums.room > 4) cell[4] += w * in.sigma[i];
                }
            }
            if (!in.geographic) break;
            for (long k = 0; k < p.n; k++) p.x[k] += period;
            b.xmin += period;
            b.xmax += period;
        }
    }
}

}  // namespace

extern "C" {

int geosr_accumulate(const Footprints *in, const Grid *grid, const Sums *sums, std::int64_t *tally) {
    try {
        accumulate(*in, *grid, *sums, tally);
    } catch (const std::bad_alloc &) {
        return 1;
    }
    return 0;
}

int geosr_average(const Sums *sums, long ny, long nx, double correlated, float *mean, float *error, std::int32_t *count) {
    const float nothing = std::numeric_limits<float>::quiet_NaN();
    for (long i = 0; i < ny; i++)
        for (long j = 0; j < nx; j++) {
            const long at = i * nx + j;
            const double *cell = sums->cells + at * sums->room;
            // Memory that was never used is not asked for.
            const bool used = sums->touched[i * sums->tiles + j / sums->tile] && cell[2] != 0.0;
            count[at] = used ? std::int32_t(cell[2]) : 0;
            mean[at] = used ? float(cell[1] / cell[0]) : nothing;
            if (!error) continue;
            error[at] = nothing;
            if (!used) continue;
            double variance = (1.0 - correlated) * cell[3];
            if (sums->room > 4) variance += correlated * (cell[4] * cell[4]);
            error[at] = float(std::sqrt(variance) / cell[0]);
        }
    return 0;
}
}
