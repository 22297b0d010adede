"""Where this package keeps what it can make again, and what it was told once."""

import os
from pathlib import Path


def root() -> Path:
    """The cache's folder: RLSUITE_CACHE, or `rlsuite/datasets` where the user's caches lie."""
    caches = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("RLSUITE_CACHE", caches / "rlsuite" / "datasets"))
