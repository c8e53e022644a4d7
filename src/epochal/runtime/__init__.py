"""What JAX and the operating system provide: programs, memory, signals."""
