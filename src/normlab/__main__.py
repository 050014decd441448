"""`python -m normlab`, and `torchrun -m normlab`."""

import os

from normlab.cli import main

if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ:  # DDP and gloo write warnings of their own from every process
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    main(prog_name="normlab")
