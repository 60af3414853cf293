"""The nets live with the engine's tests, the twin builds with the benchmarks."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

for folder in ("", "tests/engine"):
    sys.path.insert(0, str(ROOT / folder))
