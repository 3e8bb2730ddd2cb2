"""Set up Triton's interpreter before any kernel is defined, so that kernels run on CPU tensors."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
