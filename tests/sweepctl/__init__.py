"""Tests of the command `sweepctl`."""
