"""Benchmarks that are kept: run by hand, each against a required figure."""
