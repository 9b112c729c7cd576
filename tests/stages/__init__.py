"""Tests of the stages, on artifacts made by hand."""
