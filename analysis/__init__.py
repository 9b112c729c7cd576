"""Analysis: from stored results to tables, figures and evidence."""
