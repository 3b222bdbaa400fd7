"""The report: what report.json holds, and the pages and charts made of it."""
