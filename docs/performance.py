"""Measures what docs/performance.md says: its tables (between the marks in the file) and performance.png.

    python docs/performance.py            # about a quarter of an hour, 8 GB of memory for keras.predict, 6 GB of disk

Leave the machine alone meanwhile. Each line is a process of its own (``tests/benchmarks/peers.py``).
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE / "performance.md"
sys.path.insert(0, str(HERE.parent / "tests" / "benchmarks"))

from peers import SCALE, measure  # noqa: E402

NETWORKS = {
    "srcnn-9-1-5": 8032,
    "srcnn-9-3-5": 85696,
    "srcnn-9-3-5-n64": 24416,
    "edsr-32x6": 7218,
}  # products a fine cell
SIZES = (80, 256, 512, 1024, 2048, 5000)  # coarse cells a side
LABELS = {"shipped": "EDSR, shipped", "bicubic": "bicubic"}


def engines() -> str:
    """Networks alone on one core."""
    sgemm = 2 * 2048**3 / measure("sgemm", repeat=20)["seconds"] / 1e9
    rows = []
    for network, products in NETWORKS.items():
        for engine in ("native", "onnx"):
            rate = measure("network", 256, network=network, engine=engine, repeat=10)["mpixels_per_second"]
            flops = 2 * products * rate / 1e3
            rows.append((network, engine, f"{rate:.1f}", f"{flops:.0f}", f"{flops / sgemm:.0%}"))
    head = ("network", "engine", "Mpixel/s", f"GFLOP/s (sgemm: {sgemm:.0f})", "of sgemm")
    return table(head, rows)


def peers() -> str:
    """1024 x 1024 cells to 4096 x 4096 on two cores, file to file where there are files; the widest network on a
    quarter of that, because ``keras.predict`` has no memory for more."""
    runs = [
        ("geosr", "srcnn-9-1-5", 1024),
        ("keras.predict", "srcnn-9-1-5", 1024),
        ("blended tiles", "srcnn-9-1-5", 1024),
        ("geosr", "srcnn-9-3-5", 512),
        ("keras.predict", "srcnn-9-3-5", 512),
        ("geosr", "shipped", 1024),
        ("geosr", "bicubic", 1024),
        ("gdalwarp", "bicubic", 1024),
        ("scipy zoom", "bicubic", 1024),
    ]
    rows = []
    for kind, network, cells in runs:
        found = measure(kind, cells, network=network, repeat=2)
        what = f"{kind}, {LABELS.get(network, network)}" if kind != "scipy zoom" else kind
        speed, memory = found["mpixels_per_second"], found["peak_mb"]
        rows.append((what, f"{cells * SCALE}²", f"{found['seconds']:.2f}", f"{speed:.1f}", f"{memory:,.0f}"))
        print(rows[-1], flush=True)
    return table(("run", "fine cells", "seconds", "Mpixel/s", "peak MB"), rows)


def sizes(folder: Path) -> tuple[str, dict[str, list[tuple[float, float, float]]]]:
    """Cost against size; for each run (fine cells, Mpixel/s, peak MB)."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    rows = []
    for kind, network in (("geosr", "shipped"), ("geosr", "bicubic"), ("keras.predict", "srcnn-9-1-5")):
        label = f"{kind}, {LABELS.get(network, network)}"
        for cells in SIZES:
            if kind == "keras.predict" and cells > 1024:
                continue  # more memory than the machine has
            found = measure(kind, cells, network=network, folder=folder)
            side = cells * SCALE
            curves.setdefault(label, []).append((side**2, found["mpixels_per_second"], found["peak_mb"]))
            speed, memory = f"{found['mpixels_per_second']:.1f}", f"{found['peak_mb']:,.0f}"
            rows.append((label, f"{side:,} x {side:,}", f"{found['seconds']:.2f}", speed, memory))
            print(rows[-1], flush=True)
    return table(("run", "fine cells", "seconds", "Mpixel/s", "peak MB"), rows), curves


def workers() -> str:
    """Strong scaling over processes of dask.distributed on one machine, which stand before the run.

    The better of two runs each: the first also pays for memory that these processes never had before.
    """
    rows = []
    for network, format in (("srcnn-9-1-5", "tif"), ("srcnn-9-3-5", "tif"), ("shipped", "tif"), ("shipped", "zarr")):
        how = {"network": network, "format": format, "repeat": 2}
        one, two = (measure("geosr", 2048, workers=n, **how)["seconds"] for n in (1, 2))
        rows.append((LABELS.get(network, network), f".{format}", f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}"))
        print(rows[-1], flush=True)
    return table(("network", "output", "1 worker, s", "2 workers, s", "times as fast"), rows)


def table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [tuple(head), tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(curves: dict[str, list[tuple[float, float, float]]], path: Path) -> None:
    """Speed and memory against the size of the output."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for label, points in curves.items():
        cells, rates, peaks = zip(*points, strict=True)
        style = "--" if label.startswith("keras") else "-"
        speed.plot(cells, rates, style, marker="o", label=label)
        memory.plot(cells, peaks, style, marker="o", label=label)
    speed.set(xscale="log", yscale="log", xlabel="fine cells", ylabel="Mpixel/s, file to file", title="speed")
    memory.set(xscale="log", yscale="log", xlabel="fine cells", ylabel="peak memory, MB", title="memory")
    memory.legend(loc="center right")
    for axes in (speed, memory):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def put(name: str, text: str) -> None:
    """Replace what stands between the marks ``name`` in the page."""
    page = PAGE.read_text(encoding="utf-8")
    found = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
    PAGE.write_text(found, encoding="utf-8")


def main() -> None:
    wanted = sys.argv[1:] or ["engines", "peers", "sizes", "workers"]
    plain: dict[str, Callable[[], str]] = {"engines": engines, "peers": peers, "workers": workers}
    for name in wanted:
        if name != "sizes":
            put(name, plain[name]())
            continue
        folder = Path(tempfile.mkdtemp())
        try:
            text, curves = sizes(folder)
        finally:
            shutil.rmtree(folder)
        put(name, text)
        draw(curves, HERE / "performance.png")


if __name__ == "__main__":
    main()
