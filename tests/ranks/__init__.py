"""Tests of training by several processes, most of them with real ones."""
