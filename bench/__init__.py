"""Measurements, each a command: python -m bench.tps, bench.roofline, ... with JSON on stdout."""
