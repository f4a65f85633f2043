"""Write a synthetic model once: python -m bench.campaign_model NAME QUANTISATION FILE"""

import json
import sys
from pathlib import Path

from zerfoo_numba.synth import synthesize


def main(argv=None):
    name, quantization, path = argv or sys.argv[1:]
    if not Path(path).exists():
        synthesize(name, path, quantization=quantization)
    print(json.dumps({"model": name, "quantization": quantization,
                      "bytes": Path(path).stat().st_size}))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
