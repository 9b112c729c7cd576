"""Answers: what a sweep says about the published claims, each with an effect, a corrected interval and a verdict."""

from analysis.findings.claims import CLAIMS, Claim
from analysis.findings.frame import (
    CANNOT_TELL,
    CONTRADICTED,
    FINDINGS,
    NOT_TESTED,
    SUPPORTED,
    find,
    findings,
    load_findings,
)
from analysis.findings.shown import findings_section, findings_table, print_findings

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
]
