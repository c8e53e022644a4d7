"""The systems that `peers.py` measures, one module per family. Each runs in a process of its own (`worker.py`)."""
