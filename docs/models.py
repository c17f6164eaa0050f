"""Prints the table of skill in docs/models.md, from the cards of the shipped models.

python docs/models.py
"""

from typing import Any

from geosr.models import available

BICUBIC, BEST = "bicubic", "back-projected bicubic"
HEAD = (
    "| scale | held-out set (scenes) | bicubic, PSNR | back-projected | SRCNN | EDSR | EDSR over the best interpolation"
    " | least in any scene | SSIM: back-projected, SRCNN, EDSR | errors within 1 σ, 2 σ |"
)


def row(scale: int, edsr: dict[str, Any], srcnn: dict[str, Any]) -> str:
    """One held-out set: PSNR of bicubic, gains over it, and what the EDSR gains over the best interpolation."""
    psnr, ssim = edsr["psnr"], edsr["ssim"]
    over = edsr["gain"]["best interpolation"]
    interval = "" if over["low"] is None else f" [{over['low']:+.2f}, {over['high']:+.2f}]"
    within = edsr["sigma"]
    cells = [
        f"×{scale}",
        f"{edsr['name']} ({edsr['scenes']})",
        f"{psnr[BICUBIC]:.2f}",
        f"{psnr[BEST] - psnr[BICUBIC]:+.2f}",
        f"{srcnn['psnr']['srcnn'] - psnr[BICUBIC]:+.2f}",
        f"{psnr['edsr'] - psnr[BICUBIC]:+.2f}",
        f"{over['db']:+.2f}{interval}",
        f"{edsr['worst_gain']:+.2f}",
        ", ".join(f"{v:.4f}" for v in (ssim[BEST], srcnn["ssim"]["srcnn"], ssim["edsr"])),
        f"{100 * within['one_sigma']:.0f} %, {100 * within['two_sigma']:.0f} %",
    ]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """The whole table."""
    lines = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    cards = available()
    for edsr in sorted((c for c in cards if c.family == "edsr"), key=lambda c: c.scale):
        srcnn = next(c for c in cards if c.family == "srcnn" and c.scale == edsr.scale)
        others = {entry["name"]: entry for entry in srcnn.skill}
        lines += [row(edsr.scale, entry, others[entry["name"]]) for entry in edsr.skill]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
