"""Bad input, rows 1 to 42: files as such, hostile files, bombs. Each refusal holds with --untrusted too.

Row 12 (a flipped bit is found by its checksum) is with the manifests, where ``geosr verify`` is tested; upload and web
page are not there yet (row 7's second half).
"""

from __future__ import annotations

import http.server
import os
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geosr.errors import InputError
from geosr.reading import open_no2
from geosr.reading.gate import check_unchanged, fingerprint
from reading.make import LAT, LON, NAME, column_file, columns, geotiff
from trust import hostile
from trust.command import Row, check, geosr, ids, refused, snapshot

DATA = columns()
WIDE = columns((60, 80))


def tif(name="no2.tif", data=DATA, **more):
    return lambda folder: geotiff(folder / name, data, **more)


def nc(name="no2.nc", **more):
    return lambda folder: column_file(folder / name, **more)


def content(name, data):
    def make(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return make


def cut(make, share):
    """The file without its end."""

    def shortened(folder):
        path = make(folder)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        return path

    return shortened


def wide_nc(format):
    return nc(data=WIDE, lat=50 - 0.1 * np.arange(60), lon=5 + 0.1 * np.arange(80), format=format)


def longer(make):
    """The file and garbage behind it."""

    def padded(folder):
        path = make(folder)
        path.write_bytes(path.read_bytes() + b"\xffgarbage" * 100)
        return path

    return padded


def pipe(folder):
    os.mkfifo(folder / "pipe.nc")
    return folder / "pipe.nc"


def unix_socket(folder):
    here = Path.cwd()
    os.chdir(folder)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind("socket.nc")
    finally:
        os.chdir(here)
    return folder / "socket.nc"


def odd_nc(folder):
    return column_file(folder / "no2.nc").rename(folder / f"{ODD}.nc")


def link(folder):
    (folder / "elsewhere").mkdir()
    (folder / "no2.tif").symlink_to(geotiff(folder / "elsewhere" / "a.tif", DATA))
    return folder / "no2.tif"


def packed(kind):
    def make(folder):
        inner = geotiff(folder / "a.tif", DATA)
        path = folder / f"no2.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(inner, "a.tif")
        else:
            with tarfile.open(path, "w:gz" if kind == "gz" else "w") as archive:
                archive.add(inner, "a.tif")
        return path

    return make


def hdf5(kind, **more):
    def make(folder):
        pytest.importorskip("h5py")
        return hostile.hdf5(folder / "no2.nc", kind, hostile.secret_hdf5(folder / "secret.h5"), **more)

    return make


def with_pipe_behind(kind):
    """The file that it is after blocks whoever opens it."""

    def make(folder):
        pytest.importorskip("h5py")
        os.mkfifo(folder / "secret.bin")
        return hostile.hdf5(folder / "no2.nc", kind, folder / "secret.bin")

    return make


def secret_file(folder):
    path = folder / "secret.txt"
    path.write_text(hostile.SECRET)
    return path


def made(function, name="no2.tif", **more):
    return lambda folder: function(folder / name, **more)


def sparse(nodata):
    def make(folder):
        path = folder / "no2.tif"
        place = {"transform": rasterio.Affine(0.1, 0, 5, 0, -0.1, 50), "crs": "EPSG:4326"}
        with rasterio.open(
            path, "w", driver="GTiff", width=64, height=48, count=1, dtype="float32", nodata=nodata, tiled=True,
            blockxsize=16, blockysize=16, SPARSE_OK=True, **place,
        ) as file:  # fmt: skip
            file.write(columns((16, 16)), 1, window=((16, 32), (16, 32)))
        return path

    return make


SPARSE = np.full((48, 64), np.nan, np.float32)
SPARSE[16:32, 16:32] = columns((16, 16))

TRUNCATED = "truncated"
NOT = "not GeoTIFF/NetCDF"
#: What is known of a file before a library reads it, and after; each refused in both ways of reading.
REFUSED = [
    Row("01-missing", lambda folder: folder / "absent.tif", 3, "no such file"),
    Row("02-directory", lambda folder: (folder / "no2.nc").mkdir() or folder / "no2.nc", 3, "is a directory"),
    Row("03-empty", content("no2.nc", b""), 3, "empty"),
    Row("04-text", content("no2.tif", b"not a raster\n" * 100), 3, NOT),
    Row("04-jpeg", content("no2.tif", b"\xff\xd8\xff\xe0" + bytes(500)), 3, (NOT, "JPEG")),
    Row("04-png", content("no2.tif", b"\x89PNG\r\n\x1a\n" + bytes(500)), 3, (NOT, "PNG")),
    Row("05-fifo", pipe, 3, "regular file"),
    Row("05-device", lambda folder: Path("/dev/zero"), 3, "regular file"),
    Row("05-socket", unix_socket, 3, "regular file"),
    *(Row(f"09-tiff-cut-at-{n}", cut(tif(data=WIDE), n / 100), 3, TRUNCATED) for n in (10, 50, 90, 99)),
    *(Row(f"10-netcdf4-cut-at-{n}", cut(wide_nc("NETCDF4"), n / 100), 3, TRUNCATED) for n in (10, 50, 90, 99)),
    *(Row(f"11-netcdf3-cut-at-{n}", cut(wide_nc("NETCDF3_CLASSIC"), n / 100), 3, TRUNCATED) for n in (10, 50, 90, 99)),
    Row("11-cdf2-cut", cut(wide_nc("NETCDF3_64BIT_OFFSET"), 0.9), 3, TRUNCATED),
    Row("11-cdf5-cut", cut(wide_nc("NETCDF3_64BIT_DATA"), 0.9), 3, TRUNCATED),
    Row("14-hard-link-cycle", hdf5("hard cycle"), 4, "circle"),
    Row("14-hard-links-two-ways", hdf5("two ways"), 4, "circle, or twice"),
    Row(
        "15-netcdf3-claims-4-gb",
        made(hostile.netcdf3_header, "no2.nc", side=31_000),
        3,
        (TRUNCATED, "3844000"),
        decided="E3: that the file is too short for its header says more than that it is too large",
    ),
    *(
        Row(f"15-cdf{v}-claims", made(hostile.netcdf3_header, "no2.nc", side=40_000, version=v), 3, TRUNCATED)
        for v in (1, 2, 5)
    ),
    Row("18-vrt", lambda f: hostile.vrt(f / "no2.tif", str(geotiff(f / "secret.tif", DATA))), 4, "VRT"),
    Row("18-vrt-with-blanks", content("no2.nc", b"\xef\xbb\xbf \n<VRTDataset>" + b" " * 99), 4, "VRT"),
    Row("19-vrt-raw", lambda f: hostile.raw_vrt(f / "no2.tif", str(secret_file(f))), 4, "VRT"),
    *(
        Row(f"22-path-{i}", lambda folder, text=text: Path(text), 3, "local file")
        for i, text in enumerate(("/vsizip/a.zip/a.tif", "/vsicurl/x", "/vsimem/a.tif", "NETCDF:a.nc:x", "HDF5:a.h5"))
    ),
    Row("24-hdf5-external-storage", hdf5("external storage"), 4, "external storage"),
    Row("24-hdf5-external-storage-unopened", with_pipe_behind("external storage"), 4, "external storage"),
    Row("25-hdf5-external-link", hdf5("external link"), 4, "external link"),
    Row("25-hdf5-external-link-unopened", with_pipe_behind("external link"), 4, "external link"),
    Row("26-hdf5-virtual", hdf5("virtual"), 4, "virtual dataset"),
    Row("26-hdf5-virtual-unopened", with_pipe_behind("virtual"), 4, "virtual dataset"),
    Row("27-hdf5-soft-link-loop", hdf5("soft loop"), 4, "soft link"),
    Row("28-hdf5-filter", hdf5("filter"), 4, ("filter 32000", "LZF")),
    Row("29-zip", packed("zip"), 3, "zip archive"),
    Row("29-tar", packed("tar"), 3, "tar archive"),
    Row("29-gz", packed("gz"), 3, "gzip archive"),
    Row("33-tiff-of-10^12-pixels", made(hostile.huge_tiff), 4, ("1000000 x 1000000 pixels", "--limit expansion=")),
    Row("33-tiff-of-10^12-pixels-strips", made(hostile.huge_tiff, tiled=False), 4, "pixels"),
    Row("34-tiff-of-65535-bands", made(hostile.many_bands_tiff), 4, ("65535 bands", "--limit bands=")),
    Row("35-tiff-block-of-16384", made(hostile.big_block_tiff), 4, ("block", "16384 x 16384", "--limit block=")),
    Row("37-hdf5-of-10^12", hdf5("claims", size=1_000_000), 4, ("pixels", "--limit expansion=")),
    Row("37-hdf5-of-10^15", hdf5("line", size=10**15), 4, "pixels"),
    Row("38-hdf5-chunk-of-1-gb", hdf5("chunk", size=16_384), 4, ("chunk", "16384 x 16384", "--limit block=")),
    Row("39-hdf5-deflate-thrice", hdf5("thrice"), 4, "filter deflate more than once"),
    Row("40-hdf5-of-20001-variables", hdf5("variables", size=20_001), 4, ("objects|variables", "--limit variables=")),
    Row("41-hdf5-groups-1000-deep", hdf5("depth", size=1000), 4, ("deep", "--limit depth=")),
    Row("42-tiff-missing-blocks", sparse(None), 3, "missing blocks"),
    Row("42-tiff-without-blocks", cut(made(hostile.huge_tiff, side=1000), 1), 3, "missing blocks|truncated"),
    Row("42-tiff-endless-chain", made(hostile.chained_tiff, images=5000), 4, ("images", "--limit directories=")),
]


@pytest.mark.parametrize("way", [(), ("--untrusted",)], ids=["plain", "untrusted"])
@pytest.mark.parametrize("row", REFUSED, ids=ids)
def test_refused(row, way, tmp_path):
    if way and sys.platform != "linux":
        pytest.skip("--untrusted is for Linux")
    check(Row(row.id, row.make, row.code, row.words, way), tmp_path)


def sidecars(folder):
    """Row 30: what GDAL would read beside an image, each of it hostile."""
    path = geotiff(folder / "no2.tif", DATA)
    secret = secret_file(folder)
    for name in ("no2.tif.ovr", "no2.tif.msk", "no2.ovr", "no2.msk"):
        hostile.raw_vrt(folder / name, str(secret))
    (folder / "no2.tif.aux.xml").write_text(
        '<PAMDataset><SRS>EPSG:3035</SRS><GeoTransform>0,9,0,0,0,-9</GeoTransform><PAMRasterBand band="1">'
        "<NoDataValue>0</NoDataValue><Offset>5</Offset><Scale>7</Scale></PAMRasterBand></PAMDataset>"
    )
    for name in ("no2.tfw", "no2.wld", "no2.tifw"):
        (folder / name).write_text("9\n0\n0\n-9\n0\n0\n")
    (folder / "no2_RPC.TXT").write_text("LINE_OFF: 1\n")
    (folder / "no2.tab").write_text("!table\n")
    return path


ODD = "né ☃ #mode=bytes %41 [1] !x 'q' \"d\" $HOME ; a=b,c\\t"
FINE = [
    Row("07-symbolic-link", link, want=DATA),
    Row("08-odd-name-tiff", tif(f"-{ODD}.tif"), want=DATA),
    Row("08-odd-name-netcdf4", odd_nc, want=DATA),
    Row("08-odd-name-netcdf3", nc(f"{ODD}.nc", format="NETCDF3_CLASSIC"), want=DATA),
    Row("08-not-utf8-tiff", lambda f: tif()(f).rename(f / "no2\udcff.tif"), want=DATA),
    Row("08-not-utf8-netcdf4", lambda f: column_file(f / "no2.nc").rename(f / "no2\udcff.nc"), want=DATA),
    Row("08-not-utf8-netcdf3", lambda f: nc(format="NETCDF3_CLASSIC")(f).rename(f / "no2\udcff.nc"), want=DATA),
    Row("08-name-with-newline", tif("a\nb.tif"), want=DATA),
    Row("08-name-of-255-bytes", tif("n" * 251 + ".tif"), want=DATA),
    Row("08-name-like-a-driver", tif("NETCDF:a.tif"), want=DATA),
    Row("16-garbage-behind-tiff", longer(tif()), want=DATA),
    Row("16-garbage-behind-netcdf3", longer(nc(format="NETCDF3_CLASSIC")), want=DATA),
    Row("16-garbage-behind-netcdf4", longer(nc()), want=DATA),
    Row("30-sidecars", sidecars, words=("mask no2.tif.msk beside it is not read",), want=DATA),
    Row("32-billion-laughs-in-a-tag", made(hostile.xml_tag_tiff), bounds=(5, 46, 9, 50)),
    Row("42-missing-blocks-and-nodata", sparse(-1.0), want=SPARSE, bounds=(5, 45.2, 11.4, 50)),
]


@pytest.mark.parametrize("way", [(), ("--untrusted",)], ids=["plain", "untrusted"])
@pytest.mark.parametrize("row", FINE, ids=ids)
def test_fine(row, way, tmp_path):
    check(Row(row.id, row.make, 0, row.words, way, row.want, row.bounds, row.crs), tmp_path)


def test_06_unreadable(tmp_path):
    path = geotiff(tmp_path / "no2.tif", DATA)
    open_one = geotiff(tmp_path / "fine.tif", DATA)
    assert geosr("downscale", open_one, "--dry-run", "--method", "bicubic", "-q").code == 0  # imports, as root
    path.chmod(0)
    before = sorted(tmp_path.iterdir())
    root = os.geteuid() == 0
    tmp_path.chmod(0o755)
    if root:
        os.seteuid(65534)
    try:
        if os.access(path, os.R_OK, effective_ids=True):
            pytest.skip("this user may read everything")
        got = geosr("downscale", path)
    finally:
        if root:
            os.seteuid(0)
    refused(got, 3, "[Pp]ermission denied")
    assert sorted(tmp_path.iterdir()) == before


def test_08_nul_in_the_name(tmp_path):
    """Of Python alone: no command line can hold one."""
    with pytest.raises(InputError, match="cannot be opened"):
        open_no2(f"{tmp_path}/a\0b.tif")


def test_08_messages_are_escaped(tmp_path):
    path = content("a\n\x1b[2Jb.tif", b"x")(tmp_path)
    line = refused(geosr("downscale", path), 3, NOT)
    assert line.isprintable()


def test_13_a_file_that_takes_for_ever_ends_at_the_limit(tmp_path):
    path = hostile.zeros_tiff(tmp_path / "no2.tif", 19_000)
    before = sorted(tmp_path.iterdir())
    got = geosr("downscale", path, "--untrusted", "--limit", "time=0.3", "--method", "bicubic")
    refused(got, 7, "timed out", "0.3 s", "--limit time=")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("change", ["write", "replace", "touch", "remove"])
def test_17_changed_while_reading(tmp_path, change):
    path = geotiff(tmp_path / "no2.tif", DATA)
    before = fingerprint(path)
    check_unchanged(path, before)
    if change == "write":
        path.write_bytes(path.read_bytes() + b"x")
    elif change == "replace":
        other = geotiff(tmp_path / "other.tif", DATA)
        os.utime(other, ns=(0, before.mtime_ns))
        other.replace(path)
    elif change == "touch":
        os.utime(path, ns=(0, before.mtime_ns + 1))
    else:
        path.unlink()
    with pytest.raises(InputError, match="changed while reading") as caught:
        check_unchanged(path, before)
    assert caught.value.path == str(path)


@pytest.fixture
def canary():
    """A server on this machine; ``hits`` are the requests that reached it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.hits.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hits = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("way", [(), ("--untrusted",)], ids=["plain", "untrusted"])
def test_20_to_23_no_request_leaves(tmp_path, canary, way, monkeypatch):
    url = f"http://127.0.0.1:{canary.server_port}/a"
    files = {
        "20-vrt-to-http": (hostile.vrt(tmp_path / "a.tif", f"/vsicurl/{url}.tif"), 4, "VRT"),
        "20-raw-vrt-to-http": (hostile.raw_vrt(tmp_path / "b.tif", f"/vsicurl/{url}.tif"), 4, "VRT"),
        "21-wms": (hostile.wms(tmp_path / "c.tif", f"{url}/{{z}}/{{x}}/{{y}}.png"), 4, "WMS"),
        "22-http": (f"{url}.tif", 3, "local file"),
        "22-vsicurl": (f"/vsicurl/{url}.tif", 3, "local file"),
        "22-vrt": (f"vrt:///vsicurl/{url}.tif", 3, "local file"),
        "22-vsizip": (f"/vsizip//vsicurl/{url}.zip/a.tif", 3, "local file"),
        "22-netcdf": (f"NETCDF:{url}.nc:no2", 3, "local file"),
        "23-opendap": (f"{url}.nc", 3, "local file"),
        "23-mode-bytes": (f"{url}.nc#mode=bytes", 3, "local file"),
        "23-dap4": (f"dap4://127.0.0.1:{canary.server_port}/a", 3, "local file"),
    }
    for name, (path, code, words) in files.items():
        assert refused(geosr("downscale", path, *way), code, words), name
        assert refused(geosr("info", path, *way), code, words), name
    # A folder that makes an address the path of a local file: the file is read, and nothing is asked for.
    folder = tmp_path / "http:" / f"127.0.0.1:{canary.server_port}"
    folder.mkdir(parents=True)
    geotiff(folder / "a.tif", DATA)
    column_file(folder / "a.nc")
    monkeypatch.chdir(tmp_path)
    for suffix in ("tif", "nc"):
        assert geosr("info", f"{url}.{suffix}", *way).code == 0
    assert canary.hits == []


@pytest.mark.parametrize("way", [(), ("--untrusted",)], ids=["plain", "untrusted"])
def test_19_to_30_the_secret_stays_in(tmp_path, way):
    """No file makes geosr say what is in another, whichever command reads it."""
    h5py = pytest.importorskip("h5py")
    secret, store = secret_file(tmp_path), hostile.secret_hdf5(tmp_path / "secret.h5")
    paths = [hostile.raw_vrt(tmp_path / "a.tif", str(secret)), hostile.vrt(tmp_path / "b.tif", str(secret))]
    for kind in ("external storage", "external link", "virtual"):
        paths.append(hostile.hdf5(tmp_path / f"{kind}.nc", kind, secret if "storage" in kind else store))
    assert h5py.File(paths[2])["no2"][...].tobytes().startswith(hostile.SECRET.encode())  # so it is dangerous
    for path in paths:
        for command in ("downscale", "info", "grid", "degrade"):
            got = geosr(command, path, *way)
            assert got.code in (3, 4), (command, path)
            assert hostile.SECRET not in got.out + got.err
    assert not [p for p in snapshot(tmp_path) if p.endswith((".qml", ".json", "_x4.tif"))]


@pytest.mark.parametrize("way", [(), ("--untrusted",)], ids=["plain", "untrusted"])
def test_31_attributes_are_escaped(tmp_path, way):
    evil = "\x1b]0;owned\x07\x1b[31m<script>alert(1)</script>\nvalid:      100.0%"
    path = column_file(tmp_path / "no2.nc", long_name=evil, standard_name=evil)
    got = geosr("info", path, *way)
    assert got.code == 0
    assert "\x1b" not in got.out + got.err
    assert "\x07" not in got.out + got.err
    assert sum(line.startswith("valid:") for line in got.out.splitlines()) == 1
    got = geosr("downscale", path, "--method", "bicubic", "-o", tmp_path / "fine.tif", *way)
    assert got.code == 0
    assert "\x1b" not in got.out + got.err
    unit = column_file(tmp_path / "unit.nc", data=DATA, units="\x1b[31mfurlongs")
    got = geosr("info", unit, *way)
    assert "\x1b" not in got.out + got.err


def test_35_an_option_raises_each_limit(tmp_path):
    """What is refused says the option, and with that option the file is refused for this no more."""
    for path in (
        hostile.many_bands_tiff(tmp_path / "bands.tif", 300),
        hostile.big_block_tiff(tmp_path / "block.tif", 12_000),
        hostile.huge_tiff(tmp_path / "pixels.tif", 5000),
        hostile.chained_tiff(tmp_path / "chain.tif", 4200),
    ):
        first = geosr("info", path)
        assert first.code == 4, first.err
        option = first.err.split("raise it: ")[1].split()
        second = geosr("info", path, *option)
        assert second.code in (0, 3), second.err  # they are no good files otherwise


def peak_of(*args: object, limit_mb: int = 4000) -> tuple[int, str, float]:
    """(exit code, stderr, peak memory in MB) of the command in a process of its own."""
    code = (
        "import re, resource, sys, atexit\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit_mb} << 20,) * 2)\n"
        # Not ru_maxrss, which a process inherits from the one that started it.
        "peak = lambda: re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]\n"
        "atexit.register(lambda: print('PEAK', peak()))\n"
        f"sys.argv = ['geosr', *{[str(a) for a in args]!r}]\n"
        "from geosr_cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stderr, int(done.stdout.split("PEAK")[1]) / 1024


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        made(hostile.huge_tiff),
        made(hostile.many_bands_tiff),
        made(hostile.big_block_tiff),
        made(hostile.netcdf3_header, "no2.nc", side=31_000),
        hdf5("claims", size=1_000_000),
        hdf5("chunk", size=16_384),
        hdf5("thrice"),
    ],
    ids=["33", "34", "35", "15", "37", "38", "39"],
)
def test_bombs_take_no_memory(tmp_path, make):
    plain = peak_of("info", geotiff(tmp_path / "honest.tif", DATA))
    assert plain[0] == 0, plain[1]
    code, err, peak = peak_of("info", make(tmp_path))
    assert code in (3, 4), err
    assert peak < plain[2] + 60


@pytest.mark.slow
def test_36_deflate_of_zeros_streams(tmp_path):
    """40,000 x 40,000 zeros in 7 MB: within the limits of expansion, and read tile by tile."""
    path = hostile.zeros_tiff(tmp_path / "no2.tif", 40_000)
    code, err, peak = peak_of("info", path)
    assert code in (0, 3, 4), err
    assert peak < 1500


@pytest.mark.slow
def test_40_as_many_variables_as_may_be_in_time(tmp_path):
    pytest.importorskip("h5py")
    path = hostile.hdf5(tmp_path / "no2.nc", "variables", size=4900)
    refused(geosr("info", path, "--untrusted", "--limit", "time=10"), 3, "no gridded")


def test_41_ten_groups_deep(tmp_path):
    deep = "/".join("abcdefghij")
    path = tmp_path / "no2.nc"
    from reading.make import netcdf

    axes = {f"{deep}/latitude": (("latitude",), LAT, {"units": "degrees_north"}),
            f"{deep}/longitude": (("longitude",), LON, {"units": "degrees_east"})}  # fmt: skip
    netcdf(path, {**axes, f"{deep}/{NAME}": (("latitude", "longitude"), DATA, {"units": "mol m-2"})})
    check(Row("41", lambda folder: path, want=DATA), tmp_path)


@pytest.mark.parametrize("place", ["width", "offsets", "count"])
def test_33_every_number_of_a_tiff_may_lie(tmp_path, place):
    """Sizes as signed numbers, tags that come twice, counts beyond the file: refused, whatever GDAL would take."""
    path = tmp_path / "no2.tif"
    if place == "width":
        tags = hostile.raster_tags(8, 8) | {273: (4, ["BLOCKS"]), 279: (4, [256])}
        hostile.tiff(path, tags, bytes(256))
        data = bytearray(path.read_bytes())
        at = data.index(struct.pack("<HHI", 256, 4, 1))
        data[at : at + 12] = struct.pack("<HHIi", 256, 9, 1, 2_000_000_000)  # SLONG
        path.write_bytes(bytes(data))
        refused(geosr("info", path), 4, "pixels|block")
    elif place == "offsets":
        tags = hostile.raster_tags(8, 8) | {273: (4, [4_000_000_000]), 279: (4, [256])}
        refused(geosr("info", hostile.tiff(path, tags)), 3, "truncated")
    else:
        tags = hostile.raster_tags(8, 8) | {273: (4, ["BLOCKS"]), 279: (4, [4_000_000_000])}
        refused(geosr("info", hostile.tiff(path, tags)), 3, "truncated")
