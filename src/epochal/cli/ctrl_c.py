"""Whether Ctrl-C was pressed while the program ran."""

import threading

# Set by the program's handler (`epochal.__main__`), looked at before every epoch: Python swallows the exception when it
# comes inside one of JAX's callbacks.
pressed = threading.Event()
