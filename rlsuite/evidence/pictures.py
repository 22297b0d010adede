"""Figures as PNG files."""

import io
from pathlib import Path

from matplotlib.figure import Figure


def png(figure: Figure, **metadata: str) -> bytes:
    """PNG bytes; without the software's version, so that equal figures are equal files."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None, **metadata})
    return stream.getvalue()


def write(pictures: dict[str, bytes], out_dir: Path) -> list[Path]:
    """Write pictures, file name -> PNG bytes, into `out_dir`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (out_dir / name).write_bytes(picture)
    return [out_dir / name for name in pictures]
