"""Tests of the analysis, on synthetic results."""
