"""Benchmarks and the fault report: see README.md."""
