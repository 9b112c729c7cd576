"""Answers: what a sweep says about the published claims, each with an effect, a corrected interval and a verdict."""

from analysis.findings.claims import CANNOT_TELL, CLAIMS, CONTRADICTED, NOT_TESTED, SUPPORTED, Claim
from analysis.findings.frame import FINDINGS, find, findings, load_findings
from analysis.findings.shown import findings_section, findings_table, print_findings, untested_list

__all__ = [
    "CANNOT_TELL",
    "CLAIMS",
    "CONTRADICTED",
    "FINDINGS",
    "NOT_TESTED",
    "SUPPORTED",
    "Claim",
    "find",
    "findings",
    "findings_section",
    "findings_table",
    "load_findings",
    "print_findings",
    "untested_list",
]
