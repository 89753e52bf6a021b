"""Generator, energy-based model and inference model, grown together from 4x4 to 1024x1024 pixels."""

import os

# OpenMP reads these once, when torch is loaded. Its threads spin while they wait by default: beside a busy neighbour two of them then
# take up to twenty times as long as one, while sleeping ones lose nothing on an idle machine either (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
