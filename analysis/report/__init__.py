"""The report of a sweep: one HTML page, figures, Markdown, spreadsheets, and the table in the terminal."""

from analysis.report.details import Detail, load_details
from analysis.report.frames import Frames
from analysis.report.watch import watch
from analysis.report.write import LengthInputs, Sources, replace, write_report

__all__ = ["Detail", "Frames", "LengthInputs", "Sources", "load_details", "replace", "watch", "write_report"]
