"""Benchmarks as commands: fedseal bench NAME."""
