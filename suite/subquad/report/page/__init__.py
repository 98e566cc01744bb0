"""The report as one HTML file: what report.md says, and a chart that answers to its controls."""
