"""Engines: what samples, scores, embeds and judges text. Heavy libraries are imported on use only."""
